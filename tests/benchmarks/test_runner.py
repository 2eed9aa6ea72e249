from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from oracle import Bytes, Lookup
from runner_cases import IDS, answers, lines, stop_at, suite

from farfield.benchmarks.running import asking
from farfield.benchmarks.running.results import Answers, Cell, read_result
from farfield.benchmarks.running.runner import Outcome, evaluate
from farfield.benchmarks.subjects.subject import Prefilled
from farfield.benchmarks.suites.needle import NeedleSuite
from farfield.benchmarks.tasks.needle import TokenNeedle
from farfield.benchmarks.tasks.pairs import Pairs
from farfield.benchmarks.tasks.sample import Sample, Scoring, Split, Task, Tokenizer
from farfield.config import ConfigError


@pytest.mark.parametrize("scoring", ["generate", "likelihood"])
def test_a_subject_that_remembers_everything_answers_everything(scoring: str, tmp_path: Path) -> None:
    outcome = evaluate(suite(needles=3, queries=3, scoring=scoring), Lookup(IDS), tmp_path)
    result = read_result(outcome.path)
    assert (outcome.cells, outcome.skipped, len(result.cells)) == (10, 0, 10)
    assert {got.score for got in result.cells.values()} == {1.0}
    for cell, got in result.cells.items():
        assert (got.count, got.hits, len(got.scores), got.length) == (4, 12, 12, cell.length)
        assert got.outputs == got.answers
        assert got.logprobs == ([-0.5] * 12 if scoring == "likelihood" else [])
        values = len(Pairs(IDS.vocabulary).values)
        assert all(1 / values <= chance <= 1 / 2 for chance in got.chances)
        assert len(got.chances) == len(got.logprobs)
        assert got.depths[0][0] == pytest.approx(cell.depth, abs=0.05)


def test_text_mode_runs_end_to_end(tmp_path: Path) -> None:
    outcome = evaluate(suite(lengths=[300, 600], samples=3, needles=2, queries=2), Lookup(Bytes()), tmp_path)
    result = read_result(outcome.path)
    # Two needles of 48 bytes and all the rest leave too little to share at 300; rows still answer right.
    assert {got.score for got in result.cells.values()} == {1.0}
    assert all(got.outputs[0].startswith(f" {got.answers[0]}.") for got in result.cells.values())
    assert outcome.prefilled < 0.8 * outcome.naive


@pytest.mark.parametrize("window", [10, 20, 33])
def test_a_window_misses_what_is_deeper_than_it_reaches(window: int, tmp_path: Path) -> None:
    outcome = evaluate(suite(lengths=[48], depths=11), Lookup(IDS, window), tmp_path)
    scores = {cell.depth: got.score for cell, got in read_result(outcome.path).cells.items()}
    noise = 48 - 5
    # The window holds the question (2), the noise behind the needle, and the needle (2).
    expected = {depth: float(noise - round((depth or 0) * noise) + 4 <= window) for depth in scores}
    assert scores == expected
    assert {0.0, 1.0} == set(scores.values())


@pytest.mark.parametrize("kind", ["tokens", "text"])
def test_shared_prefixes_give_the_answers_of_single_prefills(kind: str, tmp_path: Path) -> None:
    tokenizer = IDS if kind == "tokens" else Bytes()
    wanted = suite(lengths=[400], needles=2, queries=2, depths=11, samples=3)
    subject = Lookup(tokenizer, window=250)
    outcome = evaluate(wanted, subject, tmp_path)
    got = read_result(outcome.path).cells
    alone, naive = Lookup(tokenizer, window=250), 0
    (task,) = wanted.tasks(tokenizer)
    for depth in wanted.places():
        samples = task.generate(0, 400, 3, "test", depth=depth)
        outputs = [
            alone.generate(alone.prefill(sample.prompt[None].astype(np.int64)), sample.budget, task.stop).ids[0]
            for sample in samples
        ]
        naive += sum(sample.prompt.size for sample in samples)
        cell = got[Cell(task.name, 400, depth)]
        assert cell.scores == task.score(samples, outputs)
        assert cell.outputs == [tokenizer.decode(output) for output in outputs]
    assert 0 < sum(cell.score for cell in got.values()) < 11
    assert (outcome.naive, alone.prefilled) == (naive, naive)
    assert outcome.prefilled == subject.prefilled < 0.5 * naive


def test_counts_are_those_of_the_tree_of_prefixes(tmp_path: Path) -> None:
    subject = Lookup(IDS)
    outcome = evaluate(suite(lengths=[105], depths=3, samples=2), subject, tmp_path)
    # 100 noise tokens: the needle stands behind 0, 50 and 100 of them; 104 tokens a prompt.
    assert outcome.prefilled == 2 * (104 + 104 + 54)
    assert outcome.naive == 2 * 3 * 104
    assert [(row.length, row.prefilled, row.naive) for row in outcome.rows] == [(105, outcome.prefilled, outcome.naive)]
    assert subject.prefilled == outcome.prefilled
    assert [got.prefilled for got in read_result(outcome.path).cells.values()] == [2 * 104, 2 * 104, 2 * 54]


