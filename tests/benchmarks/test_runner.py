from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from oracle import Bytes, Lookup, Numbers

from farfield.benchmarks.running import asking
from farfield.benchmarks.running.patience import Patient
from farfield.benchmarks.running.result_file import ResultFile
from farfield.benchmarks.running.results import Answers, Cell, read_result
from farfield.benchmarks.running.runner import Outcome, evaluate
from farfield.benchmarks.subjects.subject import Prefilled, TemporaryError
from farfield.benchmarks.suites.needle import NeedleSuite
from farfield.benchmarks.tasks.needle import TokenNeedle
from farfield.benchmarks.tasks.pairs import Pairs
from farfield.benchmarks.tasks.sample import Sample, Scoring, Split, Task, Tokenizer
from farfield.config import ConfigError, DataError, read

IDS = Numbers(128)


def suite(**changes: Any) -> NeedleSuite:
    return read(NeedleSuite, {"lengths": [32, 64], "depths": 5, "samples": 4, "controls": [], **changes})


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def answers(path: Path) -> dict[Cell, tuple[list[float], list[str]]]:
    """What was answered, without what depends on how it was run."""
    return {cell: (got.scores, got.outputs) for cell, got in read_result(path).cells.items()}


def stop_at(call: int) -> Callable[[Lookup], None]:
    """A stop by Ctrl-C at this prefill."""

    def before(subject: Lookup) -> None:
        if subject.calls == call:
            raise KeyboardInterrupt

    return before


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


@pytest.mark.parametrize("cut", [1, 40, 10_000])
def test_a_half_written_line_is_discarded(cut: int, tmp_path: Path) -> None:
    path = evaluate(suite(), Lookup(IDS), tmp_path).path
    whole = answers(path)
    content = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(content[:-1]) + content[-1][:-1][:-cut])
    subject = Lookup(IDS)
    assert len(read_result(path).cells) == 9
    assert evaluate(suite(), subject, tmp_path).cells == 10
    assert answers(path) == whole
    assert subject.prefilled == 4 * 63
    # The head itself may be half written.
    path.write_bytes(content[0][:50])
    assert evaluate(suite(), Lookup(IDS), tmp_path).cells == 10
    assert answers(path) == whole


@pytest.mark.parametrize("broken", [b"{}\n", b'{"record": "cell", "task": "x"\n', b"[1]\n", b"\xff\n", b"\n"])
def test_broken_lines_are_dropped_and_said_and_what_they_told_is_evaluated_again(
    broken: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = evaluate(suite(), Lookup(IDS), tmp_path).path
    whole, content = answers(path), path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*content[:3], broken, *content[4:7], broken]))
    assert (len(read_result(path).cells), read_result(path).dropped) == (5, [4, 8])
    capsys.readouterr()
    assert evaluate(suite(), Lookup(IDS), tmp_path).cells == 10
    said = capsys.readouterr().err
    assert f"{path}: lines 4, 8 were no result records and are left out. What they told is evaluated again." in said
    assert answers(path) == whole
    assert path.read_bytes().startswith(b"".join([*content[:3], *content[4:7]]))
    assert read_result(path).dropped == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prefilled", "x"),
        ("scores", [1, "x"]),
        ("scores", [True, True]),
        ("seconds", float("nan")),
        ("ties", None),
        ("depths", [[0.5], 0.5]),
        ("count", 0),
        ("grid_length", "32"),
        ("condition", "unknown"),
        ("task", ["needle"]),
    ],
)
def test_a_line_with_a_value_of_another_type_is_no_record(name: str, value: object, tmp_path: Path) -> None:
    wanted = suite(lengths=[32], depths=2, samples=2)
    path = evaluate(wanted, Lookup(IDS), tmp_path).path
    whole, lines = answers(path), path.read_text().splitlines()
    lines[2] = json.dumps({**json.loads(lines[2]), name: value})
    path.write_text("\n".join(lines) + "\n")
    assert (len(read_result(path).cells), read_result(path).dropped) == (1, [3])
    evaluate(wanted, Lookup(IDS), tmp_path)
    assert (answers(path), read_result(path).dropped) == (whole, [])


