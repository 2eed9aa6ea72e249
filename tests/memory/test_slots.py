"""Banks of slots kept by a policy: invariants, what stays after any calls, budgets, and what is declared."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from contract.families.slots import REMEMBERED, stays
from contract.runs import assert_close, cut, gradients, in_calls, positions_of, sample, through, whole
from contract.subjects import Subject, settings_of
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from test_key_value_memory import HEADS, WIDTH, assert_equal, mixer_of, unwrapped
from torch import Tensor

from farfield.architectures import Mixer, Rows
from farfield.config import ConfigError, read
from farfield.memory import KeyValueMemoryConfig
from farfield.memory.slots import SlotsState
from farfield.model import LanguageModel, ModelConfig

POLICIES: dict[str, dict[str, Any]] = {
    "sinks": {"keep": "sinks", "initial": 2},
    "heavy": {"keep": "heavy", "recent": 2},
    "snap": {"keep": "snap", "recent": 1, "observe": 2, "pool": 3},
    "norm": {"keep": "norm", "initial": 1, "recent": 1},
    "merge": {"keep": "merge", "threshold": 0.3},
}
CHOOSING = [name for name in POLICIES if name != "merge"]


def slots_around(kind: str = "attention", around: dict[str, Any] | None = None, **values: Any) -> Mixer:
    """The memory around the mixer that `mixer_of` gives, float64."""
    around = around or {}
    settings_ = settings_of(kind, heads=HEADS, **around)
    config = KeyValueMemoryConfig(**values)
    config.check(settings_, WIDTH, 0, 1)
    return config.build(mixer_of(kind, **around), settings_, WIDTH).double()


# 1 and 2: room for everything is full attention


@pytest.mark.parametrize("position", ["original", "index"])
@pytest.mark.parametrize("policy", CHOOSING)
@pytest.mark.parametrize(("kind", "around"), [("attention", {}), ("longformer", {"window": 7})])
def test_with_room_for_everything_attention_is_full(
    kind: str, around: dict[str, Any], policy: str, position: str
) -> None:
    """Values and gradients, packed and padded, in any calls; two segments are one long one."""
    full = mixer_of("attention", conv=3, kv_heads=2)
    around = {"conv": 3, "kv_heads": 2, **around}
    values = {**POLICIES[policy], "capacity": 1000, "position": position, "gradient": True}
    calls = cut(positions_of("70", "-3 31 1 35", "40 30"), [33, 1, 9])
    x, cotangent = sample(3, 70, WIDTH, torch.float64)
    expected = in_calls(full, x, cotangent, calls)
    for segment in (8, 5):
        memory = slots_around(kind, around, segment=segment, **values)
        assert_equal(unwrapped(in_calls(memory, x, cotangent, calls)), expected)


def test_nothing_evicted_all_policies_but_merging_read_the_same() -> None:
    """And one slot too few makes each of them another."""
    x, _ = sample(1, 41, WIDTH, torch.float64)
    outputs = {}
    for policy in CHOOSING:
        for capacity in (40, 32):
            memory = slots_around(segment=8, capacity=capacity, **POLICIES[policy])
            with torch.no_grad():
                outputs[policy, capacity] = through(memory, x, whole(1, 41))[0]
    first = outputs["sinks", 40]
    for policy in CHOOSING:
        assert_close(outputs[policy, 40], first, 1e-12)
        assert (outputs[policy, 32] - first).abs().max() > 1e-4


# 3: rows are apart


@pytest.mark.parametrize("policy", POLICIES)
def test_what_a_row_writes_no_other_reads(policy: str) -> None:
    memory = slots_around(segment=4, capacity=6, **POLICIES[policy])
    x, _ = sample(3, 40, WIDTH, torch.float64)
    other = x.clone()
    other[1] = 100 * torch.randn(40, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        for sizes in ([40], [1], [7]):
            before, _ = through(memory, x, cut(whole(3, 40)[0], sizes))
            after, _ = through(memory, other, cut(whole(3, 40)[0], sizes))
            assert torch.equal(after[[0, 2]], before[[0, 2]])
            assert not torch.equal(after[1], before[1])


# 4: what stays, against lists


def heard_of(memory: KeyValueMemoryConfig, q: Tensor, k: Tensor) -> list[list[int]]:
    """The positions that each head of keys keeps of a document, from queries (H, T, W) and keys (G, T, W): lists."""
    groups, length = k.shape[:2]
    group, root = q.shape[0] // groups, math.sqrt(q.shape[2])
    scores = (q.unflatten(0, (groups, group)) @ k.transpose(1, 2)[:, None] / root).tolist()
    found: list[list[int]] = []
    for g in range(groups):
        bank: list[int] = []
        heard: dict[int, float] = {}
        norms = k[g].norm(dim=1).tolist()
        for start in range(0, length // memory.segment * memory.segment, memory.segment):
            end = start + memory.segment
            for time in range(start, end):
                seen = [*bank, *range(start, time + 1)]
                if memory.keep == "snap" and time < end - memory.observe:
                    continue
                for head in range(group):
                    row = scores[g][head][time]
                    total = sum(math.exp(row[m]) for m in seen)
                    for m in seen:
                        heard[m] = heard.get(m, 0.0) + math.exp(row[m]) / total
            candidates = [*bank, *range(start, end)]
            bank = stays(memory, candidates, heard, {m: norms[m] for m in candidates})
            heard = {} if memory.keep == "snap" else {m: heard.get(m, 0.0) for m in bank}
        found.append(bank)
    return found


@st.composite
def calls_of_rows(draw: st.DrawFn) -> tuple[list[Tensor], list[int]]:
    """Calls over two rows with documents and padding, and the length of the document that each row is left with."""
    rows = []
    for _ in range(2):
        runs = draw(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 30)), min_size=1, max_size=3))
        rows.append([at for padding, length in runs for at in [*[-1] * padding, *range(length)]])
    last = [max((n for n, at in enumerate(row) if at == 0), default=0) for row in rows]
    lengths = [len([at for at in row[begin:] if at >= 0]) for row, begin in zip(rows, last, strict=True)]
    time = max(map(len, rows))
    positions = torch.tensor([row + [-1] * (time - len(row)) for row in rows])
    sizes = draw(st.lists(st.sampled_from([1, 2, 5, 13]), min_size=1, max_size=6))
    return cut(positions, sizes), lengths


@settings(max_examples=25)
@given(
    laid=calls_of_rows(),
    policy=st.sampled_from(CHOOSING),
    capacity=st.integers(3, 14),
    segment=st.integers(2, 7),
    seed=st.integers(0, 999),
)
def test_what_stays_is_what_lists_keep(
    laid: tuple[list[Tensor], list[int]], policy: str, capacity: int, segment: int, seed: int
) -> None:
    """After any calls, documents and padding: the same positions, and each slot's own key and value."""
    calls, lengths = laid
    memory = slots_around(
        around={"position": "none", "kv_heads": 2}, segment=segment, capacity=capacity, **POLICIES[policy]
    )
    positions = torch.cat(calls, 1)
    x, _ = sample(2, positions.shape[1], WIDTH, torch.float64, seed)
    with torch.no_grad():
        _, state = through(memory, x, calls)
        assert isinstance(state, SlotsState)
        bank = state.compact().bank
        for row, length in enumerate(lengths):
            begin = int((positions[row] == 0).nonzero()[-1])
            real = [n for n in range(begin, positions.shape[1]) if positions[row, n] >= 0]
            heads, _ = memory.mixer.project(
                x[row : row + 1, real], Rows.fresh_documents(1, length), memory.mixer.start(1)
            )
            q, k, v = heads.queries[0], heads.keys[0], heads.values[0]
            expected = heard_of(memory.config, q, k)
            kept = int(bank.fill[row])
            assert kept == min(capacity, length // segment * segment)
            for head in range(2):
                held = bank.position[row, min(head, bank.position.shape[1] - 1)]
                assert held[:kept].tolist() == expected[head]
                assert held[kept:].eq(-1).all()
                assert_close(bank.keys[row, head, :kept], k[head, expected[head]], 1e-12)
                assert_close(bank.values[row, head, :kept], v[head, expected[head]], 1e-12)


@settings(max_examples=25)
@given(
    laid=calls_of_rows(),
    capacity=st.integers(1, 14),
    segment=st.integers(1, 7),
    threshold=st.sampled_from([-1.0, 0.0, 0.6, 1.0]),
    seed=st.integers(0, 999),
)
def test_what_is_merged_is_what_lists_merge(
    laid: tuple[list[Tensor], list[int]], capacity: int, segment: int, threshold: float, seed: int
) -> None:
    """Means, counts and newest positions, in numbers of plain Python, whatever the calls."""
    calls, lengths = laid
    memory = slots_around(
        around={"position": "none", "kv_heads": 2},
        segment=segment,
        capacity=capacity,
        keep="merge",
        threshold=threshold,
    )
    positions = torch.cat(calls, 1)
    x, _ = sample(2, positions.shape[1], WIDTH, torch.float64, seed)
    with torch.no_grad():
        _, state = through(memory, x, calls)
        assert isinstance(state, SlotsState)
        bank = state.compact().bank
        for row, length in enumerate(lengths):
            begin = int((positions[row] == 0).nonzero()[-1])
            real = [n for n in range(begin, positions.shape[1]) if positions[row, n] >= 0]
            heads, _ = memory.mixer.project(
                x[row : row + 1, real], Rows.fresh_documents(1, length), memory.mixer.start(1)
            )
            for head in range(2):
                keys, values = heads.keys[0, head].tolist(), heads.values[0, head].tolist()
                expected = merged_lists(keys, values, segment, capacity, threshold)
                assert bank.count is not None
                counts = bank.count[row, head].tolist()
                used = [n for n, count in enumerate(counts) if count]
                assert [(counts[n], int(bank.position[row, head, n])) for n in used] == [slot[2:] for slot in expected]
                if expected:
                    assert_close(
                        bank.keys[row, head, used], torch.tensor([s[0] for s in expected], dtype=torch.float64), 1e-9
                    )
                    assert_close(
                        bank.values[row, head, used], torch.tensor([s[1] for s in expected], dtype=torch.float64), 1e-9
                    )


Merged = tuple[list[float], list[float], int, int]


def merged_lists(
    keys: list[list[float]], values: list[list[float]], segment: int, capacity: int, threshold: float
) -> list[Merged]:
    """Key, value, count and newest position of each slot, in the order of slots."""

    def cosine(a: list[float], b: list[float]) -> float:
        norms = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
        return sum(x * y for x, y in zip(a, b, strict=True)) / norms

    slots: list[Merged] = []
    for start in range(0, len(keys) // segment * segment, segment):
        before, novel = list(slots), []
        for m in range(start, start + segment):
            alike = [cosine(keys[m], slot[0]) for slot in before]
            if not alike or max(alike) <= threshold:
                novel.append(m)
                continue
            best = alike.index(max(alike))
            key, value, count, _ = slots[best]
            means = [
                [(count * a + b) / (count + 1) for a, b in zip(old, new, strict=True)]
                for old, new in ((key, keys[m]), (value, values[m]))
            ]
            slots[best] = (means[0], means[1], count + 1, m)
        oldest = sorted(range(len(slots)), key=lambda n: slots[n][3])
        for m in novel[-capacity:]:
            new = (keys[m], values[m], 1, m)
            if len(slots) < capacity:
                slots.append(new)
            else:
                slots[oldest.pop(0)] = new
    return slots


# Positions of every kind


@pytest.mark.parametrize(
    ("name", "memory"),
    [
        ("sinks", {"keep": "sinks", "initial": 2, "capacity": 7, "position": "index"}),
        ("heavy", {"keep": "heavy", "recent": 2, "capacity": 6, "position": "index"}),
        ("heavy", {"keep": "heavy", "recent": 2, "capacity": 6, "position": "original"}),
        ("snap", {"keep": "snap", "observe": 3, "capacity": 6, "position": "original", "pool": 3}),
        ("merge", {"keep": "merge", "threshold": 0.4, "capacity": 6, "position": "original"}),
        ("merge", {"keep": "merge", "threshold": 0.4, "capacity": 6, "ahead": True}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())),
)
@pytest.mark.parametrize("position", ["alibi", "xpos", "none"])
def test_the_formula_agrees_whatever_the_mixer_sees_of_positions(
    name: str, memory: dict[str, Any], position: str
) -> None:
    around = {"heads": 4, "kv_heads": 2, "position": position, **({"scale_base": 3} if position == "xpos" else {})}
    config = KeyValueMemoryConfig(segment=4, gradient=True, **memory)
    for kind, more in (("attention", {}), ("longformer", {"window": 5, "dilation": [1, 2], "globals": 2})):
        if kind == "longformer" and name == "merge":
            continue
        subject = Subject(f"{kind}+{name}", settings_of(kind, **around, **more), WIDTH, config)
        mixer, (x, cotangent) = subject.build(), sample(1, 30, WIDTH, torch.float64)
        calls = whole(1, 30) if config.ahead else cut(whole(1, 30)[0], [7, 1, 9])
        found = in_calls(mixer, x, cotangent, calls)
        x.requires_grad_()
        y = REMEMBERED[name](subject, dict(mixer.named_parameters()), x[0])[None]
        assert_close(found.y, y.detach(), 1e-9)
        for name_, gradient in gradients(mixer, y, x, cotangent).items():
            assert_close(found.gradients[name_], gradient, 1e-9, name_)


# A budget in bytes


def model_of(budget: int | None, architecture: str = "attention", **values: Any) -> LanguageModel:
    mixer: dict[str, Any] = {"kind": architecture, "heads": 4, "kv_heads": 2}
    mixer |= {"window": 8, "globals": 2} if architecture == "longformer" else {}
    memory = {"kind": "key_value", "segment": 8, "budget": budget, **values}
    config = {
        "architecture": {"width": WIDTH, "depth": 3, "pattern": ["a"], "layers": {"a": {"mixer": mixer}}},
        "memory": memory,
        "vocabulary": 11,
    }
    torch.manual_seed(0)
    return LanguageModel(read(ModelConfig, config))


@pytest.mark.parametrize(
    ("architecture", "policy"),
    [*(("attention", policy) for policy in POLICIES), *(("longformer", policy) for policy in CHOOSING)],
)
@pytest.mark.parametrize("budget", [12_345, 20_000])
def test_a_state_never_has_more_bytes_than_its_budget(architecture: str, policy: str, budget: int) -> None:
    """And uses it: one slot more in each layer would not fit. In prefill, token by token and behind documents."""
    model = model_of(budget, architecture, **POLICIES[policy])
    tokens = torch.randint(11, (2, 400), generator=torch.Generator().manual_seed(1))
    most = 0
    with torch.no_grad():
        state = None
        for piece in (tokens[:, :300], *tokens[:, 300:340].split(1, 1)):
            _, state = model(piece, state)
            assert state.bytes == 2 * model.config.state_bytes(int(state.position[0]))
            assert state.bytes <= 2 * budget
            most = max(most, state.bytes // 2)
    layer = model.stack.layers[0].mixer
    again = layer.config.model_copy(update={"capacity": layer.config.capacity + 1})
    mixer = model.config.decoder.layer(0).mixer
    longest = max(again.state_bytes(mixer, WIDTH, tokens, 0, 3) for tokens in range(800, 816))
    assert 3 * (longest + 16) + 8 > budget  # what rows of unlike lengths have besides
    assert most > budget - 3 * 600


def test_a_budget_that_is_too_small_is_told_in_one_line() -> None:
    with pytest.raises(ConfigError) as mistake:
        model_of(1000, keep="sinks", initial=4)
    told = str(mistake.value)
    least = int(told.split("At least ")[1].rstrip("."))
    assert told == (
        "memory.budget: 1000 bytes a row do not hold what stands beside the slots, and 4 of them, in each of 3 layers. "
        f"At least {least}."
    )
    assert model_of(least, keep="sinks", initial=4).stack.layers[0].mixer.config.capacity == 4
    with pytest.raises(ConfigError):
        model_of(least - 3, keep="sinks", initial=4)


# What is declared


def test_it_declares_what_the_contract_suite_holds_it_to() -> None:
    for values in POLICIES.values():
        config = KeyValueMemoryConfig(**values)
        assert config.causal
        assert config.split_exact
        assert config.row_independent
        assert not config.trained
    assert not KeyValueMemoryConfig(keep="merge", ahead=True).causal
    assert not KeyValueMemoryConfig(keep="merge", ahead=True).split_exact
    assert not KeyValueMemoryConfig(keep="heavy", when="call").split_exact
    assert KeyValueMemoryConfig(keep="heavy", when="call").causal


def test_seeing_ahead_really_is_not_causal_and_splits_matter() -> None:
    x, _ = sample(1, 40, WIDTH, torch.float64)
    other = x.clone()
    other[:, 31] += 1
    for ahead in (False, True):
        memory = slots_around(segment=8, capacity=9, keep="merge", threshold=0.3, ahead=ahead)
        with torch.no_grad():
            before, after = (through(memory, one, whole(1, 40))[0] for one in (x, other))
            pieces, _ = through(memory, x, cut(whole(1, 40)[0], [3]))
        assert torch.equal(before[:, :24], after[:, :24])
        assert torch.equal(before[:, 24:31], after[:, 24:31]) is not ahead
        assert (float((pieces - before).abs().max()) < 1e-9) is not ahead


@pytest.mark.parametrize("policy", CHOOSING)
def test_where_a_call_is_a_segment_splits_matter(policy: str) -> None:
    """A first call is full attention; then only what the policy has kept of it is read, and causality holds."""
    values = {**POLICIES[policy], "when": "call", "capacity": 6, "position": "original"}
    memory, full = slots_around(**values), mixer_of("attention")
    x, _ = sample(2, 50, WIDTH, torch.float64)
    with torch.no_grad():
        first, state = through(memory, x[:, :40], whole(2, 40))
        assert_close(first, through(full, x[:, :40], whole(2, 40))[0], 1e-12)
        assert isinstance(state, SlotsState)
        assert state.bank.position.shape[2] == 6
        rest = [torch.arange(40, 50).expand(2, -1)]
        at_once, after = through(memory, x[:, 40:], rest, state)
        by_tokens, _ = through(memory, x[:, 40:], cut(rest[0], [1]), state)
        changed = x.clone()
        changed[:, 45:] += 1
        assert torch.equal(through(memory, changed[:, 40:], rest, state)[0][:, :5], at_once[:, :5])
    assert_close(by_tokens[:, :1], at_once[:, :1], 1e-12)
    assert (by_tokens - at_once).abs().max() > 1e-4
    assert (
        after.bytes
        == state.bytes
        == 2 * memory.config.state_bytes(settings_of("attention", heads=HEADS), WIDTH, 50, 0, 1, 8)
    )


def test_what_a_call_keeps_is_what_lists_keep() -> None:
    for policy in CHOOSING:
        values = {**POLICIES[policy], "when": "call", "capacity": 6}
        memory = slots_around(around={"position": "none", "kv_heads": 2}, **values)
        x, _ = sample(2, 40, WIDTH, torch.float64)
        with torch.no_grad():
            _, state = through(memory, x, [positions_of("40", "3 -2 30 -5")])
            assert isinstance(state, SlotsState)
            for row, real in enumerate((slice(0, 40), slice(5, 35))):
                length = real.stop - real.start
                rows = Rows.fresh_documents(1, length)
                heads, _ = memory.mixer.project(x[row : row + 1, real], rows, memory.mixer.start(1))
                config = memory.config.model_copy(update={"segment": length})
                expected = heard_of(config, heads.queries[0], heads.keys[0])
                for head in range(2):
                    held = state.bank.position[row, min(head, state.bank.position.shape[1] - 1)]
                    assert held.tolist() == expected[head]


# Costs and mistakes


@pytest.mark.parametrize("policy", POLICIES)
def test_decoding_within_a_segment_leaves_the_bank_where_it_is(policy: str) -> None:
    """Keys, values and, where there are any, the turned keys: no token copies or turns them anew."""
    position = {} if policy == "merge" else {"position": "index"}
    memory = slots_around(segment=16, capacity=20, **position, **POLICIES[policy])
    x, _ = sample(2, 80, WIDTH, torch.float64)
    with torch.no_grad():
        _, state = through(memory, x[:, :49], whole(2, 49))
        assert isinstance(state, SlotsState)
        places = [part.data_ptr() for part in (state.bank.keys, state.bank.values)]
        turned = None if state.bank.turned is None else state.bank.turned.data_ptr()
        assert (turned is None) is (policy == "merge")
        for time in range(49, 63):
            _, state = memory(x[:, time : time + 1], Rows.at(torch.full((2, 1), time)), state)
            assert [part.data_ptr() for part in (state.bank.keys, state.bank.values)] == places
            assert (None if state.bank.turned is None else state.bank.turned.data_ptr()) == turned


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"keep": "sinks", "top": 3},
            "top: 3 given, but with keep 'sinks' it says nothing; it is for newest. Leave it at 32.",
        ),
        (
            {"recent": 4},
            "recent: 4 given, but with keep 'newest' it says nothing; it is for heavy, snap, norm. Leave it at 0.",
        ),
        (
            {"keep": "norm", "unit": 4},
            "unit: 4 given, but with keep 'norm' it says nothing; it is for newest. Leave it at 1.",
        ),
        (
            {"keep": "norm", "combine": "grouped"},
            "combine: grouped is for landmarks, and slots have none. Use joint or gate.",
        ),
        (
            {"keep": "norm", "position": "capped"},
            "position: capped is for keep 'newest'. Allowed with 'norm': none, original, index.",
        ),
        (
            {"keep": "merge", "when": "call"},
            "when: call given, but with keep 'merge' it says nothing; it is for sinks, heavy, snap, norm. "
            "Leave it at segment.",
        ),
        (
            {"position": "index"},
            "position: index is for slots, and keep 'newest' has none. Allowed: none, original, first, capped.",
        ),
        (
            {"keep": "merge", "position": "index"},
            "position: index needs slots in an order, and merged ones have none. Use none or original.",
        ),
        (
            {"keep": "heavy", "combine": "gate"},
            "combine: gate has two softmaxes, and keep 'heavy' needs the attention of one: joint.",
        ),
        ({"keep": "snap", "pool": 4}, "pool: 4 given; an odd number has a middle."),
        (
            {"keep": "norm", "capacity": 7, "initial": 4, "recent": 4},
            "capacity: 7 slots do not hold 4 initial and 4 recent tokens. At least 8.",
        ),
        ({"keep": "snap", "segment": 8}, "observe: 16 queries of a segment of 8. At most 8."),
    ],
)
def test_settings_that_do_not_fit_one_another(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as mistake:
        KeyValueMemoryConfig(**values)
    assert mistake.value.errors()[0]["msg"] == f"Value error, .{message}"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"keep": "merge"},
            "keep: merge would count tokens twice that are in a window and in a slot's mean. Use it around layers "
            "without a window.",
        ),
        (
            {"keep": "heavy", "when": "call"},
            "when: call would lose tokens that leave the window before the call ends. Use segment, or layers without a "
            "window.",
        ),
    ],
)
def test_settings_that_do_not_fit_a_window(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        KeyValueMemoryConfig(segment=8, **values).check(settings_of("longformer", heads=HEADS, window=8), WIDTH, 0, 1)


def test_a_budget_does_not_hold_a_mixer_that_grows() -> None:
    growing = settings_of("sparse", heads=HEADS, pattern="strided", stride=4)
    with pytest.raises(ValueError, match=r"^budget: 9000 bytes cannot hold a mixer whose own state grows .*\.$"):
        KeyValueMemoryConfig(keep="sinks", segment=4, budget=9000).check(growing, WIDTH, 0, 1)
