"""Rings by bucket: against plain lists, whatever is done to them, and what a token costs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from farfield.architectures.ops.hashed import NOBODY
from farfield.architectures.rings import Rings, digits, number

H, R, N, V = 2, 2, 3, 2
Lists = list[list[list[list[list[int]]]]]
"""By row, head, round and bucket: the tokens of the open document, oldest first."""


@dataclass
class Track:
    """Rings, and what must be in them."""

    rings: Rings
    lists: Lists


def empty(batch: int, window: int) -> Track:
    lists: Lists = [[[[[] for _ in range(N)] for _ in range(R)] for _ in range(H)] for _ in range(batch)]
    return Track(Rings.empty((batch, H, R, N), V, torch.zeros((), dtype=torch.float64), window), lists)


def copied(lists: Lists) -> Lists:
    return [[[[list(ring) for ring in turn] for turn in head] for head in row] for row in lists]


def vectors(ids: Tensor) -> Tensor:
    """Tokens (B, H, T, V) that carry their number, from ids (B, T)."""
    return ids[:, None, :, None].expand(-1, H, -1, V).double()


def written(track: Track, number: int, bucket: Tensor, real: Tensor, starts: Tensor) -> Track:
    """One token a row, as in decoding."""
    batch, lists = bucket.shape[0], copied(track.lists)
    rings = track.rings.emptied(starts).write(vectors(torch.full((batch, 1), number))[:, :, 0], bucket, real)
    for row in range(batch):
        for head in range(H):
            for turn in range(R):
                if starts[row]:
                    lists[row][head][turn] = [[] for _ in range(N)]
                if real[row]:
                    lists[row][head][turn][bucket[row, head, turn]].append(number)
    return Track(rings, lists)


def called(track: Track, first: int, bucket: Tensor, document: Tensor) -> Track:
    """A call of T tokens (documents (B, T), -1 for padding, 0 goes on) in their buckets (B, H, R, T)."""
    batch, time = document.shape
    ids = torch.arange(first, first + time).expand(batch, -1)
    label = torch.where(document[:, None, None] >= 0, document[:, None, None] * N + bucket, NOBODY)
    past, valid = track.rings.read()
    own = torch.where(
        torch.eye(R, dtype=torch.bool)[:, :, None],
        torch.where(valid, torch.arange(N)[:, None], NOBODY).flatten(3)[:, :, None],
        NOBODY,
    )
    label = torch.cat((own.flatten(3), label), 3)
    tokens = torch.cat((past.flatten(2, 4), vectors(ids)), 2)
    last = document.amax(1).clamp(min=0)
    parts = [tokens[..., :1], tokens[..., 1:]]
    rings = track.rings.renewed(parts, label, label.argsort(dim=3, stable=True), last)
    lists = copied(track.lists)
    for row in range(batch):
        for head in range(H):
            for turn in range(R):
                if last[row]:
                    lists[row][head][turn] = [[] for _ in range(N)]
                for time_step in range(time):
                    if document[row, time_step] == last[row]:
                        lists[row][head][turn][bucket[row, head, turn, time_step]].append(first + time_step)
    return Track(rings, lists)


def check(track: Track) -> None:
    """What `read`, `of` and the compact form give, each vector whole."""
    rings, window = track.rings, track.rings.window
    expected = [ring[-window:] for row in track.lists for head in row for turn in head for ring in turn]
    for form in (rings, rings.compact()):
        tokens, real = form.read()
        found = [one[valid] for one, valid in zip(tokens.flatten(0, 3), real.flatten(0, 3), strict=True)]
        assert [one[:, 0].long().tolist() for one in found] == expected
        assert torch.equal(tokens[..., 0], tokens[..., 1])
        assert not tokens[~real].any()
        assert form.bytes == rings.fill.numel() * (window * V * 8 + 8)
        for bucket in range(N):
            some, valid = form.of(torch.full(rings.fill.shape[:3], bucket))
            assert [
                one[ok, 0].long().tolist() for one, ok in zip(some.flatten(0, 2), valid.flatten(0, 2), strict=True)
            ] == expected[bucket::N]
    assert rings.allocated <= 2 * rings.bytes
    assert rings.compact().allocated == rings.bytes


@settings(max_examples=60)
@given(data=st.data(), batch=st.integers(1, 3), window=st.sampled_from([1, 2, 5]))
def test_rings_are_lists(data: st.DataObject, batch: int, window: int) -> None:
    """Any continuations of any earlier rings, each of which still means what it did."""
    tracks, number = [empty(batch, window)], 1
    for _ in range(data.draw(st.integers(1, 14))):
        track = data.draw(st.sampled_from(tracks))
        seed = data.draw(st.integers(0, 2**16))
        generator = torch.Generator().manual_seed(seed)
        what = data.draw(st.sampled_from(["write", "write", "write", "call", "select", "restore", "compact"]))
        rows = len(track.lists)
        if what == "write":
            bucket = torch.randint(N, (rows, H, R), generator=generator)
            real, starts = torch.rand(rows, generator=generator) < 0.8, torch.rand(rows, generator=generator) < 0.1
            tracks.append(written(track, number, bucket, real, starts & real))
            number += 1
        elif what == "call":
            time = data.draw(st.integers(1, 9))
            document = (torch.rand(rows, time, generator=generator) < 0.2).cumsum(1)
            document[torch.rand(rows, time, generator=generator) < 0.2] = -1
            tracks.append(called(track, number, torch.randint(N, (rows, H, R, time), generator=generator), document))
            number += time
        elif what == "select":
            picked = torch.randint(rows, (data.draw(st.integers(1, 3)),), generator=generator)
            lists = copied([track.lists[row] for row in picked.tolist()])
            tracks.append(Track(track.rings.select(picked), lists))
        else:
            rings = track.rings.compact() if what == "compact" else track.rings.restored(track.rings.tensors())
            tracks.append(Track(rings, copied(track.lists)))
        for one in tracks:
            check(one)


class Made(TorchDispatchMode):
    """The bytes of the new tensors that operations give."""

    def __init__(self) -> None:
        super().__init__()
        self.sum = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        new = isinstance(out, Tensor) and not func.is_view and not func._schema.is_mutable
        if new and out.dtype.is_floating_point:
            self.sum += out.nbytes
        return out


@pytest.mark.parametrize("buckets", [8, 64])
def test_a_token_moves_all_rings_once_in_a_window_at_most(buckets: int) -> None:
    """All tokens in one bucket, the worst case; what is made for the others does not depend on how many buckets are."""
    window, width = 16, 32
    rings = Rings.empty((1, 1, 1, buckets), width, torch.zeros(()), window)
    token, bucket, real = torch.ones(1, 1, width), torch.zeros(1, 1, 1, dtype=torch.int64), torch.tensor([True])
    moved, made = [], []
    for time in range(5 * window):
        before = rings.tokens.data_ptr()
        with Made() as counted:
            rings.of(bucket)
            rings = rings.write(token, bucket, real)
        if rings.tokens.data_ptr() == before:
            made.append(counted.sum)
        else:
            moved.append(time)
    assert [time for time in moved if time > window] == [2 * window, 3 * window, 4 * window]
    assert max(made) <= 3 * window * width * 4 + 1024


def test_writing_under_autograd_is_to_new_memory_and_has_gradients() -> None:
    bucket, real = torch.zeros(1, H, R, dtype=torch.int64), torch.tensor([True])
    with torch.no_grad():
        rings = empty(1, 4).rings.write(torch.ones(1, H, V, dtype=torch.float64), bucket, real)
    assert rings.tokens.shape[-2] > 1
    token = torch.full((1, H, V), 2.0, dtype=torch.float64, requires_grad=True)
    after = rings.write(token, bucket, real)
    assert after.tokens.data_ptr() != rings.tokens.data_ptr()
    (gradient,) = torch.autograd.grad(after.of(bucket)[0].sum(), token)
    assert torch.equal(gradient, torch.full_like(gradient, R))
    assert rings.read()[0].shape[-2] == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
def test_digits_spell_every_position_in_every_dtype(dtype: torch.dtype) -> None:
    position = torch.tensor([[0, 1, 255], [256, 257, 70_001], [2**24 + 1, 2**31 + 3, 2**32 - 1]])
    spelled = digits(position, dtype)
    assert spelled.dtype == dtype
    assert torch.equal(number(spelled), position)


def test_rings_that_were_scaled_stand_alone() -> None:
    bucket, real = torch.zeros(2, H, R, dtype=torch.int64), torch.tensor([True, True])
    rings = empty(2, 4).rings.write(torch.ones(2, H, V, dtype=torch.float64), bucket, real)
    scaled = rings.scaled(torch.tensor([3.0, 5.0]).view(2, 1, 1, 1))
    found, valid = scaled.of(bucket)
    assert torch.equal(found[valid].view(2, -1, V)[:, 0], torch.tensor([[3.0, 1.0], [5.0, 1.0]], dtype=torch.float64))
    scaled.write(torch.ones(2, H, V, dtype=torch.float64), bucket, real)
    assert torch.equal(rings.mark, rings.fill)
    assert rings.of(bucket)[0].max() == 1


def test_rings_that_were_cast_stand_alone() -> None:
    bucket, real = torch.zeros(1, H, R, dtype=torch.int64), torch.tensor([True])
    rings = empty(1, 4).rings.write(torch.ones(1, H, V, dtype=torch.float64), bucket, real)
    narrow = rings.cast(torch.float32)
    assert narrow.tokens.dtype == torch.float32
    narrow.write(torch.ones(1, H, V), bucket, real)
    assert torch.equal(rings.mark, rings.fill)
    assert replace(rings).cast(torch.float64).tokens is rings.tokens
