"""The task of documents: what is cut, what is shared, what each reading shows, what the files must hold."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Bytes, Lookup, Numbers

from farfield.benchmarks.running.results import read_result
from farfield.benchmarks.running.runner import evaluate
from farfield.benchmarks.subjects.subject import Written
from farfield.benchmarks.suites.longdoc import LongdocSuite, PassageFinder
from farfield.benchmarks.tasks.longdoc.catalogue import BENCHMARKS, document_tasks
from farfield.benchmarks.tasks.longdoc.cutting import cut, placed
from farfield.benchmarks.tasks.longdoc.task import DocumentTask
from farfield.benchmarks.tasks.sample import Sample, TooShortError
from farfield.config import ConfigError, DataError, read
from farfield.tokenizers import train_bpe

BYTES = Bytes()
Rows = Sequence[Mapping[str, Any]]
Write = Callable[[str, Rows], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def fill(name: str, rows: Rows) -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(json.dumps(row) for row in rows))
        return tmp_path

    return fill


def longbench_row(context: str, question: str, *answers: str) -> dict[str, Any]:
    return {
        "input": question,
        "context": context,
        "answers": list(answers),
        "length": len(context.split()),
        "dataset": "hotpotqa",
        "language": "en",
        "all_classes": None,
        "_id": question,
    }


def filler(count: int, seed: int) -> str:
    words = np.random.default_rng(seed).choice(["road", "hill", "wind", "tree", "lake", "bird", "door"], count)
    return " ".join(words)


def documents(count: int = 4, words: int = 800) -> list[dict[str, Any]]:
    """Three questions to each document; a person's city stands somewhere in it."""
    rows = []
    for number in range(count):
        names = [f"Person{number}{letter}" for letter in "ABC"]
        cities = [f"City{number}{letter}" for letter in "ABC"]
        parts = [
            f"{filler(words // 3, number * 7 + at)}. {name} lives in {city}. "
            for at, (name, city) in enumerate(zip(names, cities, strict=True))
        ]
        context = "".join(parts) + filler(words // 6, number)
        rows += [
            longbench_row(context, f"In which city does {name} live{'?' * (at + 1)}", city)
            for at, (name, city) in enumerate(zip(names, cities, strict=True))
        ]
    return rows


def only(folder: Path, benchmark: str, *names: str, finder: PassageFinder | None = None) -> DocumentTask:
    (task,) = document_tasks(BENCHMARKS[benchmark], names, folder, BYTES, None, finder)
    return task


@given(
    size=st.integers(0, 300),
    room=st.integers(0, 300),
    half=st.integers(-20, 300),
    mark=st.integers(0, 5),
    rule=st.sampled_from(["middle", "end", "start"]),
)
@settings(deadline=None, max_examples=80)
def test_what_is_cut_fills_the_room_and_places_are_followed(
    size: int, room: int, half: int, mark: int, rule: Any
) -> None:
    document, sign = np.arange(size, dtype=np.int32), np.full(mark, -1, np.int32)
    cutting = cut(size, room, rule, half, mark)
    left = cutting.apply(document, sign)
    assert len(left) == size if size <= room else len(left) == max(room, mark)
    words = left[left >= 0]
    assert words.tolist() == [*range(cutting.head), *range(size - cutting.tail, size)]
    for at in range(size):
        place = placed((at, at + 1), cutting, 7, mark)
        if at in words:
            assert place is not None
            assert left[place[0] - 7] == at
        else:
            assert place is None


def test_the_middle_of_the_whole_prompt_is_left_out(write: Write) -> None:
    task = only(write("hotpotqa.jsonl", documents()), "longbench_v1", "hotpotqa")
    samples = task.generate(0, 2048, task.available(2048, "test"), "test")
    for sample in samples:
        text, document = BYTES.decode(sample.prompt.tolist()), document_of(sample)
        assert 0.98 * 2048 <= len(sample.prompt) + sample.budget == sample.length <= 2048
        assert not sample.unfilled
        # Half of the length before the cut, as the published rule cuts.
        before = text.index(document[:200])
        half = (2048 - 32) // 2
        assert text[before:half] == document[: half - before]
        assert document.endswith(text[half : sample.question])
        assert BYTES.decode(sample.prompt[sample.question :].tolist()).startswith("\n\nAnswer in a few words")


def document_of(sample: Sample) -> str:
    return str(getattr(sample.reference, "document"))  # noqa: B009  the reference is the task's own


def test_questions_about_one_document_share_their_beginning(write: Write) -> None:
    task = only(write("hotpotqa.jsonl", documents()), "longbench_v1", "hotpotqa")
    for length in (1024, 2048, 65536):
        samples = task.generate(0, length, task.available(length, "test"), "test")
        for at in range(0, len(samples), 3):
            group = samples[at : at + 3]
            assert len({document_of(sample) for sample in group}) == 1
            beginnings = {tuple(sample.prompt[: sample.question].tolist()) for sample in group}
            assert len(beginnings) == 1
            assert len({sample.question for sample in group}) == 1
    first, again = (task.generate(0, 2048, 5, "test", first=at)[0] for at in (3, 3))
    assert first.prompt.tolist() == again.prompt.tolist() == task.generate(0, 2048, 4, "test")[3].prompt.tolist()
    orders = [[document_of(s) for s in task.generate(seed, 2048, 12, "test")] for seed in range(6)]
    assert len({tuple(order) for order in orders}) > 1


def test_short_documents_are_as_they_are(write: Write) -> None:
    task = only(write("hotpotqa.jsonl", documents(words=60)), "longbench_v1", "hotpotqa")
    (sample,) = task.generate(0, 4096, 1, "test")
    assert document_of(sample) in BYTES.decode(sample.prompt.tolist())
    assert sample.unfilled == "the document has no more"
    assert sample.length == len(sample.prompt) + 32 < 1000


def test_each_reading_shows_what_it_says(write: Write) -> None:
    finder = PassageFinder(2, 50, "lexical")
    rows = [
        {
            "_id": "1",
            "question": "Where does Ann live?",
            "answer": "Rome",
            "gold_titles": ["Ann"],
            "context": [
                ["Bob", filler(300, 1)],
                ["Ann", "Ann lives in Rome. " + filler(40, 2)],
                ["Cid", filler(300, 3)],
            ],
        }
    ]
    task = only(write("questions.jsonl", rows), "hotpotqa", "lines", finder=finder)
    (sample,) = task.generate(0, 1024, 1, "test")
    texts = {name: BYTES.decode(ids.tolist()) for name, ids in sample.prompts.items()}
    assert set(texts) == {"remembered", "no_context", "gold_only", "retrieved"}
    assert document_of(sample) in texts["remembered"]
    assert "Rome" not in texts["no_context"]
    assert texts["no_context"].startswith("Answer in a few words")
    assert "Ann\nAnn lives in Rome." in texts["gold_only"]
    assert "Bob" not in texts["gold_only"]
    assert "Ann lives in Rome." in texts["retrieved"]
    assert len(texts["retrieved"]) < 1024 - 32
    assert len(texts["remembered"]) > 3000
    assert all(text.endswith("Question: Where does Ann live?\nAnswer:") for text in texts.values())
    # The evidence is inside what is cut at its end only if it is early enough.
    assert sample.gold == ()
    (whole,) = task.generate(0, 8192, 1, "test")
    ((low, high),) = whole.gold
    assert BYTES.decode(whole.prompt[low:high].tolist()) == rows[0]["context"][1][0] + "\n" + rows[0]["context"][1][1]
    assert whole.depths[0] == pytest.approx(document_of(whole).index("Ann\n") / len(document_of(whole)))


@pytest.mark.parametrize("search", ["lexical", "hybrid"])
def test_the_best_passages_of_a_document_are_found(search: Any) -> None:
    text = " ".join(f"Part {number}: {filler(20, number)} answer{number % 7}." for number in range(60))
    found = PassageFinder(3, 25, search).find(text, "answer3 answer3")
    assert len(found) == 3
    assert all(text[start : start + len(passage)] == passage for start, passage in found)
    assert all("answer3" in passage for _, passage in found)


def test_a_seeing_subject_is_right_and_a_blind_one_is_not(write: Write, tmp_path: Path) -> None:
    folder = write("hotpotqa.jsonl", documents())
    suite = read(
        LongdocSuite,
        {
            "benchmark": "longbench_v1",
            "source": str(folder),
            "tasks": ["hotpotqa"],
            "lengths": [8192],
            "samples": 50,
            "passages": 1,
            "passage_words": 40,
        },
    )

    class Reader(Lookup):
        """Answers with the city that it has read of the person who is asked for."""

        def _reply(self, row: Any) -> list[int]:
            text = BYTES.decode(row.tolist())
            name = text.rsplit("does ", 1)[-1].split(" live")[0]
            city = text.rsplit(f"{name} lives in ", 1)
            return BYTES.encode(f" {city[1].split('.')[0]}\n") if len(city) == 2 else []

    outcome = evaluate(suite, Reader(BYTES), tmp_path / "results")
    cells = read_result(outcome.path).cells
    scores = {cell.condition: answers.score for cell, answers in cells.items()}
    assert scores == {"full": 1, "no_context": 0, "retrieved": 1, "remembered": 1}
    # All twelve questions, although more were asked for.
    assert {answers.count for answers in cells.values()} == {12}
    # Three questions to a document, whose text is read once.
    full = next(answers for cell, answers in cells.items() if cell.condition == "full")
    assert full.prefilled < 0.45 * full.naive
    assert outcome.path.name == "longdoc_longbench_v1.jsonl"
    blind = evaluate(suite, Reader(BYTES, window=40), tmp_path / "blind")
    assert {answers.score for answers in read_result(blind.path).cells.values()} == {0}


def test_answers_to_other_questions_are_choices(write: Write) -> None:
    task = only(write("hotpotqa.jsonl", documents()), "longbench_v1", "hotpotqa")
    assert task.scorings == ("generate", "likelihood")
    places = set()
    for sample in task.generate(0, 2048, 12, "test"):
        texts = [BYTES.decode(ids.tolist()) for ids in sample.choices]
        assert len(set(texts)) == len(texts) == 8
        assert texts[sample.right[0]] == f" {sample.text_answers[0]}"
        assert all(len(ids) <= sample.budget for ids in sample.choices)
        places.add(sample.right)
    assert len(places) > 3


def test_lengths_that_are_too_short_say_which_is_not(write: Write) -> None:
    task = only(write("hotpotqa.jsonl", documents()), "longbench_v1", "hotpotqa")
    with pytest.raises(TooShortError, match=r"a length of 100 tokens is too short .* \d+ is the least") as caught:
        task.check(0, 100, 3, "test")
    least = int(str(caught.value).split(": ")[-1].split(" is the least")[0])
    # Which questions these are depends on how many are asked, and the message says so.
    assert str(caught.value).endswith(f"{least} is the least for the questions asked (3). Give longer lengths.")
    samples = task.generate(0, least, 12, "test")
    assert max(sample.length for sample in samples) == least
    with pytest.raises(TooShortError):
        task.generate(0, least - 1, 12, "test")


def test_there_is_nothing_to_train_on(write: Write) -> None:
    task = only(write("hotpotqa.jsonl", documents()), "longbench_v1", "hotpotqa")
    with pytest.raises(ConfigError, match="its questions are for testing"):
        task.check(0, 4096, 1, "train")
    with pytest.raises(ConfigError, match="13 samples asked for, and it has 12 questions"):
        task.generate(0, 4096, 13, "test")


def test_both_tokenizers_fill_the_length(write: Write) -> None:
    folder = write("hotpotqa.jsonl", documents())
    tokenizer = train_bpe([row["context"] for row in documents()], 300)
    (task,) = document_tasks(BENCHMARKS["longbench_v1"], ["hotpotqa"], folder, tokenizer, None, None)
    for sample in task.generate(0, 512, 12, "test"):
        assert 0.98 * 512 <= sample.length <= 512
        assert sample.length == len(sample.prompt) + sample.budget


def test_own_wording_takes_the_place_of_ours(write: Write, tmp_path: Path) -> None:
    folder = write("hotpotqa.jsonl", documents())
    file = tmp_path / "wording.yaml"
    file.write_text('longbench_v1_hotpotqa:\n  introduction: "Passages:\\n"\n  question: "\\nQ: {input}\\nA:"\n')
    (task,) = document_tasks(BENCHMARKS["longbench_v1"], ["hotpotqa"], folder, BYTES, str(file), None)
    (sample,) = task.generate(0, 2048, 1, "test")
    text = BYTES.decode(sample.prompt.tolist())
    assert text.startswith("Passages:\n" + document_of(sample)[:100])
    assert text.rsplit("\nQ: ", 1)[1].endswith("\nA:")
    assert task.fingerprint != only(folder, "longbench_v1", "hotpotqa").fingerprint


def test_files_lie_at_any_depth_and_in_archives(write: Write, tmp_path: Path) -> None:
    deep = write("some/where/data/hotpotqa.jsonl", documents())
    assert only(deep, "longbench_v1").available(1024, "test") == 12
    packed = tmp_path / "packed"
    packed.mkdir()
    with zipfile.ZipFile(packed / "data.zip", "w") as archive:
        archive.write(tmp_path / "some/where/data/hotpotqa.jsonl", "data/hotpotqa.jsonl")
    assert only(packed, "longbench_v1").fingerprint == only(deep, "longbench_v1").fingerprint
    (packed / "data.zip").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"data.zip: a damaged archive"):
        only(packed, "longbench_v1", "hotpotqa")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", r"hotpotqa.jsonl: line 2: no JSON: "),
        ("[1]", r"hotpotqa.jsonl: line 2: a list, an object is needed\."),
        ("{}", r"hotpotqa.jsonl: line 2: 'input' is missing\. Its fields: none\."),
        ('{"imput": "x"}', r"'input' is missing\. Did you mean 'imput'\? Its fields: imput\."),
        ('{"input": "x", "answers": [1], "context": 3}', r"line 2: 'context' is a number, a text is needed\."),
        ('{"input": "x", "answers": [], "context": ""}', r"line 2: 'answers' is empty, a text or more is needed\."),
        ('{"input": "x", "answers": null, "context": ""}', r"line 2: 'answers' is null, a list of texts is needed\."),
    ],
)
def test_another_schema_is_told_by_file_line_and_field(tmp_path: Path, line: str, problem: str) -> None:
    (tmp_path / "hotpotqa.jsonl").write_text(json.dumps(longbench_row("a", "b", "c")) + "\n" + line)
    with pytest.raises(DataError, match=problem) as caught:
        only(tmp_path, "longbench_v1", "hotpotqa")
    assert "\n" not in str(caught.value)


