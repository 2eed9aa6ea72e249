"""What a key-value memory keeps and what a query reads of it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from contract.runs import Outcome, assert_close, cut, in_calls, positions_of, sample, through, whole
from contract.subjects import settings_of
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from farfield.architectures import Heads, KeyedMixer, KeyValue, Rows, build_mixer
from farfield.architectures import attention as attention_file
from farfield.architectures import longformer as longformer_file
from farfield.architectures.ops.attention import Part, attention
from farfield.architectures.ops.backend import Backend
from farfield.architectures.state import KeyValueBuffer, NoState
from farfield.config import ConfigError
from farfield.config import read as settings_read
from farfield.memory import KeyValueMemoryConfig, WithMemory
from farfield.memory.newest import MemoryState
from farfield.memory.units import UnitState

WIDTH, HEADS = 16, 4
EVERYTHING = {"capacity": 1000, "top": 1000, "position": "original", "gradient": True}


def mixer_of(kind: str, **values: Any) -> KeyedMixer:
    torch.manual_seed(2)
    mixer = build_mixer({"kind": kind, "heads": HEADS, **values}, WIDTH)
    assert isinstance(mixer, KeyedMixer)
    return mixer.double()


def remembering(mixer: KeyedMixer, **values: Any) -> WithMemory:
    memory = WithMemory(mixer, KeyValueMemoryConfig(**values), HEADS, WIDTH).double()
    if memory.gate is not None:
        with torch.no_grad():
            memory.gate += torch.randn(HEADS, dtype=torch.float64)
    return memory


def read(memory: WithMemory, heads: Heads, rows: Rows, state: MemoryState) -> tuple[KeyValue, ...]:
    """What the call's own queries read, found by themselves."""
    return memory.read(heads.queries, heads.queries, heads.keys, heads.values, rows, state)


def unwrapped(outcome: Outcome) -> Outcome:
    """With the weights called as those of the mixer alone."""
    return Outcome(outcome.y, {name.removeprefix("mixer."): gradient for name, gradient in outcome.gradients.items()})


def assert_equal(found: Outcome, expected: Outcome) -> None:
    assert found.gradients.keys() == expected.gradients.keys()
    assert_close(found.y, expected.y, 1e-9)
    for name, gradient in expected.gradients.items():
        assert_close(found.gradients[name], gradient, 1e-9, name)


# 1. Capacity for everything, exact, joint, at original positions: full attention


@pytest.mark.parametrize("size", [1, 63, 200])
@pytest.mark.parametrize("conv", [0, 4])
@pytest.mark.parametrize("segment", [1, 7, 64])
def test_with_room_for_everything_attention_is_full(segment: int, conv: int, size: int) -> None:
    """Values and gradients, whatever the segment, in any calls, packed and padded."""
    mixer = mixer_of("attention", conv=conv, kv_heads=2)
    memory = remembering(mixer, segment=segment, **EVERYTHING)
    rows = ("10 3 -2 5", "20", "-20") if size == 1 else ("130", "-3 63 1 1 62", "100 30")
    calls = cut(positions_of(*rows), [size])
    x, cotangent = sample(3, torch.cat(calls, 1).shape[1], WIDTH, torch.float64)
    assert_equal(unwrapped(in_calls(memory, x, cotangent, calls)), in_calls(mixer, x, cotangent, calls))


@pytest.mark.parametrize("size", [1, 63, 200])
@pytest.mark.parametrize("conv", [0, 4])
@pytest.mark.parametrize(("window", "segment"), [(1, 2), (7, 8), (7, 3), (40, 41)])
def test_with_room_for_everything_a_window_is_full_attention(window: int, segment: int, conv: int, size: int) -> None:
    """Nothing is lost between window and memory, and nothing counts twice, up to the longest segment that fits."""
    longformer = mixer_of("longformer", window=window, conv=conv, kv_heads=2)
    full = mixer_of("attention", conv=conv, kv_heads=2)
    full.load_state_dict(longformer.state_dict())
    memory = remembering(longformer, segment=segment, **EVERYTHING)
    rows = ("10 3 -2 5", "20", "-20") if size == 1 else ("130", "-3 63 1 1 62", "100 30")
    calls = cut(positions_of(*rows), [size])
    x, cotangent = sample(3, torch.cat(calls, 1).shape[1], WIDTH, torch.float64)
    assert_equal(unwrapped(in_calls(memory, x, cotangent, calls)), in_calls(full, x, cotangent, calls))


