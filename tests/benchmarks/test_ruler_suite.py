from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from oracle import Bytes, Lookup, Numbers
from ruler_solver import hotpot_entries, solve, write_hotpot, write_squad

from farfield.benchmarks.reports.tables import tables
from farfield.benchmarks.running.results import read_result
from farfield.benchmarks.running.runner import evaluate
from farfield.benchmarks.subjects.subject import Prefilled, Written
from farfield.benchmarks.suites.ruler import RulerSuite
from farfield.benchmarks.tasks.ruler.catalogue import NAMES, Sources, text_tasks
from farfield.benchmarks.tasks.ruler.documents import Collection, read_hotpot, read_squad
from farfield.benchmarks.tasks.ruler.effective import effective_length, own_threshold, weighted_mean
from farfield.benchmarks.tasks.ruler.scoring import clean, match_all, match_part, nulls
from farfield.config import ConfigError, DataError, read
from farfield.data.suite import SuiteData

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@pytest.mark.parametrize(
    ("output", "gold", "every", "some"),
    [
        ("1234567", ["1234567"], 1, 1),
        ("12345678", ["1234567"], 1, 1),  # within a longer number: the published rule counts it
        ("The answer is ABCDE and fghij.", ["abcde", "FGHIJ"], 1, 1),
        ("abcde", ["ABCDE", "FGHIJ"], 0.5, 1),
        ("abc\x00de", ["abcde"], 0, 0),
        ("one\x07two", ["one\ntwo"], 1, 1),
        ("one\ttwo", ["one two"], 0, 0),
        ("\x1f\x00 Paris \n", ["Paris"], 1, 1),
        ("Denver Broncos", ["The Denver Broncos", "Denver Broncos", "the Broncos"], pytest.approx(1 / 3), 1),
        ("", ["a"], 0, 0),
        ("no", ["No", "yes"], 0.5, 1),
    ],
)
def test_outputs_are_matched_as_published(output: str, gold: list[str], every: float, some: float) -> None:
    assert match_all(output, gold) == every
    assert match_part(output, gold) == some


def test_outputs_that_say_nothing_are_counted() -> None:
    assert clean(" \x00a\x01b\x1f ") == "a\nb"
    assert nulls(["", " \n", "\x00\x1f", "a", "\x07."]) == 3


def test_the_effective_length_is_the_largest_above_the_threshold() -> None:
    llama = {4096: 0.955, 8192: 0.938, 16384: 0.916, 32768: 0.874, 65536: 0.847, 131072: 0.770}
    assert effective_length(llama) == 32768
    assert effective_length({4096: 0.856}) is None
    assert effective_length({4096: 0.8561}) == 4096
    assert effective_length({256: 0.9, 512: 0.5, 1024: 0.9}) == 1024
    assert effective_length(llama, threshold=0.95) == 4096
    assert effective_length({}) is None


def test_a_small_model_is_measured_by_what_it_does_on_short_texts() -> None:
    means = {256: 0.5, 512: 0.6, 2048: 0.52, 4096: 0.3}
    assert own_threshold(means) == pytest.approx(0.51)
    assert effective_length(means, own_threshold(means)) == 2048
    assert own_threshold({8192: 0.4, 4096: 0.8}) == pytest.approx(0.68)


def test_means_are_weighted_as_published() -> None:
    """Jamba-1.5-large: its published columns give the published averages."""
    jamba = dict(zip((4096, 8192, 16384, 32768, 65536, 131072), (96.7, 96.6, 96.4, 96.0, 95.4, 95.1), strict=True))
    assert weighted_mean(jamba, rising=True) == pytest.approx(95.748, abs=1e-3)
    assert weighted_mean(jamba, rising=False) == pytest.approx(96.319, abs=1e-3)
    assert weighted_mean({8: 1.0, 4: 0.0}, rising=True) == pytest.approx(2 / 3)


def test_questions_without_an_answer_are_left_out_and_answers_come_once(tmp_path: Path) -> None:
    found = read_squad(str(write_squad(tmp_path)))
    assert (len(found.documents), len(found.questions)) == (40, 40)
    assert {len(question.answers) for question in found.questions} == {1}
    assert found.questions[5].related == (4, 6, 7)
    again = read_squad(str(tmp_path))
    assert again.fingerprint == found.fingerprint


