"""Which layer keeps keys and values for which: a map from each layer to the one whose keys its queries read.

    layer          0  1  2  3  4  5
    none           0  1  2  3  4  5      each its own
    groups, 2      0  0  2  2  4  4      the lowest of each group: Cross-Layer Attention, https://arxiv.org/abs/2405.12981
    upper          0  1  2  3  3  3      the upper half has one cache: YOCO, https://arxiv.org/abs/2405.05254
    condensed, 2   0  4  4  4  4  5      the top but `warmup` layers: LCKV, https://arxiv.org/abs/2405.10637
    map            anything of the kind

A layer that takes the keys of another has no projection for keys and values and keeps none. Keys from below are there
when they are needed. Keys from above exist only behind a token's own pass, so a query sees those of the tokens before
its own: how that is computed is in `condensed`.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from farfield.architectures.keyed import LendingSettings
from farfield.architectures.mixer import MixerSettings
from farfield.architectures.taking import TakingSettings
from farfield.config import Config

__all__ = ["NoSharing", "SharingConfig", "SharingSettings", "iterated", "keepers_of", "mixers_of"]


class SharingSettings(Config):
    """What every sharing tells. `keepers_of` and `mixers_of` check it against the layers."""

    @property
    def exact(self) -> bool:
        """Whether any split into calls gives the same answer."""
        return True

    @property
    def plan(self) -> tuple[int, int] | None:
        """Passes without and with gradients over layers that take keys from above; None: as many as it takes."""
        return None

    @abc.abstractmethod
    def keepers(self, names: Sequence[str], lending: Sequence[bool]) -> tuple[int, ...]:
        """Of each layer, by the names in the pattern and by whether its keys can be taken, the one that keeps its keys.

        Raises:
            ValueError: in one line that begins with the name of a setting, where there is no such map.
        """


class NoSharing(SharingSettings):
    """Each layer keeps its own."""

    kind: Literal["none"] = "none"

    def keepers(self, names: Sequence[str], lending: Sequence[bool]) -> tuple[int, ...]:
        return tuple(range(len(names)))


class GroupedSharing(SharingSettings):
    """Of each `size` layers of one name the lowest keeps the keys. Layers without softmax attention stay apart."""

    kind: Literal["groups"] = "groups"
    size: int = Field(2, ge=1, description="layers of one name, from bottom to top, that share keys")

    def keepers(self, names: Sequence[str], lending: Sequence[bool]) -> tuple[int, ...]:
        found = list(range(len(names)))
        for name in dict.fromkeys(names):
            same = [index for index, other in enumerate(names) if other == name and lending[index]]
            for place, index in enumerate(same):
                found[index] = same[place // self.size * self.size]
        return tuple(found)


class UpperSharing(SharingSettings):
    """The lowest layer of the upper half keeps the keys of the whole upper half."""

    kind: Literal["upper"] = "upper"

    def keepers(self, names: Sequence[str], lending: Sequence[bool]) -> tuple[int, ...]:
        middle = len(names) // 2
        return tuple(min(index, middle) for index in range(len(names)))


class IteratedSharing(SharingSettings):
    """Layers may take keys from above."""

    passes: int | None = Field(
        None, ge=0, description="passes without gradients over a call; null: until nothing changes, which is exact"
    )
    backward: int = Field(2, ge=1, description="passes with gradients behind those; only where passes is given")

    @property
    def exact(self) -> bool:
        return self.passes is None

    @property
    def plan(self) -> tuple[int, int] | None:
        return None if self.passes is None else (self.passes, self.backward)


class CondensedSharing(IteratedSharing):
    """The topmost layer with softmax attention but some keeps the keys of those below it but some."""

    kind: Literal["condensed"] = "condensed"
    warmup: int = Field(2, ge=0, description="layers at the bottom and the top, half of them each, with their own keys")

    def keepers(self, names: Sequence[str], lending: Sequence[bool]) -> tuple[int, ...]:
        found, able = list(range(len(names))), [index for index, lends in enumerate(lending) if lends]
        low, high = (self.warmup + 1) // 2, len(able) - self.warmup // 2
        if high - low < 2 <= len(able):
            raise ValueError(
                f"warmup: {self.warmup} of {len(able)} layers keep their own keys, which leaves fewer than two that "
                f"share. At most {len(able) - 2}."
            )
        for index in able[low:high]:
            found[index] = able[high - 1]
        return tuple(found)


class MappedSharing(IteratedSharing):
    """What `keys_from` says."""

    kind: Literal["map"] = "map"
    keys_from: tuple[int, ...] = Field(
        min_length=1, description="of each layer the one that keeps its keys; repeats up the stack"
    )

    def keepers(self, names: Sequence[str], lending: Sequence[bool]) -> tuple[int, ...]:
        given, depth = self.keys_from, len(names)
        if depth % len(given):
            raise ValueError(f"keys_from: {len(given)} layers do not divide the depth {depth}.")
        for index, source in enumerate(given):
            if not 0 <= source < len(given):
                raise ValueError(f"keys_from: layer {index} takes from {source}; layers are 0 to {len(given) - 1}.")
        return tuple(index // len(given) * len(given) + given[index % len(given)] for index in range(depth))


SharingConfig = Annotated[
    NoSharing | GroupedSharing | UpperSharing | CondensedSharing | MappedSharing, Field(discriminator="kind")
]


def keepers_of(sharing: SharingSettings, names: Sequence[str], mixers: Sequence[MixerSettings]) -> tuple[int, ...]:
    """Of each layer, by its name and its mixer, the one that keeps its keys.

    Raises:
        ValueError: in one line that begins with the name of a setting of `sharing`, where keys cannot be taken so.
    """
    lending = [isinstance(mixer, LendingSettings) and mixer.lends() is None for mixer in mixers]
    found = sharing.keepers(names, lending)
    for layer, keeper in enumerate(found):
        if layer == keeper:
            continue
        for index in (layer, keeper):
            _check_lends(f"layer {layer} takes the keys of layer {keeper}", index, mixers[index])
        if found[keeper] != keeper:
            raise ValueError(
                f"keys_from: layer {layer} takes the keys of layer {keeper}, which keeps none: it takes those of layer "
                f"{found[keeper]}."
            )
        _check_alike(layer, keeper, mixers[layer], mixers[keeper])
    if isinstance(sharing, GroupedSharing | CondensedSharing) and not any(lending):
        raise ValueError(f"kind: '{sharing.kind}' finds no layer whose keys can be taken. {_TAKEN}")
    return found


_TAKEN = "Those of attention and longformer can be, without xpos and globals."


def _check_lends(what: str, index: int, mixer: MixerSettings) -> None:
    """Raise ValueError where the mixer of layer `index` can neither keep keys for another nor take them."""
    kind = getattr(mixer, "kind", type(mixer).__name__)
    if not isinstance(mixer, LendingSettings):
        raise ValueError(f"kind: {what}, but layer {index} is a '{kind}'. {_TAKEN}")
    reason = mixer.lends()
    if reason is not None:
        raise ValueError(f"kind: {what}, but of layer {index} {reason}")


_FREE = {"heads", "head_width", "head_size", "kv_heads", "bias", "qk_norm", "conv", "backend"}
"""Settings in which a layer may differ from the one whose keys it takes; the sizes of keys are compared apart."""


def _check_alike(layer: int, keeper: int, taking: MixerSettings, keeping: MixerSettings) -> None:
    """Raise ValueError where two mixers do not see the same keys."""
    ours, theirs = (
        {name: value for name, value in mixer.mapping().items() if name not in _FREE} for mixer in (taking, keeping)
    )
    for name in theirs:
        if ours.get(name) != theirs[name]:
            raise ValueError(
                f"kind: layer {layer} takes the keys of layer {keeper}, but their mixers differ in {name}: "
                f"{ours.get(name)} and {theirs[name]}."
            )


def mixers_of(width: int, keepers: Sequence[int], mixers: Sequence[MixerSettings]) -> tuple[MixerSettings, ...]:
    """The mixers with those of layers that take keys reduced to their queries.

    Raises:
        ValueError: in one line that begins with the name of a setting, where keys are not as wide as they are taken.
    """
    found = list(mixers)
    for layer, keeper in enumerate(keepers):
        if layer == keeper:
            continue
        taking, keeping = mixers[layer], mixers[keeper]
        assert isinstance(taking, LendingSettings)
        assert isinstance(keeping, LendingSettings)
        ours, theirs = taking.sizes(width)[1:], keeping.sizes(width)[1:]
        if ours != theirs:
            raise ValueError(
                f"kind: layer {layer} takes the keys of layer {keeper}, but reads {ours[0]} heads of {ours[1]}, and "
                f"there are {theirs[0]} of {theirs[1]}."
            )
        found[layer] = TakingSettings(own=taking, keeper=keeper, below=keeper < layer)
    return tuple(found)


def iterated(keepers: Sequence[int]) -> range:
    """The layers from the lowest that takes keys from above to the highest that they are taken of."""
    above = [layer for layer, keeper in enumerate(keepers) if keeper > layer]
    return range(above[0], max(keepers[layer] for layer in above) + 1) if above else range(0)
