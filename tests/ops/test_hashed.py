"""Attention within buckets by chunks: against its dense definition, and bit for bit the same whatever comes later."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contract.runs import assert_close, error
from torch import Tensor

from farfield.architectures.ops import slots as op
from farfield.architectures.ops.attention import Part, attention, attention_definition
from farfield.architectures.ops.backend import Backend
from farfield.architectures.ops.hashed import NOBODY, Adjacent, Hashed, hashed
from farfield.architectures.ops.layouts import Layout
from farfield.architectures.ops.slots import ranks

BACKENDS: tuple[Backend, ...] = ("fused", "blocked")
SCALE = 0.4
B, H, W = 2, 2, 4


def labels(keys: int, count: int, seed: int = 0, rounds: int = 1) -> Tensor:
    """(B, H, R, S) of `count` labels, a tenth of the columns of none."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(count, (B, H, rounds, keys), generator=generator)
    return torch.where(torch.rand(drawn.shape, generator=generator) < 0.1, NOBODY, drawn)


def bucketed(label: Tensor, window: int, time: int) -> Hashed:
    return Hashed(label, label.argsort(dim=3, stable=True), window, time)


def adjacent(time: int, buckets: int, size: int, across: bool, rounds: int = 1) -> Adjacent:
    """Documents that begin at odd places, padding between them."""
    document = torch.tensor(
        [[sum(column >= start for start in (0, 9, 10, 60 + row)) for column in range(time)] for row in range(B)]
    )
    document[:, 5:7] = NOBODY
    return Adjacent(document, torch.randint(buckets, (B, H, rounds, time)), size, across)


def layout_of(name: str, time: int) -> tuple[Layout, int]:
    """A layout for `time` queries, and its number of keys."""
    past = time + 70
    return {
        "one-label": (bucketed(torch.zeros(B, H, 1, time, dtype=torch.int64), 20, time), time),
        "narrow": (bucketed(labels(time, 5), 3, time), time),
        "chunk": (bucketed(labels(time, 3), 16, time), time),
        "last": (bucketed(labels(past, 4), 2, time), past),
        "past": (bucketed(labels(past, 5), 18, time), past),
        "endless": (bucketed(labels(past, 2), 300, time), past),
        "nobody": (bucketed(torch.full((B, H, 1, past), NOBODY), 2, time), past),
        "rounds": (bucketed(labels(past, 3, rounds=3), 40, time), past),
        "own-bucket": (adjacent(time, 5, 4, False), time),
        "own-bucket-long": (adjacent(time, 2, 16, False), time),
        "own-bucket-rounds": (adjacent(time, 3, 16, False, rounds=2), time),
        "across": (adjacent(time, 5, 4, True), time),
        "across-long": (adjacent(time, 5, 1000, True), time),
        "across-rounds": (adjacent(time, 5, 8, True, rounds=3), time),
    }[name]


NAMES = (
    "one-label", "narrow", "chunk", "last", "past", "endless", "nobody", "rounds",
    "own-bucket", "own-bucket-long", "own-bucket-rounds", "across", "across-long", "across-rounds",
)  # fmt: skip


def draw(name: str, time: int, dtype: torch.dtype = torch.float64) -> list[Part]:
    layout, keys = layout_of(name, time)
    shapes = [(B, H, n, W) for n in (time, keys, keys)]
    return [Part(*(torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes), layout)]