def suite_of(tmp_path: Path, **given: object) -> LongdocSuite:
    return read(LongdocSuite, {"source": str(tmp_path), **given}, "suite")


def test_mistakes_in_the_settings_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"suite.tasks: longdoc leval has no task 'qualty'\. Did you mean 'qu"):
        suite_of(tmp_path, benchmark="leval", tasks=["qualty"]).tasks(BYTES)
    with pytest.raises(ConfigError, match=r"suite.benchmark: unknown choice 'levall'\. Did you mean 'leval'\?"):
        suite_of(tmp_path, benchmark="levall")
    with pytest.raises(
        DataError, match=r"suite.source: .* has no file of leval\. It looks for coursera.jsonl, [^ ]+.*\.\.\.$"
    ):
        suite_of(tmp_path, benchmark="leval").tasks(BYTES)
    (tmp_path / "trec.jsonl").write_text("{}")
    with pytest.raises(
        DataError, match=r"no file of leval\. .* Its files are those of longbench_v1: give suite.benchmark=l"
    ):
        suite_of(tmp_path, benchmark="leval").tasks(BYTES)
    (tmp_path / "trec.jsonl").unlink()
    (tmp_path / "quality.jsonl").write_text("{}")
    (tmp_path / "coursera.jsonl").write_text("{}")
    with pytest.raises(
        DataError, match=r"has no file of longbench_v1\. .* those of leval: give suite.benchmark=leval\.$"
    ):
        suite_of(tmp_path).tasks(BYTES)
    (tmp_path / "quality.jsonl").unlink()
    with pytest.raises(DataError, match=r"suite.source: .* has no quality.jsonl, neither as a file nor in a zip"):
        suite_of(tmp_path, benchmark="leval", tasks=["quality"]).tasks(BYTES)
    with pytest.raises(DataError, match=r"suite.source: 'nowhere' is no file and no folder\. Give one, or hub\."):
        suite_of(Path("nowhere")).tasks(BYTES)
    with pytest.raises(ConfigError, match=r"suite.source: none given\. Add suite.source=<a folder"):
        read(LongdocSuite, {}).tasks(BYTES)
    with pytest.raises(ConfigError, match="documents are text, and this model reads ids"):
        suite_of(tmp_path).tasks(Numbers())
    with pytest.raises(ConfigError, match="the files of helmet are in no hub"):
        suite_of(Path("hub"), benchmark="helmet").tasks(BYTES)