@pytest.mark.parametrize(("batch", "batch_tokens"), [(1, 10**6), (3, 10**6), (16, 100), (16, 1)])
def test_answers_do_not_depend_on_batches(batch: int, batch_tokens: int, tmp_path: Path) -> None:
    whole = evaluate(suite(samples=5, queries=2, needles=2), Lookup(IDS, 40), tmp_path / "a")
    parts = evaluate(
        suite(samples=5, queries=2, needles=2, batch=batch, batch_tokens=batch_tokens), Lookup(IDS, 40), tmp_path / "b"
    )
    assert answers(whole.path) == answers(parts.path)
    assert (whole.prefilled, whole.naive) == (parts.prefilled, parts.naive)
    assert "part" in {record["record"] for record in lines(parts.path)}
    assert "part" not in {record["record"] for record in lines(whole.path)}


@dataclass(frozen=True)
class Ragged:
    """The needle task with prompts that lose as many tokens at the end of the haystack as their index says."""

    whole: Task

    @property
    def name(self) -> str:
        return "ragged"

    metric: str = "recall"
    placed: bool = True
    scorings: tuple[Scoring, ...] = ("generate",)
    stop: tuple[str, ...] = ()
    labels: Mapping[str, float] = field(default_factory=dict)
    fingerprint: str = "ragged"

    def check(self, seed: int, length: int, n: int, split: Split) -> None:
        self.whole.check(seed, length, n, split)

    def generate(
        self, seed: int, length: int, n: int, split: Split, *, depth: float | None = None, first: int = 0
    ) -> list[Sample]:
        made = []
        for index in range(first, first + n):
            made += self.whole.generate(seed, length - index % 3, 1, split, depth=depth, first=index)
        return made

    def score(self, samples: Sequence[Sample], outputs: Sequence[Sequence[int]]) -> list[float]:
        return self.whole.score(samples, outputs)


class RaggedSuite(NeedleSuite):
    def tasks(self, tokenizer: Tokenizer) -> tuple[Task, ...]:
        return (Ragged(TokenNeedle(Pairs(tokenizer.vocabulary))), *super().tasks(tokenizer))


def test_prompts_of_different_lengths_and_several_tasks_run_side_by_side(tmp_path: Path) -> None:
    outcome = evaluate(RaggedSuite(lengths=(40,), depths=3, samples=8, batch=5, controls=()), Lookup(IDS), tmp_path)
    result = read_result(outcome.path)
    assert {cell.task for cell in result.cells} == {"ragged", "needle_tokens"}
    assert {got.score for got in result.cells.values()} == {1.0}
    assert [got.naive for got in result.cells.values()] == [3 * (39 + 38 + 37) - 37] * 3 + [8 * 39] * 3


def test_records_say_what_was_measured_on_what(tmp_path: Path) -> None:
    subject = Lookup(IDS, 50, name="mine", extra={"trained_length": 32})
    outcome = evaluate(suite(seed=7), subject, tmp_path)
    head, *cells = lines(outcome.path)
    assert head["record"] == "head"
    assert head["model"] == {
        "architecture": "lookup",
        "window": 50,
        "trained_length": 32,
        "name": "mine",
        "capabilities": ["generate", "score", "state"],
    }
    assert head["settings"] == suite(seed=7).mapping()
    assert (head["seed"], head["suite"]) == (7, "needle")
    assert (head["lengths"], head["depths"]) == ([32, 64], [0, 0.25, 0.5, 0.75, 1])
    assert head["provenance"]["packages"]["numpy"] == np.__version__
    assert {"commit", "machine", "python"} <= set(head["provenance"])
    for record in cells:
        assert record["record"] == "cell"
        assert record["samples"] == len(record["scores"]) == 4
        assert record["hits"] == sum(record["scores"])
        assert record["state_bytes"] == 8 * min(record["grid_length"], 50)
        assert record["settings_hash"] == head["settings_hash"]
        assert record["seconds"] >= 0


