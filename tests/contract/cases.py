"""Which cases run: in the fast suite every pair of a clause and a subject once, in the whole suite everything.

    @clause(length=LENGTHS, dtype=DTYPES)
    def test_it(subject, length, dtype): ...

The fast case of a pair takes the next combination of its other values, and every clause begins at another one: each
clause, and over the clauses each subject, meets all of them. A clause that is about what subjects share, such as their
buffers, has fast cases for `every` third of them only.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pytest
import torch

from contract.subjects import SUBJECTS, Subject

LENGTHS = (1, 63, 130)
DTYPES = (torch.float64, torch.float32)

F = TypeVar("F", bound=Callable[..., None])


def combinations(
    subjects: Sequence[Subject], axes: dict[str, Sequence[Any]], offset: int, every: int = 1
) -> list[tuple[bool, tuple[Any, ...]]]:
    """Every combination of a subject and a value of each axis, with whether it is among the fast ones."""
    products = list(itertools.product(*axes.values()))
    return [
        (place == (index // every + offset) % len(products) and (index + offset) % every == 0, (subject, *values))
        for index, subject in enumerate(subjects)
        for place, values in enumerate(products)
    ]


def clause(subjects: Sequence[Subject] = SUBJECTS, every: int = 1, **axes: Sequence[Any]) -> Callable[[F], F]:
    """Parametrizes a test by `subject` and the axes; all but the fast combinations are marked contract_full."""

    def apply(test: F) -> F:
        cases = [
            pytest.param(*values, id="-".join(map(_name, values)), marks=() if fast else pytest.mark.contract_full)
            for fast, values in combinations(subjects, axes, zlib.crc32(test.__name__.encode()), every)
        ]
        return pytest.mark.parametrize(("subject", *axes), cases)(test)

    return apply


def _name(value: Any) -> str:
    if isinstance(value, Subject):
        return value.name
    return str(value).removeprefix("torch.")
