"""HELMET's categories: read in the schema of their files, with examples before them, judged by their own rules."""

from __future__ import annotations

import csv
import json
import math
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Bytes, Lookup

from farfield.benchmarks.running.results import read_result
from farfield.benchmarks.running.runner import evaluate
from farfield.benchmarks.suites.longdoc import LongdocSuite
from farfield.benchmarks.tasks.longdoc.catalogue import BENCHMARKS, document_tasks
from farfield.benchmarks.tasks.longdoc.data_set import DataSet, Question
from farfield.benchmarks.tasks.longdoc.helmet.citing import listed, named_share, without_citations
from farfield.benchmarks.tasks.longdoc.helmet.icl import balanced
from farfield.benchmarks.tasks.longdoc.helmet.outputs import said
from farfield.benchmarks.tasks.longdoc.helmet.reranking import ranked
from farfield.benchmarks.tasks.longdoc.rows import Row
from farfield.benchmarks.tasks.longdoc.task import DocumentTask
from farfield.benchmarks.tasks.sample import Sample
from farfield.config import ConfigError, DataError, read

BYTES = Bytes()
HELMET = BENCHMARKS["helmet"]
SETS = {one.name: one for one in HELMET.data_sets}
Rows = Sequence[Mapping[str, Any]]


def put(folder: Path, name: str, rows: Rows) -> None:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".csv"):
        with file.open("w", newline="") as out:
            writer = csv.DictWriter(out, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif name.endswith(".json"):
        file.write_text(json.dumps(rows))
    else:
        file.write_text("\n".join(map(json.dumps, rows)))


def only(folder: Path, *names: str, wording: str | None = None) -> DocumentTask:
    (task,) = document_tasks(HELMET, names, folder, BYTES, wording, None)
    return task


def question_of(name: str, row: Mapping[str, Any]) -> Question:
    (question,) = SETS[name].load(Row("file: line 1", row))
    return question


def judged(name: str, row: Mapping[str, Any], output: str) -> float:
    return SETS[name].rule(output, question_of(name, row))


def text_of(sample: Sample) -> str:
    return BYTES.decode(sample.prompt.tolist())


def asked(sample: Sample) -> Question:
    assert isinstance(sample.reference, Question)
    return sample.reference


def test_every_size_has_its_published_file_and_budget() -> None:
    def sizes(stem: str) -> list[int]:
        return [int(name.rsplit("_", 1)[1]) for name in SETS if name.rsplit("_", 1)[0] == stem]

    assert sizes("json_kv") == [50, 105, 220, 440, 900, 1800]
    assert sizes("ruler_niah_mv") == [4096, 8192, 16384, 32768, 65536, 131072]
    assert sizes("kilt_nq") == sizes("kilt_popqa") == [20, 50, 105, 220, 440, 1000]
    assert sizes("msmarco_rerank_psg") == [14, 50, 130, 285, 600, 1000]
    assert sizes("alce_asqa") == sizes("alce_qampari") == [8, 30, 75, 165, 345, 700]
    assert sizes("icl_trec_coarse") == [200, 400, 800, 1600, 3300, 6600]
    assert sizes("icl_trec_fine") == [200, 400, 800, 1600, 3200, 6400]
    assert sizes("icl_banking77") == [180, 360, 720, 1450, 2900, 5900]
    assert sizes("icl_clinic150") == [220, 440, 880, 1750, 3525, 7050]
    assert sizes("icl_nlu") == [250, 510, 1020, 2040, 4080, 8296]
    budgets = {one.name.rsplit("_", 1)[0] if one.labels else one.name: one.budget for one in SETS.values()}
    assert budgets == {
        "json_kv": 100,
        "ruler_niah_mk_2": 50,
        "ruler_niah_mk_3": 100,
        "ruler_niah_mv": 50,
        **{f"kilt_{name}": 20 for name in ("nq", "triviaqa", "hotpotqa", "popqa")},
        "msmarco_rerank_psg": 200,
        **{f"alce_{name}": 300 for name in ("asqa", "qampari", "qampari_precision", "qampari_f1")},
        "narrativeqa": 100,
        "infbench_qa_eng": 10,
        "infbench_choice_eng": 10,
        "infbench_sum_eng": 1200,
        "multi_lexsum": 400,
        **{f"icl_{name}": 20 for name in ("trec_coarse", "trec_fine", "banking77", "clinic150", "nlu")},
    }
    assert {one.cut for one in SETS.values()} == {"end"}
    assert SETS["kilt_hotpotqa_50"].file == "kilt/hotpotqa-dev-multikilt_1000_k50_dep3.jsonl"
    assert SETS["kilt_nq_50"].file == "kilt/nq-dev-multikilt_1000_k50_dep6.jsonl"


def test_pairs_have_two_examples_of_their_row(tmp_path: Path) -> None:
    demos = [["a", "b"], ["c", "d"], ["e", "f"]]
    pair = {"context": '{"k1": "v1",\n "k2": "v2"}', "question": "k2", "answer": "v2", "demos": demos, "num_kvs": 50}
    put(tmp_path, "data/json_kv/test_k50_dep6.jsonl", [pair])
    task = only(tmp_path)
    (sample,) = task.generate(0, 1024, 1, "test")
    text = text_of(sample)
    assert text.startswith(str(pair["context"]))
    assert text.endswith("Key: a\nValue: b\n\nKey: c\nValue: d\n\nKey: k2\nValue:")
    ((low, high),) = sample.gold
    assert text[low:high] == '"k2": "v2"'
    assert task.labels == {"pairs": 50}


def test_all_needles_of_ruler_count() -> None:
    row = {"context": "x", "query": "red fox", "type_needle_v": "numbers", "outputs": ["12", "345"]}
    assert [judged("ruler_niah_mv_4096", row, text) for text in ("345, 12", "12 and 34", "none")] == [1, 0.5, 0]
    only_answer = {**row, "answer": ["7"]}
    assert judged("ruler_niah_mk_2_4096", only_answer, "It is 7.") == 1
    with pytest.raises(DataError, match=r"file: line 1: 'outputs' is missing"):
        question_of("ruler_niah_mv_4096", {"context": "x"})


def passages(count: int, gold: int, words: int = 8) -> list[dict[str, Any]]:
    return [
        {"title": f"T{at}", "text": f"Text {at} " + "word " * words, "has_answer": at == gold} for at in range(count)
    ]


def kilt_row(number: int, gold: int = 1, **more: object) -> dict[str, Any]:
    row = {"id": f"q{number}", "question": f"Who is {number}?", "answers": [f"Name{number}"], "ctxs": passages(3, gold)}
    return {**row, **more}


def test_passages_stand_behind_two_examples_of_other_questions(tmp_path: Path) -> None:
    put(
        tmp_path,
        "kilt/nq-dev-multikilt_1000_k20_dep6.jsonl",
        [kilt_row(at, gold) for at in range(3) for gold in (0, 2)],
    )
    alone = only(tmp_path)
    assert text_of(alone.generate(0, 4096, 1, "test")[0]).count("Question:") == 1
    # Rows of one question are one example at most, and question 2 is never its own.
    train = [kilt_row(at, gold) for at in range(2, 9) for gold in (0, 1, 2, 0, 1, 2)]
    put(tmp_path, "kilt/nq-train-multikilt_1000_k3_dep6.jsonl", train)
    task = only(tmp_path)
    assert task.fingerprint != alone.fingerprint
    shown = {}
    for sample in task.generate(0, 4096, 6, "test"):
        text, question = text_of(sample), asked(sample)
        names = [one["question"] for one in question.examples]
        assert len(set(names)) == 2
        assert question.fields["question"] not in names
        assert shown.setdefault(question.topic, names) == names
        first, second = (text.index(f"Question: {name}\nAnswer: Name") for name in names)
        assert first < second < text.rindex(question.document)
        assert text.endswith(f"\n\nQuestion: {question.fields['question']}\nAnswer:")
        assert BYTES.decode(sample.prompts["no_context"].tolist()).count("Question:") == 1
    assert shown["q0"] != shown["q1"]
    row = kilt_row(5)
    assert question_of("kilt_nq_20", row).evidence == (f"Passage (T1): {row['ctxs'][1]['text']}",)
    assert [judged("kilt_nq_20", row, text) for text in ("It is name5!", "It is Name")] == [1, 0]
    with pytest.raises(DataError, match=r"file: line 1: 'ctxs\[0\]' is a number, an object is needed"):
        question_of("kilt_nq_20", {**row, "ctxs": [3]})


def test_only_rare_subjects_of_popqa_are_asked_and_shown(tmp_path: Path) -> None:
    counts = (999, 1000, 0, 20_000, 3)
    for k in (20, 3):
        rows = [kilt_row(at, s_pop=count) for at, count in enumerate(counts)]
        put(tmp_path, f"kilt/popqa_test_1000_k{k}_dep6.jsonl", rows)
    task = only(tmp_path, "kilt_popqa_20")
    samples = task.generate(0, 4096, task.available(4096, "test"), "test")
    assert {asked(sample).topic for sample in samples} == {"q0", "q2", "q4"}
    for sample in samples:
        others = {"q0", "q2", "q4"} - {asked(sample).topic}
        assert {f"q{one['question'][7:-1]}" for one in asked(sample).examples} == others
    with pytest.raises(DataError, match=r"file: line 1: 's_pop' is missing"):
        list(SETS["kilt_popqa_20"].load(Row("file: line 1", kilt_row(0))))


def ranking_row(number: int, grades: Sequence[int] = (0, 3, 1, 2), words: int = 5) -> dict[str, Any]:
    found = [
        {"id": str(10 * number + at), "text": f"p{number}-{at} " + "word " * words, "label": grade}
        for at, grade in enumerate(grades)
    ]
    return {"qid": f"{number}", "query": f"query {number}", "ctxs": found}


@pytest.mark.parametrize(
    ("output", "ids"),
    [
        (" 3 > 1 > 2", ["3", "1", "2"]),
        ("Ranking: [ID: 3] > ID1>[2]", ["3", "1", "2"]),
        ("ID: 3 > ID: 1", ["3", "1"]),
        ("of 12 passages, 3 > 1 is best", ["3", "1"]),
        ("3 > 1 > 3 > 2", ["3", "1", "2"]),
        ("3 > > 1", ["3"]),
        ("3, 1, 2", ["3"]),
        ("1 > 2\n3 > 4 > 5", ["3", "4", "5"]),
        ("no idea", []),
        ("", []),
    ],
)
def test_the_longest_chain_of_ids_is_the_ranking(output: str, ids: list[str]) -> None:
    assert ranked(output) == ids


def test_a_ranking_is_judged_by_its_grades() -> None:
    row = ranking_row(1)  # grades 0, 3, 1, 2 of 10, 11, 12, 13
    assert question_of("msmarco_rerank_psg_14", row).answers == ("11 > 13 > 12 > 10",)
    ideal = 3 + 2 / math.log2(3) + 1 / math.log2(4)
    by_output = {
        "11 > 13 > 12 > 10": 1.0,
        "11 > 13 > 12": 1.0,
        "12 > 13 > 11": (1 + 2 / math.log2(3) + 3 / 2) / ideal,
        "10 > 11": 3 / math.log2(3) / ideal,
        "11 > 11 > 13": (3 + 2 / math.log2(3)) / ideal,
        "99 > 11": 3 / math.log2(3) / ideal,
        "eleven": 0.0,
    }
    for output, score in by_output.items():
        assert judged("msmarco_rerank_psg_14", row, output) == pytest.approx(score), output
    # What stands behind the tenth place gains nothing.
    many = ranking_row(1, [0] * 10 + [1])
    assert judged("msmarco_rerank_psg_14", many, " > ".join(str(10 + at) for at in range(11))) == 0
    with pytest.raises(DataError, match=r"file: line 1: ctxs\[0\]: 'label' is a text, a whole number is needed"):
        question_of("msmarco_rerank_psg_14", {**row, "ctxs": [{"id": "1", "text": "x", "label": "1"}]})


def test_passages_to_be_ranked_have_ids_and_rankings_before_them(tmp_path: Path) -> None:
    put(tmp_path, "msmarco/test_reranking_data_k14_dep3.jsonl", [ranking_row(at, words=40) for at in range(2)])
    put(tmp_path, "msmarco/test_reranking_data_k10_dep3.jsonl", [ranking_row(at) for at in range(4)])
    task = only(tmp_path)
    assert task.scorings == ("generate",)
    for sample in task.generate(0, 8192, 2, "test"):
        text, question = text_of(sample), asked(sample)
        assert text.index("[ID: ") < text.index("Ranking: ", 200) < text.index(question.document)
        assert len({one["query"] for one in question.examples} - {question.fields["query"]}) == 2
        assert all(f"Query: {one['query']}\nRanking: {one['ranking']}\n\n" in text for one in question.examples)
        assert text.endswith(f"\n\nQuery: {question.fields['query']}\nRanking:")
    # The passages lose their end, and neither the examples nor the query do.
    least = task.generate(0, 8192, 1, "test")[0].length - 300
    (cut,) = task.generate(0, least, 1, "test")
    assert cut.length == least
    document = asked(cut).document
    assert document[: len(document) - 300] + "\n\nQuery: " in text_of(cut)


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=40), st.integers(1, 60), st.integers(0, 9))
@settings(deadline=None, max_examples=60)
def test_examples_are_drawn_in_rounds_of_all_classes(labels: list[str], count: int, seed: int) -> None:
    places = balanced(labels, count, np.random.default_rng(seed))
    assert len(places) == count
    classes = set(labels)
    for start in range(0, count, len(classes)):
        taken = [labels[place] for place in places[start : start + len(classes)]]
        assert len(set(taken)) == len(taken)
    for name in classes:
        times = Counter(place for place in places if labels[place] == name)
        assert not times or max(times.values()) <= 1 + sum(times.values()) // labels.count(name)