def test_both_forms_of_hotpot_are_one(tmp_path: Path) -> None:
    published = read_hotpot(str(write_hotpot(tmp_path)))
    assert published.questions[1].gold == (5, 9)
    assert published.questions[1].related == (6, 7, 8)
    assert published.documents[6] == "Hill 1 0\nA hill of no great height."
    folder = tmp_path / "lines"
    folder.mkdir()
    lines = []
    for entry in hotpot_entries():
        context: Any = entry["context"]
        facts: Any = entry.pop("supporting_facts")
        entry["gold_titles"] = list(dict.fromkeys(title for title, _ in facts))
        entry["context"] = [[title, "".join(sentences)] for title, sentences in context]
        lines.append(json.dumps(entry))
    (folder / "questions.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "notes.csv").write_text("nothing")
    again = read_hotpot(str(folder))
    assert again.fingerprint == published.fingerprint
    assert again.questions == published.questions


Reader = Callable[[str], Collection]
PARAGRAPH = {"context": "c", "qas": [{"question": "q", "answers": [{"text": "c"}]}]}


LIKE = {
    read_squad: ("suite.squad", "SQuAD's dev-v2.0.json"),
    read_hotpot: ("suite.hotpot", "HotpotQA's hotpot_dev_distractor_v1.json"),
}


def squad(**changes: object) -> dict[str, object]:
    return {"data": [{"paragraphs": [{**PARAGRAPH, **changes}]}]}


def hotpot(**changes: object) -> list[dict[str, object]]:
    return [{**hotpot_entries()[0], **changes}]


@pytest.mark.parametrize(
    ("reader", "name", "content", "line"),
    [
        (read_squad, "a.json", {"version": "2"}, "{file}: 'data' is missing. It has: version."),
        (read_squad, "a.json", [], "{file}: an object is expected, not a list."),
        (read_squad, "a.json", {"data": {}}, "{file}: data: a list is expected, not an object."),
        (read_squad, "a.json", {"data": [3]}, "{file}: data.0: an object is expected, not a number."),
        (
            read_squad,
            "a.json",
            squad(context=5),
            "{file}: data.0.paragraphs.0.context: a text is expected, not a number.",
        ),
        (
            read_squad,
            "a.json",
            squad(qas=[{"question": "q"}]),
            "{file}: data.0.paragraphs.0.qas.0: 'answers' is missing. It has: question.",
        ),
        (
            read_squad,
            "a.json",
            squad(qas=[{"question": "q", "answers": [{"string": "c"}]}]),
            "{file}: data.0.paragraphs.0.qas.0.answers.0: 'text' is missing. It has: string.",
        ),
        (
            read_squad,
            "a.json",
            squad(qas=[]),
            "{file} has no question with an answer: no 'qas' of 'paragraphs' of 'data' hold any, a text in 'answers'.",
        ),
        (
            read_squad,
            "a.json",
            squad(qas=[{"question": "q", "answers": []}, {"question": "r", "answers": [{"text": ""}]}]),
            "{file} has no question with an answer: none of its 2 questions has one, a text in 'answers'.",
        ),
        (read_hotpot, "a.json", [], "{file} has no question."),
        (read_hotpot, "a.json", {"a": 1}, "{file}: a list is expected, not an object."),
        (read_hotpot, "a.json", hotpot(answer=None), "{file}: 0.answer: a text is expected, not null."),
        (read_hotpot, "a.json", hotpot(context=[["t"]]), "{file}: 0.context.0: a list of 2 is expected, not of 1."),
        (
            read_hotpot,
            "a.jsonl",
            hotpot(context=[["t", ["s", 4]]])[0],
            "{file}: line 1.context.0.1.1: a text is expected, not a number.",
        ),
        (
            read_hotpot,
            "a.jsonl",
            hotpot(supporting_facts=[["Elsewhere", 0]])[0],
            "{file}: line 1: the gold title 'Elsewhere' is not among the titles of 'context'.",
        ),
    ],
)
def test_a_wrong_schema_says_which_field_and_where(
    reader: Reader, name: str, content: object, line: str, tmp_path: Path
) -> None:
    file = tmp_path / name
    file.write_text(json.dumps(content))
    with pytest.raises(DataError) as error:
        reader(str(file))
    setting, like = LIKE[reader]
    assert str(error.value) == f"{setting}: {line.format(file=file)} Give a file like {like}."


def test_files_that_cannot_be_used_are_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "latin.json").write_bytes(b'"caf\xe9"')
    (tmp_path / "cut.jsonl").write_text('{"question": "a"}\n{"question": ')
    (tmp_path / "none").mkdir()
    for reader, path, line in [
        (read_squad, tmp_path / "no.json", f"suite.squad: {tmp_path / 'no.json'} is no file and no folder."),
        (
            read_hotpot,
            tmp_path / "none",
            f"suite.hotpot: the folder {tmp_path / 'none'} has no file that ends in .json or .jsonl.",
        ),
        (
            read_squad,
            tmp_path / "latin.json",
            f"suite.squad: {tmp_path / 'latin.json'} is not UTF-8 text: invalid continuation byte at byte 4.",
        ),
    ]:
        with pytest.raises(DataError) as error:
            reader(str(path))
        assert str(error.value) == line
    (tmp_path / "bad.json").write_text('{"data": ')
    with pytest.raises(DataError, match=r"bad\.json: not JSON: Expecting value: line 1 column 10"):
        read_squad(str(tmp_path / "bad.json"))
    (tmp_path / "bad.jsonl").write_text(json.dumps(hotpot_entries()[0]) + '\n{"question": ')
    with pytest.raises(DataError, match=r"bad\.jsonl: line 2: not JSON: "):
        read_hotpot(str(tmp_path / "bad.jsonl"))
    (tmp_path / "few.txt").write_text("one two two")
    with pytest.raises(DataError, match=r"^suite\.words: .*few\.txt has 2 different words, 400 or more are needed\.$"):
        text_tasks(["cwe"], Bytes(), Sources(words=str(tmp_path / "few.txt")))
    with pytest.raises(DataError, match=r"^suite\.essay: haystack: "):
        text_tasks(["vt"], Bytes(), Sources(essay="/nowhere"))
    (tmp_path / "wording.yaml").write_text("niahs:\n  needle: x\n")
    with pytest.raises(DataError, match=r"wording\.yaml: unknown section 'niahs'\. Did you mean 'niah'\?"):
        text_tasks(["vt"], Bytes(), Sources(wording=str(tmp_path / "wording.yaml")))


