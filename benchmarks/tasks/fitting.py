"""The least length of a task whose samples are drawn, and so have not all the same number of tokens.

The longest sample that could ever be drawn is far longer than nearly all, and for many tokenizers nobody knows it. So
the least length is that of the longest of a few samples, always the same ones, whatever is asked for; a sample that is
longer than its length is drawn again:

    sample 7 is drawn by the number 7, or by 7 + 2^40, or by 7 + 2 * 2^40, ...: by the first that fits
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import TypeVar

__all__ = ["ENDLESS", "first_fitting", "least_of"]

ENDLESS = 1 << 40  # numbers of samples: more than anybody asks for
TRIED = 32

Drawn = TypeVar("Drawn")


def least_of(size: Callable[[int], int]) -> int:
    """Tokens of the longest of the samples of TRIED numbers. `size` says how many one needs, and knows no seed."""
    return max(map(size, range(TRIED)))


def first_fitting(index: int, draw: Callable[[int], Drawn], fits: Callable[[Drawn], bool]) -> Drawn:
    """What is drawn for the sample `index`. It ends, for lengths that are no less than `least_of` says."""
    return next(drawn for drawn in (draw(index + turn * ENDLESS) for turn in count()) if fits(drawn))