def trec(count: int, start: int) -> list[dict[str, Any]]:
    return [
        {"text": f"text number {at}", "coarse_label": at % 6, "fine_label": at % 50}
        for at in range(start, start + count)
    ]


def test_classes_are_numbers_that_only_the_examples_tell(tmp_path: Path) -> None:
    put(tmp_path, "trec/train.jsonl", trec(300, 0))
    put(tmp_path, "trec/test.csv", trec(20, 1000))
    task = only(tmp_path, "icl_trec_coarse_200")
    assert task.available(8192, "test") == 20
    assert task.scorings == ("generate", "likelihood")
    numberings, texts = set(), set()
    for sample in task.generate(0, 65536, 20, "test"):
        text, question = text_of(sample), asked(sample)
        shown = [part.split("\nlabel: ") for part in question.document.split("\n\n")]
        assert len(shown) == 200
        texts.add(tuple(one for one, _ in shown))
        # Class and number go together, and the answer is the number of the question's class.
        numbers = {(int(one.split()[-1]) % 6, number) for one, number in shown}
        assert sorted(number for _, number in numbers) == list("012345")
        own = int(question.fields["text"].split()[-1]) % 6
        assert (own, sample.text_answers[0]) in numbers
        assert set(Counter(number for _, number in shown).values()) == {33, 34}
        assert text.endswith(f"\n\n{question.fields['text']}\nlabel:")
        assert [BYTES.decode(ids.tolist()) for ids in sample.choices] == [f" {number}" for number in range(6)]
        assert sample.right == (int(sample.text_answers[0]),)
        numberings.add(tuple(sorted(numbers)))
    assert len(texts) == 1
    assert len(numberings) > 10
    (cut,) = task.generate(0, 2048, 1, "test")
    assert cut.length == 2048
    assert asked(cut).document[:1000] in text_of(cut)


