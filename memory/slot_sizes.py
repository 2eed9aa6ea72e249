"""What a bank of slots costs, what fits it, and how many slots a budget of bytes has.

    slot             keys and values of every head of keys, its position, and what its policy keeps of it
    state of a row   the mixer's near field, the open segment, `capacity` slots

Shapes: G heads of keys and values, W width of a head, S tokens of a segment.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from farfield.architectures.keyed import KeyedSettings

if TYPE_CHECKING:
    from farfield.memory.key_value import KeyValueMemoryConfig

__all__ = ["Keep", "check", "counted", "flops", "mistakes", "state_bytes"]

Keep = Literal["newest", "sinks", "heavy", "snap", "norm", "merge"]

READ: dict[str, tuple[Keep, ...]] = {
    **dict.fromkeys(("unit", "key", "representatives", "query", "stretch", "shared", "top"), ("newest",)),
    **dict.fromkeys(("negatives", "doubling"), ("newest",)),
    "budget": ("sinks", "heavy", "snap", "norm", "merge"),
    "initial": ("newest", "sinks", "heavy", "snap", "norm"),
    "recent": ("heavy", "snap", "norm"),
    "observe": ("snap",),
    "pool": ("snap",),
    "threshold": ("merge",),
    "ahead": ("newest", "merge"),
    "when": ("sinks", "heavy", "snap", "norm"),
}
"""By setting: what must be kept for it to say anything."""

LONG = 1 << 20  # tokens by which a state that is bounded is full
CYCLE = 4096  # and over so many more, one that grows and is emptied is at its largest


def mistakes(config: KeyValueMemoryConfig) -> Iterator[str]:
    """What does not fit of keeping slots, in lines that begin with the name of a setting."""
    keep = config.keep
    for name, kept in READ.items():
        given, default = getattr(config, name), type(config).model_fields[name].default
        if given != default and keep not in kept:
            yield (
                f"{name}: {_plain(given)} given, but with keep '{keep}' it says nothing; it is for {', '.join(kept)}. "
                f"Leave it at {_plain(default)}."
            )
    if keep == "newest":
        if config.position == "index":
            yield "position: index is for slots, and keep 'newest' has none. Allowed: none, original, first, capped."
        return
    if config.position in ("first", "capped"):
        yield f"position: {config.position} is for keep 'newest'. Allowed with '{keep}': {', '.join(_rules(keep))}."
    if keep == "merge" and config.position == "index":
        yield "position: index needs slots in an order, and merged ones have none. Use none or original."
    if config.combine == "grouped":
        yield "combine: grouped is for landmarks, and slots have none. Use joint or gate."
    if config.combine == "gate" and keep in ("heavy", "snap"):
        yield f"combine: gate has two softmaxes, and keep '{keep}' needs the attention of one: joint."
    if config.pool % 2 == 0:
        yield f"pool: {config.pool} given; an odd number has a middle."
    if config.budget is None and config.initial + config.recent > config.capacity:
        first, last = config.initial, config.recent
        yield (
            f"capacity: {config.capacity} slots do not hold {first} initial and {last} recent tokens. "
            f"At least {first + last}."
        )
    if config.when == "segment" and config.observe > config.segment and keep == "snap":
        yield f"observe: {config.observe} queries of a segment of {config.segment}. At most {config.segment}."


def _rules(keep: Keep) -> tuple[str, ...]:
    """Where slots may be said to stand."""
    return ("none", "original") if keep == "merge" else ("none", "original", "index")


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def check(config: KeyValueMemoryConfig, mixer: KeyedSettings, width: int, layer: int, depth: int) -> None:
    """Raise ValueError, in one line that begins with the name of a setting, where slots do not fit the mixer."""
    windowed = mixer.reach(layer, depth) is not None
    if windowed and config.keep == "merge":
        raise ValueError(
            "keep: merge would count tokens twice that are in a window and in a slot's mean. Use it around layers "
            "without a window."
        )
    if windowed and config.when == "call":
        raise ValueError(
            "when: call would lose tokens that leave the window before the call ends. Use segment, or layers without "
            "a window."
        )
    if config.budget is not None:
        _slots_of(config, mixer, width, layer, depth)


def counted(
    config: KeyValueMemoryConfig, mixer: KeyedSettings, width: int, layer: int, depth: int
) -> KeyValueMemoryConfig:
    """The settings with the slots that a budget has in this layer."""
    if config.budget is None:
        return config
    slots = _slots_of(config, mixer, width, layer, depth)
    return config.model_copy(update={"capacity": slots, "budget": None})


def _slots_of(config: KeyValueMemoryConfig, mixer: KeyedSettings, width: int, layer: int, depth: int) -> int:
    """Slots of one layer: named layers share the budget evenly, whatever their windows.

    Raises:
        ValueError: not even the near field, the open segment and the protected slots fit in.
    """
    assert config.budget is not None
    share = (config.budget - 8) // len(config.places(depth))  # a row's own position is 8 bytes
    beside, slot = _beside(config, mixer, width, layer, depth), _slot_bytes(config, mixer, width, 4)
    if beside is None:
        raise ValueError(f"budget: {config.budget} bytes cannot hold a mixer whose own state grows with the length.")
    beside += 8 if config.when == "call" else 16  # lengths of the near field and the open segment, where rows differ
    least = max(1, config.initial + config.recent)
    if share < beside + least * slot:
        needed = (beside + least * slot) * len(config.places(depth)) + 8
        raise ValueError(
            f"budget: {config.budget} bytes a row do not hold what stands beside the slots, and {least} of them, in "
            f"each of {len(config.places(depth))} layers. At least {needed}."
        )
    return (share - beside) // slot


def _beside(config: KeyValueMemoryConfig, mixer: KeyedSettings, width: int, layer: int, depth: int) -> int | None:
    """The most bytes of one row's state without slots, in float32; None where it has no bound."""
    if config.when == "call":
        return mixer.state_bytes(width, 0, layer, depth) + _open_bytes(config, mixer, width, 0, 4)
    if mixer.reach(layer, depth) is None:  # a segment that is complete is in the near field, and written
        return max(
            mixer.state_bytes(width, near, layer, depth) + _open_bytes(config, mixer, width, near % config.segment, 4)
            for near in (config.segment - 1, config.segment)
        )
    largest = _largest(mixer, width, layer, depth)
    return None if largest is None else largest + _open_bytes(config, mixer, width, config.segment - 1, 4)


