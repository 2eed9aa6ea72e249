"""Clauses 8 to 10: states as values. Saved and loaded, rows picked, their bytes, and what they do to one another."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils import _pytree as pytree

from contract.cases import DTYPES, LENGTHS, clause
from contract.runs import TOLERANCE, assert_close, cut, gradients, positions_of, sample, through, whole
from contract.subjects import SUBJECTS, Subject
from farfield.architectures import Mixer, MixerSettings, State
from farfield.architectures.linformer import LinformerConfig
from farfield.architectures.state import KeyValueBuffer

MORE = 9
"""Tokens with which states go on."""


def prefilled(mixer: Mixer, x: Tensor, ragged: bool) -> tuple[State, Tensor]:
    """The state after x (B, T, D), and the positions (B, MORE) that go on; ragged: with documents and padding."""
    batch, time = x.shape[:2]
    positions = whole(batch, time)[0].clone()
    if ragged:
        positions[1, time // 2 :] -= time // 2  # a second document
        positions[-1, max(1, time - 3) :] = -1  # padding
    after = positions.amax(1) + 1 if not ragged else torch.stack([_next(row) for row in positions])
    return through(mixer, x, [positions])[1], after[:, None] + torch.arange(MORE)


def _next(row: Tensor) -> Tensor:
    return row[row >= 0][-1] + 1


def storage(state: State) -> int:
    """Bytes of memory that the tensors of a state keep from being freed."""
    held = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in pytree.tree_leaves(state) if t is not None
    }
    return sum(held.values())


@clause(dtype=(*DTYPES, torch.bfloat16), length=(0, *LENGTHS), ragged=(False, True))
def test_8_a_state_saved_and_loaded_goes_on(
    subject: Subject, dtype: torch.dtype, length: int, ragged: bool, tmp_path: Path
) -> None:
    mixer, (x, _) = subject.build(dtype), sample(3, length + MORE, subject.width, dtype)
    with torch.no_grad():
        if length:
            state, rest = prefilled(mixer, x[:, :length], ragged)
        else:
            state, rest = mixer.start(3), whole(3, MORE)[0]
        save_file(state.compact().tensors(), tmp_path / "state.safetensors")
        loaded = mixer.start(1).restored(load_file(tmp_path / "state.safetensors"))
        assert loaded.bytes == state.bytes
        assert sum(t.nbytes for t in load_file(tmp_path / "state.safetensors").values()) >= state.bytes
        for calls in ([rest], cut(rest, [1])):
            expected, _ = through(mixer, x[:, length:], calls, state)
            found, _ = through(mixer, x[:, length:], calls, loaded)
            assert_close(found, expected, TOLERANCE.get(dtype, 2e-2))


@clause(every=3, length=LENGTHS)
def test_8_tensors_of_a_live_state_restore_one_of_its_own(subject: Subject, length: int) -> None:
    """What goes on from the restored state does not write into the memory of the one it was made of."""
    mixer, (x, _) = subject.build(), sample(2, length + MORE, subject.width, torch.float64)
    with torch.no_grad():
        state, rest = prefilled(mixer, x[:, :length], ragged=False)
        restored = mixer.start(2).restored(state.tensors())
        expected, _ = through(mixer, x[:, length:], cut(rest, [1]), state.compact())
        y, after = through(mixer, x[:, length : length + 5], [rest[:, :5]], state)
        through(mixer, -x[:, length : length + 5], [rest[:, :5]], restored)
        more, _ = through(mixer, x[:, length + 5 :], [rest[:, 5:]], after)
    assert_close(torch.cat((y, more), 1), expected, 1e-9)


@clause(dtype=DTYPES, length=LENGTHS, ragged=(False, True))
def test_9_rows_of_a_state_are_picked_repeated_reordered(
    subject: Subject, dtype: torch.dtype, length: int, ragged: bool
) -> None:
    mixer, (x, _) = subject.build(dtype), sample(3, length + MORE, subject.width, dtype)
    with torch.no_grad():
        state, rest = prefilled(mixer, x[:, :length], ragged)
        selected = [(picked, state.select(picked)) for picked in (torch.tensor([2, 0, 0, 1]), torch.tensor([1]))]
        for sizes in ([1], [MORE]):
            expected, _ = through(mixer, x[:, length:], cut(rest, sizes), state)
            for picked, of_them in selected:
                found, _ = through(mixer, x[picked, length:], cut(rest[picked], sizes), of_them)
                assert_close(found, expected[picked], TOLERANCE[dtype])


@clause(dtype=DTYPES, length=LENGTHS, ragged=(False, True))
def test_two_continuations_of_one_state_do_not_disturb_each_other(
    subject: Subject, dtype: torch.dtype, length: int, ragged: bool
) -> None:
    """Two and then a third, call by call in turn, in one memory as far as it goes."""
    mixer = subject.build(dtype)
    x, first, second = (sample(2, n, subject.width, dtype, seed)[0] for n, seed in ((length, 0), (MORE, 1), (MORE, 2)))
    with torch.no_grad():
        state, rest = prefilled(mixer, x, ragged)
        _, state = through(mixer, first[:, :1], [rest[:, :1]], state)  # from here on there is slack
        rest = rest[:, 1:]
        before = state.compact().tensors()
        expected = [through(mixer, more[:, 1:], cut(rest, [1]), state.compact())[0] for more in (first, second)]
        states, outputs = [state, state], [[], []]
        for time in range(MORE - 1):
            for which, more in enumerate((first, second)):
                y, states[which] = through(
                    mixer, more[:, time + 1 : time + 2], [rest[:, time : time + 1]], states[which]
                )
                outputs[which].append(y)
        third, _ = through(mixer, first[:, 1:], [rest], state)
    after = state.compact().tensors()
    assert all(torch.equal(after[name], before[name]) for name in before)
    for found, right in zip((*outputs, [third]), (*expected, expected[0]), strict=True):
        assert_close(torch.cat(found, 1), right, TOLERANCE[dtype])


@clause(every=3, size=(1, MORE))
def test_a_continuation_leaves_the_graph_of_another_valid(subject: Subject, size: int) -> None:
    """A loss on one continuation, a decode without gradients on another, and only then the backward."""
    mixer, (x, cotangent) = subject.build(), sample(2, 40 + MORE, subject.width, torch.float64)
    rest = torch.arange(40, 40 + MORE).expand(2, -1)
    calls = cut(rest, [size])
    with torch.no_grad():
        _, state = through(mixer, x[:, :40], whole(2, 40))
    more, above = x[:, 40:].clone().requires_grad_(), cotangent[:, 40:]
    expected = gradients(mixer, through(mixer, more, calls, state.compact())[0], more, above)
    y, _ = through(mixer, more, calls, state)
    with torch.no_grad():
        through(mixer, x[:, :MORE], [rest], state)
        through(mixer, x[:, :MORE], [rest], state)
    found = gradients(mixer, y, more, above)
    for name in expected:
        assert_close(found[name], expected[name], 1e-9, name)


@clause(every=3, ragged=(False, True))
def test_a_state_outlives_inference_mode(subject: Subject, ragged: bool) -> None:
    mixer, (x, _) = subject.build(), sample(2, 30 + MORE, subject.width, torch.float64)
    with torch.inference_mode():
        state, rest = prefilled(mixer, x[:, :30], ragged)
        _, state = through(mixer, x[:, 30:31], [rest[:, :1]], state)
        expected, _ = through(mixer, x[:, 31:], cut(rest[:, 1:], [1]), state.compact())
    with torch.no_grad():
        found, _ = through(mixer, x[:, 31:], cut(rest[:, 1:], [1]), state)
    assert_close(found, expected, 1e-9)


@clause(every=3, dtype=DTYPES, ragged=(False, True))
def test_detached_moved_and_compact_states_are_the_same(subject: Subject, dtype: torch.dtype, ragged: bool) -> None:
    mixer, (x, _) = subject.build(dtype), sample(2, 30 + MORE, subject.width, dtype)
    x.requires_grad_()
    state, rest = prefilled(mixer, x[:, :30], ragged)
    expected, _ = through(mixer, x[:, 30:], [rest], state)
    for same in (state.detach(), state.to("cpu"), state.compact(), pytree.tree_map(lambda leaf: leaf, state)):
        assert same.bytes == state.bytes
        found, _ = through(mixer, x[:, 30:], [rest], same)
        assert_close(found.detach(), expected.detach(), TOLERANCE[dtype])
    assert not any(t.requires_grad for t in state.detach().tensors().values())


@clause(dtype=(*DTYPES, torch.bfloat16), size=(1, 63, 130))
def test_10_bytes_are_what_the_settings_say(subject: Subject, dtype: torch.dtype, size: int) -> None:
    mixer, (x, _) = subject.build(dtype), sample(3, 40 if size == 1 else 130, subject.width, dtype)
    with torch.no_grad():
        state, tokens = mixer.start(3), 0
        assert state.bytes == 3 * subject.state_bytes(0, dtype.itemsize)
        for positions in cut(whole(3, x.shape[1])[0], [size]):
            _, state = through(mixer, x[:, tokens : tokens + positions.shape[1]], [positions], state)
            tokens += positions.shape[1]
            assert state.bytes == 3 * subject.state_bytes(tokens, dtype.itemsize)
            assert state.compact().bytes == state.bytes


@clause(length=LENGTHS)
def test_10_bytes_of_rows_of_unlike_lengths(subject: Subject, length: int) -> None:
    """Each row counts the tokens of its own open document."""
    positions = positions_of(f"{length + 9}", f"9 {length}", f"-2 {length} -7", f"-{length + 9}")
    mixer, (x, _) = subject.build(), sample(4, length + 9, subject.width, torch.float64)
    with torch.no_grad():
        _, state = through(mixer, x, [positions])
    open_tokens = [length + 9, length, length, 0]
    needed = sum(subject.state_bytes(tokens, 8) for tokens in open_tokens)
    assert state.compact().bytes == needed + sum(one.nbytes for one in counts(state) if one.unique().numel() > 1)


def counts(state: State) -> list[Tensor]:
    """How many tokens of each row (B,) count in each buffer of keys and values."""
    buffers, _ = pytree.tree_flatten(state, lambda part: isinstance(part, KeyValueBuffer))
    return [
        one.length if one.limit is None else one.length.clamp(max=one.limit)
        for one in buffers
        if isinstance(one, KeyValueBuffer)
    ]


def most_bytes(subject: Subject, tokens: int) -> int:
    """The most that the settings say for `tokens` tokens or somewhat more: an open segment grows and is written."""
    return max(subject.state_bytes(more, 4) for more in range(tokens, tokens + 20))


@clause(every=3, size=(1, 63, 1000))
def test_10_memory_held_is_a_small_multiple_of_the_bytes(subject: Subject, size: int) -> None:
    """Slack included, and whatever else the tensors of the state keep alive: buffers double, rings hold two."""
    time = 1000 if size > 1 else 100
    mixer, (x, _) = subject.build(torch.float32), sample(2, time, subject.width, torch.float32)
    with torch.no_grad():
        _, state = through(mixer, x, cut(whole(2, time)[0], [size]))
    bytes_of_one = most_bytes(subject, max(time, 300))  # a ring of up to 300 tokens is made whole at once
    assert state.allocated <= 4 * bytes_of_one + 256
    assert storage(state) <= 4 * bytes_of_one + 256


BOUNDED = [subject for subject in SUBJECTS if most_bytes(subject, 2000) == most_bytes(subject, 1000)]


@clause(BOUNDED, every=3, size=(40, 130))
def test_10_a_state_that_is_said_to_be_constant_is(subject: Subject, size: int) -> None:
    mixer, (x, _) = subject.build(torch.float32), sample(1, 2000, subject.width, torch.float32)
    held = []
    with torch.no_grad():
        state = mixer.start(1)
        for positions in cut(whole(1, 2000)[0], [size]):
            begin = int(positions[0, 0])
            _, state = through(mixer, x[:, begin : begin + positions.shape[1]], [positions], state)
            held.append((state.bytes, state.allocated, storage(state)))
    first, second = held[: len(held) // 2], held[len(held) // 2 :]
    for now, before in zip(zip(*second, strict=True), zip(*first, strict=True), strict=True):
        assert max(now) <= max(before)
    assert max(used for used, _, _ in second) <= most_bytes(subject, 2000)


def test_recurrences_and_windows_are_bounded_and_full_attention_is_not() -> None:
    """The settings' own claim, by which the test above chooses."""
    growing = {subject.name for subject in SUBJECTS if subject.group == "attention" or grows(subject.settings)}
    assert {subject.name for subject in BOUNDED} == {subject.name for subject in SUBJECTS} - growing


def grows(settings: MixerSettings) -> bool:
    """Of the mixers that keep something of the whole document, also with a memory around them."""
    return getattr(settings, "pattern", "local") != "local" or isinstance(settings, LinformerConfig)


@clause(every=3, start=(1, 60))
def test_decoding_rarely_moves_the_buffers(subject: Subject, start: int) -> None:
    """Growth by doubling, and slack in rings: of 60 tokens only a few are those at which anything is copied."""
    mixer, (x, _) = subject.build(torch.float32), sample(2, 120, subject.width, torch.float32)
    moved, places = 0, None
    with torch.no_grad():
        _, state = through(mixer, x[:, :start], whole(2, start))
        for time in range(start, start + 60):
            _, state = through(mixer, x[:, time : time + 1], [torch.full((2, 1), time)], state)
            now = [state_part.data_ptr() for name, state_part in state.tensors().items() if name.endswith("keys")]
            moved, places = moved + (now != places), now
    least = min((part.shape[2] for name, part in state.tensors().items() if name.endswith("keys")), default=400)
    assert moved <= 8 + 4 * 60 / least