def test_a_class_is_the_number_alone(tmp_path: Path) -> None:
    put(tmp_path, "trec/train.jsonl", trec(100, 0))
    put(tmp_path, "trec/test.jsonl", trec(1, 7))
    task = only(tmp_path, "icl_trec_coarse_200")
    (sample,) = task.generate(0, 4096, 1, "test")
    (right,) = sample.text_answers
    wrong = str((int(right) + 1) % 6)
    by_output = {
        f" {right}": 1,
        f" {right}\n\ntext\nlabel: {wrong}": 1,
        f"Label: {right}.": 1,
        f" {right} or {wrong}": 0,
        f" label {right}": 0,
        f" {right}{right}": 0,
        f"\n{right}": 0,
        f" {wrong}": 0,
        "": 0,
    }
    outputs = [BYTES.encode(output) for output in by_output]
    assert task.score([sample] * len(outputs), outputs) == list(by_output.values())


def test_a_tenth_of_nlu_is_asked(tmp_path: Path) -> None:
    rows = [{"text": f"say {at}", "label": f"class {at % 7}"} for at in range(95)]
    put(tmp_path, "nlu/train.json", rows)
    task = only(tmp_path, "icl_nlu_250")
    # What `datasets` takes for train_test_split(test_size=0.1, seed=42).
    order = np.random.default_rng(42).permutation(95)
    samples = task.generate(0, 65536, task.available(65536, "test"), "test")
    tested = {f"say {at}" for at in order[:10]}
    assert {asked(sample).fields["text"] for sample in samples} == tested
    shown = {part.split("\n")[0] for part in asked(samples[0]).document.split("\n\n")}
    assert shown == {f"say {at}" for at in range(95)} - tested
    datasets = pytest.importorskip("datasets")
    split = datasets.Dataset.from_list(rows).train_test_split(test_size=0.1, seed=42)
    assert set(split["test"]["text"]) == tested