def test_a_segment_beyond_the_window_would_lose_tokens() -> None:
    """What the refusal of such settings is for: one token more and full attention is no longer reached."""
    longformer, full = mixer_of("longformer", window=7), mixer_of("attention")
    full.load_state_dict(longformer.state_dict())
    config = KeyValueMemoryConfig(segment=9, **EVERYTHING)
    with pytest.raises(ValueError, match=r"^segment: 9 is longer than the window of 7 tokens allows; .* At most 8\.$"):
        config.check(settings_of("longformer", heads=HEADS, window=7), WIDTH, 0, 1)
    config.check(settings_of("longformer", heads=HEADS, window=8), WIDTH, 0, 1)
    config.check(settings_of("attention", heads=HEADS), WIDTH, 0, 1)
    x, _ = sample(1, 40, WIDTH, torch.float64)
    with torch.no_grad():
        found, _ = through(WithMemory(longformer, config, HEADS, WIDTH), x, whole(1, 40))
        expected, _ = through(full, x, whole(1, 40))
    assert (found - expected).abs().max() > 1e-3


# 2. Two segments with the memory are one long segment


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("segment", [1, 31, 63])
def test_two_segments_are_one_long_segment(segment: int, grad: bool) -> None:
    mixer = mixer_of("attention", conv=4)
    x, cotangent = sample(2, 2 * segment, WIDTH, torch.float64)
    calls = cut(whole(2, 2 * segment)[0], [segment])
    short = in_calls(remembering(mixer, segment=segment, **EVERYTHING), x, cotangent, calls, grad)
    long = in_calls(remembering(mixer, segment=2 * segment, **EVERYTHING), x, cotangent, whole(2, 2 * segment), grad)
    assert_equal(short, long)
    assert_equal(unwrapped(short), in_calls(mixer, x, cotangent, whole(2, 2 * segment), grad))


def test_without_gradient_what_is_read_is_a_constant() -> None:
    """The values are those of full attention; the gradients are those of a bank that has been cut off."""
    mixer = mixer_of("attention")
    x, cotangent = sample(1, 20, WIDTH, torch.float64)
    cut_off = {**EVERYTHING, "segment": 10, "gradient": False}
    found = in_calls(remembering(mixer, **cut_off), x, cotangent, whole(1, 20))
    full = in_calls(mixer, x, cotangent, whole(1, 20))
    assert_close(found.y, full.y, 1e-9)
    only_late = torch.cat((torch.zeros_like(cotangent[:, :10]), cotangent[:, 10:]), 1)
    assert not in_calls(remembering(mixer, **cut_off), x, only_late, whole(1, 20)).gradients["x"][:, :10].any()
    assert in_calls(mixer, x, only_late, whole(1, 20)).gradients["x"][:, :10].any()


# 3. Rows are apart


