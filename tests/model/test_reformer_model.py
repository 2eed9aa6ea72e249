"""Reformer beyond the contract: what decoding costs, what a checkpoint keeps, and what hashing depends on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from contract.runs import assert_close
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from farfield.architectures import Rows, build_mixer
from farfield.architectures.reformer import Reformer

WIDTH = 64


def mixer(seed: int = 0, **settings: Any) -> Reformer:
    torch.manual_seed(seed)
    built = build_mixer({"kind": "reformer", "heads": 4, **settings}, WIDTH)
    assert isinstance(built, Reformer)
    return built


def answer(built: Reformer, x: Tensor) -> Tensor:
    with torch.no_grad():
        return built(x, Rows.fresh_documents(*x.shape[:2]), built.start(x.shape[0]))[0]


@pytest.mark.parametrize("settings", [{"window": 8}, {"window": 3, "rounds": 3, "buckets": 6}], ids=str)
def test_work_of_a_decoded_token(settings: dict[str, Any]) -> None:
    """What the settings say is what is done, by PyTorch's own count of matrix products, however long the text was."""
    built = mixer(backend="blocked", **settings)
    counts = []
    for tokens in (200, 400):
        with torch.no_grad():
            x = torch.randn(1, tokens + 1, WIDTH)
            _, state = built(x[:, :-1], Rows.fresh_documents(1, tokens), built.start(1))
            with FlopCounterMode(display=False) as counter:
                built(x[:, -1:], Rows.at(torch.tensor([[tokens]])), state)
        counts.append(counter.get_total_flops())
    assert counts == [built.config.flops(WIDTH, tokens, 0, 1) for tokens in (200, 400)]
    assert counts[0] == counts[1]


def test_rotations_follow_from_a_seed_and_are_saved_with_it() -> None:
    first, second, x = mixer(1), mixer(2), torch.randn(1, 90, WIDTH)
    assert torch.equal(mixer(1).projection.rotations, first.projection.rotations)
    assert not torch.equal(first.projection.rotations, second.projection.rotations)
    second.load_state_dict(first.state_dict())
    assert int(second.projection.seed) == int(first.projection.seed)
    assert torch.equal(answer(second, x), answer(first, x))


@pytest.mark.parametrize("position", ["alibi", "xpos"])
def test_far_from_the_start_of_a_document(position: str) -> None:
    """Distances are what counts: going on at 100,000 is going on at 0, in narrow rings too."""
    built = mixer(position=position, window=6, buckets=4, scale_base=4.0).bfloat16()
    x, found = torch.randn(1, 60, WIDTH, dtype=torch.bfloat16), []
    for first in (1, 100_000):
        state, outputs = built.start(1), []
        if state.reference is not None:
            state = replace(state, reference=state.reference + first)
        with torch.no_grad():
            for begin, end in ((0, 40), *((time, time + 1) for time in range(40, 60))):
                y, state = built(x[:, begin:end], Rows.at(first + torch.arange(begin, end)[None]), state)
                outputs.append(y)
        found.append(torch.cat(outputs, 1))
    assert_close(found[1].double(), found[0].double(), 1e-6 if position == "alibi" else 2e-2)


def test_buckets_do_not_depend_on_where_a_token_stands() -> None:
    """The same token again and again: one bucket a round, whatever its rotation."""
    built = mixer()
    queries, _, _ = built.projection.split(
        torch.randn(1, 1, WIDTH).expand(1, 50, -1), Rows.fresh_documents(1, 50), None
    )
    buckets = built.projection.buckets(queries)
    assert torch.equal(buckets, buckets[..., :1].expand_as(buckets))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(built.projection.buckets(queries), buckets)


def test_a_window_as_long_as_the_text_and_one_bucket_are_attention_without_oneself() -> None:
    """All tokens in one of two buckets: the first token alone sees itself."""
    built = mixer(buckets=2, rounds=2, window=100, position="none").double()
    built.projection.rotations.zero_()  # x R is 0 for all: the first bucket
    x = torch.randn(1, 40, WIDTH, dtype=torch.float64)
    queries, v, _ = built.projection.split(x, Rows.fresh_documents(1, 40), None)
    scores = queries @ torch.nn.functional.normalize(queries, dim=-1).mT
    before = torch.ones(40, 40, dtype=torch.bool).tril(-1)
    before[0, 0] = True
    out = scores.masked_fill(~before, -torch.inf).softmax(-1) @ v
    expected = built.projection.out(out.transpose(1, 2).flatten(2))
    torch.testing.assert_close(answer(built, x), expected.detach(), rtol=1e-5, atol=1e-5)