def test_five_hundred_of_more_questions_are_there(tmp_path: Path) -> None:
    put(tmp_path, "trec/train.jsonl", trec(60, 0))
    put(tmp_path, "trec/test.jsonl", trec(700, 1000))
    task = only(tmp_path, "icl_trec_coarse_200")
    texts = [task.questions[place].fields["text"] for place in range(task.available(4096, "test"))]
    assert len(set(texts)) == 500
    assert texts == [f"text number {1000 + at}" for at in np.random.default_rng(42).permutation(700)[:500]]
    datasets = pytest.importorskip("datasets")
    shuffled = datasets.Dataset.from_list(trec(700, 1000)).shuffle(seed=42).select(range(500))
    assert list(shuffled["text"]) == texts


def test_files_of_classes_in_another_schema_are_told_by_line(tmp_path: Path) -> None:
    put(tmp_path, "trec/test.jsonl", trec(2, 0))
    with pytest.raises(DataError, match=r"has no trec/train.jsonl, .json or .csv, neither as a file nor in a zip"):
        only(tmp_path, "icl_trec_fine_200")
    (tmp_path / "trec/train.csv").write_text("text,fine_label\n")
    with pytest.raises(DataError, match=r"suite.source: trec/train.\* has no row for an example\. Give the whole file"):
        only(tmp_path, "icl_trec_fine_200")
    put(tmp_path, "trec/train.csv", [{"text": "a", "label": 1}])
    with pytest.raises(DataError, match=r"train.csv: line 2: 'fine_label' is missing\. Did you mean 'label'\?"):
        only(tmp_path, "icl_trec_fine_200")
    put(tmp_path, "trec/train.csv", [{"text": "a", "coarse_label": at} for at in range(8)])
    with pytest.raises(DataError, match=r"train.csv: line 8: 'coarse_label' is one of more than 6 classes\."):
        only(tmp_path, "icl_trec_coarse_200")
    (tmp_path / "trec/train.csv").write_text("text,coarse_label\na,1\nb\n")
    with pytest.raises(DataError, match=r"train.csv: line 3: not as many values as the first line has names\."):
        only(tmp_path, "icl_trec_coarse_200")
    (tmp_path / "trec/train.csv").write_text('text,coarse_label\n"a"b,1\n')
    with pytest.raises(DataError, match=r"train.csv: line 2: .* expected after"):
        only(tmp_path, "icl_trec_coarse_200")