@functools.lru_cache(maxsize=64)
def _largest(mixer: KeyedSettings, width: int, layer: int, depth: int) -> int | None:
    """The most bytes of the state of a mixer with a window, None where it grows for good."""
    now, later = (
        max(mixer.state_bytes(width, begin + more, layer, depth) for more in range(CYCLE)) for begin in (LONG, 2 * LONG)
    )
    return now if now == later else None


def _slot_bytes(config: KeyValueMemoryConfig, mixer: KeyedSettings, width: int, element: int) -> int:
    """Bytes of one slot of all heads of keys."""
    _, kv_heads, head_width = mixer.sizes(width)
    if config.keep == "sinks":
        return kv_heads * 2 * head_width * element + 8
    more = {"heavy": max(4, element), "snap": max(4, element), "merge": 8}.get(config.keep, 0)
    return kv_heads * (2 * head_width * element + 8 + more)


def _open_bytes(config: KeyValueMemoryConfig, mixer: KeyedSettings, width: int, tokens: int, element: int) -> int:
    """Bytes that `tokens` tokens of the open segment have, of what waits for its end, and of the segments written."""
    if config.when == "call":
        return 8
    _, kv_heads, head_width = mixer.sizes(width)
    waiting = {"heavy": max(4, element), "snap": max(4, element), "merge": 8}.get(config.keep, 0)
    return tokens * kv_heads * 2 * head_width * element + 8 + kv_heads * config.segment * waiting


def state_bytes(
    config: KeyValueMemoryConfig, mixer: KeyedSettings, width: int, tokens: int, layer: int, depth: int, element: int
) -> int:
    """As `MixerMemory.state_bytes`."""
    config = counted(config, mixer, width, layer, depth)
    near, open_, written = tokens, tokens % config.segment, tokens // config.segment * config.segment
    if config.when == "call":
        near, open_, written = 0, 0, tokens
    elif mixer.reach(layer, depth) is None:
        near = (tokens - 1) % config.segment + 1 if tokens else 0
    slots = min(written, config.capacity) * _slot_bytes(config, mixer, width, element)
    beside = _open_bytes(config, mixer, width, open_, element)
    return mixer.state_bytes(width, near, layer, depth, element) + beside + slots


def flops(config: KeyValueMemoryConfig, mixer: KeyedSettings, width: int, tokens: int, layer: int, depth: int) -> int:
    """As `MixerMemory.flops`: reading the slots, and what the policy looks at; of a call, as if it were one token."""
    config = counted(config, mixer, width, layer, depth)
    heads, kv_heads, head_width = mixer.sizes(width)
    open_ = 0 if config.when == "call" else tokens % config.segment
    near = tokens if mixer.reach(layer, depth) is not None else open_
    held = min(tokens - open_, config.capacity)
    own = mixer.flops(width, near, layer, depth)
    if config.keep == "merge":
        return own + 2 * kv_heads * head_width * held + 4 * heads * head_width * min(held, open_ + 1)
    reading = 4 * heads * head_width * held
    if config.keep == "heavy":
        reading += 2 * heads * head_width * (held + open_ + 1)
    if config.keep == "snap":
        share = 1 if config.when == "call" else config.observe / config.segment
        reading += int(share * 2 * heads * head_width * (held + open_ + 1))
    return own + reading