@pytest.mark.parametrize("kind", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("time", [1, 63, 130])
@pytest.mark.parametrize("name", NAMES)
def test_chunks_agree_with_the_definition(name: str, time: int, dtype: torch.dtype, kind: Backend) -> None:
    torch.manual_seed(0)
    parts, tolerance = draw(name, time, dtype), 1e-11 if dtype == torch.float64 else 1e-5
    (out, lse), (expected, expected_lse) = attention(parts, SCALE, kind), attention_definition(parts, SCALE)
    blind = expected_lse.isneginf()
    assert torch.equal(lse.isneginf(), blind)
    assert not out[blind].any()
    assert_close(out.detach(), expected.detach(), tolerance)
    above, tensors = torch.randn_like(out), [parts[0].queries, parts[0].keys, parts[0].values]
    found = torch.autograd.grad((out * above).sum(), tensors)
    right = torch.autograd.grad((expected * above).sum(), tensors)
    for pair in zip(found, right, strict=True):
        assert_close(*pair, tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_is_as_good_as_the_definition_in_bfloat16(name: str) -> None:
    torch.manual_seed(0)
    parts = draw(name, 70, torch.bfloat16)
    part = parts[0]
    exact = [Part(part.queries.double(), part.keys.double(), part.values.double(), part.layout)]
    truth, definition = attention_definition(exact, SCALE)[0], attention_definition(parts, SCALE)[0]
    for kind in BACKENDS:
        found = attention(parts, SCALE, kind)[0].detach()
        assert error(found, truth.detach()) <= 2 * error(definition.detach(), truth.detach())


@pytest.mark.parametrize("kind", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_other_labels_behind_do_not_change_a_bit_before(dtype: torch.dtype, kind: Backend) -> None:
    """Not only other numbers: other buckets, so that the order of all columns by bucket is another one."""
    torch.manual_seed(0)
    part, label, changed = draw("one-label", 130, dtype)[0], labels(130, 5), labels(130, 5, seed=1)
    changed[..., :90] = label[..., :90]
    for window in (3, 16, 40):
        found = [
            attention([Part(part.queries, part.keys, part.values, bucketed(one, window, 130))], SCALE, kind)[0]
            for one in (label, changed)
        ]
        assert torch.equal(found[0][:, :, :90], found[1][:, :, :90])


@pytest.mark.parametrize("name", ["narrow", "past", "rounds", "own-bucket", "across", "across-rounds"])
def test_pieces_of_any_size_are_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    parts = draw(name, 130)
    whole = attention(parts, SCALE)
    monkeypatch.setattr(op, "SCORES", 1)
    pieces = attention(parts, SCALE)
    assert all(torch.equal(*pair) for pair in zip(whole, pieces, strict=True))


@pytest.mark.parametrize("name", ["past", "across"])
def test_what_nobody_sees_does_not_matter(name: str) -> None:
    """Not a number in a column of no label, and in one batch row, which the other does not notice."""
    torch.manual_seed(0)
    part = draw(name, 130)[0]
    layout: Any = part.layout
    nobody = (
        layout.label[:, :, 0] == NOBODY if name == "past" else (layout.document == NOBODY)[:, None].expand(B, H, -1)
    )
    keys, values = (x.detach().masked_fill(nobody[..., None], torch.nan) for x in (part.keys, part.values))
    keys[0] = values[0] = torch.nan
    expected = attention([part], SCALE)[0].detach()
    found = attention([Part(part.queries.detach(), keys, values, layout)], SCALE)[0]
    assert torch.equal(found[1], expected[1])


def test_some_heads_are_a_layout_too() -> None:
    for name in ("past", "across"):
        layout, keys = layout_of(name, 60)
        chosen = torch.tensor([1, 1, 0])
        assert torch.equal(layout.select(chosen).mask(60, keys), layout.mask(60, keys)[:, chosen])


def test_ranks_count_within_runs() -> None:
    assert ranks(torch.tensor([[3, 3, 5, 5, 5, 7], [1, 2, 3, 3, 9, 9]])).tolist() == [
        [0, 1, 0, 1, 2, 0],
        [0, 0, 0, 1, 0, 1],
    ]


def test_a_bucket_is_the_nearest_of_the_axes_and_their_opposites() -> None:
    axes = torch.eye(2, dtype=torch.float64)[None, None]
    x = torch.tensor([[2.0, 1.0], [1.0, 2.0], [-2.0, 1.0], [1.0, -2.0]], dtype=torch.float64)
    assert hashed(x[None, None], axes).tolist() == [[[[0, 1, 2, 3]]]]
    assert torch.equal(hashed(x[None, None], axes), hashed(7 * x[None, None], axes))


def test_the_smaller_the_angle_the_likelier_one_bucket() -> None:
    torch.manual_seed(0)
    rotations, x, noise = torch.randn(1, 400, 16, 4), torch.randn(1, 1, 50, 16), torch.randn(1, 1, 50, 16)
    shares = [
        float((hashed(x, rotations) == hashed(x + far * noise, rotations)).float().mean()) for far in (0.1, 0.5, 2)
    ]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.85
    assert shares[2] < 0.5


@pytest.mark.parametrize("name", ["past", "own-bucket-rounds"])
def test_vectors_are_read_wherever_they_lie(name: str) -> None:
    """Heads side by side for each token, keys and values in one tensor, vectors that are no multiples of each other."""
    torch.manual_seed(0)
    part, above = draw(name, 130)[0], torch.randn(B, H, 130, W, dtype=torch.float64)
    q, k, v = (x.detach() for x in (part.queries, part.keys, part.values))
    pair = torch.cat((k, v), -1)
    apart = torch.cat((k, v, v[..., :1]), -1)
    found = []
    for keys, values in ((k, v), pair.split(W, -1), (apart[..., :W], apart[..., W : 2 * W])):
        queries = q.transpose(1, 2).contiguous().transpose(1, 2) if found else q
        tensors = [x.detach().requires_grad_() for x in (queries, keys, values)]
        out = attention([Part(*tensors, part.layout)], SCALE)[0]
        found.append([out, *torch.autograd.grad(out, tensors, above)])
    assert all(torch.equal(*pair) for other in found[1:] for pair in zip(found[0], other, strict=True))


def test_what_is_no_number_is_in_some_bucket() -> None:
    rotations = torch.randn(1, 2, 4, 3)
    bucket = hashed(torch.full((1, 1, 5, 4), torch.nan), rotations)
    assert ((bucket >= 0) & (bucket < 6)).all()