ASQA: dict[str, Any] = {
    "question": "When was it built?",
    "qa_pairs": [
        {"question": "the old one?", "short_answers": ["1850", "the year 1850"]},
        {"question": "the new one?", "short_answers": ["Smith & Sons", "Smith and Sons"]},
    ],
    "docs": [{"title": f"T{at}", "text": f"passage {at}"} for at in range(20)],
}
QAMPARI: dict[str, Any] = {
    "question": "Which films?",
    "answers": [["Alpha", "The Alpha"], ["Beta"], ["Gamma"], ["Delta"], ["Epsilon"], ["Zeta"]],
    "docs": ASQA["docs"],
}


@pytest.mark.parametrize(
    ("output", "score"),
    [
        ("Built in 1850 [1][2] by Smith and Sons [3].", 1),
        ("In 18\n50. smith sons", 0.5),
        ("Smith &\nSons in the Year 1850", 1),
        ("Built in 1850", 0.5),
        ("18 [1]50", 0.5),  # as published: a citation goes without leaving a space
        ("", 0),
    ],
)
def test_asqa_counts_the_meanings_that_are_answered(output: str, score: float) -> None:
    assert judged("alce_asqa_8", ASQA, output) == score


@pytest.mark.parametrize(
    ("output", "recall_5", "precision", "f1"),
    [
        ("Alpha [1], Beta [2], Gamma, Delta, Epsilon [12].", 1, 1, 10 / 11),
        ("alpha, the Alpha, Omega", 1 / 5, 2 / 3, 4 / 15),
        ("Alpha, Beta, Gamma, Delta, Epsilon, Zeta", 1, 1, 1),
        ("The answers are Alpha, Beta", 1 / 5, 1 / 2, 1 / 4),
        ("Alpha Beta", 0, 0, 0),
        (" , ,", 0, 0, 0),
        ("", 0, 0, 0),
    ],
)
def test_qampari_counts_five_answers(output: str, recall_5: float, precision: float, f1: float) -> None:
    assert judged("alce_qampari_8", QAMPARI, output) == pytest.approx(recall_5)
    assert judged("alce_qampari_precision_8", QAMPARI, output) == pytest.approx(precision)
    assert judged("alce_qampari_f1_8", QAMPARI, output) == pytest.approx(f1)


