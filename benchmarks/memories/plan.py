"""Which memories are compared, with which settings beside a window of so many tokens.

A memory is an option of the group `memory`. What a comparison sets is what a small window needs: segments that leave no
gap, units that fit into them. `SIZES` are the settings that make a memory larger; one without any is of one size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from farfield.compose import group_options, option
from farfield.config import Config, ConfigError, read, unknown
from farfield.memory import MemoryConfig

__all__ = ["WHOLE", "Variant", "checked", "chosen", "memory_of", "variants"]

SIZES = ("capacity", "limit")

FITS: dict[str, tuple[str, ...]] = {
    "autocompressor": ("segment={stack}", "tokens={few}", "spread={half}"),
    "heavy_hitter": ("recent={half}",),
    "infllm": ("unit={quarter}", "initial={quarter}", "stretch={segment}"),
    "key_norm": ("recent={quarter}",),
    "landmark": ("unit={quarter}",),
    "mac": ("segment={stack}", "tokens={few}"),
    "rmt": ("segment={stack}", "tokens={few}"),
}
"""Further settings by name, in shares of the segment that goes with the window or, `stack` and `few`, the stack."""

WHOLE = ("camelot",)
"""Memories that stand around full attention only, whose near field is then the open segment."""


class _One(Config):
    memory: MemoryConfig


@dataclass(frozen=True)
class Variant:
    """A memory of one size in tokens, with its settings as words; size None: there is only one.

    `told` are those of its settings that were asked for, beside what fits a window.
    """

    name: str
    words: tuple[str, ...]
    size: int | None = None
    told: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """What tables and pictures call it."""
        return " ".join([self.name, *([] if self.size is None else [f"{self.size:,}"]), *self.told])

    @property
    def place(self) -> str:
        """The name of its folder."""
        return "-".join([self.name, *(word.replace("=", "-") for word in self.told)])


def chosen(names: Sequence[str]) -> tuple[str, ...]:
    """The names given; every option of the group but none where there are none.

    Raises:
        ConfigError: a name that is no option.
    """
    known = [name for name in group_options("memory") if name != "none"]
    for name in names:
        if name not in known:
            raise ConfigError("--memories: " + unknown("unknown memory", name, known))
    return tuple(names) or tuple(known)


def memory_of(variant: Variant) -> MemoryConfig:
    """Its settings."""
    return read(_One, {"memory": option("memory", variant.name, variant.words)}).memory


def variants(
    name: str,
    sizes: Sequence[int],
    window: int,
    layers: str = "layers=all",
    told: Sequence[str] = (),
    windows: int = 4,
) -> list[Variant]:
    """The memory at each of the sizes, in tokens, with segments that fit a window of `window` tokens.

    `layers` says around which layers a memory stands that stands around layers; `told` are further settings. Segments
    of a memory that stands around the stack have so many `windows`.

    Raises:
        ConfigError: `told` has no KEY=VALUE, no setting of this memory, or one that the comparison sets.
    """
    plain: dict[str, Any] = option("memory", name)
    _check_told(told, plain, name)
    segment = window + 1
    shares = {"segment": segment, "half": segment // 2, "quarter": segment // 4}
    shares |= {"stack": windows * segment, "few": max(4, windows * segment // 32)}
    words = [f"segment={segment}"] if "segment" in plain else []
    words += [layers] if "layers" in plain else []
    words += [word.format(**shares) for word in FITS.get(name, ())]
    words += told
    key = next((key for key in SIZES if key in plain), None)
    if key is None:
        return [Variant(name, tuple(words), None, tuple(told))]
    return [Variant(name, (*words, f"{key}={size}"), size, tuple(told)) for size in sizes]


def checked(wanted: Sequence[Variant]) -> None:
    """Raise ConfigError where a memory cannot have such settings, before anything is trained for it."""
    for variant in wanted:
        try:
            memory_of(variant)
        except ConfigError as error:
            told = " ".join(variant.words)
            raise ConfigError(f"{variant.label}: {error} The comparison asks for {told}.") from None


def _check_told(told: Sequence[str], plain: dict[str, Any], name: str) -> None:
    for word in told:
        key, equals, value = word.partition("=")
        if not equals or not key or not value:
            raise ConfigError(f"--set: '{word}' given, KEY=VALUE is needed.")
        if key in (*SIZES, "segment", "layers"):
            raise ConfigError(f"--set: {key} is set by the comparison. Use --sizes or --window.")
        if key not in plain:
            raise ConfigError("--set: " + unknown(f"unknown setting of memory '{name}'", key, sorted(plain)))
