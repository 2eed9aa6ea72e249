"""Positions far from a document's start: xPos and ALiBi at a hundred thousand tokens, against float64 of the equations.

What is compared with is written for the last tokens only, from differences of positions.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contract.runs import assert_close, cut, error, through, whole
from torch import Tensor

from farfield.architectures import KeyedMixer, Rows, State, build_mixer
from farfield.architectures.mixer import in_steps
from farfield.architectures.state import NoState

WIDTH, HEADS, FAR = 16, 2, 100_000
PAIR = torch.arange(0, 8, 2, dtype=torch.float64) / 8
ZETA, OMEGA = ((PAIR + 0.4) / 1.4) ** (1 / 512), 10000**-PAIR
SLOPES = (2.0**-4, 2.0**-8)


def mixer_of(kind: str, **values: Any) -> KeyedMixer:
    torch.manual_seed(3)
    mixer = build_mixer({"kind": kind, "heads": HEADS, **values}, WIDTH)
    assert isinstance(mixer, KeyedMixer)
    with torch.no_grad():
        mixer.projection.qkv.weight *= 3  # scores that choose
    return mixer


def score(query: Tensor, key: Tensor, apart: Tensor, position: str, head: int) -> Tensor:
    """Of one query (W,) and keys (S, W) that stand `apart` (S,) tokens before it."""
    if position == "alibi":
        return key @ query / query.shape[0] ** 0.5 - SLOPES[head] * apart
    pairs = torch.complex(*query.chunk(2)) * torch.complex(*key.chunk(2, -1)).conj()
    turned = pairs * torch.polar(ZETA ** apart[:, None], OMEGA * apart[:, None])
    return turned.real.sum(-1) / query.shape[0] ** 0.5


@torch.no_grad()
def expected(mixer: KeyedMixer, x: Tensor, reach: int, count: int, position: str) -> Tensor:
    """The answer (count, D) to the last tokens of one document x (T, D), in float64."""
    weight = mixer.projection.qkv.weight.double()
    q, k, v = (x.double() @ weight.T).unflatten(1, (3, HEADS, -1)).unbind(1)
    out = torch.zeros(count, HEADS, q.shape[-1], dtype=torch.float64)
    for row, time in enumerate(range(x.shape[0] - count, x.shape[0])):
        seen = torch.arange(max(0, time - reach), time + 1)
        for head in range(HEADS):
            scores = score(q[time, head], k[seen, head], (time - seen).double(), position, head)
            out[row, head] = scores.softmax(0) @ v[seen, head]
    return out.flatten(1) @ mixer.projection.out.weight.double().T


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("position", ["xpos", "alibi"])
def test_a_window_at_the_end_of_a_long_document(position: str, dtype: torch.dtype) -> None:
    """In one call, which xPos cuts, and going on from its state by tokens."""
    mixer = mixer_of("longformer", window=40, position=position)
    x = torch.randn(1, FAR + 20, WIDTH)
    right = expected(mixer, x[0, -200:], 40, 30, position)
    mixer, x = mixer.to(dtype), x.to(dtype)
    with torch.no_grad():
        first, state = mixer(x[:, :FAR], Rows.fresh_documents(1, FAR), mixer.start(1))
        rest = torch.arange(FAR, FAR + 20)[None]
        more, _ = through(mixer, x[:, FAR:], cut(rest, [1, 7, 1]), state)
    found = torch.cat((first[:, -10:], more), 1)[0]
    assert_close(found, right, 1e-9 if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("position", ["xpos", "alibi"])
def test_every_token_of_a_long_document_is_seen(position: str) -> None:
    """Full attention over three times what xPos takes at once: keys of all pieces, most of them moved twice."""
    mixer, time = mixer_of("attention", position=position), 20_000
    x = torch.randn(1, time, WIDTH)
    right = expected(mixer, x[0], time, 5, position)
    with torch.no_grad():
        found, state = mixer(x, Rows.fresh_documents(1, time), mixer.start(1))
    assert_close(found[0, -5:], right, 1e-5)
    assert position == "alibi" or int(state.reference) == 2 * 8192  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["attention", "longformer", "s2", "dilated", "sparse"])
def test_far_phases_are_as_exact_as_near_ones(kind: str) -> None:
    """Float32 at a phase of a hundred thousand, in several calls, against float64 from 0 on."""
    mixer, x = mixer_of(kind, position="xpos"), torch.randn(2, 60, WIDTH)
    with torch.no_grad():
        state, outputs = mixer.start(2), []
        for positions in cut(whole(2, 60)[0], [33, 1, 26]):
            at = slice(int(positions[0, 0]), int(positions[0, -1]) + 1)
            y, state = mixer(x[:, at], Rows(positions, positions + FAR), state)
            outputs.append(y)
        near, _ = through(mixer.double(), x.double(), whole(2, 60))
    assert error(torch.cat(outputs, 1), near) < 1e-5


@pytest.mark.parametrize("scale_base", [1.0, 3.0, 512.0])
def test_decoding_moves_kept_keys_rarely(scale_base: float) -> None:
    """Once in as many tokens as a call may have; in between, the buffer stays where it is."""
    mixer = mixer_of("attention", position="xpos", scale_base=scale_base)
    references, x = [], torch.randn(1, 100, WIDTH)
    with torch.no_grad():
        state = mixer.start(1)
        for time in range(100):
            _, state = mixer(x[:, time : time + 1], Rows.at(torch.tensor([[time]])), state)
            references.append(int(state.reference))  # type: ignore[attr-defined]
    span = int(16 * scale_base)
    assert references == [time // (span + 1) * (span + 1) for time in range(100)]


@pytest.mark.parametrize("span", [None, 3, 4, 10, 11])
def test_long_calls_are_taken_in_steps(span: int | None) -> None:
    """Each with its own columns and the state of the one before; what belongs to rows belongs to their parts."""
    x = torch.randn(2, 10, 3)
    rows = Rows(torch.arange(10).expand(2, -1), torch.arange(10).expand(2, -1) + 5, 7, torch.rand(2, 10) < 0.5)
    taken: list[Rows] = []

    def step(x: Tensor, rows: Rows, state: State) -> tuple[Tensor, State]:
        taken.append(rows)
        return 2 * x, NoState()

    y, state = in_steps(step, x, rows, NoState(), span)
    assert torch.equal(y, 2 * x)
    assert isinstance(state, NoState)
    assert max(part.time for part in taken) <= (span or 10)
    for name in ("positions", "phase", "marked"):
        assert torch.equal(torch.cat([getattr(part, name) for part in taken], 1), getattr(rows, name))
    assert {part.longest for part in taken} == {7}
