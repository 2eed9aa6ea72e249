"""Memories in front of segments against plain loops: any settings, any calls, any layout; gradients that are cut."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from contract.families.prefixes import REMEMBERED, amortized, recurrent, summaries
from contract.runs import alone, assert_close, compare, cut, in_calls, sample, through, whole
from contract.subjects import StackAsMixer, Subject, settings_of
from contract.test_rows import layouts
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from farfield.architectures import Rows
from farfield.architectures.decoder import Decoder
from farfield.config import Config, read
from farfield.memory import MemoryConfig
from farfield.memory.prefix import PrefixSettings

WIDTH = 8
FORMULAS = {"recurrent": recurrent, "summaries": summaries, "amortized": amortized}


class One(Config):
    memory: MemoryConfig


def settings_from(values: dict[str, Any]) -> PrefixSettings:
    found = read(One, {"memory": values}).memory
    assert isinstance(found, PrefixSettings)
    return found


def subject(memory: dict[str, Any], around: str = "attention") -> Subject:
    """A memory around one layer of a small mixer."""
    return Subject("small", settings_of(around, heads=2), WIDTH, settings_from(memory))


@st.composite
def memories(draw: st.DrawFn) -> Subject:
    """Segments of a few tokens, and banks that overflow."""
    kind = draw(st.sampled_from(sorted(FORMULAS)))
    tokens = draw(st.integers(1, 3))
    values: dict[str, Any] = {"kind": kind, "segment": draw(st.integers(1, 5)), "tokens": tokens}
    if kind != "amortized":
        values["bptt"] = draw(st.sampled_from([None, 1, 2, 3]))
    if kind == "summaries":
        values["limit"] = tokens + draw(st.integers(0, 5))
    if kind == "amortized":
        values |= {"limit": tokens * draw(st.integers(1, 6)), "blocks": draw(st.integers(1, 2)), "heads": 2}
        values["group"] = draw(st.sampled_from([None, 2, 3]))
    return subject(values)


SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=4)


@settings(max_examples=60)
@given(memories(), st.integers(1, 24), SIZES)
def test_any_settings_are_the_plain_loop(drawn: Subject, length: int, sizes: list[int]) -> None:
    """Values and gradients, in any calls; the bank wraps around where segments are many."""
    mixer, (x, cotangent) = drawn.build(), sample(1, length, WIDTH, torch.float64)
    found = in_calls(mixer, x, cotangent, cut(whole(1, length)[0], sizes))
    x.requires_grad_()
    weights = dict(mixer.named_parameters())
    y = FORMULAS[drawn.memory.mapping()["kind"]](drawn, weights, x[0])[None]  # type: ignore[union-attr]
    assert_close(found.y, y.detach(), 1e-9, "output")
    expected = torch.autograd.grad((y * cotangent).sum(), [x, *weights.values()], allow_unused=True)
    for name, gradient in zip(("x", *weights), expected, strict=True):
        if gradient is None:
            assert not found.gradients[name].any(), name
        else:
            assert_close(found.gradients[name], gradient, 1e-9, name)


@settings(max_examples=60)
@given(memories(), layouts(), st.integers(0, 2**16))
def test_any_layout_answers_as_if_alone(drawn: Subject, calls: list[Tensor], seed: int) -> None:
    """Documents that begin, end, are padded and packed at different places of a batch, over calls."""
    positions = torch.cat(calls, 1)
    x, cotangent = sample(*positions.shape, WIDTH, torch.float64, seed)
    found = compare(
        drawn,
        torch.where((positions < 0)[..., None], 1e4 * x, x),
        cotangent,
        lambda *given: in_calls(*given, calls),
        lambda *given: alone(*given, positions),
    )
    assert not found.y[positions < 0].any()


CUT = {
    "rmt": {"kind": "recurrent", "segment": 3, "tokens": 2, "bptt": 2},
    "rmt-one": {"kind": "recurrent", "segment": 3, "tokens": 2, "bptt": 1},
    "rmt-three": {"kind": "recurrent", "segment": 3, "tokens": 1, "bptt": 3},
    "summaries": {"kind": "summaries", "segment": 3, "tokens": 2, "limit": 6, "bptt": 2},
    "all": {"kind": "recurrent", "segment": 3, "tokens": 2, "bptt": None},
}


@pytest.mark.parametrize("kind", ["attention", "retnet"])
@pytest.mark.parametrize("name", CUT)
@pytest.mark.parametrize("split", ["whole", "tokens", "ragged"])
def test_gradients_go_back_through_so_many_segments_and_no_further(name: str, kind: str, split: str) -> None:
    """Exactly zero beyond the window of segments in the document, not zero within."""
    mixer = subject(CUT[name], kind).build()
    segment, count, bptt = 3, 6, CUT[name]["bptt"]
    length = segment * count
    x = sample(2, length, WIDTH, torch.float64)[0].requires_grad_()
    calls = cut(whole(2, length)[0], [1] if split == "tokens" else [length])
    if split == "ragged":  # the second row's document begins a segment and a half later
        calls = [torch.stack((calls[0][0], torch.cat((torch.full((4,), -1), calls[0][0][:-4]))))]
    y, _ = through(mixer, x, calls)
    for late in range(count):
        (gradient,) = torch.autograd.grad(y[0, late * segment + 1].sum(), x, retain_graph=True)
        for early in range(late + 1):
            reached = bool(gradient[0, early * segment : (early + 1) * segment].any())
            assert reached == (bptt is None or early // bptt == late // bptt), (early, late)


def held(memory: dict[str, Any], segments: int) -> list[int]:
    """Bytes that autograd holds after each of so many calls of a segment, of whose outputs only the last is kept."""
    mixer, alive = subject(memory, "retnet").build(), [0]

    class Saved:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor, size = tensor.detach(), tensor.nbytes  # with its history it would hold itself
            alive[0] += size
            weakref.finalize(self, lambda: alive.__setitem__(0, alive[0] - size))

    found, state = [], mixer.start(1)
    x, _ = sample(1, 3 * segments, WIDTH, torch.float64)
    with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
        for positions in cut(whole(1, 3 * segments)[0], [3]):
            _, state = mixer(x[:, positions[0]], Rows.at(positions), state)
            found.append(alive[0])
    return found


@pytest.mark.parametrize("name", ["rmt", "summaries", "all"])
def test_what_autograd_holds_does_not_grow_beyond_the_window(name: str) -> None:
    """Counted bytes of saved tensors: where gradients are cut, the graph behind is freed."""
    bytes_held = held(CUT[name], 24)
    assert all(size > 0 for size in bytes_held)
    if name == "all":
        assert bytes_held[-1] > 5 * bytes_held[3]
    else:
        assert max(bytes_held[12:]) == max(bytes_held[6:12])
        assert max(bytes_held[12:]) <= bytes_held[1] * 4


SPREAD = {"kind": "summaries", "segment": 5, "tokens": 2, "limit": 8, "bptt": None, "spread": 3}


def lengths(mixer: StackAsMixer) -> list[int]:
    found = mixer.stack.memory.random.values.tolist()
    assert min(found) == 2
    assert max(found) == 8
    return list(found)


def test_random_lengths_are_a_function_of_seed_and_step() -> None:
    mixer, other = (subject(SPREAD).fresh(seed) for seed in (1, 2))
    random = mixer.stack.memory.random  # type: ignore[union-attr]
    first, tables = random.values.clone(), []
    for step in (1, 2, 3):
        random.stepped(step)
        tables.append(random.values.tolist())
    again = subject(SPREAD).fresh(1).stack.memory.random  # type: ignore[union-attr]
    again.stepped(3)
    assert again.values.tolist() == tables[-1]
    assert len({tuple(table) for table in [first.tolist(), *tables]}) == 4
    assert not torch.equal(other.stack.memory.random.values, first)  # type: ignore[union-attr]
    other.load_state_dict(mixer.state_dict())
    assert other.stack.memory.random.values.tolist() == tables[-1]  # type: ignore[union-attr]
    other.stack.memory.random.stepped(9)  # type: ignore[union-attr]
    random.stepped(9)
    assert torch.equal(other.stack.memory.random.values, random.values)  # type: ignore[union-attr]


def test_training_reads_segments_of_random_lengths_and_evaluation_of_their_mean() -> None:
    """The plain loop over the lengths of the table; whole, in calls, and packed at different places."""
    drawn = subject(SPREAD)
    mixer, (x, _) = drawn.build(), sample(1, 60, WIDTH, torch.float64)
    assert isinstance(mixer, StackAsMixer)
    table = lengths(mixer)
    read, own = _layers(drawn, mixer), mixer.stack.memory
    kept, outputs, begin = x.new_zeros(0, WIDTH), [], 0
    for length in table:
        part = x[0, begin : begin + length]
        complete = len(part) == length
        if not len(part):
            break
        found = read(torch.cat([kept, part, *([own.summary] if complete else [])]))
        outputs.append(found[len(kept) : len(kept) + len(part)])
        kept, begin = torch.cat((kept, found[len(kept) + len(part) :]))[-8:], begin + length
    expected = torch.cat(outputs)[None]
    for calls in (whole(1, 60), cut(whole(1, 60)[0], [1]), cut(whole(1, 60)[0], [7, 2, 19])):
        assert_close(through(mixer, x, calls)[0].detach(), expected.detach(), 1e-9)
    packed = torch.stack((torch.arange(90), torch.cat((torch.arange(30), torch.arange(60)))))
    more = torch.cat((sample(2, 30, WIDTH, torch.float64)[0], x.expand(2, -1, -1)), 1)
    assert_close(through(mixer, more, [packed])[0][1:, 30:].detach(), expected.detach(), 1e-9)
    mixer.eval()
    plain = subject({**SPREAD, "spread": 0})
    weights = dict(mixer.named_parameters())
    assert_close(through(mixer, x, whole(1, 60))[0].detach(), summaries(plain, weights, x[0])[None].detach(), 1e-9)


def _layers(drawn: Subject, mixer: StackAsMixer) -> Any:
    stack: Decoder = mixer.stack.stack

    def read(x: Tensor) -> Tensor:
        return stack(x[None], Rows.fresh_documents(1, len(x)), stack.start(1))[0][0]

    return read


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("split", [[18], [1]])
def test_lift_lets_gradients_reach_some_entries_only(training: bool, split: list[int]) -> None:
    """Those that the draw names, in training; the answer is the same."""
    values = {"kind": "amortized", "segment": 3, "tokens": 2, "limit": 12, "blocks": 1, "heads": 2}
    mixer, plain = subject({**values, "lift": 0.25}).build(), subject(values).build()
    plain.load_state_dict(mixer.state_dict(), strict=False)
    random = mixer.stack.memory.random  # type: ignore[union-attr]
    lifted = [number for number in range(5) if number in (1, 4)]
    random.values.copy_(torch.tensor([0 if number in lifted else 2**20 - 1 for number in range(64)]))
    x = sample(1, 18, WIDTH, torch.float64)[0].requires_grad_()
    y, _ = through(mixer.train(training), x, cut(whole(1, 18)[0], split))
    (gradient,) = torch.autograd.grad(y[:, 16].sum(), x)
    reached = [bool(gradient[:, 3 * number : 3 * number + 3].any()) for number in range(5)]
    assert reached == [number in lifted or not training for number in range(5)]
    assert_close(y.detach(), through(plain, x, whole(1, 18))[0].detach(), 1e-9)


def test_the_share_that_is_lifted_is_as_asked() -> None:
    values = {"kind": "amortized", "segment": 3, "tokens": 1, "limit": 4, "heads": 2, "lift": 0.25}
    drawn = subject(values).fresh(0).stack.memory.random  # type: ignore[union-attr]
    count = 0
    for step in range(100):
        drawn.stepped(step)
        count += int((drawn.values < 0.25 * 2**20).sum())
    assert 0.22 < count / 6400 < 0.28


@pytest.mark.parametrize("memory", [CUT["rmt"], CUT["summaries"], {"kind": "amortized", "segment": 8, "heads": 2}])
def test_decoding_within_a_segment_does_not_touch_the_memory(memory: dict[str, Any]) -> None:
    mixer = subject({**memory, "segment": 8}).build()
    x, _ = sample(1, 24, WIDTH, torch.float64)
    with torch.no_grad():
        _, state = through(mixer, x[:, :17], whole(1, 17))
        name = next(name for name in state.tensors() if name.split(".")[-1] in ("memory", "kept", "bank"))
        before = state.tensors()[name].data_ptr()
        for time in range(17, 23):
            _, state = mixer(x[:, time : time + 1], Rows.at(torch.tensor([[time]])), state)
            assert state.tensors()[name].data_ptr() == before


@pytest.mark.parametrize("name", sorted(FORMULAS))
def test_it_is_read_from_where_the_settings_say(name: str) -> None:
    """A token knows of the segment before its own from `begins` on: that many tokens are needed."""
    one = subject({"kind": name, "segment": 5, "tokens": 2, **({"heads": 2} if name == "amortized" else {})})
    found = one.memory
    assert isinstance(found, PrefixSettings)
    begins = found.begins(one.model().decoder)
    x = sample(1, 12, WIDTH, torch.float64)[0].requires_grad_()
    y, _ = through(one.build(), x, whole(1, 12))
    (gradient,) = torch.autograd.grad(y[:, begins - 1].sum(), x)
    assert gradient[:, 0].any()
    assert found.causal
    assert found.split_exact
    assert found.row_independent
    assert found.trained
    assert not found.grows


@pytest.mark.parametrize("tokens", [1, 3])
def test_work_of_a_segment_is_that_of_all_that_the_layers_read(tokens: int) -> None:
    """Shares of what stands around it included: all of it is counted once."""
    found = settings_from({"kind": "recurrent", "segment": 16, "tokens": tokens})
    architecture = subject(found.mapping()).model().decoder
    mixer = architecture.mixers()[0]
    read_once = sum(mixer.flops(WIDTH, place, 0, 1) for place in range(tokens + 16 + tokens))
    told = sum(found.flops(architecture, 32 + within) for within in range(16))
    assert read_once - 16 <= told <= read_once


def test_every_memory_in_front_of_segments_has_a_plain_loop() -> None:
    assert set(FORMULAS.values()) == set(REMEMBERED.values())
