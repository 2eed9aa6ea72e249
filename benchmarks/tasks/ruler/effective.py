"""What the scores at all lengths come to: one effective length, and two weighted means.

Means are of the tasks' scores at one length, 0 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["PUBLISHED", "base_length", "effective_length", "own_threshold", "weighted_mean"]

PUBLISHED = 0.856  # what Llama-2-7B-chat has at 4096 tokens
BASE, SHARE = 1024, 0.85  # NoLiMa: the share of the score that a model has up to this length


def effective_length(means: Mapping[int, float], threshold: float = PUBLISHED) -> int | None:
    """The largest length whose mean exceeds `threshold`; None if there is none."""
    return max((length for length, mean in means.items() if mean > threshold), default=None)


def base_length(means: Mapping[int, float]) -> int:
    """The length of the best score on short texts: those up to BASE tokens, or else the shortest there is."""
    return max((length for length in means if length <= max(BASE, min(means))), key=lambda length: means[length])


def own_threshold(means: Mapping[int, float]) -> float:
    """The threshold for a model that is too small for the published one: a share of its own score at `base_length`."""
    return SHARE * means[base_length(means)]


def weighted_mean(means: Mapping[int, float], *, rising: bool) -> float:
    """The mean with the weights 1, 2, ... in the order of the lengths, or against it: the published wAvg."""
    ordered = [means[length] for length in sorted(means, reverse=not rising)]
    return sum(weight * mean for weight, mean in enumerate(ordered, 1)) / sum(range(1, len(ordered) + 1))
