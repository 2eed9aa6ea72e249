"""What is made of means over tasks: how long texts may be, and where that is not said."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_results import (
    answers,
    cell,
    head,
)
from fake_results import write as write_result
from report_cases import THRESHOLD

from farfield.benchmarks.reports.effective import doubt, means
from farfield.benchmarks.reports.grid import grids
from farfield.benchmarks.reports.intervals import wilson
from farfield.benchmarks.reports.report import summary
from farfield.benchmarks.reports.tables import tables


def test_the_effective_length_is_of_all_tasks(tmp_path: Path) -> None:
    tasks = {name: {"scoring": "generate"} for name in ("one", "two")}
    scores = {
        ("one", 256): [1.0] * 4,
        ("two", 256): [1.0, 1.0, 1.0, 0.5],
        ("one", 512): [1.0] * 4,
        ("two", 512): [1.0, 0, 0, 0],
    }
    records = [cell(task, answers(got, length), length) for (task, length), got in scores.items()]
    records.append(cell("one", answers([1.0] * 4, 1024), 1024))
    records += [cell(task, answers([0.0] * 4, 256), 256, None, "no_context") for task in tasks]
    found = write_result(tmp_path / "ruler.jsonl", head("ruler", "model", tasks), records)
    notes = "\n".join(tables([found], THRESHOLD)[0].notes)
    # The mean at 256 is 93.75 %, at 512 62.5 %; at 1024 only one of the two has been asked.
    assert "Effective length (mean over the tasks asked above 85.6%): model 256." in notes
    assert "† mean" in notes
    (told,) = summary([found], THRESHOLD)["effective"]
    assert told["means"] == [{"length": 256, "mean": 0.9375}, {"length": 512, "mean": 0.625}]
    assert told["lengths"] == {"published": 256, "own": 256}
    assert told["weighted"]["rising"] == pytest.approx((0.9375 + 2 * 0.625) / 3)


@pytest.mark.parametrize(
    ("suite", "lengths", "said", "told"),
    [
        ("ruler", (256, 512), {"published": 512, "own": 512}, ("85.6%", "85 %", "weighted")),
        ("needle", (256, 512), {"own": 512}, ("85 %", "weighted")),
        ("ruler", (256,), {}, ()),
        ("needle", (256,), {}, ()),
    ],
)
def test_an_effective_length_is_of_several_and_the_published_one_of_ruler(
    suite: str, lengths: tuple[int, ...], said: dict[str, int], told: tuple[str, ...], tmp_path: Path
) -> None:
    tasks = {name: {"scoring": "generate"} for name in ("one", "two")}
    records = [cell(task, answers([1.0] * 4, length), length) for task in tasks for length in lengths]
    records += [
        cell(task, answers([0.0] * 4, length), length, None, "no_context") for task in tasks for length in lengths
    ]
    found = write_result(tmp_path / f"{suite}.jsonl", head(suite, "m", tasks, lengths=list(lengths)), records)
    notes = [note for note in tables([found], THRESHOLD)[0].notes if "ffective" in note or "weighted" in note]
    assert len(notes) == len(told)
    assert all(part in note for note, part in zip(notes, told, strict=True))
    (one,) = summary([found], THRESHOLD)["effective"]
    assert (one["lengths"], one["thresholds"].keys()) == (said, said.keys())
    assert [entry["mean"] for entry in one["means"]] == [1.0] * len(lengths)


def asked(
    folder: Path, scores: Sequence[float], without: Sequence[float] | None = None, chance: float | None = None
) -> tuple[str, dict[str, Any]]:
    """The note on the own score of a model with these scores in two tasks and at two lengths, and its summary."""
    tasks = {name: {"scoring": "generate" if chance is None else "likelihood"} for name in ("one", "two")}
    chances = [] if chance is None else [chance] * len(scores)
    records = [cell(task, answers(scores, at, chances=chances), at) for task in tasks for at in (256, 512)]
    if without is not None:
        records += [cell(task, answers(without, 256), 256, None, "no_context") for task in tasks]
    found = write_result(folder / "needle.jsonl", head("needle", "m", tasks, lengths=[256, 512]), records)
    (note,) = [note for note in tables([found], THRESHOLD)[0].notes if "own mean on short texts" in note]
    (told,) = summary([found], THRESHOLD)["effective"]
    return note, told


def share(hits: int, n: int) -> list[float]:
    return [1.0] * hits + [0.0] * (n - hits)


UNCLEAR = "it is not clearly above what no context or chance gives"
UNKNOWN = "no control without context was asked to compare it with"


@pytest.mark.parametrize(
    ("scores", "without", "chance", "why"),
    [
        pytest.param(share(4, 50), share(2, 50), None, UNCLEAR, id="8 % beside 4 % without the text"),
        pytest.param(share(30, 50), share(28, 50), None, UNCLEAR, id="60 % of which 56 % are known anyway"),
        pytest.param(share(14, 50), None, 0.25, UNCLEAR, id="28 % of choices among four"),
        pytest.param(share(20, 50), share(18, 50), 0.1, UNCLEAR, id="above chance, and known without the text"),
        pytest.param(share(20, 50), share(1, 50), 0.4, UNCLEAR, id="not known, and guessed as well"),
        pytest.param(share(48, 50), None, None, UNKNOWN, id="nothing to compare with"),
        pytest.param(share(0, 50), share(0, 50), None, UNCLEAR, id="nothing right"),
        pytest.param(share(12, 50), share(0, 50), None, "", id="24 % beside nothing"),
        pytest.param(share(30, 50), None, 0.25, "", id="60 % of choices among four"),
    ],
)
def test_a_share_of_what_is_no_skill_is_no_effective_length(
    scores: list[float], without: list[float] | None, chance: float | None, why: str, tmp_path: Path
) -> None:
    note, told = asked(tmp_path, scores, without, chance)
    assert told["doubt"] == why
    assert ("own" in told["lengths"], "own" in told["thresholds"]) == (not why, not why)
    assert note == (
        f"No effective length by the own mean on short texts: m; {why}."
        if why
        else "Effective length (above 85 % of the own mean on short texts): m 512."
    )


def test_how_clear_is_clear_is_the_interval_of_a_difference(tmp_path: Path) -> None:
    """With one task it is the difference of two shares: the limits that Newcombe gives, from Wilson's intervals."""
    tasks = {name: {"scoring": "generate"} for name in ("one", "two")}
    for hits in range(3, 16):
        records = [cell("one", answers(share(hits, 40), at), at) for at in (256, 512)]
        records.append(cell("one", answers(share(3, 40), 256), 256, None, "no_context"))
        found = write_result(tmp_path / "needle.jsonl", head("needle", "m", tasks, lengths=[256, 512]), records)
        mine = [grid for grid in grids(found) if grid.cells]
        low, high = wilson(hits, 40)[0], wilson(3, 40)[1]
        newcombe = (hits - 3) / 40 - math.hypot(hits / 40 - low, high - 3 / 40)
        assert bool(doubt(mine, means(mine))) == (newcombe <= 0)
    assert newcombe > 0
