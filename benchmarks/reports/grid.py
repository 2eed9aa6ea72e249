"""What tables and pictures are made of: a result's cells as a grid of depth by length, with intervals and controls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from farfield.benchmarks.reports.intervals import mean_interval
from farfield.benchmarks.running.results import Answers, Cell, Measured, Result
from farfield.benchmarks.running.runner import SPEED
from farfield.benchmarks.tasks.sample import Condition

__all__ = [
    "CONDITIONS",
    "Grid",
    "Rate",
    "Series",
    "differing",
    "grids",
    "measures",
    "percent",
    "remarks",
    "shelf",
    "short",
    "source",
]

# How conditions are called, in the order in which they are shown.
CONDITIONS: dict[Condition, str] = {
    "full": "full",
    "retrieved": "retrieved",
    "remembered": "remembered",
    "gold_only": "gold only",
    "no_context": "no context",
    "memory_off": "memory off",
    "memory_shuffled": "memory shuffled",
}

Place = tuple[int, float | None]


@dataclass(frozen=True)
class Rate:
    """The mean score of `n` samples with its 95 % interval, and how many of them were answered in full.

    What is drawn apart is the text of one index at one length: its scores at several depths, and of several questions,
    are averaged to one unit, and the mean and its interval are of these.
    """

    score: float
    hits: int
    n: int
    interval: tuple[float, float]

    @classmethod
    def of(cls, *groups: Sequence[Answers]) -> Rate | None:
        """Of cells, those of one task and length in one group; None of no cells."""
        scores = [score for group in groups for answers in group for score in answers.scores]
        if not scores:
            return None
        units = [fmean(one) for group in groups for one in _by_text(group)]
        return cls(fmean(units), sum(score == 1 for score in scores), len(scores), mean_interval(units))


def _by_text(cells: Sequence[Answers]) -> list[list[float]]:
    """The scores of each index in all of the cells that have it."""
    most = max((answers.count for answers in cells), default=0)
    return [[score for answers in cells for score in answers.of_index(index)] for index in range(most)]


@dataclass(frozen=True)
class Grid:
    """One task of one result.

    cells, skipped:     of the full prompt, by (length, depth)
    controls, lacking:  of the other conditions, by (condition, length): answers, and why there are none
    labels:             numbers that tell the task from its kin
    trained:            the length the model was trained at, where it is known
    source:             commit, scoring and seed in a few words
    scoring:            how its answers are judged
    notes:              what a reader should know of the suite
    asked:              whether it was, or will be, at any length: what is skipped at all of them is in no mean
    samples:            of each cell, as many as were asked for
    short:              lengths that are skipped because the task needs more
    """

    name: str
    suite: str
    task: str
    metric: str
    lengths: tuple[int, ...]
    depths: tuple[float | None, ...]
    cells: Mapping[Place, Answers]
    skipped: Mapping[Place, str]
    controls: Mapping[tuple[Condition, int], Answers]
    lacking: Mapping[tuple[Condition, int], str]
    labels: Mapping[str, float]
    trained: int | None
    source: str
    scoring: str = "generate"
    notes: tuple[str, ...] = ()
    asked: bool = True
    samples: int = 0
    short: frozenset[int] = frozenset()

    @property
    def shelf(self) -> str:
        """The suite, and apart what was judged by likelihood: its scores are on another scale."""
        return _shelf(self.suite, self.scoring)

    def chance(self, length: int) -> float | None:
        """The mean score to be expected of guessing; None where nothing is chosen from."""
        chances = [one for (at, _), answers in self.cells.items() if at == length for one in answers.chances]
        return fmean(chances) if chances else None

    def rate(self, length: int | None = None, depth: float | None = None) -> Rate | None:
        """Of the cells of this length, of this depth, of both, or of all; None if no such cell is finished."""
        found: dict[int, list[Answers]] = {}
        for (cell_length, cell_depth), answers in self.cells.items():
            if length in (None, cell_length) and depth in (None, cell_depth):
                found.setdefault(cell_length, []).append(answers)
        return Rate.of(*found.values())

    def control(self, condition: Condition, length: int) -> Rate | None:
        """Of a condition at a length; the full prompt's is that of all depths."""
        if condition == "full":
            return self.rate(length)
        answers = self.controls.get((condition, length))
        return Rate.of([answers]) if answers else None

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """Those beside the full prompt that have answers, in the order in which they are shown."""
        there = {condition for condition, _ in self.controls}
        return tuple(condition for condition in CONDITIONS if condition in there)

    def prefilled(self) -> tuple[int, int]:
        """Tokens prefilled for the cells, and what they would be without shared prefixes."""
        found = [*self.cells.values(), *self.controls.values()]
        return sum(answers.prefilled for answers in found), sum(answers.naive for answers in found)


