"""What fails for now, and cells whose time is over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from oracle import Lookup
from runner_cases import IDS, answers, stop_at, suite

from farfield.benchmarks.running import asking
from farfield.benchmarks.running.patience import Patient
from farfield.benchmarks.running.results import read_result
from farfield.benchmarks.running.runner import evaluate
from farfield.benchmarks.subjects.subject import TemporaryError


def busy(calls: Sequence[int]) -> Callable[[Lookup], None]:
    """A subject that cannot answer at these of its calls, counted from 0."""
    made = [-1]

    def before(subject: Lookup) -> None:
        made[0] += 1
        if made[0] in calls:
            raise TemporaryError("too many requests.")

    return before


def test_what_fails_for_now_is_asked_again_after_ever_longer_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(Patient, "__init__", patient_that(waited.append))
    outcome = evaluate(suite(), Lookup(IDS, before=busy([2, 3, 4, 9])), tmp_path / "a", retries=3)
    assert waited == [1, 2, 4, 1]
    assert "lookup: too many requests. Asking again in 4 s." in capsys.readouterr().err
    assert outcome.failed == 0
    assert answers(outcome.path) == answers(evaluate(suite(), Lookup(IDS), tmp_path / "b").path)


def patient_that(wait: Callable[[float], None]) -> Callable[..., None]:
    def start(self: Patient, subject: Lookup, patience: int, _: object = None) -> None:
        for name, value in (("subject", subject), ("patience", patience), ("wait", wait)):
            object.__setattr__(self, name, value)

    return start


def test_what_goes_on_failing_is_skipped_for_now_and_tried_by_the_next_run(tmp_path: Path) -> None:
    subject = Lookup(IDS, before=busy(range(5, 10)))
    outcome = evaluate(suite(samples=5, batch=2), subject, tmp_path)
    result = read_result(outcome.path)
    assert 0 < outcome.failed == outcome.skipped == len(result.failed)
    assert outcome.cells + outcome.failed == 10
    assert set(result.skipped.values()) == {"too many requests."}
    again = evaluate(suite(samples=5, batch=2), Lookup(IDS), tmp_path)
    assert (again.cells, again.skipped, again.failed) == (10, 0, 0)
    assert answers(again.path) == answers(evaluate(suite(samples=5), Lookup(IDS), tmp_path / "b").path)
    assert (again.naive, len(read_result(again.path).skipped)) == (5 * (5 * 31 + 5 * 63), 0)


def test_a_cell_whose_time_is_over_is_closed_with_what_it_has(tmp_path: Path) -> None:
    late = {"lengths": [32], "depths": 2, "samples": 7, "batch": 2, "cell_seconds": 1e-9}
    result = read_result(evaluate(suite(**late), Lookup(IDS), tmp_path).path)
    assert [(got.count, got.capped) for got in result.cells.values()] == [(1, True)] * 2
    # The same again has nothing to do; with more time it goes on where it ended.
    subject = Lookup(IDS)
    evaluate(suite(**late), subject, tmp_path)
    assert subject.prefilled == 0
    outcome = evaluate(suite(**{**late, "cell_seconds": None}), subject, tmp_path)
    assert [(got.count, got.capped) for got in read_result(outcome.path).cells.values()] == [(7, False)] * 2
    assert answers(outcome.path) == answers(
        evaluate(suite(**{**late, "cell_seconds": 99}), subject, tmp_path / "b").path
    )


@pytest.mark.parametrize(("seconds", "count"), [(0.03, 1), (0.1, 4), (0.5, 17), (9.0, 40)])
def test_a_cell_takes_no_more_samples_at_once_than_it_has_time_for(
    seconds: float, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = Lookup(IDS)
    # A token takes a millisecond, and a prompt has 31: the cells end behind the sample that their time is over in.
    monkeypatch.setattr(asking, "time", SimpleNamespace(perf_counter=lambda: subject.prefilled / 1000))
    wanted = suite(lengths=[32], depths=1, samples=40, batch=16, cell_seconds=seconds)
    (got,) = read_result(evaluate(wanted, subject, tmp_path).path).cells.values()
    assert (got.count, got.capped) == (count, count < 40)
    assert got.seconds == pytest.approx(0.031 * count)


def test_a_stopped_cell_whose_time_is_over_now_is_closed_without_another_sample(tmp_path: Path) -> None:
    some = {"lengths": [32], "depths": 1, "samples": 7, "batch": 2}
    with pytest.raises(KeyboardInterrupt):
        evaluate(suite(**some), Lookup(IDS, before=stop_at(2)), tmp_path)
    subject = Lookup(IDS)
    outcome = evaluate(suite(**some, cell_seconds=1e-9), subject, tmp_path)
    assert [(got.count, got.capped) for got in read_result(outcome.path).cells.values()] == [(4, True)]
    assert subject.prefilled == 0