def test_lists_are_judged_otherwise_by_name_alone(tmp_path: Path) -> None:
    put(tmp_path, "alce/qampari_eval_gtr_top2000.json", [QAMPARI])  # type: ignore[arg-type]
    usual = document_tasks(HELMET, [], tmp_path, BYTES, None, None)
    assert [task.name for task in usual] == [f"helmet_alce_qampari_{k}" for k in (8, 30, 75, 165, 345, 700)]
    assert only(tmp_path, "alce_qampari_f1_30").metric == "f1"


def test_fewer_answers_than_five_are_all() -> None:
    assert listed("A1, B1,", (("a1",), ("b1", "b2"))) == (1, 1, 1)
    assert listed("B2.", (("a1",), ("b1", "b2"))) == (1, 0.5, 0.5)
    assert listed("a, the", (("an",),)) == (0, 0, 0)  # nothing is left of them without articles
    assert named_share("b2", (("a1",), ("b1", "b2"))) == 0.5
    assert without_citations("So [1][12]. And\n\n| [3] |") == "So. And"


def test_passages_to_be_cited_have_numbers_and_two_examples(tmp_path: Path) -> None:
    put(tmp_path, "alce/asqa_eval_gtr_top2000.json", [ASQA])  # type: ignore[arg-type]
    demos = [{"question": f"Q{at}?", "answer": f"A{at} [1].", "docs": ASQA["docs"][:2]} for at in range(4)]
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts/asqa_revised.json").write_text(json.dumps({"instruction": "x", "demos": demos}))
    task = only(tmp_path, "alce_asqa_8")
    (sample,) = task.generate(0, 8192, 1, "test")
    text, question = text_of(sample), asked(sample)
    assert [one["question"] in {"Q0?", "Q1?", "Q2?", "Q3?"} for one in question.examples] == [True, True]
    assert text.count("Answer the question from the passages") == 3
    own = text.split("Question: When was it built?\n\n")[1]
    assert own.startswith("Passage [1] (T0): passage 0\n\n")
    assert own.endswith("Passage [8] (T7): passage 7\n\nAnswer:")
    assert "When was it built?" in BYTES.decode(sample.prompts["no_context"].tolist())
    suite = read(LongdocSuite, {"benchmark": "helmet", "source": str(tmp_path), "tasks": ["alce_asqa_8"]})
    (note,) = suite.notes(BYTES)
    assert note.startswith("helmet_alce_asqa_8: how well citations fit (their precision and recall) is left out")
    (tmp_path / "prompts/asqa_revised.json").unlink()
    assert suite.notes(BYTES)[1] == (
        "helmet_alce_asqa_8: no examples stand before its questions, for asqa_revised.json is not in the folder."
    )
    with pytest.raises(DataError, match=r"file: line 1: 'answers' is no list of answers, each a list of its forms"):
        question_of("alce_qampari_8", {**QAMPARI, "answers": ["Alpha"]})
    with pytest.raises(DataError, match=r"file: line 1: 'qa_pairs' is empty"):
        question_of("alce_asqa_8", {**ASQA, "qa_pairs": []})
    with pytest.raises(DataError, match=r"file: line 1: qa_pairs\[0\]: 'short_answers' is missing"):
        question_of("alce_asqa_8", {**ASQA, "qa_pairs": [{"question": "x"}]})


def story_row(number: int, document: str, answer: str = "the red barn") -> dict[str, Any]:
    return {
        "document": {"id": "1", "text": document},
        "question": {"text": f"Where is {number}?"},
        "answers": [{"text": answer}, {"text": "yes"}],
    }


def test_stories_are_cut_at_their_end_behind_the_same_examples(tmp_path: Path) -> None:
    documents = ["word " * 2000, "other " * 2000]
    put(tmp_path, "narrativeqa/test.jsonl", [story_row(at, documents[at % 2]) for at in range(4)])
    train = [{key: story_row(at, "")[key] for key in ("question", "answers")} for at in range(10, 20)]
    put(tmp_path, "narrativeqa/train.jsonl", train)
    task = only(tmp_path)
    samples = task.generate(0, 2048, 4, "test")
    for one, other in (samples[:2], samples[2:]):
        assert one.prompt[: one.question].tolist() == other.prompt[: other.question].tolist()
        text = text_of(one)
        assert text.count("[a story]\nQuestion: Where is 1") == 2
        assert " ... [the rest is left out]\n\nQuestion: Where is" in text
        assert one.length <= 2048
        assert max(one.length, other.length) == 2048
    with pytest.raises(DataError, match=r"file: line 1: document: 'text' is missing"):
        question_of("narrativeqa", {**story_row(0, ""), "document": {}})


