"""Means over tasks, and what is said of them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from farfield.benchmarks.reports.grid import Grid, short
from farfield.benchmarks.tasks.ruler.effective import base_length, effective_length, own_threshold, weighted_mean

__all__ = ["all_lengths", "doubt", "families", "mean_notes", "means", "thresholds"]


def families(every: Iterable[Grid]) -> dict[str, list[Grid]]:
    """Grids whose tasks stand in one table, by its name.

    Those of a suite, and apart those that differ in a label, and those that are judged by likelihood.
    """
    found: dict[str, list[Grid]] = {}
    for grid in every:
        stem = re.sub(r"[\W_]*\d+$", "", grid.task)
        name = f"{grid.shelf}: {stem} by {' and '.join(grid.labels)}" if grid.labels else grid.shelf
        found.setdefault(name, []).append(grid)
    return {
        name: sorted(members, key=lambda grid: tuple(grid.labels.values())) if members[0].labels else members
        for name, members in found.items()
    }


def means(members: Sequence[Grid]) -> dict[int, float]:
    """Of one model: the means over tasks, 0 to 1, by length, where all tasks were asked that were asked at any."""
    found: dict[int, float] = {}
    for length in all_lengths(members):
        rates = [grid.rate(length) for grid in members if grid.asked]
        scores = [rate.score for rate in rates if rate is not None]
        if scores and len(scores) == len(rates):
            found[length] = sum(scores) / len(scores)
    return found


def thresholds(members: Sequence[Grid], found: Mapping[int, float], published: float) -> dict[str, float]:
    """What one model's means by length have to exceed at an effective length.

    The published threshold is RULER's, of scores by its rule; the own one is of any model without a `doubt`. One length
    has neither.
    """
    if len(found) < 2:
        return {}
    known = members[0].suite == "ruler" and members[0].scoring != "likelihood"
    own = {} if doubt(members, found) else {"own": own_threshold(found)}
    return {**({"published": published} if known else {}), **own}


def doubt(members: Sequence[Grid], found: Mapping[int, float]) -> str:
    """Why nothing is made of a model's own score on short texts; "" if it is clearly what the model reads there.

    It has to lie above what the same tasks give without their text, or by guessing, beyond the 95 % intervals of both
    (joined by their squares for the sum over tasks: Zou and Donner 2008). A share of what is no skill is no length.
    """
    length = base_length(found)
    pairs = [(grid.rate(length), floor) for grid in members if grid.asked and (floor := _floor(grid, length))]
    known = [(rate, floor) for rate, floor in pairs if rate is not None]
    if not known:
        return "no control without context was asked to compare it with"
    above = sum(rate.score - low for rate, (low, _) in known)
    off = sum((rate.score - rate.interval[0]) ** 2 + (high - low) ** 2 for rate, (low, high) in known)
    return "" if above > math.sqrt(off) else "it is not clearly above what no context or chance gives"


def _floor(grid: Grid, length: int) -> tuple[float, float] | None:
    """What the task gives without its text, or by guessing if that is more, and its upper end; None if unknown."""
    without, chance = grid.control("no_context", length), grid.chance(length)
    floors = [] if without is None else [(without.score, without.interval[1])]
    return max([*floors, *([] if chance is None else [(chance, chance)])], default=None)


def mean_notes(members: Sequence[Grid], models: Sequence[str], published: float) -> Iterator[str]:
    """What is in no mean, and the effective lengths and weighted means of each model."""
    asked: dict[str, list[Grid]] = {}
    for model in models:
        asked[model] = [grid for grid in members if grid.name == model and grid.asked]
        lacking = [grid.task for grid in members if grid.name == model and not grid.asked]
        if lacking:
            yield f"{model}: not asked at any length, and in no mean: {', '.join(lacking)}."
    found = {model: by_length for model, mine in asked.items() if len(by_length := means(mine)) > 1}
    if not found:
        return
    least = {model: thresholds(asked[model], by_length, published) for model, by_length in found.items()}
    titles = {
        "published": f"mean over the tasks asked above {published:.1%}",
        "own": "above 85 % of the own mean on short texts",
    }
    for kind, title in titles.items():
        told = [f"{model} {_effective(found[model], over[kind])}" for model, over in least.items() if kind in over]
        if told:
            yield f"Effective length ({title}): {', '.join(told)}."
    doubts: dict[str, list[str]] = {}
    for model, by_length in found.items():
        doubts.setdefault(doubt(asked[model], by_length), []).append(model)
    for why, some in doubts.items():
        if why:
            yield f"No effective length by the own mean on short texts: {', '.join(some)}; {why}."
    ways = {model: [100 * weighted_mean(one, rising=way) for way in (True, False)] for model, one in found.items()}
    weighted = [f"{model} {long:.1f} / {brief:.1f}" for model, (long, brief) in ways.items()]
    yield f"Means weighted towards long / short texts: {', '.join(weighted)}."


def _effective(one: Mapping[int, float], threshold: float) -> str:
    length = effective_length(one, threshold=threshold)
    return short(length) if length else "none"


def all_lengths(members: Iterable[Grid]) -> list[int]:
    """Those that any of them was asked at."""
    return sorted({length for grid in members for length in grid.lengths})