@dataclass(frozen=True)
class Series:
    """What one task of a measuring suite gave one model, by (condition, length); `skipped` has reasons."""

    name: str
    suite: str
    task: str
    lengths: tuple[int, ...]
    cells: Mapping[tuple[Condition, int], Measured]
    skipped: Mapping[tuple[Condition, int], str]
    labels: Mapping[str, float]
    source: str

    @property
    def conditions(self) -> tuple[Condition, ...]:
        there = {condition for condition, _ in self.cells}
        return tuple(condition for condition in CONDITIONS if condition in there)

    @property
    def values(self) -> dict[str, str]:
        """The names of what was measured, and their units, "" where they have none; the most important first."""
        names = dict.fromkeys(name for measured in self.cells.values() for name in measured.values)
        return {
            name: next((measured.units[name] for measured in self.cells.values() if name in measured.units), "")
            for name in names
        }


def grids(result: Result) -> list[Grid]:
    """One grid for each task of a suite that asks; cells that are not finished yet are missing in it."""
    if _measuring(result):
        return []
    return [_grid(result, task) for task in result.head["tasks"]]


def measures(result: Result) -> list[Series]:
    """One series for each task of a suite that measures."""
    if not _measuring(result):
        return []
    return [
        Series(
            name=result.name,
            suite=result.head["suite"],
            task=task,
            lengths=tuple(result.head["lengths"]),
            cells={(cell.condition, cell.length): got for cell, got in result.measured.items() if cell.task == task},
            skipped={(cell.condition, cell.length): why for cell, why in result.skipped.items() if cell.task == task},
            labels=about["labels"],
            source=source([result]),
        )
        for task, about in result.head["tasks"].items()
    ]


def remarks(members: Sequence[Grid]) -> list[str]:
    """What is to be known of suites and single cells: ties, answers without text, cells closed early or not filled."""
    said = list(dict.fromkeys(note for grid in members for note in grid.notes))
    for name in dict.fromkeys(grid.name for grid in members):
        mine = [grid for grid in members if grid.name == name]
        every = [answers for grid in mine for answers in (*grid.cells.values(), *grid.controls.values())]
        tied, capped = sum(answers.ties > 0 for answers in every), sum(answers.capped for answers in every)
        if tied:
            ties = sum(answers.ties for answers in every)
            said.append(f"{name}: {ties} ties within rounding, in {tied} of {len(every)} cells.")
        empty = sum(one.nulls for one in every)
        if empty:
            asked = sum(len(one.outputs) for one in every if one.scoring == "generate")
            said.append(f"{name}: {empty} of {asked} answers say nothing.")
        if silent := sum(one.silent for one in every):
            said.append(f"{name}: {silent} answers never came: thoughts took their room (endpoint.extra_tokens).")
        if capped:
            said.append(f"{name}: {capped} of {len(every)} cells were closed early, their time was over.")
    unfilled: dict[str, set[int]] = {}
    for grid in members:
        for (length, _), answers in grid.cells.items():
            if answers.unfilled:
                unfilled.setdefault(answers.unfilled, set()).add(length)
    filled = [f"Not filled at {', '.join(map(short, sorted(at)))}: {why.rstrip('.')}." for why, at in unfilled.items()]
    return said + filled + _fewer(members)


def _fewer(members: Sequence[Grid]) -> list[str]:
    """Tasks whose questions are fewer than were asked for."""
    found: dict[str, dict[str, None]] = {}
    for grid in members:
        for (length, _), answers in grid.cells.items():
            if answers.count < grid.samples and not answers.capped:
                found.setdefault(grid.task, {})[f"{answers.count} at {short(length)}"] = None
    return [f"All questions that there are of {task}: {', '.join(counts)} tokens." for task, counts in found.items()]


def _measuring(result: Result) -> bool:
    """Suites that ask name a scoring for each task."""
    return not any("scoring" in about for about in result.head["tasks"].values())


