from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from oracle import Bytes, Lookup, Numbers

from farfield.benchmarks.reports.tables import tables
from farfield.benchmarks.running.results import Cell, read_result
from farfield.benchmarks.running.runner import evaluate
from farfield.benchmarks.subjects.subject import Capability, Prefilled, Reading
from farfield.benchmarks.suites.recall import RecallSuite
from farfield.config import ConfigError, DataError, FarfieldError, read

IDS = Numbers(600)


@dataclass
class Reader(Lookup):
    """Knows all targets, or, if it is `blind`, none; if it is `unsure`, by rounding alone."""

    capabilities: frozenset[Capability] = frozenset({"read"})
    blind: bool = False
    unsure: bool = False

    def read(self, tokens: NDArray[np.int64], targets: NDArray[np.int64], after: Prefilled | None = None) -> Reading:
        likely = np.full_like(tokens, 0) if self.blind else np.where(targets < 0, 0, targets)
        logprobs = np.where(targets < 0, 0.0, -1.0 if self.blind else -0.25)
        return Reading(None, likely, logprobs, np.full(tokens.shape, self.unsure))


def scores(suite: RecallSuite, subject: Lookup, folder: Path) -> dict[tuple[str, int], float]:
    """Of every cell of the full prompt."""
    cells = read_result(evaluate(suite, subject, folder).path).cells
    return {(cell.task, cell.length): answers.score for cell, answers in cells.items() if cell.condition == "full"}


def test_every_task_is_asked_and_what_does_not_fit_is_skipped(tmp_path: Path) -> None:
    suite = RecallSuite(lengths=(64, 128), samples=5, pairs=(4, 32), controls=())
    found = scores(suite, Reader(IDS, name="reader"), tmp_path / "known")
    names = {
        "mqar_4",
        "mqar_32",
        "copying",
        "selective_copying",
        "induction",
        "ngram_suffix",
        "ngram_prefix",
        "automata",
    }
    assert set(found) == {(name, length) for name in names for length in (64, 128)} - {("mqar_32", 64)}
    assert set(found.values()) == {1.0}
    blind = scores(suite, Reader(IDS, name="blind", blind=True), tmp_path / "blind")
    assert set(blind) == set(found)
    assert set(blind.values()) == {0.0}
    result = read_result(tmp_path / "known" / "recall.jsonl")
    assert result.skipped[Cell("mqar_32", 64)].startswith("recall: mqar_32 needs four tokens for each of its 32 pairs")
    assert result.skipped[Cell("phone_book", 128)] == "needs a model that writes"
    assert result.head["tasks"]["mqar_4"]["labels"] == {"pairs": 4}
    assert result.head["tasks"]["mqar_4"]["scoring"] == "read"
    unsure = evaluate(suite, Reader(IDS, name="unsure", unsure=True), tmp_path / "unsure")
    assert read_result(unsure.path).cells[Cell("mqar_4", 64)].ties == 5 * 4  # at targets, and nowhere else
    answers = result.cells[Cell("mqar_4", 64)]
    assert answers.ties == 0
    assert answers.logprobs == pytest.approx([-1.0] * 5)  # four values at a quarter of a nat


def test_lengths_that_are_too_short_are_one_line_of_the_table(tmp_path: Path) -> None:
    """With the length that each task is asked from; what is asked at none tells its own least."""
    suite = RecallSuite(tasks=("mqar",), lengths=(64, 128, 256), samples=1, pairs=(4, 32, 48, 128))
    result = read_result(evaluate(suite, Reader(IDS, name="reader"), tmp_path).path)
    assert {cell.length for cell in result.short if cell.task == "mqar_48"} == {64, 128}
    (table,) = tables([result], 0.856)
    skipped = [note for note in table.notes if note.startswith("Skipped")]
    assert skipped[0] == "Skipped, too short: mqar_32 from 128, mqar_48 from 256."
    assert [note for note in skipped if "least" in note] == [
        "Skipped: recall: mqar_128 needs four tokens for each of its 128 pairs: 512 is the least length, 256 is given. "
        "Give longer lengths or fewer pairs."
    ]


def test_written_answers_are_asked_for_where_tasks_have_them() -> None:
    tasks = {task.name: task.scorings for task in RecallSuite(scoring="generate").tasks(IDS)}
    assert tasks["copying"] == tasks["ngram_suffix"] == tasks["ngram_prefix"] == ("generate",)
    assert tasks["phone_book"][0] == "generate"
    assert tasks["automata"] == tasks["mqar_4"] == ("read",)
    assert {task.name for task in RecallSuite().tasks(Bytes())} == {"copying", "ngram_suffix", "phone_book"}
    named = RecallSuite(tasks=("automata", "copying"))
    assert [task.name for task in named.tasks(IDS)] == ["copying", "automata"]


def test_settings_come_back_from_a_record() -> None:
    suite = RecallSuite(tasks=("mqar",), pairs=(2,))
    assert json.loads(json.dumps(suite.mapping()))["tasks"] == ["mqar"]
    assert read(RecallSuite, suite.mapping()) == suite


def test_wording_of_the_users_own_is_asked_with(tmp_path: Path) -> None:
    file = tmp_path / "wording.yaml"
    file.write_text('phone_book: {question: "The number of {name} is"}\n', encoding="utf-8")
    ours, theirs = (RecallSuite(tasks=("phone_book",), wording=path) for path in (None, str(file)))
    (own,), (other,) = (suite.tasks(Bytes()) for suite in (ours, theirs))
    assert own.fingerprint != other.fingerprint
    (sample,) = other.generate(0, 300, 1, "test")
    assert "The number of" in bytes(sample.prompt[-60:].tolist()).decode()
    file.write_text("phonebook: {}\n", encoding="utf-8")
    with pytest.raises(DataError) as error:
        theirs.tasks(Bytes())
    assert str(error.value) == (
        f"{file}: unknown section 'phonebook'. Did you mean 'phone_book'? Known: copying, ngram, phone_book."
    )


TEXT_ONLY = "recall: {} has single ids only, and a model of text reads none. Tasks of text: copying, ngram, phone_book."


@pytest.mark.parametrize(
    ("mapping", "tokenizer", "line"),
    [
        (
            {"tasks": ["mqr"]},
            IDS,
            "suite.tasks: recall has no task 'mqr'. Did you mean 'mqar'? Known: automata, copying, induction, mqar, "
            "ngram, phone_book, selective_copying.",
        ),
        ({"pairs": [0]}, IDS, "suite.pairs.0: 0 given. Input should be greater than or equal to 1."),
        ({"power": 0}, IDS, "suite.power: 0 given. Input should be greater than 0."),
        (
            {"mode": "text"},
            IDS,
            "recall: mode=text does not fit a model of the ids tokenizer. Take mode=tokens.",
        ),
        (
            {"mode": "tokens"},
            Bytes(),
            "recall: mode=tokens does not fit a model of the bytes tokenizer. Take mode=text.",
        ),
        ({"tasks": ["mqar"]}, Bytes(), TEXT_ONLY.format("mqar")),
    ],
)
def test_mistakes_are_said_in_one_line(mapping: dict[str, Any], tokenizer: Bytes | Numbers, line: str) -> None:
    with pytest.raises(FarfieldError) as error:
        read(RecallSuite, mapping, "suite").tasks(tokenizer)
    assert str(error.value) == line


def test_a_length_that_none_can_be_asked_at_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        evaluate(RecallSuite(tasks=("mqar",), pairs=(32,), lengths=(64,)), Reader(IDS), tmp_path)
    assert "32 pairs: 128 is the least length, 64 is given" in str(error.value)