class Solver(Lookup):
    """Solves what it has read."""

    def generate(self, prefilled: Prefilled, budget: int, stop: tuple[str, ...] = ()) -> Written:
        assert isinstance(prefilled, np.ndarray)
        rows = [bytes(row.tolist()).decode() for row in prefilled]
        return Written([self.tokenizer.encode(self._solved(row))[:budget] for row in rows], [0] * len(rows))

    def _solved(self, prompt: str) -> str:
        starts = {"Follow": "vt", "Here is a numbered": "cwe", "Read the coded": "fwe", "Answer the question": "qa_1"}
        name = next((name for start, name in starts.items() if prompt.startswith(start)), "niah")
        return solve("qa_2" if "town on the" in prompt[-200:] else name, prompt)

    def choose(self, prefilled: Prefilled, choices: Any) -> list[NDArray[np.float64]]:
        assert isinstance(prefilled, np.ndarray)
        written = [self._solved(bytes(row.tolist()).decode()) for row in prefilled]
        return [
            np.array([-float(bytes(one.tolist()).decode().strip() not in text) for one in row])
            for text, row in zip(written, choices, strict=True)
        ]


@pytest.mark.parametrize("scoring", ["generate", "likelihood"])
def test_a_solver_is_perfect_through_the_runner_and_a_blind_one_is_not(scoring: str, tmp_path: Path) -> None:
    squad, hotpot = str(write_squad(tmp_path)), str(write_hotpot(tmp_path))
    given = {
        "kind": "ruler",
        "lengths": [256, 2500],
        "samples": 3,
        "squad": squad,
        "hotpot": hotpot,
        "scoring": scoring,
    }
    suite = read(RulerSuite, {**given, "controls": ["no_context", "gold_only"]})
    outcome = evaluate(suite, Solver(Bytes()), tmp_path / "out")
    result = read_result(outcome.path)
    tasks = {cell.task for cell in result.cells}
    assert tasks == set(NAMES)
    for cell, answers in result.cells.items():
        assert answers.score == 1.0 if cell.condition != "no_context" else answers.score < 0.5, cell
        assert answers.length == 2500 or answers.unfilled
    short = {cell.length for cell in result.skipped}
    assert short == {256}
    assert all("is too short for the task" in reason for reason in result.skipped.values())