@pytest.mark.parametrize("batch", [16, 3])
@pytest.mark.parametrize("call", [0, 1, 7, 13, 15])
def test_a_stopped_run_goes_on_where_it_stopped(
    call: int, batch: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a" / "needle.jsonl"
    with pytest.raises(KeyboardInterrupt):
        evaluate(suite(samples=7, batch=batch), Lookup(IDS, 40, before=stop_at(call)), tmp_path / "a")
    stopped = read_result(path)
    done = len(stopped.cells)
    assert f"stopped: {done} of 10 cells are in {path}. The same command goes on from there." in capsys.readouterr().err
    # It may go on with other batches: they change how fast, not what.
    second = Lookup(IDS, 40)
    outcome = evaluate(suite(samples=7, batch=5), second, tmp_path / "a")
    third = Lookup(IDS, 40)
    evaluate(suite(samples=7), third, tmp_path / "a")
    assert third.prefilled == 0
    fresh = evaluate(suite(samples=7), Lookup(IDS, 40), tmp_path / "b")
    assert answers(outcome.path) == answers(fresh.path)
    assert (outcome.cells, outcome.naive) == (10, fresh.naive)
    kinds = [record["record"] for record in lines(path)]
    assert (kinds.count("cell"), kinds.count("resumed"), kinds.count("head")) == (10, 2, 1)
    assert second.prefilled < fresh.prefilled or done == 0
    assert not list(path.parent.glob("needle.1*"))


KILLED = """
import os, signal, sys
from pathlib import Path
from oracle import Lookup, Numbers
from farfield.benchmarks.running.runner import evaluate
from farfield.benchmarks.suites.needle import NeedleSuite

def kill(subject):
    if subject.calls == 7:
        os.kill(os.getpid(), signal.SIGKILL)

suite = NeedleSuite(lengths=(32, 64), depths=5, samples=4, controls=())
evaluate(suite, Lookup(Numbers(128), before=kill), Path(sys.argv[1]))
"""


def test_a_killed_run_loses_no_finished_cell(tmp_path: Path) -> None:
    script = [sys.executable, "-c", KILLED, str(tmp_path)]
    killed = subprocess.run(script, cwd=Path(__file__).parent, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    done = list(read_result(tmp_path / "needle.jsonl").cells)
    assert 0 < len(done) < 10
    subject = Lookup(IDS)
    outcome = evaluate(suite(), subject, tmp_path)
    assert outcome.cells == 10
    assert list(read_result(outcome.path).cells)[: len(done)] == done
    assert subject.prefilled < outcome.prefilled


def test_what_the_model_cannot_do_is_skipped_with_the_reason(tmp_path: Path) -> None:
    blind = Lookup(IDS, capabilities=frozenset({"state", "generate"}))
    outcome = evaluate(suite(scoring="likelihood"), blind, tmp_path)
    assert (outcome.cells, outcome.skipped, blind.prefilled) == (0, 10, 0)
    assert set(read_result(outcome.path).skipped.values()) == {"needs a model that tells how likely a continuation is"}
    assert evaluate(suite(scoring="likelihood"), blind, tmp_path).skipped == 10
    assert sum(record["record"] == "skip" for record in lines(outcome.path)) == 10


def test_the_progress_line_counts_skipped_cells_and_shortens_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = suite(lengths=[16, 24, 64], depths=2, needles=8, controls=["memory_off"])
    evaluate(wanted, Lookup(IDS, capabilities=frozenset({"read"})), tmp_path)
    last = capsys.readouterr().err.splitlines()[-1]
    found = read_result(tmp_path / "needle.jsonl")
    assert len(found.skipped) == 9
    assert len(set(found.skipped.values())) == 3
    assert re.search(r", 9 skipped, 3 reasons: .{1,60}, done$", last)
    assert not any(len(why) > 60 and why in last for why in found.skipped.values())


def test_a_suite_that_does_not_fit_ends_before_anything_is_written(tmp_path: Path) -> None:
    subject = Lookup(IDS)
    with pytest.raises(ConfigError, match=r"a length of 4 tokens is too short"):
        evaluate(suite(lengths=[4, 5]), subject, tmp_path)
    with pytest.raises(ConfigError, match="does not fit a model of the ids tokenizer"):
        evaluate(suite(mode="text"), subject, tmp_path)
    assert subject.prefilled == 0
    assert not list(tmp_path.iterdir())


def test_lengths_below_a_tasks_least_are_skipped_where_others_are_not(tmp_path: Path) -> None:
    outcome = evaluate(suite(lengths=[5, 64]), Lookup(IDS), tmp_path)
    assert (outcome.cells, outcome.skipped) == (5, 5)
    (reason,) = set(read_result(outcome.path).skipped.values())
    assert reason.startswith("needle: a length of 5 tokens is too short for 1 needle")


def test_a_scoring_that_no_task_knows_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        evaluate(suite(scoring="read"), Lookup(IDS), tmp_path)
    assert str(error.value) == "scoring: read given, and needle_tokens is judged by generate or likelihood."


def test_tasks_that_do_not_know_the_scoring_are_skipped_where_others_do(tmp_path: Path) -> None:
    outcome = evaluate(RaggedSuite(lengths=(40,), depths=3, controls=(), scoring="likelihood"), Lookup(IDS), tmp_path)
    result = read_result(outcome.path)
    assert {cell.task for cell in result.cells} == {"needle_tokens"}
    assert set(result.skipped.values()) == {"scoring: likelihood given, and ragged is judged by generate."}


@pytest.mark.parametrize(("gap", "ties"), [(0.0, 1), (1e-6, 1), (1.9e-3, 1), (2.1e-3, 0)])
def test_choices_that_rounding_decides_are_counted(gap: float, ties: int, tmp_path: Path) -> None:
    class Near(Lookup):
        """Likes the right value a little more than every other one; a log-probability may be off by a thousandth."""

        def score(self, prefilled: Prefilled, candidates: NDArray[np.int64]) -> NDArray[np.floating]:
            return np.where(np.isfinite(super().score(prefilled, candidates)), -0.5 + gap, -0.5)

        def rounding(self, prefilled: Prefilled) -> NDArray[np.float64]:
            return np.full(len(super().rounding(prefilled)), 1e-3)

    outcome = evaluate(suite(depths=1, scoring="likelihood"), Near(IDS), tmp_path)
    assert outcome.ties == ties * 2 * 4  # of every sample at both lengths
    assert evaluate(suite(depths=1, scoring="likelihood"), Lookup(IDS), tmp_path / "sure").ties == 0


@pytest.mark.parametrize(
    ("logprobs", "lengths", "taken", "undecided"),
    [
        ([-3.0, -1.0, -2.0], [1, 1, 1], 1, 0),
        ([-3.0, -1.0, -1.015], [1, 1, 1], 1, 1),
        ([-3.0, -1.0, -1.025], [1, 1, 1], 1, 0),
        ([-3.0, -1.0, -1.025], [1, 1, 2], 1, 1),  # the second one's two ids may be off, each
        ([-3.0, -1.0, -1.015], [1, 1, 1], 2, 0),  # both are taken, whichever is first
        ([-1.01, -1.0, -3.0], [1, 1, 1], 3, 0),
    ],
)
def test_a_choice_is_undecided_where_the_last_that_is_taken_is_as_near_as_rounding(
    logprobs: list[float], lengths: list[int], taken: int, undecided: int
) -> None:
    assert asking._undecided(np.array(logprobs), 0.01 * np.array(lengths), taken) == undecided


@dataclass(frozen=True)
class Documents(Ragged):
    """Three questions about each text, of different lengths."""

    @property
    def name(self) -> str:
        return "documents"

    placed: bool = False

    def generate(
        self, seed: int, length: int, n: int, split: Split, *, depth: float | None = None, first: int = 0
    ) -> list[Sample]:
        made = []
        for index in range(first, first + n):
            (sample,) = self.whole.generate(seed, length - 3, 1, split, depth=0.3, first=index // 3)
            noise = np.full(index % 3, Pairs(128).noise[0], dtype=np.int32)
            prompt = np.concatenate([sample.prompt[:-2], noise, sample.prompt[-2:]])
            made.append(replace(sample, prompt=prompt, length=len(prompt) + 1))
        return made


class DocumentsSuite(NeedleSuite):
    def tasks(self, tokenizer: Tokenizer) -> tuple[Task, ...]:
        return (Documents(TokenNeedle(Pairs(tokenizer.vocabulary))),)


@pytest.mark.parametrize(("batch", "batch_tokens"), [(16, 10**6), (16, 1)])
def test_one_text_is_read_once_for_the_questions_about_it(batch: int, batch_tokens: int, tmp_path: Path) -> None:
    """Also where only one row fits at a time."""
    wanted = DocumentsSuite(lengths=(200,), samples=9, controls=(), batch=batch, batch_tokens=batch_tokens)
    subject = Lookup(IDS)
    outcome = evaluate(wanted, subject, tmp_path)
    (got,) = read_result(outcome.path).cells.values()
    assert got.score == 1
    assert outcome.naive == 3 * (196 + 197 + 198)
    # Each text, and the ends of three questions, of which the noise in two is shared where it can be.
    assert outcome.prefilled == subject.prefilled <= 3 * (194 + 2 + 3 + 4)


def test_a_model_of_nan_scores_nothing_it_did_not_earn(tmp_path: Path) -> None:
    class Broken(Lookup):
        def score(self, prefilled: object, candidates: np.ndarray) -> np.ndarray:
            return np.full(candidates.shape, np.nan)

    outcome: Outcome = evaluate(suite(scoring="likelihood", samples=20), Broken(IDS), tmp_path)
    cells: list[Answers] = list(read_result(outcome.path).cells.values())
    assert all(got.score < 0.3 for got in cells)
    assert {logprob for got in cells for logprob in got.logprobs} == {-1e9}