def _grid(result: Result, task: str) -> Grid:
    about, trained = result.head["tasks"][task], result.head["model"].get("trained_length")
    return Grid(
        name=result.name,
        suite=result.head["suite"],
        task=task,
        metric=result.metric(task),
        lengths=tuple(result.head["lengths"]),
        depths=tuple(result.head["depths"]) if about["placed"] else (None,),
        cells={(cell.length, cell.depth): got for cell, got in result.cells.items() if _full(cell, task)},
        skipped={(cell.length, cell.depth): why for cell, why in result.skipped.items() if _full(cell, task)},
        controls={(cell.condition, cell.length): got for cell, got in result.cells.items() if _beside(cell, task)},
        lacking={(cell.condition, cell.length): why for cell, why in result.skipped.items() if _beside(cell, task)},
        labels=about["labels"],
        trained=trained if isinstance(trained, int) else None,
        source=source([result]),
        scoring=about["scoring"],
        notes=tuple(result.head.get("notes", ())),
        asked=_asked(result, task),
        samples=result.head["settings"].get("samples", 0),
        short=frozenset(cell.length for cell in result.short if _full(cell, task)),
    )


def _asked(result: Result, task: str) -> bool:
    """Whether not all cells of the full prompt are skipped for good."""
    skipped = {cell.length for cell in result.skipped.keys() - result.failed if _full(cell, task)}
    known = {cell.length for cell in (*result.cells, *result.parts, *result.failed) if _full(cell, task)}
    return bool(known) or not skipped.issuperset(result.head["lengths"])


def _full(cell: Cell, task: str) -> bool:
    return cell.task == task and cell.condition == "full"


def _beside(cell: Cell, task: str) -> bool:
    return cell.task == task and cell.condition != "full"


def source(results: Iterable[Result]) -> str:
    """Where numbers come from, in a line: commit, models, suite, scoring and seed."""
    results = list(results)
    scorings = [about.get("scoring", "") for result in results for about in result.head["tasks"].values()]
    parts = {
        "commit": [_commit(result) for result in results],
        "suite": [str(result.head["suite"]) for result in results],
        "model": [result.name for result in results],
        "scoring": scorings,
        "seed": [str(result.head["seed"]) for result in results],
        "settings": [str(result.head["settings_hash"])[:8] for result in results],
    }
    distinct = {name: [value for value in dict.fromkeys(values) if value] for name, values in parts.items()}
    return " · ".join(f"{name} {', '.join(values)}" for name, values in distinct.items() if values)


def _commit(result: Result) -> str:
    about = result.head["provenance"]
    return f"{about['commit'][:8]}{'+' if about.get('dirty') else ''}" if about.get("commit") else "unknown"


def shelf(result: Result) -> str:
    """The name under which a result stands with others: all of its tasks are judged by likelihood, or none is."""
    scorings = [str(about.get("scoring", "")) for about in result.head["tasks"].values()]
    return _shelf(str(result.head["suite"]), next(iter(scorings), ""))


def _shelf(suite: str, scoring: str) -> str:
    return f"{suite} by likelihood" if scoring == "likelihood" else suite


def differing(results: Sequence[Result]) -> str:
    """What the settings or the tasks of one suite's results differ in, in words; "" if they asked the same."""
    if len({result.head["settings_hash"] for result in results}) <= 1:
        return ""
    heads = [result.head for result in results]
    said = [
        f"{name} {' and '.join(dict.fromkeys(values))}"
        for name in dict.fromkeys(key for head in heads for key in head["settings"])
        if name not in SPEED and len(set(values := [_spelled(head["settings"].get(name)) for head in heads])) > 1
    ]
    if said:
        return ", ".join(said)
    tasks = dict.fromkeys(name for head in heads for name in head["tasks"])
    other = [name for name in tasks if len({_fingerprint(head, name) for head in heads}) > 1]
    return f"other samples of {', '.join(other)} (another tokenizer, version or data)"


def _spelled(value: object) -> str:
    return "null" if value is None else str(value)


def _fingerprint(head: Mapping[str, Any], task: str) -> str | None:
    return str(head["tasks"][task]["fingerprint"]) if task in head["tasks"] else None


def short(length: int) -> str:
    """1024 -> 1k, 1048576 -> 1M; other numbers in full."""
    for size, letter in ((1 << 20, "M"), (1 << 10, "k")):
        if length >= size and length % size == 0:
            return f"{length // size}{letter}"
    return str(length)


def percent(depth: float | None) -> str:
    """A depth as its column says it: 0.25 -> 25; "any" where the gold stands anywhere."""
    return "any" if depth is None else f"{100 * depth:.3g}"
