"""Extensions as their authors' code computes them, written out for one head: chunk by chunk, and with two matrices.

ChunkLlama (github.com/HKUNLP/ChunkLlama) and SelfExtend (github.com/datamllab/LongLM) patch models of transformers of
two years ago, and neither installs. These are their formulas, on queries, keys and values before rotation.

Shapes: T time, W width of a head.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from farfield.architectures import Rows, build_mixer
from farfield.architectures.attention import Attention
from farfield.architectures.mixer import Kept
from farfield.architectures.ops.rotary import rotate_definition

TIME, WIDTH = 700, 16


def turned(x: Tensor, positions: Tensor) -> Tensor:
    """x (T, W) at positions (T,)."""
    return rotate_definition(x[None, None], positions[None], "halves")[0, 0]


def chunk_llama(q: Tensor, k: Tensor, v: Tensor, chunk: int, window: int) -> Tensor:
    """Each chunk by three attentions, which are weighted by the softmax of their log-sum-exps."""
    size, time = chunk - window, len(q)
    positions = torch.arange(time) % size
    keys = turned(k, positions)
    outputs = []
    for begin in range(0, time, size):
        here = slice(begin, min(begin + size, time))
        own = positions[here]
        causal = torch.ones(len(own), len(own)).tril().log()
        found = [(turned(q[here], own) @ keys[here].T / math.sqrt(WIDTH) + causal, v[here])]
        if begin:
            before = slice(begin - size, begin)
            queries = turned(q[here], (own + size).clamp(max=chunk))
            found.append((queries @ keys[before].T / math.sqrt(WIDTH), v[before]))
        if begin > size:
            queries = turned(q[here], torch.full_like(own, min(2 * size - 1, chunk)))
            found.append((queries @ keys[: begin - size].T / math.sqrt(WIDTH), v[: begin - size]))
        weights = torch.stack([scores.logsumexp(-1) for scores, _ in found]).softmax(0)
        outputs.append(sum(w[:, None] * (s.softmax(-1) @ x) for w, (s, x) in zip(weights, found, strict=True)))
    return torch.cat(outputs)


def self_extend(q: Tensor, k: Tensor, v: Tensor, window: int, group: int) -> Tensor:
    """The scores of the whole, ordinary and grouped, and one of the two by a mask."""
    time, positions = len(q), torch.arange(len(q))
    ordinary = turned(q, positions) @ turned(k, positions).T / math.sqrt(WIDTH)
    grouped = turned(q, positions // group + window - window // group) @ turned(k, positions // group).T
    near = torch.ones(time, time).tril()
    near[window:, :-window] -= torch.ones(time - window, time - window).tril()
    scores = torch.where(near.bool(), ordinary, grouped / math.sqrt(WIDTH))
    return (scores + torch.ones(time, time).tril().log()).softmax(-1) @ v


CASES: list[Any] = [
    pytest.param(chunk_llama, "dual_chunk", {"chunk": 96, "window": 16}, id="dual-chunk"),
    pytest.param(chunk_llama, "dual_chunk", {"chunk": 400, "window": 50}, id="dual-chunk-long"),
    pytest.param(self_extend, "self_extend", {"window": 64, "group": 8}, id="self-extend"),
    pytest.param(self_extend, "self_extend", {"window": 300, "group": 7}, id="self-extend-long"),
]


def mixer_of(kind: str, settings: dict[str, int]) -> Attention:
    """One head, whose queries, keys and values are three thirds of its projection, and whose output is as it is."""
    torch.manual_seed(0)
    extension = {"kind": kind, **settings}
    mixer = build_mixer({"kind": "attention", "heads": 1, "extension": extension}, width=WIDTH).double()
    assert isinstance(mixer, Attention)
    with torch.no_grad():
        mixer.projection.out.weight.copy_(torch.eye(WIDTH))
    return mixer


@pytest.mark.parametrize(("published", "kind", "settings"), CASES)
@pytest.mark.parametrize("sizes", [[TIME], [300, 1, 1, 150, 247, 1], [64, 96, 160, 380]], ids=["whole", "cut", "even"])
def test_the_published_formula(published: Any, kind: str, settings: dict[str, int], sizes: list[int]) -> None:
    mixer = mixer_of(kind, settings)
    x = torch.randn(1, TIME, WIDTH, dtype=torch.float64, requires_grad=True)
    state, outputs, begin = mixer.start(1), [], 0
    for size in sizes:
        rows = Rows.at(torch.arange(begin, begin + size)[None])
        y, state = mixer(x[:, begin : begin + size], rows, state)
        outputs.append(y)
        begin += size
    q, k, v = mixer.projection.qkv(x)[0].split(WIDTH, -1)
    expected = published(q, k, v, **settings)
    torch.testing.assert_close(torch.cat(outputs, 1)[0], expected, rtol=0, atol=1e-12)
    weight = torch.randn(TIME, WIDTH, dtype=torch.float64)
    ours, theirs = (
        torch.autograd.grad((out * weight).sum(), [x, mixer.projection.qkv.weight], retain_graph=True)
        for out in (torch.cat(outputs, 1)[0], expected)
    )
    for found, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("kind", "settings", "same"),
    [("dual_chunk", {"chunk": 96, "window": 16}, 97), ("self_extend", {"window": 64, "group": 8}, 65)],
)
def test_the_first_tokens_are_those_of_plain_attention(kind: str, settings: dict[str, int], same: int) -> None:
    mixer = mixer_of(kind, settings)
    plain = build_mixer({"kind": "attention", "heads": 1}, width=WIDTH).double()
    plain.load_state_dict(mixer.state_dict())
    x, rows = torch.randn(1, 200, WIDTH, dtype=torch.float64), Rows.fresh_documents(1, 200)
    ours, theirs = (one(x, rows, one.start(1))[0][0] for one in (mixer, plain))
    torch.testing.assert_close(ours[:same], theirs[:same], rtol=0, atol=1e-12)
    assert (ours[same:] - theirs[same:]).abs().amax(-1).min() > 1e-9


@pytest.mark.parametrize(
    ("kind", "settings"), [("dual_chunk", {"chunk": 12, "window": 4}), ("self_extend", {"window": 5, "group": 3})]
)
def test_keys_are_kept_as_if_dropped_tokens_had_never_been(kind: str, settings: dict[str, int]) -> None:
    mixer, count, time = mixer_of(kind, settings), 31, 50
    x = torch.randn(2, time, WIDTH, dtype=torch.float64)
    _, state = mixer(x, Rows.fresh_documents(2, time), mixer.start(2))
    left = mixer.newest(state, count, torch.tensor([time - count] * 2))
    _, fresh = mixer(x[:, -count:], Rows.fresh_documents(2, count), mixer.start(2))
    for name, kept in fresh.compact().tensors().items():
        torch.testing.assert_close(left.compact().tensors()[name], kept, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("published", "kind", "settings"), CASES[::2])
@pytest.mark.parametrize("calls", ["whole", "cut"])
def test_keys_from_above_are_those_before_a_token(
    published: Any, kind: str, settings: dict[str, int], calls: str
) -> None:
    """A layer that takes the keys of a higher one sees none of its own token: with a key that nothing is like there."""
    mixer, time = mixer_of(kind, settings), 200
    field = mixer.field
    x = torch.randn(1, time, WIDTH, dtype=torch.float64)
    q, k, v = (part[:, None] for part in mixer.projection.qkv(x).detach().split(WIDTH, -1))
    near, found = mixer.start(1).near, []
    for columns in torch.arange(1, time).split([60, 1, 138] if calls == "cut" else [199]):
        at = slice(int(columns[0]), int(columns[-1]) + 1)
        rows = Rows.at(columns[None] - 1)  # the document begins with the second token: the first has nothing to see
        keys = field.turn(k[:, :, at], rows)
        kept = Kept(keys, v[:, :, at], near, own=False)
        found.append(field.attend(field.queries(q[:, :, at], rows), kept, rows).out[0, 0])
        near = near.append(keys, v[:, :, at], rows)
    with_own = published(q[0, 0, 1:], k[0, 0, 1:], v[0, 0, 1:], **settings)
    out = torch.cat(found)
    assert not out[0].any()
    # What the own key adds is known: o = (1 - p) o' + p v with its share p of the softmax.
    marked = torch.cat((v[0, 0, 1:], torch.zeros(time - 1, 1, dtype=torch.float64)), 1)
    for token in (1, 50, 85, 120, 198):
        marked[:, -1] = torch.arange(time - 1) == token
        share = published(q[0, 0, 1:], k[0, 0, 1:], marked, **settings)[token, -1]
        expected = (with_own[token] - share * v[0, 0, token + 1]) / (1 - share)
        torch.testing.assert_close(out[token], expected, rtol=0, atol=1e-12)
