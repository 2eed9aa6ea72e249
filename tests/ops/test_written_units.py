"""What a bank shows of its segments, token by token and in units, against the dense definition and plain loops."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from test_softmax_parts import BACKENDS, check, draw, packed, plain
from torch import Tensor

from farfield.architectures.ops import backend
from farfield.architectures.ops.alibi import Alibi, slopes_of
from farfield.architectures.ops.attention import Part, attention
from farfield.architectures.ops.layouts import Causal
from farfield.architectures.ops.units import Chosen, Grouped, Units
from farfield.architectures.ops.written import Near, Written

HEADS, WIDTH = 4, 6
SIZES = [(1, 5), (9, 18), (100, 5000)]
"""Segment and capacity."""


def near(query: Tensor, key: Tensor) -> Tensor:
    """A band of five tokens, of seven for the upper half of the heads, and a prefix of three."""
    apart = query[:, None, :, None] - key[:, None, None]
    reach = torch.tensor([5, 5, 7, 7])[:, None, None]
    return (apart >= 0) & ((apart <= reach) | (key < 3)[:, None, None])


NEARS = {"no window": None, "window": Near(near, 3, 7), "any window": Near(near)}


def run(time: int, past: int, segment: int, capacity: int, **more: object) -> Written:
    """Rows that are the same run: the past of a document and what goes on with it, seven tokens forgotten."""
    labels = {name: value + 7 * ("position" in name) for name, value in plain(time, past).items()}
    return Written(**labels, segment=segment, capacity=capacity, begin=past + 7, start=7, **more)  # type: ignore[arg-type]


def documents(time: int, past: int, segment: int, capacity: int, **more: object) -> Written:
    """Packed rows with padding."""
    slots = capacity + segment
    opens, closes = [past + n - slots for n in range(time)], [past + n for n in range(time)]
    labels = packed(time, past)
    return Written(**labels, segment=segment, capacity=capacity, opens=opens, closes=closes, **more)  # type: ignore[arg-type]


LAYOUTS = {"run": run, "documents": documents}


@pytest.mark.parametrize("held", NEARS)
@pytest.mark.parametrize(("segment", "capacity"), SIZES)
@pytest.mark.parametrize("rows", LAYOUTS)
def test_a_query_sees_complete_segments(rows: str, segment: int, capacity: int, held: str) -> None:
    """Token by token: complete, kept, of its document, behind the first ones, and not near."""
    written = LAYOUTS[rows](20, 15, segment, capacity, first=4, near=NEARS[held])
    mask = written.mask(20, 35).expand(2, HEADS, -1, -1)
    for row, head, time, column in itertools.product(range(2), (0, 3), range(20), range(35)):
        query, key = int(written.query_position[row, time]), int(written.key_position[row, column])
        end = query // segment * segment
        expected = end - capacity <= key < end and key >= 4
        expected &= bool(written.query_document[row, time] == written.key_document[row, column])
        if held != "no window":
            expected &= not (key < 3 or 0 <= query - key <= (5, 5, 7, 7)[head])
        assert bool(mask[row, head, time, column]) == expected


@pytest.mark.parametrize("kind", BACKENDS)
@pytest.mark.parametrize("slopes", [False, True], ids=["plain", "alibi"])
@pytest.mark.parametrize("held", NEARS)
@pytest.mark.parametrize(("segment", "capacity"), SIZES)
@pytest.mark.parametrize("rows", LAYOUTS)
def test_written_agrees_with_the_definition(
    rows: str, segment: int, capacity: int, held: str, slopes: bool, kind: backend.Backend
) -> None:
    time, past = 110, 40
    written = LAYOUTS[rows](time, past, segment, capacity, near=NEARS[held])
    if slopes:
        written = replace(written, alibi=Alibi(slopes_of(HEADS), written.query_position, written.key_position))
    check(parts(written, time, past + time), kind, 1e-11)


def parts(written: Written, time: int, keys: int) -> list[Part]:
    """Joined with a near field, of grouped heads."""
    q = draw(2, HEADS, time, WIDTH)
    own = [draw(2, 2, time, WIDTH) for _ in range(2)]
    return [Part(q, own[0], own[1], Causal()), Part(q, *(draw(2, 2, keys, WIDTH) for _ in range(2)), written)]


def chosen(written: Written, unit: int, count: int, past: int, shared: bool) -> Chosen:
    """Drawn among the units that each query may see; some queries see fewer than `count`, some none."""
    time = written.query_position.shape[1]
    shape = (2, 1 if shared else HEADS, time)
    found = torch.full((*shape, count), -1)
    for row, head, at in itertools.product(*map(range, shape)):
        query = int(written.query_position[row, at])
        end = query // written.segment * written.segment // unit
        low = max(0, end - written.capacity // unit, 7 // unit + 1 if written.begin else 0)
        if (query >= 0 and written.query_document[row, at] != 0) or written.begin:
            some = low + torch.randperm(max(0, end - low))[:count]
            found[row, head, at, : len(some)] = some
    following = torch.where(written.query_document == 0, past if written.begin is None else past + 7, 0)
    shift = past + torch.arange(time) - written.query_position
    return Chosen(found.clamp(min=0), found >= 0, unit, following, past - following, shift)


@pytest.mark.parametrize("kind", BACKENDS)
@pytest.mark.parametrize("slopes", [False, True], ids=["plain", "alibi"])
@pytest.mark.parametrize("shared", [False, True], ids=["by head", "shared"])
@pytest.mark.parametrize(("count", "capacity"), [(1, 600), (3, 12)])
@pytest.mark.parametrize("rows", LAYOUTS)
@pytest.mark.parametrize("joined", ["units", "grouped"])
def test_units_agree_with_the_definition(
    joined: str, rows: str, capacity: int, count: int, shared: bool, slopes: bool, kind: backend.Backend
) -> None:
    """By a mask where keys are few, by gathering where they are many."""
    time, past, unit = 90, 40, 2
    written = LAYOUTS[rows](time, past, 6, capacity)
    if slopes:
        written = replace(written, alibi=Alibi(slopes_of(HEADS), written.query_position, written.key_position))
    some = chosen(written, unit, count, past, shared)
    if capacity == 600:  # some tokens of units are near
        hidden = torch.rand(2, 1 if shared else HEADS, time, count, unit) < 0.3
        some = replace(some, hidden=hidden)
    near_one, far = parts(written, time, past + time)
    layout: Units | Grouped = Units(some, written)
    if joined == "grouped":
        far = replace(far, queries=torch.cat((far.queries, draw(2, HEADS, time, count)), -1))
        layout = Grouped(some, written)
    check([near_one, replace(far, layout=layout)], kind, 1e-11)


def test_a_grouped_softmax_by_hand() -> None:
    """One query, two units of two tokens, a near token: exp(s) of landmarks, each unit's inside among themselves."""
    written = Written(*(torch.zeros(1, n, dtype=torch.int64) for n in (1, 1)), torch.arange(4)[None],
                      torch.zeros(1, 4, dtype=torch.int64), 2, 4, opens=[0], closes=[4])  # fmt: skip
    zeros = torch.zeros(1, 1, dtype=torch.int64)
    some = Chosen(torch.tensor([[[[0, 1]]]]), torch.ones(1, 1, 1, 2, dtype=torch.bool), 2, zeros, zeros, zeros)
    q, k, v = draw(1, 1, 1, 3), draw(1, 1, 4, 3), draw(1, 1, 4, 3)
    own_k, own_v, landmarks = draw(1, 1, 1, 3), draw(1, 1, 1, 3), draw(1, 1, 1, 2)
    both = [Part(q, own_k, own_v, Causal()), Part(torch.cat((q, landmarks), -1), k, v, Grouped(some, written))]
    out, lse = attention(both, 0.5)
    scores = [float(0.5 * (q * own_k).sum()), *landmarks.flatten().tolist()]
    shares = torch.tensor(scores, dtype=torch.float64).softmax(0)
    expected = shares[0] * own_v[0, 0, 0]
    for unit in range(2):
        inside = slice(2 * unit, 2 * unit + 2)
        expected = expected + shares[1 + unit] * (0.5 * k[0, 0, inside] @ q[0, 0, 0]).softmax(0) @ v[0, 0, inside]
    assert torch.allclose(out[0, 0, 0], expected, atol=1e-12)
    assert torch.allclose(lse, torch.tensor(scores, dtype=torch.float64).logsumexp(0), atol=1e-12)
