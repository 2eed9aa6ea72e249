"""Two ranked lists become one: reciprocal rank fusion (Cormack et al. 2009, https://doi.org/10.1145/1571941.1572114).

    score(c) = sum over lists of weight / (constant + rank of c in the list)          ranks begin with 1

Equal scores are ordered by where chunks stand (path, key, start), never by id: ids tell in which order files were
ingested, and an index that grew must answer as one that was filled at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from farfield.retrieval.store import Place

__all__ = ["Fused", "best", "fuse", "ranked"]

Scored = tuple[int, float]

MOST_TIES = 4096


@dataclass(frozen=True)
class Fused:
    """A chunk, its fused score, and its rank in each list that it is in."""

    chunk: int
    score: float
    ranks: Mapping[str, int]


def best(fetch: Callable[[int], list[Scored]], count: int) -> list[Scored]:
    """The best `count` that `fetch` finds, the best first, with all that tie with the last of them.

    Without these, which of several equal chunks falls behind the cut would be a matter of chance.
    """
    asked = count + 1
    found = fetch(asked)
    while len(found) == asked < MOST_TIES and found[-1][1] == found[count - 1][1]:
        asked *= 4
        found = fetch(asked)
    return [one for one in found if len(found) <= count or one[1] >= found[count - 1][1]]


def ranked(found: Sequence[Scored], places: Mapping[int, Place], count: int) -> list[int]:
    """The first `count` ids of a list: by score, then place. Chunks without a place are gone, and left out."""
    there = [(chunk, score) for chunk, score in found if chunk in places]
    return [chunk for chunk, _ in sorted(there, key=lambda one: (-one[1], places[one[0]]))[:count]]


def fuse(
    lists: Mapping[str, Sequence[int]],
    weights: Mapping[str, float],
    places: Mapping[int, Place],
    constant: float = 60.0,
) -> list[Fused]:
    """All chunks of the named `lists`, the best first."""
    ranks: dict[int, dict[str, int]] = {}
    for name in sorted(lists):
        for rank, chunk in enumerate(lists[name], start=1):
            ranks.setdefault(chunk, {})[name] = rank
    fused = [
        Fused(chunk, sum(weights[name] / (constant + rank) for name, rank in at.items()), at)
        for chunk, at in ranks.items()
    ]
    return sorted(fused, key=lambda one: (-one.score, places[one.chunk]))
