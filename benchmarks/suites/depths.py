"""Depths of a grid: a number of them, or a list."""

from __future__ import annotations

from typing import Annotated

import pydantic

from farfield.benchmarks.suites.suite import listed
from farfield.benchmarks.tasks.needle import Spacing, spread

__all__ = ["Depths", "depths_of"]


def _shares(depths: int | tuple[float, ...]) -> int | tuple[float, ...]:
    if isinstance(depths, int):
        return depths
    if not depths or list(depths) != sorted(set(depths)) or depths[0] < 0 or depths[-1] > 1:
        raise ValueError(f"{list(depths)} given. Give a number of depths, or depths from 0 to 1 in rising order.")
    return depths


def _listed(depths: object) -> object:
    """A whole number is how many there are; any other stands for itself."""
    return depths if isinstance(depths, int) else listed(depths)


Depths = Annotated[
    Annotated[int, pydantic.Field(ge=1, le=1000)] | tuple[float, ...],
    pydantic.BeforeValidator(_listed),
    pydantic.AfterValidator(_shares),
]


def depths_of(depths: int | tuple[float, ...], spacing: Spacing = "linear") -> tuple[float, ...]:
    """The depths themselves."""
    return spread(depths, spacing) if isinstance(depths, int) else depths