@pytest.mark.parametrize(
    ("name", "output", "score"),
    [
        ("narrativeqa", "The red barn.", 1),
        ("narrativeqa", "It is hard to say.\nAnswer: red barn\nmore", 1),
        ("narrativeqa", "red barn\nQuestion: what?", 1),
        ("narrativeqa", "a red house", 0.5),
        ("narrativeqa", "no", 0),
        ("narrativeqa", "Yes!", 1),
        ("narrativeqa", "yes indeed", 0),
        ("narrativeqa", "", 0),
    ],
)
def test_stories_are_judged_whole_or_by_what_is_said(name: str, output: str, score: float) -> None:
    assert judged(name, story_row(0, "x"), output) == pytest.approx(score)


BOOK: dict[str, Any] = {"context": "A book.", "input": "Who?", "answer": ["one two three four"], "options": []}
CHOICE: dict[str, Any] = {**BOOK, "answer": ["Ann"], "options": ["Ann", "Bob", "Cid", "Dan"]}


@pytest.mark.parametrize(
    ("name", "row", "output", "score"),
    [
        ("infbench_qa_eng", BOOK, "One two, three four", 1),
        ("infbench_qa_eng", BOOK, "two one four", 4 / 7),
        ("infbench_qa_eng", BOOK, "three four\none two", 2 / 3),
        ("infbench_qa_eng", BOOK, "five", 0),
        ("infbench_choice_eng", CHOICE, " A", 1),
        ("infbench_choice_eng", CHOICE, "(a)", 1),
        ("infbench_choice_eng", CHOICE, "So it is a. ann, surely", 1),
        ("infbench_choice_eng", CHOICE, "I think.\nAnswer: A", 1),
        ("infbench_choice_eng", CHOICE, "B", 0),
        ("infbench_choice_eng", CHOICE, "Ann", 0),
        ("infbench_choice_eng", CHOICE, "(A) Ann!", 1),
        ("infbench_choice_eng", CHOICE, "(A) Bob", 0),
        ("infbench_choice_eng", CHOICE, "A or B", 0),
        ("infbench_choice_eng", CHOICE, "The", 0),
        ("infbench_choice_eng", CHOICE, "", 0),
        ("infbench_sum_eng", BOOK, "Summary: one two three four\nand five", 1),
        ("infbench_sum_eng", BOOK, "one two", 2 / 3),
        ("infbench_sum_eng", BOOK, "three four\none two", 1),
        ("infbench_sum_eng", BOOK, "six", 0),
        ("multi_lexsum", {"sources": ["a", "b"], "summary/short": "one two"}, "one two", 1),
        ("multi_lexsum", {"sources": ["a", "b"], "summary/short": "one two"}, "three", 0),
    ],
)
def test_books_and_cases_are_judged_by_their_automatic_rules(
    name: str, row: Mapping[str, Any], output: str, score: float
) -> None:
    assert judged(name, row, output) == pytest.approx(score)


def test_books_have_examples_of_other_books(tmp_path: Path) -> None:
    rows = [{**CHOICE, "context": f"Book {at}. " * 9, "input": f"Who is {at}?"} for at in (1, 1, 2, 3)]
    put(tmp_path, "longbook_choice_eng.jsonl", rows)
    put(tmp_path, "longbook_sum_eng.jsonl", [{**BOOK, "context": f"Book {at}.", "answer": [f"S{at}"]} for at in "123"])
    task = only(tmp_path, "infbench_choice_eng")
    for sample in task.generate(0, 4096, 4, "test"):
        own = asked(sample).fields["input"]
        assert own not in {one["input"] for one in asked(sample).examples}
        assert len(asked(sample).examples) == 2
        assert text_of(sample).count("\nAnswer: A\n\n") == 2
    summed = only(tmp_path, "infbench_sum_eng")
    for sample in summed.generate(0, 4096, 3, "test"):
        (own,) = sample.text_answers
        assert {one["answer"] for one in asked(sample).examples} == {"S1", "S2", "S3"} - {own}
        assert "no_context" not in sample.prompts
        assert text_of(sample).endswith("\n\nSum up the book.\n\nSummary:")


def test_cases_without_a_short_summary_are_left_out(tmp_path: Path) -> None:
    rows = [{"sources": ["one", "two"], "summary/short": text} for text in ("A case.", None)]
    put(tmp_path, "multi_lexsum/validation.json", rows)
    put(tmp_path, "multi_lexsum/train.jsonl", [{"summary/short": text} for text in ("S1", None, "S2")])
    (sample,) = only(tmp_path).generate(0, 2048, 1, "test")
    assert asked(sample).document == "one\n\ntwo"
    assert text_of(sample).count("Summary: S") == 2
    (note,) = read(LongdocSuite, {"benchmark": "helmet", "source": str(tmp_path)}).notes(BYTES)
    assert (
        note == "helmet_multi_lexsum: GPT-4 judges it in the paper; ROUGE compares words, and not their stems as there."
    )