@pytest.mark.parametrize(("name", "value"), [("lengths", "x"), ("tasks", []), ("seed", "0"), ("settings", 1)])
def test_a_head_with_a_value_of_another_type_is_none(name: str, value: object, tmp_path: Path) -> None:
    path = evaluate(suite(lengths=[32], depths=1), Lookup(IDS), tmp_path).path
    head, *others = path.read_text().splitlines(keepends=True)
    path.write_text(json.dumps({**json.loads(head), name: value}) + "\n" + "".join(others))
    with pytest.raises(DataError, match="line 1 is no result record"):
        read_result(path)


def test_parts_behind_a_broken_one_are_dropped_too(tmp_path: Path) -> None:
    wanted = suite(lengths=[32], depths=1, samples=7, batch=2)
    path = evaluate(wanted, Lookup(IDS), tmp_path).path
    whole, content = answers(path), path.read_bytes().splitlines(keepends=True)
    assert len(content) == 5
    path.write_bytes(b"".join([content[0], content[1], b"?\n", content[3]]))
    assert read_result(path).dropped == [3, 4]
    evaluate(wanted, Lookup(IDS), tmp_path)
    assert answers(path) == whole


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.77, 0.999])
def test_a_file_cut_in_half_keeps_its_good_lines(share: float, tmp_path: Path) -> None:
    path = evaluate(suite(samples=5, batch=2), Lookup(IDS), tmp_path).path
    whole, content = answers(path), path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    evaluate(suite(samples=5, batch=2), Lookup(IDS), tmp_path)
    assert answers(path) == whole


def test_a_file_without_a_head_is_kept_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "needle.jsonl"
    path.write_bytes(b"hello\nworld\n")
    with pytest.raises(DataError, match=r"line 1 is no result record. Move the file away and evaluate again."):
        read_result(path)
    assert evaluate(suite(), Lookup(IDS), tmp_path).cells == 10
    assert f"a first line that cannot be read: it is kept as {tmp_path}/needle.1.jsonl." in capsys.readouterr().err
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"empty. Run farfield evaluate again"):
        read_result(path)
    with pytest.raises(DataError, match=r"No such file or directory. Run farfield evaluate first"):
        read_result(tmp_path / "none.jsonl")


def test_a_file_has_one_writer(tmp_path: Path) -> None:
    about = {"provenance": {}, "model": {"name": "a"}, "depths": [], "settings_hash": "", "model_hash": ""}
    head = {"format": 2, "suite": "needle", "settings": {}, "tasks": {}, "seed": 0, "lengths": [], **about}
    path = tmp_path / "needle.jsonl"
    with ResultFile(path, head):
        with pytest.raises(DataError) as error:
            ResultFile(path, head)
        assert str(error.value) == f"{path}: another evaluation writes to it. Wait for it, or take name=..."
    with ResultFile(path, head):
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["needle.jsonl"]


def test_results_of_other_settings_or_another_model_are_kept_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "needle.jsonl"
    runs = [
        (suite(), Lookup(IDS), ""),
        (suite(seed=1), Lookup(IDS), "other settings"),
        (suite(seed=1), Lookup(IDS, extra={"fingerprint": "b"}), "another model"),
        (suite(seed=1, batch=2), Lookup(IDS, extra={"fingerprint": "b"}), ""),
        (suite(seed=2), Lookup(IDS), "other settings and another model"),
    ]
    kept: list[bytes] = []
    for wanted, subject, why in runs:
        before = path.read_bytes() if path.exists() else b""
        capsys.readouterr()
        assert evaluate(wanted, subject, tmp_path).cells == 10
        said = capsys.readouterr().err
        if why:
            kept.append(before)
            assert f"{path} was made with {why}: it is kept as {tmp_path}/needle.{len(kept)}.jsonl." in said
        else:
            assert "kept" not in said
    assert [(tmp_path / f"needle.{number}.jsonl").read_bytes() for number in (1, 2, 3)] == kept


def test_an_older_format_is_kept_aside_and_not_read(tmp_path: Path) -> None:
    path = evaluate(suite(), Lookup(IDS), tmp_path).path
    head, *rest = lines(path)
    path.write_text("\n".join(json.dumps(record) for record in [{**head, "format": 0}, *rest]) + "\n")
    with pytest.raises(DataError, match=r"format 0 given, this version reads 2. Evaluate again."):
        read_result(path)
    assert evaluate(suite(), Lookup(IDS), tmp_path).cells == 10
    assert (tmp_path / "needle.1.jsonl").exists()


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