@pytest.mark.parametrize("kind", ["attention", "longformer"])
@pytest.mark.parametrize("combine", ["joint", "gate"])
def test_writes_to_a_row_never_change_what_another_reads(kind: str, combine: str) -> None:
    memory = remembering(
        mixer_of(kind, **({"window": 7} if kind == "longformer" else {})),
        capacity=12,
        segment=4,
        top=3,
        combine=combine,
    )
    x, _ = sample(3, 60, WIDTH, torch.float64)
    other = x.clone()
    other[1] = 100 * torch.randn(60, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        for sizes in ([60], [1], [7]):
            before, _ = through(memory, x, cut(whole(3, 60)[0], sizes))
            after, _ = through(memory, other, cut(whole(3, 60)[0], sizes))
            assert torch.equal(after[[0, 2]], before[[0, 2]])
            assert not torch.equal(after[1], before[1])


@pytest.mark.parametrize("kind", ["attention", "longformer"])
@pytest.mark.parametrize("size", [1, 8])
def test_a_document_that_begins_clears_its_own_row_alone(kind: str, size: int) -> None:
    memory = remembering(
        mixer_of(kind, **({"window": 7} if kind == "longformer" else {})), capacity=40, segment=4, top=3
    )
    first, rest = whole(2, 30)[0], torch.arange(30, 54).expand(2, -1)
    begun = torch.stack((torch.arange(24), rest[1]))
    x, _ = sample(2, 54, WIDTH, torch.float64)
    with torch.no_grad():
        _, state = through(memory, x[:, :30], [first])
        on, _ = through(memory, x[:, 30:], cut(rest, [size]), state)
        mixed, _ = through(memory, x[:, 30:], cut(begun, [size]), state)
        fresh, _ = through(memory, x[:1, 30:], whole(1, 24))
    assert_close(mixed[1], on[1], 1e-12)
    assert_close(mixed[0], fresh[0], 1e-12)
    assert (mixed[0] - on[0]).abs().max() > 1e-3


# What is read: nothing twice, nothing lost, the best


class Seen:
    """Which tokens each query saw in the near field and read of the memory, found by their keys."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, file: Any) -> None:
        self.calls: list[tuple[list[Part], list[KeyValue]]] = []
        original = file.join

        def spy(near: Any, reads: Any, scale: float, backend: Backend) -> Any:
            self.calls.append((list(near), list(reads)))
            return original(near, reads, scale, backend)

        monkeypatch.setattr(file, "join", spy)

    def tokens(self, part: Part, keys: Tensor, row: int, head: int) -> list[list[int]]:
        """Positions of the keys (G, T, W) that each query of the part sees."""
        group = part.queries.shape[1] // part.keys.shape[1]
        held = part.keys[row, head // group]
        owner = (held[:, None] - keys[head * keys.shape[0] // HEADS]).abs().amax(2) < 1e-9
        assert (owner.sum(1) <= 1).all()
        mask = part.layout.mask(part.queries.shape[2], held.shape[0])
        mask = mask.expand(*part.queries.shape[:2], *mask.shape[-2:]) if mask.ndim == 2 else mask
        visible = mask[min(row, mask.shape[0] - 1), min(head, mask.shape[1] - 1)]
        return [[int(owner[column].nonzero()) for column in line.nonzero()[:, 0]] for line in visible]


def expected_near(kind: str, values: dict[str, Any], segment: int, head: int, time: int) -> set[int]:
    if kind == "attention":
        return set(range(time // segment * segment, time + 1))
    dilation = values["dilation"][head * len(values["dilation"]) // HEADS]
    window = {m for m in range(time + 1) if time - m <= values["window"] * dilation and (time - m) % dilation == 0}
    return window | set(range(min(values["globals"], time + 1)))


@pytest.mark.parametrize(("size", "combine"), [(1, "joint"), (7, "gate")])
@pytest.mark.parametrize(("capacity", "top"), [(1, 1), (7, 3), (12, 100), (1000, 4), (1000, 1000)])
@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("attention", {}),
        ("longformer", {"window": 5, "globals": 0, "dilation": [1]}),
        ("longformer", {"window": 4, "globals": 2, "dilation": [1]}),
    ],
    ids=["attention", "window", "globals"],
)
def test_each_query_sees_near_and_best_once(
    kind: str, values: dict[str, Any], capacity: int, top: int, size: int, combine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By brute force: the near field is the mixer's, what is read is the best of what is written and not near."""
    time, segment = 26, 4
    mixer = mixer_of(kind, position="none", kv_heads=2, **values)
    memory = remembering(mixer, capacity=capacity, segment=segment, top=top, combine=combine)
    x, _ = sample(1, time, WIDTH, torch.float64)
    with torch.no_grad():
        heads, _ = mixer.project(x, Rows.fresh_documents(1, time), mixer.start(1))
        seen = Seen(monkeypatch, attention_file if kind == "attention" else longformer_file)
        through(memory, x, cut(whole(1, time)[0], [size]))
    for head in range(HEADS):
        scores = heads.queries[0, head] @ heads.keys[0, head // 2].T
        at = 0
        for near, reads in seen.calls:
            columns = [seen.tokens(part, heads.keys[0], 0, head) for part in near]
            told = [seen.tokens(part.part, heads.keys[0], 0, head) for part in reads]
            for query in range(near[0].queries.shape[2]):
                now = at + query
                found = [token for part in columns for token in part[query]]
                assert len(found) == len(set(found)), "twice in the near field"
                assert set(found) == expected_near(kind, values, segment, head, now)
                remembered = [token for part in told for token in part[query]]
                written = now // segment * segment
                bank = [m for m in range(max(0, written - capacity), written) if m not in found]
                best = sorted(bank, key=lambda m: -scores[now, m])[:top]
                assert sorted(remembered) == sorted(best)
                if capacity == top == 1000:
                    assert sorted(found + remembered) == list(range(now + 1)), "something is lost"
            at += near[0].queries.shape[2]


def test_dilated_heads_read_what_their_windows_leave_out() -> None:
    """With every token of complete segments read, only the open segment's gaps are missing."""
    mixer = mixer_of("longformer", window=5, dilation=[1, 3])
    rows = torch.arange(40).expand(1, -1)
    near = mixer.near(rows, rows)[0]
    memory = remembering(mixer, segment=6, **EVERYTHING)
    where = memory._tokens(torch.zeros(1), rows, torch.ones_like(rows), Rows.at(rows), 0)
    visible = where.visible(slice(0, 40), slice(0, 40))[0]
    assert not (near & visible).any()
    written = (rows[0] // 6 * 6)[:, None]
    assert ((near | visible) | (rows >= written)).all(1).any()
    assert torch.equal((near | visible) & (rows < written), (rows < written).expand(HEADS, -1, -1))


# 4. Wrap-around: whatever was appended, a kept key gives its value and a forgotten one never does


class Identity(KeyedMixer):
    """Enough of a mixer for a memory to read with: one head of queries as wide as there are tokens."""

    reach, kv_heads, scale = None, 1, 1.0

    def __init__(self, head_width: int) -> None:
        super().__init__()
        self.head_width = head_width

    def start(self, batch: int) -> Any: ...
    def project(self, *args: Any) -> Any: ...
    def attend(self, *args: Any) -> Any: ...
    def finish(self, *args: Any) -> Any: ...
    def rotate(self, x: Tensor, phase: Tensor) -> Tensor:
        return x

    def near(self, query_position: Tensor, key_position: Tensor) -> Tensor:
        raise AssertionError("a mixer without a window has no near field to leave out")


@settings(max_examples=40)
@given(
    capacity=st.integers(1, 20),
    segment=st.integers(1, 9),
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=8),
    starts=st.lists(st.integers(0, 60), max_size=2),
    grad=st.booleans(),
)
def test_reading_a_key_gives_its_value(
    capacity: int, segment: int, sizes: list[int], starts: list[int], grad: bool
) -> None:
    """Two rows, the second of which begins documents at `starts`; every token of a row's open document is asked for."""
    total = sum(sizes)
    positions = torch.arange(total).repeat(2, 1)
    for start in sorted(set(starts)):
        positions[1, start:] = torch.arange(max(total - start, 0))
    keys = torch.eye(total, dtype=torch.float64).expand(2, 1, -1, -1)
    values = torch.arange(1.0, 2 * total + 1, dtype=torch.float64).view(2, 1, total, 1).expand(-1, -1, -1, total)
    memory = WithMemory(Identity(total), KeyValueMemoryConfig(capacity=capacity, segment=segment, top=1), 1, total)
    with torch.set_grad_enabled(grad):
        bank, at = empty_bank(memory, 2), 0
        for size in sizes:
            now = slice(at, at + size)
            bank = bank.append(keys[:, :, now], values[:, :, now], Rows.at(positions[:, now]))
            at += size
        for row in range(2):
            length = int(positions[row, -1]) + 1
            written = length // segment * segment
            kept = range(max(0, written - capacity), written)
            for place in range(length):
                found = ask(memory, bank, keys[:, :, total - length + place], length)
                expected = float(values[row, 0, total - length + place, 0])
                if place in kept:
                    assert found[row] == expected
                else:
                    assert found[row] != expected


def empty_bank(memory: WithMemory, batch: int) -> KeyValueBuffer:
    like = torch.zeros(1, dtype=torch.float64)
    return KeyValueBuffer.empty(batch, 1, memory.mixer.head_width, like, memory.config.slots)


def ask(memory: WithMemory, bank: KeyValueBuffer, query: Tensor, position: int) -> list[float]:
    """What each row of the bank answers to query (B, 1, W) of a token at `position`; 0 where it has nothing."""
    rows = Rows.at(torch.full((query.shape[0], 1), position))
    heads = Heads(100 * query[:, :, None], query[:, :, None], query[:, :, None])
    reads = read(memory, heads, rows, MemoryState(NoState(), bank, UnitState()))
    if not reads:
        return [0.0] * query.shape[0]
    out, _ = attention([reads[0].part], 1.0)
    return [float(row) for row in out[:, 0, 0, 0]]


# 5. Saved and loaded: see also the contract suite, clause 8


@pytest.mark.parametrize("settings", [{}, {"position": "original", "combine": "gate"}], ids=["joint", "gate"])
def test_a_loaded_memory_reads_the_same(settings: dict[str, Any]) -> None:
    memory = remembering(mixer_of("attention"), capacity=12, segment=4, top=3, **settings)
    x, _ = sample(2, 60, WIDTH, torch.float64)
    with torch.no_grad():
        _, state = through(memory, x[:, :50], [positions_of("50", "20 30")])
        loaded = memory.start(1).restored(load(save(state.compact().tensors())))
        heads, _ = memory.mixer.project(
            x[:, 50:], Rows.at(torch.stack((torch.arange(50, 60), torch.arange(30, 40)))), state.mixer
        )
        rows = Rows.at(torch.stack((torch.arange(50, 60), torch.arange(30, 40))))
        reads = [read(memory, heads, rows, one) for one in (state, loaded)]
    first, second = (attention([one.part], 1.0) for (one,) in reads)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@pytest.mark.parametrize("damage", ["cut short", "header", "not there"])
def test_a_damaged_file_is_an_error(damage: str) -> None:
    """What safetensors itself notices. It has no checksum: a changed number in the body is for whoever stores it."""
    memory = remembering(mixer_of("attention"), capacity=12, segment=4)
    x, _ = sample(1, 20, WIDTH, torch.float64)
    with torch.no_grad():
        _, state = through(memory, x, whole(1, 20))
    stored = save(state.compact().tensors())
    broken = {"cut short": stored[:-1], "header": stored[:9] + b"x" + stored[10:], "not there": b""}[damage]
    with pytest.raises(SafetensorError):
        load(broken)
    assert memory.start(1).restored(load(stored)).bytes == state.bytes


# Gates


@pytest.mark.parametrize("kind", ["attention", "longformer"])
def test_a_gate_leaves_the_near_field_alone_until_something_is_written(kind: str) -> None:
    """Bit for bit in the first segment; from the second on the answers differ."""
    mixer = mixer_of(kind, **({"window": 40} if kind == "longformer" else {}))
    memory = remembering(mixer, capacity=100, segment=8, top=2, combine="gate")
    x, _ = sample(2, 40, WIDTH, torch.float64)
    plain = mixer_of(kind, **({"window": 40} if kind == "longformer" else {}))
    with torch.no_grad():
        found, _ = through(memory, x, whole(2, 40))
        expected, _ = through(plain, x, whole(2, 40))
    assert torch.equal(found[:, :8], expected[:, :8])
    if kind == "longformer":  # a window that holds everything leaves nothing to read
        assert torch.equal(found, expected)
    else:
        assert (found[:, 8:] - expected[:, 8:]).abs().max() > 1e-3


def test_a_gate_blends_from_near_to_memory() -> None:
    """Shut, it is the near field alone; open, the memory alone; in between by the sigmoid, a head at a time."""
    mixer = mixer_of("attention")
    memory = remembering(mixer, capacity=100, segment=8, top=3, combine="gate")
    assert memory.gate is not None
    x, _ = sample(1, 20, WIDTH, torch.float64)

    def heads_at(gate: float) -> Tensor:
        memory.gate.data.fill_(gate)
        rows = Rows.fresh_documents(1, 20)
        heads, inner = mixer.project(x, rows, mixer.start(1))
        reads = read(memory, heads, rows, memory.start(1))
        assert reads
        return mixer.attend(heads, rows.segmented(8), inner, reads)[0].out

    with torch.no_grad():
        shut, half, wide = heads_at(-1e3), heads_at(math.log(3.0)), heads_at(1e3)
        rows = Rows.fresh_documents(1, 20)
        heads, inner = mixer.project(x, rows, mixer.start(1))
        near = mixer.attend(heads, rows.segmented(8), inner)[0].out
    assert_close(shut, near, 1e-12)
    assert_close(half, 0.75 * wide + 0.25 * shut, 1e-12)
    assert torch.equal(wide[:, :, :8], near[:, :, :8])
    assert (wide[:, :, 8:] - near[:, :, 8:]).abs().max() > 1e-3


# Edges and costs


@pytest.mark.parametrize("combine", ["joint", "gate"])
@pytest.mark.parametrize(("capacity", "segment", "top"), [(1, 1, 1), (1, 8, 5), (8, 1, 100), (3, 5, 2), (5, 5, 5)])
def test_least_and_uneven_settings_in_any_calls(capacity: int, segment: int, top: int, combine: str) -> None:
    memory = remembering(mixer_of("attention"), capacity=capacity, segment=segment, top=top, combine=combine)
    x, cotangent = sample(2, 33, WIDTH, torch.float64)
    expected = in_calls(memory, x, cotangent, whole(2, 33))
    for sizes in ([1], [2, 9, 4]):
        assert_equal(in_calls(memory, x, cotangent, cut(whole(2, 33)[0], sizes)), expected)


@pytest.mark.parametrize(
    ("layers", "depth", "places"), [("all", 3, [0, 1, 2]), ((-1,), 4, [3]), ((0, -4), 4, [0]), ((2, 0), 3, [0, 2])]
)
def test_places(layers: Any, depth: int, places: list[int]) -> None:
    assert KeyValueMemoryConfig(layers=layers).places(depth) == places


def test_it_declares_what_the_contract_suite_holds_it_to() -> None:
    config = KeyValueMemoryConfig()
    assert config.causal
    assert config.split_exact
    assert config.row_independent


class Largest(TorchDispatchMode):
    """The most bytes of memory behind a tensor that any operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return out


@pytest.mark.parametrize("kind", ["attention", "longformer"])
def test_a_call_allocates_in_proportion_to_its_length(kind: str) -> None:
    """A long call searches a block of queries at a time over the columns that the bank can hold."""
    memory = remembering(
        mixer_of(kind, **({"window": 31} if kind == "longformer" else {})), capacity=64, segment=32, top=4
    )
    sizes = []
    for time in (1000, 2000):
        x = torch.randn(1, time, WIDTH, dtype=torch.float64, requires_grad=True)
        with Largest() as largest:
            through(memory, x, whole(1, time))[0].sum().backward()
        sizes.append(largest.bytes)
    assert sizes[1] <= 2.1 * sizes[0]
    assert sizes[1] < 8 * 2000 * 2000 / 4


@pytest.mark.parametrize(
    ("name", "value", "what", "default"),
    [
        ("representatives", 9, "key=representative", 4),
        ("stretch", 9, "query=mean", 512),
        ("doubling", 5, "several negatives", 0),
    ],
)
def test_a_setting_that_says_nothing_is_told(name: str, value: int, what: str, default: int) -> None:
    with pytest.raises(ConfigError) as mistake:
        settings_read(KeyValueMemoryConfig, {name: value}, "memory")
    text = f"memory.{name}: {value} given, but it says nothing without {what}. Leave it at {default}."
    assert str(mistake.value) == text
