"""python -m farfield.benchmarks.session_policies: how often a returning conversation finds its state, by policy.

The simulation of AttentionStore (Gao et al., https://arxiv.org/abs/2403.19708, section 4.4), in miniature: a server
with a queue, conversations that arrive by a Poisson process, and a store of two tiers that evicts by the functions that
`farfield.memory.store` evicts by. Nothing is computed; a state counts by its tokens.

    turn arrives ──> queue ──> server ──> answer ──> the person thinks ──> next turn
                       │         └ hit in memory, hit on disk, or miss: the history is prefilled again
                       └ the window that `scheduled` spares from eviction, and whose states are fetched into memory

A hit is a turn behind a history whose state is held when the turn is served. Conversations are drawn to be like
ShareGPT's: 73 % have several turns, 5.75 on average; turns, their tokens and the times to think are log-normal. At
times more arrives than is served, so that turns queue up, as in the paper. States pass from memory to the disk when
memory is full, and from the disk to memory when they are asked for or expected.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from farfield.benchmarks.provenance import provenance
from farfield.memory.store import POLICIES, Held, Policy, ahead, victims
from farfield.progress import Bar

__all__ = ["Conversation", "Counts", "Workload", "conversations", "main", "simulate"]

PUBLISHED = {"fifo": 0.48, "lru": 0.58, "scheduled": 0.86}  # of 128 GB in memory and 10 TB on disk


@dataclass(frozen=True)
class Workload:
    """Who comes when: `rate` conversations begin a second, the share `several` has `turns` turns on average.

    A turn has `tokens` tokens with its answer and comes after `think` seconds, on average; `spread` is that of the
    logarithms of turns and tokens, `thoughts` that of the seconds.
    """

    conversations: int = 1500
    rate: float = 1.0
    several: float = 0.73
    turns: float = 7.5
    tokens: float = 350.0
    think: float = 30.0
    spread: float = 1.2
    thoughts: float = 1.5
    seed: int = 0


@dataclass(frozen=True)
class Machine:
    """Tokens a second in prefill and in an answer, requests at a time, and tokens of state in each tier."""

    prefill: float = 9000.0
    decode: float = 60.0
    slots: int = 12
    memory: int = 24_000
    disk: int = 300_000


@dataclass(frozen=True)
class Conversation:
    """When it begins, and of each turn the tokens of prompt and answer and the seconds of thinking before it."""

    name: str
    begins: float
    prompts: tuple[int, ...]
    answers: tuple[int, ...]
    thinks: tuple[float, ...]


@dataclass
class Counts:
    """Turns behind a history: all, and those whose state was in memory or on disk; tokens that were prefilled."""

    turns: int = 0
    memory: int = 0
    disk: int = 0
    prefilled: int = 0
    history: int = 0
    waited: list[float] = field(default_factory=list)

    @property
    def hits(self) -> float:
        """Rate of hits in either tier."""
        return (self.memory + self.disk) / max(self.turns, 1)


def conversations(workload: Workload) -> list[Conversation]:
    """The conversations of a workload, in the order in which they begin: a function of its seed."""
    draw = np.random.default_rng(workload.seed)
    begins = np.cumsum(draw.exponential(1 / workload.rate, workload.conversations))
    found = []
    for number, begin in enumerate(begins.tolist()):
        many = draw.random() < workload.several
        turns = 2 + int(_skewed(draw, workload.turns - 1.5, workload.spread, 1)[0]) if many else 1
        sizes = 1 + _skewed(draw, workload.tokens / 2, workload.spread, 2 * turns).astype(int).reshape(2, turns)
        thinks = _skewed(draw, workload.think, workload.thoughts, turns).tolist()
        found.append(
            Conversation(str(number), begin, tuple(sizes[0].tolist()), tuple(sizes[1].tolist()), tuple(thinks))
        )
    return found


def _skewed(draw: np.random.Generator, mean: float, spread: float, count: int) -> NDArray[np.float64]:
    """Log-normal numbers (count,) of this mean."""
    return draw.lognormal(np.log(mean) - spread**2 / 2, spread, count)


class Shelves:
    """The two tiers, by conversation: bytes are tokens."""

    def __init__(self, machine: Machine, policy: Policy, look: bool) -> None:
        self.machine, self.policy, self.look = machine, policy, look
        self.memory: dict[str, Held] = {}
        self.disk: dict[str, Held] = {}

    def take(self, name: str, now: float, queue: Sequence[str]) -> str | None:
        """The tier where a state is, which is in memory from then on; None: nowhere."""
        where = "memory" if name in self.memory else "disk" if name in self.disk else None
        if where is not None:
            held = (self.memory if where == "memory" else self.disk).pop(name)
            self._into_memory(replace(held, used=now), queue)
        return where

    def keep(self, name: str, tokens: int, now: float, queue: Sequence[str]) -> None:
        """The state of a conversation after a turn, in the place of the one before."""
        before = self.memory.pop(name, None) or self.disk.pop(name, None)
        self._into_memory(Held(name, name, tokens, before.stored if before else now, now), queue)

    def fetch(self, queue: Sequence[str]) -> None:
        """Brings the states of the first in the queue into memory, as many as have room there."""
        if not self.look:
            return
        window = ahead(queue, list(self.memory.values()) + list(self.disk.values()), self.machine.memory)
        for name in window:
            if name in self.disk:
                self._into_memory(self.disk.pop(name), queue)

    def _into_memory(self, held: Held, queue: Sequence[str]) -> None:
        if held.bytes > self.machine.memory:
            self._onto_disk(held, queue)
            return
        for gone in victims(list(self.memory.values()), held.bytes, self.machine.memory, self.policy, queue):
            self._onto_disk(self.memory.pop(gone.key), queue)
        self.memory[held.key] = held

    def _onto_disk(self, held: Held, queue: Sequence[str]) -> None:
        """What memory gives up, unless it is what goes first of all that would be on the disk."""
        self.disk[held.key] = held
        for gone in victims(list(self.disk.values()), 0, self.machine.disk, self.policy, queue):
            del self.disk[gone.key]


def simulate(some: Sequence[Conversation], machine: Machine, policy: str, warm: int = 0) -> Counts:
    """What is found over all turns but the first `warm` ones, first come, first served."""
    shelves, counts = Shelves(machine, POLICIES[policy], policy == "scheduled"), Counts()
    serial, served = itertools.count(), 0
    events: list[tuple[float, int, str, Conversation, int]] = [
        (one.begins, next(serial), "arrives", one, 0) for one in some
    ]
    heapq.heapify(events)
    queue: deque[tuple[float, Conversation, int]] = deque()
    free = machine.slots
    while events:
        now, _, what, one, turn = heapq.heappop(events)
        if what == "arrives":
            queue.append((now, one, turn))
        else:  # answered: the state behind the turn is kept, and the next turn comes after some thought
            free += 1
            shelves.keep(one.name, _history(one, turn + 1), now, _names(queue))
            if turn + 1 < len(one.prompts):
                heapq.heappush(events, (now + one.thinks[turn + 1], next(serial), "arrives", one, turn + 1))
        shelves.fetch(_names(queue))
        while free and queue:
            arrived, one, turn = queue.popleft()
            free -= 1
            served += 1
            counted = counts if served > warm else Counts()
            seconds = _serve(shelves, machine, one, turn, now, _names(queue), counted)
            counted.waited.append(now - arrived)
            heapq.heappush(events, (now + seconds, next(serial), "answered", one, turn))
    return counts


def _serve(
    shelves: Shelves, machine: Machine, one: Conversation, turn: int, now: float, queue: Sequence[str], counts: Counts
) -> float:
    """Seconds that a turn takes; what it finds is counted."""
    history = _history(one, turn)
    where = shelves.take(one.name, now, queue) if history else None
    read = one.prompts[turn] + (0 if where else history)
    counts.prefilled += read
    counts.history += history + one.prompts[turn]
    if history:
        counts.turns += 1
        counts.memory += where == "memory"
        counts.disk += where == "disk"
    return read / machine.prefill + one.answers[turn] / machine.decode


def _history(one: Conversation, turns: int) -> int:
    """Tokens of the first turns."""
    return sum(one.prompts[:turns]) + sum(one.answers[:turns])


def _names(queue: Sequence[tuple[float, Conversation, int]]) -> list[str]:
    return [one.name for _, one, _ in queue]


def _rows(workload: Workload, machine: Machine, disks: Sequence[int], warm: int) -> Iterator[dict[str, Any]]:
    some = conversations(workload)
    for disk in disks:
        for policy in POLICIES:
            counts = simulate(some, replace(machine, disk=disk), policy, warm)
            yield {
                "policy": policy,
                "disk": disk,
                "turns": counts.turns,
                "hits": counts.hits,
                "memory": counts.memory / max(counts.turns, 1),
                "prefilled": counts.prefilled / max(counts.history, 1),
                "waited": float(np.mean(counts.waited)) if counts.waited else 0.0,
            }


def main(words: Sequence[str] | None = None) -> int:
    """The table; 0 if at every size `scheduled` prefills less than `lru`, and that less than `fifo`; else 1."""
    workload, machine = Workload(), Machine()
    parser = argparse.ArgumentParser(
        prog="python -m farfield.benchmarks.session_policies",
        description="How often a returning conversation finds its state, by policy of eviction.",
    )
    parser.add_argument("--conversations", type=int, default=workload.conversations)
    parser.add_argument("--disks", type=int, nargs="+", default=[150_000, 225_000, 300_000, 450_000], metavar="TOKENS")
    parser.add_argument("--warm", type=int, default=1000, help="turns before anything is counted")
    parser.add_argument("--seed", type=int, default=workload.seed)
    parser.add_argument("--json", type=Path, help="where to write the figures, with the versions")
    parser.add_argument("--picture", type=Path, help="where to draw them, as PNG")
    given = parser.parse_args(words)
    workload = replace(workload, conversations=given.conversations, seed=given.seed)
    rows = []
    with Bar("policies", total=len(POLICIES) * len(given.disks), unit="simulations") as bar:
        for row in _rows(workload, machine, given.disks, given.warm):
            rows.append(row)
            bar.step(note=row["policy"])
    Console(width=120).print(_table(rows))
    if given.json:
        told = {**provenance(), "workload": asdict(workload), "machine": asdict(machine), "warm": given.warm}
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps({**told, "rows": rows}, indent=2) + "\n", encoding="utf-8")
    if given.picture:
        _draw(rows, given.picture)
    return 0 if _ordered(rows) else 1


def _ordered(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether tokens that are prefilled fall from fifo over lru to scheduled, at every size of the disk.

    By turns, fifo may find as many as lru: what it finds is shorter.
    """
    by = {(row["disk"], row["policy"]): row["prefilled"] for row in rows}
    return all(by[disk, "scheduled"] < by[disk, "lru"] < by[disk, "fifo"] for disk, _ in by)


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table("disk, tokens", "policy", title="Turns behind a history whose state is found")
    for column in ("hits", "in memory", "prefilled of all", "seconds waited", "published"):
        table.add_column(column, justify="right")
    for row in rows:
        shown = (f"{row[key]:.0%}" for key in ("hits", "memory", "prefilled"))
        table.add_row(
            f"{row['disk']:,}", row["policy"], *shown, f"{row['waited']:.0f}", f"{PUBLISHED[row['policy']]:.0%}"
        )
    return table


def _draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    # The object interface: no window, no state that outlives the figure.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    panel = figure.subplots()
    for number, policy in enumerate(POLICIES):
        points = [(row["disk"] / 1000, 100 * row["hits"]) for row in rows if row["policy"] == policy]
        panel.plot(*zip(*points, strict=True), marker="osD"[number], label=policy)
    panel.set(xlabel="room on disk, thousand tokens", ylabel="hits, % of returning turns", ylim=(0, 103))
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=150)


if __name__ == "__main__":
    sys.exit(main())
