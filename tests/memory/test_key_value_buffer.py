"""The buffer behind caches, rings and banks: against a plain list, whatever is done to it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from farfield.architectures import Rows
from farfield.architectures.state import KeyValueBuffer


@dataclass
class Track:
    """A buffer, and what each of its rows must hold: the tokens of its open document, oldest first."""

    buffer: KeyValueBuffer
    rows: list[list[int]]


def column(ids: list[list[int]], heads: int = 2, width: int = 3) -> Tensor:
    """Keys (B, H, T, W) that carry the number of their token."""
    return torch.tensor(ids, dtype=torch.float64)[:, None, :, None].expand(-1, heads, -1, width).contiguous()


def held(buffer: KeyValueBuffer) -> list[list[tuple[int, int]]]:
    """The keys and values that the buffer gives for each row."""
    keys, values, valid = buffer.read()
    found = []
    for row in range(keys.shape[0]):
        seen = range(keys.shape[2]) if valid is None else valid[row].nonzero()[:, 0].tolist()
        assert all((keys[row, :, n] == keys[row, 0, n, 0]).all() for n in seen)
        found.append([(int(keys[row, 0, n, 0]), int(values[row, 0, n, 0])) for n in seen])
        assert valid is None or not seen or seen == list(range(keys.shape[2] - len(seen), keys.shape[2]))
    return found


def check(track: Track) -> None:
    """Newest last, in order, each key with its value; with a limit at least the newest of them, and nothing foreign."""
    limit = track.buffer.limit
    for found, expected in zip(held(track.buffer), track.rows, strict=True):
        assert [value for _, value in found] == [-key for key, _ in found]
        keys = [key for key, _ in found]
        kept = len(expected) if limit is None else min(limit, len(expected))
        assert len(keys) >= kept
        assert keys == expected[len(expected) - len(keys) :]
    used = [len(row) if limit is None else min(limit, len(row)) for row in track.rows]
    counts = 8 * len(used) if len(set(used)) > 1 else 0  # one number where all rows are alike
    assert track.buffer.bytes == sum(used) * 2 * 2 * 3 * 8 + counts
    compact = track.buffer.compact()
    assert [[key for key, _ in row] for row in held(compact)] == [
        row[len(row) - n :] for row, n in zip(track.rows, used, strict=True)
    ]
    assert compact.allocated <= len(used) * max(used) * 2 * 2 * 3 * 8 + 8 * len(used)


@settings(max_examples=40)
@given(data=st.data(), batch=st.integers(1, 3), limit=st.sampled_from([None, 1, 2, 5, 11]))
def test_it_is_a_list_for_each_row(data: st.DataObject, batch: int, limit: int | None) -> None:
    """Appends of any size, with documents and padding, with and without gradients, to any of several continuations."""
    like = torch.zeros(1, dtype=torch.float64)
    tracks = [Track(KeyValueBuffer.empty(batch, 2, 3, like, limit), [[] for _ in range(batch)])]
    number = 0
    for _ in range(data.draw(st.integers(1, 9))):
        parent = tracks[data.draw(st.integers(0, len(tracks) - 1))]
        time = data.draw(st.sampled_from([1, 1, 2, 3, 7]))
        kind = data.draw(st.sampled_from(["on", "on", "on", "fresh", "any"]))
        ids, positions, rows = [], [], []
        for row in parent.rows:
            now, at, names = list(row), len(row), []
            line = []
            if kind == "fresh":
                now, at = [], 0
            starts = sorted(data.draw(st.sets(st.integers(0, time - 1), max_size=2))) if kind == "any" else []
            padding = data.draw(st.integers(0, time)) if kind == "any" else 0
            for step in range(time):
                number += 1
                names.append(number)
                if step >= time - padding:
                    line.append(-1)
                    continue
                if step in starts:
                    now, at = [], 0
                now.append(number)
                line.append(at)
                at += 1
            ids.append(names)
            positions.append(line)
            rows.append(now)
        keys = column(ids).requires_grad_(data.draw(st.booleans()))
        with torch.set_grad_enabled(keys.requires_grad):
            buffer = parent.buffer.append(keys, -keys, Rows.at(torch.tensor(positions)))
        tracks.append(Track(buffer, rows))
        for track in tracks:
            check(track)


@settings(max_examples=40)
@given(
    limit=st.sampled_from([None, 3, 8]),
    before=st.integers(0, 9),
    picked=st.lists(st.integers(0, 2), min_size=1, max_size=4),
)
def test_rows_are_picked_and_go_on_alone(limit: int | None, before: int, picked: list[int]) -> None:
    buffer = KeyValueBuffer.empty(3, 2, 3, torch.zeros(1, dtype=torch.float64), limit)
    with torch.no_grad():
        for step in range(before):
            ids = column([[step + 1], [step + 101], [step + 201]])
            buffer = buffer.append(ids, -ids, Rows.at(torch.full((3, 1), step)))
        chosen = buffer.select(torch.tensor(picked))
        expected = [held(buffer)[row] for row in picked]
        assert held(chosen) == expected
        more = column([[1000 + n] for n in range(len(picked))])
        chosen = chosen.append(more, -more, Rows.at(torch.full((len(picked), 1), before)))
    for place, row in enumerate(picked):
        found = held(chosen)[place]
        assert found[-1] == (1000 + place, -1000 - place)
        assert found[:-1] == held(buffer)[row][-len(found) + 1 :] or len(found) == 1


def test_appending_at_the_mark_is_in_place_and_below_it_copies() -> None:
    ids = column([[1, 2, 3]])
    with torch.no_grad():
        first = KeyValueBuffer.empty(1, 2, 3, ids).append(ids, ids, Rows.fresh_documents(1, 3))
        one = column([[4]])
        at = Rows.at(torch.tensor([[3]]))
        second, third = first.append(one, one, at), first.append(-one, -one, at)
        assert second.keys.data_ptr() == first.keys.data_ptr()
        assert third.keys.data_ptr() != first.keys.data_ptr()
        assert first.mark.data_ptr() == second.mark.data_ptr()
    assert second.read()[0][0, 0, :, 0].tolist() == [1, 2, 3, 4]
    assert third.read()[0][0, 0, :, 0].tolist() == [1, 2, 3, -4]
    assert first.read()[0][0, 0, :, 0].tolist() == [1, 2, 3]


def test_under_autograd_nothing_is_written_in_place() -> None:
    ids = column([[1, 2, 3]])
    with torch.no_grad():
        first = KeyValueBuffer.empty(1, 2, 3, ids).append(ids, ids, Rows.fresh_documents(1, 3))
    one = column([[4]]).requires_grad_()
    second = first.append(one, one, Rows.at(torch.tensor([[3]])))
    assert second.keys.data_ptr() != first.keys.data_ptr()
    assert torch.autograd.grad(second.read()[0].sum(), one)[0].eq(1).all()


def test_slack_is_never_read_and_never_uninitialised() -> None:
    """With torch.empty full of NaN, as in all of these tests."""
    ids = column([[1, 2, 3, 4, 5]])
    with torch.no_grad():
        buffer = KeyValueBuffer.empty(1, 2, 3, ids).append(ids, ids, Rows.fresh_documents(1, 5))
    assert buffer.keys.shape[2] > 5
    assert buffer.keys.isfinite().all()
    assert torch.empty(3).isnan().all()