def test_tasks_without_data_are_skipped_and_the_rest_is_done(tmp_path: Path) -> None:
    suite = RulerSuite.model_validate({"tasks": ("fwe", "qa_1"), "lengths": (600,), "samples": 1, "controls": ()})
    result = read_result(evaluate(suite, Solver(Bytes()), tmp_path).path)
    assert [cell.task for cell in result.cells] == ["fwe"]
    (reason,) = result.skipped.values()
    assert reason.startswith("qa_1: needs the questions of SQuAD. Give suite.squad=")
    assert result.head["tasks"]["fwe"]["metric"] == "string_match_all"
    assert result.head["tasks"]["qa_1"]["metric"] == "string_match_part"
    with pytest.raises(ConfigError, match=r"^qa_1: needs the questions of SQuAD"):
        evaluate(RulerSuite.model_validate({"tasks": ("qa_1",)}), Solver(Bytes()), tmp_path / "b")


def test_a_model_of_ids_has_the_token_mode() -> None:
    assert [task.name for task in RulerSuite().tasks(Numbers(512))] == list(NAMES)
    with pytest.raises(ConfigError, match=r"^suite\.essay: text, and a model of the ids tokenizer reads none"):
        RulerSuite(essay="book.txt").tasks(Numbers(512))


def test_its_training_split_is_data_of_the_tasks_that_can_be_made() -> None:
    source = SuiteData(suite=RulerSuite(lengths=(128, 256))).open(seed=1, batch=16)
    told = str(source.describe()["tasks"])
    assert "vt 128" in told
    assert "cwe 256" in told
    assert "cwe 128" not in told
    assert "qa_1" not in told
    for step in range(3):
        drawn = source.batch(step)
        assert drawn.tokens.shape[1] in (128, 256)
        assert (drawn.targets >= 0).sum(axis=1).min() >= 1


def test_an_unknown_task_is_told_with_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"ruler has no task 'niah_single_4'\. Did you mean 'niah_single_\d'\? Known: cwe, "
    ):
        read(RulerSuite, {"kind": "ruler", "tasks": ["niah_single_4"]}, "suite")


@pytest.mark.parametrize(
    ("name", "path", "documents", "questions"), [("qa_1", "squad", 240, 1190), ("qa_2", "hotpotqa_dev500", 4900, 500)]
)
def test_real_questions_are_asked(name: str, path: str, documents: int, questions: int) -> None:
    if not (DATA / path).is_dir():
        pytest.skip(f"the folder {path} is not beside this checkout")
    given = Sources(squad=str(DATA / path)) if name == "qa_1" else Sources(hotpot=str(DATA / path))
    (task,) = text_tasks([name], Bytes(), given)
    found = read_squad(str(DATA / path)) if name == "qa_1" else read_hotpot(str(DATA / path))
    assert len(found.documents) >= documents
    assert len(found.questions) == questions
    places = []
    for sample in task.generate(0, 16384, 60, "test"):
        assert sample.length == 16384
        text = Bytes().decode(sample.prompt.tolist())
        answer = sample.text_answers[0]
        assert answer in text or answer in ("yes", "no")
        places.append(sample.depths[0])
    assert np.std(places) > 0.15


def test_what_is_not_comparable_with_published_numbers_is_said_below_the_table(tmp_path: Path) -> None:
    def notes(tokenizer: Bytes | Numbers, folder: str, **changes: Any) -> str:
        given = {"tasks": ["niah_single_1", "niah_single_2"], "lengths": [1024], "samples": 1, "controls": []}
        subject = Lookup(tokenizer, capabilities=frozenset())  # what cannot be asked has a table too
        outcome = evaluate(read(RulerSuite, {**given, **changes}), subject, tmp_path / folder)
        (table,) = tables([read_result(outcome.path)], 0.856)
        return "\n".join(table.notes)

    text = tmp_path / "essay.txt"
    text.write_text("Of making many books there is no end. " * 100)
    noise = "The essay of niah_single_2: sentences of noise of our own"
    assert noise in notes(Bytes(), "noise")
    assert "not comparable" not in notes(Bytes(), "essay", essay=str(text))
    assert "not comparable" not in notes(Bytes(), "single", tasks=["niah_single_1"])
    assert "Single ids in the place of RULER's texts: not comparable" in notes(Numbers(4096), "ids")
