from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from recaller import recaller

from farfield.benchmarks.reports.tables import tables
from farfield.benchmarks.running.results import read_result
from farfield.benchmarks.running.runner import evaluate
from farfield.benchmarks.suites.needle import NeedleSuite
from farfield.benchmarks.suites.recall import RecallSuite
from farfield.compose import option

SMALL = ["segment=16"]
MEMORIES: dict[str, tuple[str, list[str]]] = {
    "knn": ("knn", SMALL),
    "knn, gated": ("knn", [*SMALL, "combine=gate"]),
    "fot": ("fot", SMALL),
    "infllm": ("infllm", [*SMALL, "unit=16", "initial=16", "top=12"]),
    "sinks that hold everything": ("sinks", SMALL),
}


def scores(folder: Path, memory: dict[str, Any] | None, window: int | None, **changes: Any) -> dict[str, set[float]]:
    """The scores of the cells by condition."""
    suite = NeedleSuite(lengths=(200,), depths=(0.1, 0.3, 0.6), samples=4, needles=4, **changes)
    found: dict[str, set[float]] = {}
    result = read_result(evaluate(suite, recaller(memory, window), folder).path)
    for cell, got in result.cells.items():
        found.setdefault(cell.condition, set()).add(got.score)
    return found


@pytest.mark.parametrize("window", [None, 16], ids=["full attention", "a window"])
@pytest.mark.parametrize("name", MEMORIES)
def test_recall_is_gone_without_the_memory_and_with_its_entries_exchanged(
    name: str, window: int | None, tmp_path: Path
) -> None:
    found = scores(tmp_path, option("memory", *MEMORIES[name]), window)
    assert found["full"] == {1.0}
    assert found["gold_only"] == {1.0}
    assert max(found["memory_off"] | found["memory_shuffled"] | found["no_context"]) == 0


@pytest.mark.parametrize("name", [name for name in MEMORIES if name != "knn, gated"])  # it has half of the near field
def test_what_is_read_is_gone_without_the_memory_and_with_its_entries_exchanged(name: str, tmp_path: Path) -> None:
    """Sixteen pairs, asked soon: what little a window still holds of them needs no memory."""
    suite = RecallSuite(tasks=("mqar", "induction"), pairs=(16,), lengths=(128,), samples=4)
    subject = recaller(option("memory", *MEMORIES[name]), 16, vocabulary=200)
    result = read_result(evaluate(suite, subject, tmp_path).path)
    assert not result.skipped
    scores = {(cell.task, cell.condition): got.score for cell, got in result.cells.items()}
    for task in ("mqar_16", "induction"):
        assert scores[task, "full"] == scores[task, "gold_only"] == 1
        assert scores[task, "no_context"] == 0
        assert scores[task, "memory_off"] <= scores[task, "memory_shuffled"] <= 0.25
    assert scores["mqar_16", "memory_off"] == scores["mqar_16", "memory_shuffled"]  # nothing comes from the memory


def test_a_table_of_what_is_read_has_its_controls(tmp_path: Path) -> None:
    """Of a model without a memory too, with the reason where there is none."""
    suite = RecallSuite(tasks=("mqar", "copying", "automata"), pairs=(4,), lengths=(64,), samples=2)
    result = read_result(evaluate(suite, recaller(vocabulary=96), tmp_path).path)
    controls = {cell for cell in result.cells if cell.condition != "full"}
    assert {(cell.task, cell.condition) for cell in controls} == {
        ("mqar_4", "no_context"),
        ("mqar_4", "gold_only"),
        ("copying", "no_context"),
    }
    notes = [note for table in tables([result], 0.856) for note in table.notes]
    assert (
        "Skipped no context, gold only: automata asks at every place of its text, and has no question apart from it."
        in notes
    )
    assert any(note.startswith("Skipped gold only: the text of copying is gold all through") for note in notes)


def test_a_model_without_a_memory_skips_its_controls(tmp_path: Path) -> None:
    suite = NeedleSuite(lengths=(200,), depths=1, samples=1)
    result = read_result(evaluate(suite, recaller(), tmp_path).path)
    assert {cell.condition: reason for cell, reason in result.skipped.items()} == {
        "memory_off": "needs a model that has an external memory",
        "memory_shuffled": "needs a model that has an external memory",
    }


def test_a_memory_that_has_nothing_yet_skips_the_shuffled_control(tmp_path: Path) -> None:
    suite = NeedleSuite(lengths=(40,), depths=1, samples=1, controls=("memory_shuffled",))
    result = read_result(evaluate(suite, recaller(option("memory", "knn", ["segment=64"])), tmp_path).path)
    (reason,) = result.skipped.values()
    assert reason == "memory 'knn': read from 65 tokens on, and 37 are before the question."


def test_a_model_whose_answers_depend_on_calls_reads_whole_prompts(tmp_path: Path) -> None:
    memory = option("memory", "snapkv", ["when=call", "segment=16"])
    subject = recaller(memory)
    assert subject.capabilities == {"generate", "score", "read", "memory"}
    suite = NeedleSuite(lengths=(200,), depths=3, samples=2, controls=("memory_shuffled",))
    outcome = evaluate(suite, subject, tmp_path)
    assert outcome.prefilled == outcome.naive
    assert list(read_result(outcome.path).skipped.values()) == ["needs a model that keeps a state"]
