"""What a full store gives up first: pure functions of what is held and of who is expected.

    fifo        the oldest
    lru         what was used longest ago
    scheduled   what nobody of the look-ahead window is expected to ask for, by lru; then the window from its tail

The scheduler knows the queue of requests that wait. Its window is as long as the store has room for sessions; states of
sessions in it stay, and those on disk are fetched before their turn (AttentionStore, Gao et al.,
https://arxiv.org/abs/2403.19708, section 3.3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["POLICIES", "Held", "Policy", "ahead", "expired", "fifo", "lru", "scheduled", "victims"]


@dataclass(frozen=True)
class Held:
    """A stored state: its key, its session if it is one's, bytes, when it was stored and last used (seconds)."""

    key: str
    session: str | None
    bytes: int
    stored: float
    used: float


Policy: TypeAlias = Callable[[Iterable[Held], Sequence[str]], list[Held]]
"""All that is held, in the order in which it goes, the first to go first. The queue names sessions, the next one first.
"""


def fifo(held: Iterable[Held], queue: Sequence[str]) -> list[Held]:
    """First in, first out."""
    return sorted(held, key=lambda one: (one.stored, one.key))


def lru(held: Iterable[Held], queue: Sequence[str]) -> list[Held]:
    """Least recently used first."""
    return sorted(held, key=lambda one: (one.used, one.key))


def scheduled(held: Iterable[Held], queue: Sequence[str]) -> list[Held]:
    """Sessions that are not in the queue first, by lru; then those in it, from its end."""
    turn: dict[str, int] = {}
    for place, session in enumerate(queue):
        turn.setdefault(session, place)

    def order(one: Held) -> tuple[int, float, str]:
        place = None if one.session is None else turn.get(one.session)
        return (0, one.used, one.key) if place is None else (1, -place, one.key)

    return sorted(held, key=order)


POLICIES: Mapping[str, Policy] = {"fifo": fifo, "lru": lru, "scheduled": scheduled}


def expired(held: Iterable[Held], now: float, ttl: float | None) -> list[Held]:
    """What nobody has used for `ttl` seconds."""
    return [] if ttl is None else [one for one in held if now - one.used > ttl]


def victims(held: Sequence[Held], need: int, budget: int, policy: Policy, queue: Sequence[str] = ()) -> list[Held]:
    """What has to go, so that `need` more bytes fit into the budget: as few as the order of the policy allows.

    Raises:
        ValueError: `need` is more than the budget.
    """
    if need > budget:
        raise ValueError(f"{need} bytes do not fit into a budget of {budget}.")
    over = sum(one.bytes for one in held) + need - budget
    if over <= 0:
        return []
    gone = []
    for one in policy(held, queue):
        gone.append(one)
        over -= one.bytes
        if over <= 0:
            break
    return gone


def ahead(queue: Sequence[str], held: Sequence[Held], budget: int) -> list[str]:
    """The first sessions of the queue, as many as have room in the budget: the look-ahead window.

    A session of unknown size is taken to have the mean size of those that are held.
    """
    sizes = {one.session: one.bytes for one in held if one.session is not None}
    mean = sum(one.bytes for one in held) / len(held) if held else 0.0
    found, left = [], float(budget)
    for session in dict.fromkeys(queue):
        left -= sizes.get(session, mean)
        if left < 0:
            break
        found.append(session)
    return found