def test_settings_are_read_back_from_what_is_stored(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, benchmark="leval", tasks=["tpo"])
    assert suite.mapping()["tasks"] == ["tpo"]
    assert read(LongdocSuite, suite.mapping()) == suite


def test_an_offline_hub_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def refuse(*_: object, **__: object) -> str:
        raise hub.errors.LocalEntryNotFoundError("no\nconnection.")

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    with pytest.raises(DataError, match=r"suite.source: THUDM/LongBench cannot be fetched: no connection\. Give the"):
        suite_of(Path("hub")).tasks(BYTES)


def test_the_hub_gives_a_folder(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    folder, asked = write("quality.jsonl", []), []

    def fetch(name: str, repo_type: str, allow_patterns: list[str]) -> str:
        asked.append((name, repo_type, allow_patterns))
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", fetch)
    with pytest.raises(DataError, match=r"quality.jsonl: no question of quality in it"):
        suite_of(Path("hub"), benchmark="leval", tasks=["quality"]).tasks(BYTES)
    assert asked == [("L4NLP/LEval", "dataset", ["*.jsonl", "*.json", "*.zip"])]


def test_what_was_written_is_judged_whole(write: Write) -> None:
    task = only(write("hotpotqa.jsonl", documents()), "longbench_v1", "hotpotqa")
    samples = task.generate(0, 2048, 2, "test")
    outputs = Written([BYTES.encode(f" The {samples[0].text_answers[0]}."), BYTES.encode("x")], [0, 0]).ids
    assert task.score(samples, outputs) == [1, 0]