@pytest.mark.parametrize(
    ("output", "answer"),
    [("answer: yes\nno", "yes"), ("ANSWER:  Answer: yes", "yes"), (" yes \nno", "yes"), ("\nyes", ""), ("", "")],
)
def test_what_is_said_is_behind_the_opening_or_the_first_line(output: str, answer: str) -> None:
    assert said(output, "Answer:") == answer


def test_wording_of_your_own_reaches_examples_too(tmp_path: Path) -> None:
    put(tmp_path, "kilt/nq-dev-multikilt_1000_k20_dep6.jsonl", [kilt_row(1)])
    put(tmp_path, "kilt/nq-train-multikilt_1000_k3_dep6.jsonl", [kilt_row(at) for at in (2, 3)])
    file = tmp_path / "wording.yaml"
    file.write_text('helmet_kilt_nq_20:\n  example: "<{documents}|{question}|{answer}>"\n')
    text = text_of(only(tmp_path, wording=str(file)).generate(0, 4096, 1, "test")[0])
    assert "|Who is 2?|Name2>" in text
    assert "|Who is 3?|Name3>" in text
    file.write_text('helmet_kilt_nq_20:\n  introduction: "Read.\\n"\n')
    with pytest.raises(DataError, match=r"introduction: the field \{examples\} is missing"):
        only(tmp_path, wording=str(file))


def test_a_reader_of_labels_is_right_and_a_blind_one_guesses(tmp_path: Path) -> None:
    words = string.ascii_lowercase[:6]
    for name, count in (("train", 120), ("test", 24)):
        rows = [{"text": f"{words[at % 6] * 3} {at}", "coarse_label": at % 6} for at in range(count)]
        put(tmp_path, f"trec/{name}.jsonl", rows)
    given = {"benchmark": "helmet", "source": str(tmp_path), "tasks": ["icl_trec_coarse_200"]}
    suite = read(LongdocSuite, {**given, "lengths": [8192], "samples": 24, "readings": ["no_context"]})

    class Reader(Lookup):
        """Answers with the label of the last example that begins as the question does."""

        def _reply(self, row: Any) -> list[int]:
            *shown, last = BYTES.decode(row.tolist()).split("\n\n")
            labels = [part.split("\nlabel: ")[1] for part in shown if part.startswith(last.split()[0])]
            return BYTES.encode(f" {labels[-1]}\n") if labels else BYTES.encode(" 0\n")

    outcome = evaluate(suite, Reader(BYTES), tmp_path / "results")
    scores = {cell.condition: answers.score for cell, answers in read_result(outcome.path).cells.items()}
    assert scores["full"] == 1
    assert scores["no_context"] < 0.5


def test_questions_of_classes_are_not_kept(tmp_path: Path) -> None:
    """All documents of a large set at once would be gigabytes."""
    put(tmp_path, "trec/train.jsonl", trec(100, 0))
    put(tmp_path, "trec/test.jsonl", trec(3, 0))
    task = only(tmp_path, "icl_trec_coarse_6600")
    one, other = task.questions[0], task.questions[0]
    assert one == other
    assert one.document is not other.document
    assert len(one.document) > 6600 * 20


def test_data_sets_that_gpt4_judges_say_so() -> None:
    judged_there = {one.name for one in HELMET.data_sets if "GPT-4 judges it" in one.differs}
    assert judged_there == {"narrativeqa", "infbench_sum_eng", "multi_lexsum"}
    assert all(isinstance(one, DataSet) for one in HELMET.data_sets)


def test_a_name_that_is_misspelt_is_told_with_the_sizes_together(tmp_path: Path) -> None:
    suite = read(LongdocSuite, {"benchmark": "helmet", "source": str(tmp_path), "tasks": ["kilt_nk_20"]})
    with pytest.raises(ConfigError, match=r"has no task 'kilt_nk_20'\. Did you mean 'kilt_nq_20'\? Known: ") as caught:
        suite.tasks(BYTES)
    names = str(caught.value).split("Known: ")[1]
    assert "kilt_nq_{20, 50, 105, 220, 440, 1000}, " in names
    assert "multi_lexsum, narrativeqa, ruler_niah_mk_2_{4096, " in names
