"""What a memory searches, where keys stand, how it is joined, and what that costs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contract.runs import Outcome, assert_close, cut, in_calls, positions_of, sample, through, whole
from contract.subjects import settings_of
from hypothesis import given, settings
from hypothesis import strategies as st
from test_key_value_memory import HEADS, WIDTH, assert_equal, mixer_of, remembering, unwrapped
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from farfield.architectures import Rows, build_mixer
from farfield.architectures.mixer import Stepped
from farfield.architectures.ops import attention as op
from farfield.architectures.ops.backend import choose
from farfield.config import ConfigError, read
from farfield.memory import KeyValueMemoryConfig, WithMemory
from farfield.memory.search import LARGE, MANY, WIDE, largest
from farfield.memory.units import asked_for

LAYOUT = ("130", "-3 63 1 1 62", "100 30")

SEARCHED: dict[str, dict[str, Any]] = {
    "tokens": {"top": 900},
    "shared": {"top": 900, "shared": True},
    "all": {"top": "all"},
    "initial": {"top": "all", "initial": 8},
    "mean": {"unit": 4, "key": "mean", "top": 240},
    "asked by stretches": {"unit": 4, "key": "mean", "top": 240, "query": "mean", "stretch": 6, "initial": 4},
    "representative": {"unit": 4, "key": "representative", "representatives": 2, "top": 240, "shared": True},
}
"""Each reads all of a document of 130 tokens, but for the first three as a search finds it."""


# 1. Room for everything, joint, at original positions: full attention


@pytest.mark.parametrize("kind", ["attention", "longformer"])
@pytest.mark.parametrize("size", [7, 200])
@pytest.mark.parametrize("name", SEARCHED)
def test_with_room_for_everything_attention_is_full(name: str, size: int, kind: str) -> None:
    near = mixer_of(kind, kv_heads=2, **({"window": 7, "globals": 2} if kind == "longformer" else {}))
    values = {"capacity": 1000, "segment": 8, "position": "original", "gradient": True}
    memory = remembering(near, **values, **SEARCHED[name])
    assert memory.config.everything == (SEARCHED[name]["top"] == "all")
    calls = cut(positions_of(*LAYOUT), [size])
    x, cotangent = sample(3, 130, WIDTH, torch.float64)
    found = in_calls(memory, x, cotangent, calls)
    if kind == "longformer":  # global tokens have projections of their own, and everybody else is compared
        expected = in_calls(remembering(near, **values, top="all"), x, cotangent, calls)
        assert_equal(found, expected)
        return
    assert_equal(unwrapped(found), in_calls(near, x, cotangent, calls))


@pytest.mark.parametrize("segment", [4, 8])
def test_xl_sees_the_segment_before_its_own(segment: int) -> None:
    """Two segments are full attention; of three, the last does not see the first."""
    mixer = mixer_of("attention")
    memory = remembering(mixer, capacity=segment, segment=segment, top="all", position="original", gradient=True)
    x, cotangent = sample(2, 3 * segment, WIDTH, torch.float64)
    two = whole(2, 2 * segment)
    both = slice(0, 2 * segment)
    expected = in_calls(mixer, x[:, both], cotangent[:, both], two)
    assert_equal(unwrapped(in_calls(memory, x[:, both], cotangent[:, both], two)), expected)
    changed = torch.cat((x[:, :segment] + 1, x[:, segment:]), 1)
    with torch.no_grad():
        first, second = (through(memory, one, whole(2, 3 * segment))[0] for one in (x, changed))
    assert torch.equal(first[:, 2 * segment :], second[:, 2 * segment :])
    assert not torch.equal(first[:, segment : 2 * segment], second[:, segment : 2 * segment])


# Positions


@pytest.mark.parametrize("position", ["first", "capped"])
@pytest.mark.parametrize("encoding", ["rope", "xpos", "alibi", "none"])
@pytest.mark.parametrize("window", [None, 5])
def test_keys_stand_in_one_place(position: str, encoding: str, window: int | None) -> None:
    """What is remembered is as far away at any time, however many tokens are between."""
    kind = "attention" if window is None else "longformer"
    mixer = mixer_of(kind, position=encoding, **({} if window is None else {"window": window}))
    memory = remembering(mixer, capacity=1000, segment=4, top=4, position=position)
    x, _ = sample(1, 60, WIDTH, torch.float64)
    answers = []
    for between in (8, 44):
        tokens = torch.cat((100 * x[:, :4], 1e-6 * x[:, :between], x[:, -4:]), 1)
        with torch.no_grad():
            answers.append(through(memory, tokens, whole(1, tokens.shape[1]))[0][:, -1:])
    assert_close(answers[1], answers[0], 1e-4)


# Units: what they are found by is kept, whatever the calls


@settings(max_examples=40)
@given(
    unit=st.integers(2, 4),
    segments=st.integers(1, 3),
    kept=st.integers(2, 4),
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=8),
    starts=st.lists(st.integers(0, 60), max_size=2),
    padding=st.integers(0, 2),
    grad=st.booleans(),
)
def test_units_keys_are_those_of_the_newest_complete_units(
    unit: int, segments: int, kept: int, sizes: list[int], starts: list[int], padding: int, grad: bool
) -> None:
    """Against plain Python: the means of the keys of each row's open document, two rows, one of which begins anew."""
    mixer = mixer_of("attention", kv_heads=2)
    segment, total = unit * segments, sum(sizes)
    values = {"capacity": unit * kept, "segment": segment, "unit": unit, "key": "mean", "top": 1}
    memory = remembering(mixer, **values, combine="gate")
    positions = torch.arange(total).repeat(2, 1)
    for start in sorted(set(starts)):
        positions[1, start:] = torch.arange(max(total - start, 0))
    positions = torch.nn.functional.pad(positions, (padding, 0), value=-1)
    x, _ = sample(2, total + padding, WIDTH, torch.float64)
    with torch.set_grad_enabled(grad):
        _, state = through(memory, x, cut(positions, [padding + sizes[0], *sizes[1:]]))
        heads, _ = mixer.project(x, Rows.at(positions), mixer.start(2))
    held, _, valid = state.units.keys.read()
    for row in range(2):
        length = int(positions[row, -1]) + 1
        keys = heads.keys[row, :, heads.keys.shape[2] - length :]
        expected = [keys[:, n * unit : (n + 1) * unit].mean(1) for n in range(length // unit)]
        expected = expected[-(memory.config.slots // unit) :]
        count = held.shape[2] if valid is None else int(valid[row].sum())
        if expected:
            assert_close(
                held[row, :, held.shape[2] - len(expected) :].detach(), torch.stack(expected, 1).detach(), 1e-12
            )
        assert count == len(expected)


@settings(max_examples=40)
@given(
    stretch=st.integers(1, 9),
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=8),
    start=st.integers(0, 60),
    ahead=st.booleans(),
)
def test_a_query_asks_by_the_mean_of_its_stretch(stretch: int, sizes: list[int], start: int, ahead: bool) -> None:
    total = sum(sizes)
    positions = torch.arange(total).repeat(2, 1)
    positions[1, start:] = torch.arange(max(total - start, 0))
    queries, at = torch.randn(2, 1, total, 3, dtype=torch.float64), 0
    left = torch.zeros(2, 1, 3, dtype=torch.float64)
    for size in sizes:
        mean, left = asked_for(
            queries[:, :, at : at + size], Rows.at(positions[:, at : at + size]), stretch, left, ahead
        )
        for row in range(2):
            for time in range(at, at + size):
                last = at + size if ahead else time + 1
                same = [
                    m
                    for m in range(last)
                    if positions[row, m] // stretch == positions[row, time] // stretch
                    and m - positions[row, m] == time - positions[row, time]
                ]
                assert_close(mean[row, 0, time - at], queries[row, 0, same].mean(0), 1e-12)
        at += size


@pytest.mark.parametrize("columns", [1, 31, 300, 1100])
@pytest.mark.parametrize("count", [1, 4, 30])
def test_the_largest_are_found(columns: int, count: int) -> None:
    scores = torch.randn(2, 3, 4, columns)
    check_largest(scores, count)


@pytest.mark.parametrize("rows", [(1, 4, 8), (2, 2, 3)])
@pytest.mark.parametrize("columns", [4096, 4103, 9000])
@pytest.mark.parametrize("count", [1, 7, 40])
def test_the_largest_of_many_are_found_by_groups(columns: int, count: int, rows: tuple[int, ...]) -> None:
    scores = torch.randn(*rows, columns)
    assert scores.numel() >= MANY
    with Made() as made:
        check_largest(scores, count)
    assert [name for name in made.names if "amax" in name]


def check_largest(scores: Tensor, count: int) -> None:
    columns = scores.shape[-1]
    values, index = largest(scores, min(count, columns))
    assert int(index.amax()) < columns
    assert torch.equal(index.sort(-1).values.diff(dim=-1) > 0, torch.ones_like(index[..., 1:], dtype=torch.bool))
    assert torch.equal(scores.gather(-1, index), values)
    assert torch.equal(values.sort(-1).values, scores.topk(min(count, columns), -1).values.sort(-1).values)


def test_few_queries_and_large_keys_are_found_as_many_and_small_ones_are() -> None:
    """The product the other way round, through a window whose edge one query needs no mask for."""
    capacity, window, width = LARGE // WIDE, 31, WIDE
    mixer = build_mixer(
        {"kind": "longformer", "heads": 2, "head_width": width, "window": window, "globals": 0}, 2 * width
    )
    memory = WithMemory(mixer, KeyValueMemoryConfig(capacity=capacity, segment=32, top=5), 2, 2 * width)  # type: ignore[arg-type]
    queries, keys = torch.randn(1, 2, 1, width), torch.randn(1, 2, capacity + 32, width)
    begin = 2 * capacity + 7
    position = torch.arange(begin - keys.shape[2], begin)[None]
    rows = Rows.at(torch.tensor([[begin]]))
    where = memory._tokens(queries, position, torch.zeros_like(position), rows, keys.shape[2])
    index, there = memory._select(queries, keys, where)
    seen = (position < begin // 32 * 32) & (position >= begin // 32 * 32 - capacity) & (position < begin - window)
    scores = (queries @ keys.transpose(-1, -2)).masked_fill(~seen[:, None, None], -torch.inf)
    assert bool(there.all())
    assert torch.equal(index.sort(-1).values, scores.topk(5).indices.sort(-1).values)


# What is declared, and that the rest fails


def test_a_mean_over_the_whole_stretch_is_neither_causal_nor_exact_under_splits() -> None:
    """The published form of InfLLM is what it is declared to be; the default form is both."""
    values = {"capacity": 40, "segment": 4, "unit": 4, "key": "mean", "query": "mean", "stretch": 16, "top": 1}
    x, _ = sample(1, 60, WIDTH, torch.float64)
    later = torch.cat((x[:, :50], -30 * x[:, 50:]), 1)
    for ahead in (False, True):
        memory = remembering(mixer_of("attention"), **values, ahead=ahead)
        with torch.no_grad():
            answer, changed = (through(memory, one, whole(1, 60))[0][:, :50] for one in (x, later))
            pieces = through(memory, x, cut(whole(1, 60)[0], [3]))[0][:, :50]
        assert memory.config.causal == torch.equal(answer, changed) == (not ahead)
        assert memory.config.split_exact == torch.allclose(answer, pieces, atol=1e-9) == (not ahead)


def test_the_published_form_of_infllm_may_run_ahead_of_nothing_else() -> None:
    config = KeyValueMemoryConfig(unit=4, segment=4, key="mean", query="mean", ahead=True)
    assert not config.causal
    assert not config.split_exact
    assert config.row_independent


# Training against other documents


def crossing(rows: int, **values: Any) -> WithMemory:
    given = {"capacity": 8, "segment": 4, "top": "all", "position": "first", "gradient": True, "negatives": rows}
    return remembering(mixer_of("attention", kv_heads=2), **{**given, **values})


@pytest.mark.parametrize("sizes", [[20], [1], [7, 3]])
def test_negatives_are_the_banks_of_the_rows_behind(sizes: list[int]) -> None:
    """By the definition: one softmax over the near field and the banks of d rows, at position 0 of the segment."""
    memory = crossing(2)
    mixer = memory.mixer
    x, cotangent = sample(3, 20, WIDTH, torch.float64)
    found = in_calls(memory, x, cotangent, cut(whole(3, 20)[0], sizes))

    def definition(_: Any, x: Tensor, cotangent: Tensor, calls: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        rows = Rows.fresh_documents(3, 20)
        heads, _ = mixer.project(x, rows, mixer.start(3))
        turned = [mixer.rotate(one, rows.positions) for one in (heads.queries, heads.keys)]
        first = mixer.rotate(heads.queries, rows.positions % 4, rows.positions % 4)
        keys, values = (one.repeat_interleave(2, 1) for one in (heads.keys, heads.values))
        near, out = turned[1].repeat_interleave(2, 1), torch.zeros_like(first)
        for row in range(3):
            for time in range(20):
                written = time // 4 * 4
                own, bank = range(written, time + 1), range(max(0, written - 8), written)
                scores = [near[row, :, own] @ turned[0][row, :, time, :, None]]
                read = [values[row, :, own]]
                for other in (row, (row + 1) % 3):
                    scores.append(keys[other, :, bank] @ first[row, :, time, :, None])
                    read.append(values[other, :, bank])
                shares = (torch.cat(scores, 1) * mixer.scale).softmax(1)
                out[row, :, time] = (shares * torch.cat(read, 1)).sum(1)
        y = mixer.finish(out, x, rows)
        names, weights = zip(*memory.named_parameters(), strict=True)
        gradients = torch.autograd.grad((y * cotangent).sum(), [x, *weights])
        return y.detach(), dict(zip(("x", *names), gradients, strict=True))

    y, gradients = definition(memory, x.clone().requires_grad_(), cotangent, whole(3, 20))
    assert_equal(found, Outcome(y, gradients))


def test_other_rows_are_read_in_training_alone() -> None:
    memory = crossing(3)
    assert not memory.config.row_independent
    x, _ = sample(3, 20, WIDTH, torch.float64)
    other = torch.cat((x[:1], x[1:] + 1))
    with torch.no_grad():
        trained = [through(memory, one, whole(3, 20))[0][0] for one in (x, other)]
        memory.eval()
        used = [through(memory, one, whole(3, 20))[0][0] for one in (x, other)]
    assert not torch.equal(*trained)
    assert torch.equal(*used)


def test_the_rows_double_with_the_steps() -> None:
    """A function of the step alone, so that a resumed run reads as many."""
    memory = crossing(12, doubling=100)
    assert isinstance(memory, Stepped)
    found = []
    for step in (0, 99, 100, 250, 300, 10**6):
        memory.stepped(step)
        found.append(memory.documents)
    assert found == [2, 2, 4, 8, 12, 12]
    assert crossing(12).documents == 12


# Settings that do not fit


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"top": 0}, "top: 0 given; at least 1 unit is read, or 'all'."),
        ({"unit": 4, "key": "mean", "segment": 6}, "segment: 6 is no multiple of the unit of 4 tokens. Nearest: 8."),
        (
            {"unit": 3, "key": "mean", "segment": 3},
            "capacity: 8192 is no multiple of the unit of 3 tokens. Nearest: 8193.",
        ),
        (
            {"unit": 4, "key": "mean", "segment": 4, "initial": 3},
            "initial: 3 is no multiple of the unit of 4 tokens. Nearest: 4.",
        ),
        ({"unit": 4}, "key: raw given, and a unit has 4 tokens. Allowed: mean, representative, landmark."),
        ({"key": "mean"}, "key: mean given, and a unit is 1 token. Use key=raw, or a unit of several tokens."),
        ({"ahead": True}, "ahead: true given, and each query asks for itself. Use query=mean, or ahead=false."),
        ({"combine": "grouped"}, "combine: grouped needs key=landmark."),
        ({"unit": 4, "key": "landmark"}, "key: landmark needs combine=grouped."),
        (
            {"unit": 4, "key": "landmark", "combine": "grouped"},
            "gradient: false given, but landmarks are learned by what is read. Use gradient=true.",
        ),
        (
            {"initial": 4, "combine": "gate"},
            "initial: 4 tokens are read in one softmax with the rest: they need combine=joint.",
        ),
        (
            {"negatives": 2},
            "negatives: 2 rows are read as a whole, in one softmax: they need top=all and combine=joint.",
        ),
        (
            {"negatives": 2, "top": "all"},
            "negatives: 2 rows are told apart by gradients: they need gradient=true.",
        ),
        (
            {"negatives": 2, "top": "all", "gradient": True, "position": "original"},
            "negatives: 2 rows are other documents, without places in this one. "
            "Allowed for position: none, first, capped.",
        ),
    ],
)
def test_settings_that_do_not_fit_are_told_in_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as mistake:
        read(KeyValueMemoryConfig, values, "memory")
    assert str(mistake.value) == f"memory.{message}"


# Costs, counted


class Pairs:
    """A kernel that counts the pairs of a query and a key that it is handed."""

    name, whole = "pairs", False

    def __init__(self) -> None:
        self.count = 0

    def forward(self, q: Tensor, k: Tensor, *rest: Any) -> Any:
        self.count += q.shape[0] * q.shape[2] * k.shape[2]
        return choose(q, "blocked").forward(q, k, *rest)


def pairs(mixer: Any, calls: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> int:
    counted = Pairs()
    monkeypatch.setattr(op, "choose", lambda q, backend: counted)
    with torch.no_grad():
        through(mixer, torch.randn(1, sum(call.shape[1] for call in calls), WIDTH, dtype=torch.float64), calls)
    return counted.count


class Made(TorchDispatchMode):
    """Operations by name, and the bytes of the memory that they make; views make none."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        given = {x.untyped_storage().data_ptr() for x in args if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        self.names.append(func.__name__)
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in given:
                self.largest = max(self.largest, tensor.untyped_storage().nbytes())
        return out


@pytest.mark.parametrize("segment", [64, 150, 300])
def test_xl_costs_what_a_window_costs(segment: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In training and in decoding it computes hardly more pairs than a window of two segments."""
    memory = remembering(mixer_of("attention"), capacity=segment, segment=segment, top="all", position="original")
    window = mixer_of("longformer", window=2 * segment - 1)
    for calls in ([torch.arange(2000)[None]], cut(torch.arange(3 * segment)[None], [2 * segment, 1])):
        assert pairs(memory, calls, monkeypatch) <= 1.1 * pairs(window, calls, monkeypatch)


@pytest.mark.parametrize("name", ["all", "grouped"])
def test_what_is_read_as_a_whole_is_not_searched(name: str) -> None:
    values = {"all": {"position": "first"}, "grouped": {"unit": 8, "key": "landmark", "combine": "grouped"}}[name]
    memory = remembering(mixer_of("attention"), capacity=64, segment=8, top="all", gradient=True, **values)
    with Made() as made:
        through(memory, torch.randn(1, 70, WIDTH, dtype=torch.float64), cut(torch.arange(70)[None], [66, 1]))
    assert not [name for name in made.names if "topk" in name]


DECODED: dict[str, dict[str, Any]] = {
    "knn": {"top": 8},
    "fot": {"top": "all", "position": "first"},
    "infllm": {
        "unit": 32,
        "key": "representative",
        "query": "mean",
        "shared": True,
        "top": 2,
        "position": "capped",
        "initial": 32,
    },
    "xl": {"top": "all", "position": "original"},
    "landmark": {
        "unit": 32,
        "key": "landmark",
        "top": 2,
        "position": "original",
        "combine": "grouped",
        "gradient": True,
    },
}


@pytest.mark.parametrize("kind", ["attention", "longformer"])
@pytest.mark.parametrize("name", DECODED)
def test_decoding_does_not_copy_the_bank(name: str, kind: str) -> None:
    """Nothing that a token makes is as large as a half of the bank's keys."""
    mixer = build_mixer({"kind": kind, "heads": 4, "kv_heads": 2, "head_width": 64}, 256)
    memory = WithMemory(mixer, KeyValueMemoryConfig(capacity=4096, segment=32, **DECODED[name]), 4, 256)  # type: ignore[arg-type]
    with torch.no_grad():
        _, state = through(memory, torch.randn(1, 4200, 256), [torch.arange(4200)[None]])
        step = Rows.at(torch.tensor([[4200]]))
        _, state = memory(torch.randn(1, 1, 256), step, state)
        with Made() as made:
            memory(torch.randn(1, 1, 256), Rows.at(torch.tensor([[4201]])), state)
    assert made.largest < state.bank.bytes / 4


@pytest.mark.parametrize("time", [1, 512])
@pytest.mark.parametrize("kv_heads", [8, 2])
def test_a_search_multiplies_little_more_than_it_must(kv_heads: int, time: int) -> None:
    """At most 1.3 times the products of the queries with a bank of as many keys."""
    capacity, width = 4096, 128
    mixer = build_mixer({"kind": "attention", "heads": 8, "kv_heads": kv_heads}, width)
    memory = WithMemory(mixer, KeyValueMemoryConfig(capacity=capacity, segment=32, top=32), 8, width)  # type: ignore[arg-type]
    queries, keys = torch.randn(1, 8, time, 16), torch.randn(1, kv_heads, capacity + (time > 1) * time, 16)
    position = torch.arange(capacity + time)[None, -keys.shape[2] - (time == 1) :]
    rows = Rows.at(torch.arange(capacity, capacity + time)[None])
    where = memory._tokens(queries, position[:, : keys.shape[2]], torch.zeros_like(position), rows, capacity)
    with FlopCounterMode(display=False) as counted:
        memory._select(queries, keys, where)
    assert counted.get_total_flops() <= 1.3 * 2 * 8 * time * capacity * 16


def test_units_are_searched_by_units() -> None:
    """A decoded token multiplies a key a unit, not a token, and computes no unit's key anew."""
    values = {"unit": 64, "key": "mean", "top": 1, "capacity": 8192, "segment": 64}
    mixer = build_mixer({"kind": "attention", "heads": 2}, 32)
    memory = WithMemory(mixer, KeyValueMemoryConfig(**values), 2, 32)  # type: ignore[arg-type]
    with torch.no_grad():
        _, state = through(memory, torch.randn(1, 8300, 32), [torch.arange(8300)[None]])
        with FlopCounterMode(display=False) as counted:
            memory(torch.randn(1, 1, 32), Rows.at(torch.tensor([[8300]])), state)
    weights = sum(weight.numel() for weight in memory.parameters())
    units, read = 8192 // 64, 64 + 64  # a unit, and at most an open segment
    assert counted.get_total_flops() <= 2 * weights + 2 * 32 * units + 4 * 32 * read + 4 * 32 * 64


def test_settings_come_back_from_their_mapping() -> None:
    config = KeyValueMemoryConfig(unit=4, segment=8, key="mean", top="all", layers=(0, -1), paper="arxiv.org/abs/1")
    assert read(KeyValueMemoryConfig, config.mapping()) == config
    assert config.published == "arxiv.org/abs/1"
    config.check(settings_of("attention", heads=HEADS), WIDTH, 0, 1)
