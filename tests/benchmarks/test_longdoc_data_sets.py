"""Each benchmark's files: read in the schema in which they were published, judged by their own rules."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from oracle import Bytes

from farfield.benchmarks.suites.longdoc import LongdocSuite
from farfield.benchmarks.tasks.longdoc import leval
from farfield.benchmarks.tasks.longdoc.catalogue import BENCHMARKS, document_tasks
from farfield.benchmarks.tasks.longdoc.data_set import DataSet, Question
from farfield.benchmarks.tasks.longdoc.rows import Row
from farfield.benchmarks.tasks.longdoc.task import DocumentTask
from farfield.benchmarks.tasks.sample import LackingError, Sample
from farfield.config import DataError, read
from farfield.tokenizers import train_bpe

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
BYTES = Bytes()


def set_of(benchmark: str, name: str) -> DataSet:
    return next(one for one in BENCHMARKS[benchmark].data_sets if one.name == name)


def questions(benchmark: str, name: str, row: Mapping[str, Any]) -> list[Question]:
    return list(set_of(benchmark, name).load(Row("file: line 1", row)))


def judged(benchmark: str, name: str, row: Mapping[str, Any], output: str) -> float:
    (question,) = questions(benchmark, name, row)
    return set_of(benchmark, name).rule(output, question)


LONGBENCH = {"input": "Which?", "context": "A text.", "answers": ["cat", "a dog"], "all_classes": None, "length": 9000}


def longbench(**changed: object) -> dict[str, object]:
    return {**LONGBENCH, **changed}


def test_every_data_set_has_a_name_of_its_own_and_its_published_budget() -> None:
    for benchmark in BENCHMARKS.values():
        names = [one.name for one in benchmark.data_sets]
        assert len(set(names)) == len(names)
    budgets = {one.name: one.budget for one in BENCHMARKS["longbench_v1"].data_sets}
    assert len(budgets) == 21 + 3 * 13
    by_budget: dict[int, set[str]] = {}
    for name, budget in budgets.items():
        if "_e_" not in name:
            by_budget.setdefault(budget, set()).add(name)
    assert by_budget == {
        128: {"narrativeqa", "qasper", "dureader", "samsum"},
        64: {"multifieldqa_en", "multifieldqa_zh", "trec", "lsht", "lcc", "repobench-p"},
        32: {
            "hotpotqa",
            "2wikimqa",
            "musique",
            "triviaqa",
            "passage_count",
            "passage_retrieval_en",
            "passage_retrieval_zh",
        },
        512: {"gov_report", "qmsum", "multi_news", "vcsum"},
    }
    assert {one.cut for one in BENCHMARKS["longbench_v1"].data_sets} == {"middle"}
    infinite = {one.name: one.budget for one in BENCHMARKS["infinitebench"].data_sets}
    assert len(infinite) == 12
    assert (infinite["passkey"], infinite["kv_retrieval"], infinite["longbook_sum_eng"]) == (6, 50, 1200)
    assert len(BENCHMARKS["leval"].data_sets) == 20
    assert len(BENCHMARKS["zero_scrolls"].data_sets) == 10


@pytest.mark.parametrize(
    ("name", "row", "output", "score"),
    [
        ("hotpotqa", longbench(), "The dog", 1),
        ("hotpotqa", longbench(), "dog\nQuestion: dog", 2 / 4),
        ("triviaqa", longbench(), "\ndog\nQuestion: x", 1),
        ("trec", longbench(all_classes=["cat", "dog"], answers=["cat"]), "cat\ndog", 1),
        ("trec", longbench(all_classes=["cat", "dog"], answers=["cat"]), "cat dog", 1 / 2),
        ("samsum", longbench(answers=["Ann ate."]), "Ann ate\nBob", 1),
        ("gov_report", longbench(answers=["Ann ate"]), "Ann slept", 1 / 2),
        ("passage_count", longbench(answers=["7"]), "7 of 9", 1 / 2),
        ("passage_retrieval_en", longbench(answers=["Paragraph 12"]), "Paragraph 12", 1),
        ("passage_retrieval_zh", longbench(answers=["段落12"]), "段落12", 1),
        ("lcc", longbench(answers=["return x"]), "\n# so\nreturn x\nreturn", 1),
        ("lcc_e_8000", longbench(answers=["return x"]), "return x", 1),
    ],
)
def test_longbench_v1_is_judged_as_published(name: str, row: Mapping[str, Any], output: str, score: float) -> None:
    assert judged("longbench_v1", name, row, output) == pytest.approx(score, abs=1e-6)


def test_a_rule_that_is_not_the_published_one_is_told(tmp_path: Path) -> None:
    for name in ("hotpotqa", "trec"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(longbench()))

    def notes(**given: Any) -> list[str]:
        return [note.split(": ")[0] for note in read(LongdocSuite, {"source": str(tmp_path), **given}).notes(BYTES)]

    assert notes() == notes(tasks=["trec"]) == ["longbench_v1_trec"]
    (named,) = notes(source="hub")
    assert named.split(", longbench_v1_") == ["longbench_v1_trec", "lsht", "trec_e_0", "trec_e_4000", "trec_e_8000"]
    assert notes(tasks=["hotpotqa"]) == notes(scoring="likelihood") == notes(benchmark="nolima") == []


def test_longbench_v1_code_is_one_document() -> None:
    (question,) = questions("longbench_v1", "repobench-p", longbench(context="import a\n", input="a."))
    assert question.document == "import a\na."
    (classed,) = questions("longbench_v1", "trec", longbench(all_classes=["x", "cat"], answers=["cat"]))
    assert (classed.options, classed.right) == ((" x", " cat"), (1,))


def test_chinese_words_need_jieba(tmp_path: Path) -> None:
    (tmp_path / "dureader.jsonl").write_text(json.dumps(longbench()))
    try:
        import jieba  # noqa: F401
    except ImportError:
        (task,) = document_tasks(BENCHMARKS["longbench_v1"], [], tmp_path, BYTES, None, None)
        with pytest.raises(LackingError, match=r"longbench_v1_dureader: judged by the words that jieba finds"):
            task.check(0, 4096, 1, "test")
    else:
        assert judged("longbench_v1", "dureader", longbench(answers=["北京大学"]), "北京大学") == pytest.approx(1)


V2: dict[str, object] = {
    "_id": "1",
    "domain": "Law",
    "sub_domain": "Case",
    "difficulty": "easy",
    "length": "short",
    "question": "What?",
    "choice_A": "one",
    "choice_B": "two",
    "choice_C": "three",
    "choice_D": "four",
    "answer": "C",
    "context": "A long text.",
}


def test_longbench_v2_chooses_by_its_sentence() -> None:
    (question,) = questions("longbench_v2", "short_easy", V2)
    assert questions("longbench_v2", "long_easy", V2) == questions("longbench_v2", "short_hard", V2) == []
    assert question.right == (2,)
    assert question.options[2] == "The correct answer is (C)"
    assert judged("longbench_v2", "short_easy", V2, "The correct answer is (C).") == 1
    assert judged("longbench_v2", "short_easy", V2, "C") == 0
    with pytest.raises(DataError, match=r"file: line 1: 'answer' is 'E', one of A, B, C, D is needed\."):
        questions("longbench_v2", "short_easy", {**V2, "answer": "E"})


def test_longbench_v2_is_told_apart_by_length_and_difficulty(tmp_path: Path) -> None:
    kinds = [("short", "easy"), ("short", "hard"), ("long", "hard"), ("long", "hard")]
    rows = [{**V2, "length": length, "difficulty": difficulty} for length, difficulty in kinds]
    (tmp_path / "data.json").write_text(json.dumps(rows))

    def counts(*names: str) -> dict[str, int]:
        tasks = document_tasks(BENCHMARKS["longbench_v2"], names, tmp_path, BYTES, None, None)
        return {task.name.split("_v2_")[1]: task.available(1024, "test") for task in tasks}

    # What has no question is left out, but where it is asked for.
    assert counts() == {"short_easy": 1, "short_hard": 1, "long_hard": 2}
    with pytest.raises(DataError, match=r"data.json: no question of medium_easy in it\."):
        counts("short_easy", "medium_easy")
    (tmp_path / "data.json").write_text("[]")
    with pytest.raises(DataError, match=r"data.json: no question of short_easy in it\."):
        counts()


def test_ranges_of_length_of_longbench_e(tmp_path: Path) -> None:
    lengths = (3999, 4000, 7999, 8000, 50_000, 0)
    rows = [longbench(input=str(length), length=length) for length in lengths]
    (tmp_path / "trec_e.jsonl").write_text("\n".join(json.dumps({**row, "all_classes": ["cat"]}) for row in rows))
    tasks = document_tasks(BENCHMARKS["longbench_v1"], [], tmp_path, BYTES, None, None)
    found = {task.labels["words from"]: [int(one.fields["input"]) for one in task.questions] for task in tasks}
    assert found == {0: [3999, 0], 4000: [4000, 7999], 8000: [8000, 50_000]}
    assert [task.name for task in tasks] == [f"longbench_v1_trec_e_{low}" for low in (0, 4000, 8000)]
    with pytest.raises(DataError, match=r"file: line 1: 'length' is a text, a whole number is needed"):
        questions("longbench_v1", "trec_e_0", longbench(length="4k"))


def leval_row(*pairs: tuple[str, str], evaluation: str = "exam") -> dict[str, object]:
    return {
        "instructions": [one for one, _ in pairs],
        "outputs": [other for _, other in pairs],
        "input": "A text.",
        "source": "x",
        "evaluation": evaluation,
    }


def test_leval_rows_have_several_questions() -> None:
    row = leval_row(("Which?", "AB"), ("What?", "C"))
    one, other = questions("leval", "coursera", row)
    assert (len(one.options), one.options[one.right[0]], other.options[other.right[0]]) == (15, " AB", " C")
    assert set_of("leval", "coursera").rule("A", one) == 0.25
    assert questions("leval", "multidoc_qa", leval_row(("x", "y"), evaluation="LLM")) == []
    with pytest.raises(DataError, match=r"'outputs' has 1 entries, and 'instructions' has 2\."):
        questions("leval", "tpo", {**row, "outputs": ["A"]})
    (quality,) = questions("leval", "quality", leval_row(("Why?", "(B) Because of this.")))
    assert quality.right == (1,)
    (story,) = questions("leval", "sci_fi", leval_row(("So?", "True [fact: False]")))
    assert story.options[story.right[0]] == " True [fact: False]"
    assert set_of("leval", "sci_fi").rule("True [fact: True]", story) == 0.5
    (open_one,) = questions("leval", "financial_qa", leval_row(("Why?", "one two three"), evaluation="f1"))
    assert open_one.fields["words"] == "3"
    assert set_of("leval", "codeU").cut == "start"
    assert set_of("leval", "tpo").cut == "end"


def test_leval_rules_beside_letters() -> None:
    assert leval.contained("it is NewYork, I think", "New York") == 1
    assert leval.contained("3.0", "3") == 1
    assert leval.contained("a\nfirst line\nNew York", "New York") == 0  # the first line of more than a sign
    assert leval.last_number("5 apples. So 7 left. The answer is 12.") == "12"
    assert leval.last_number("5 apples and 7 pears") == "7"
    assert leval.last_number("The answer is $1,200.50") == "1200"
    assert leval.last_number("none") == ""
    assert leval.printed("So the final output is [ [1, 2] ]", "[[1, 2]]") == 1
    assert leval.printed("the value of x is 3 and then more words come here", "3") == 0
    assert leval.printed("It would be 3", "3") == 1


LOOGLE = {"input": "Ann was\nborn in Rome. She died.", "title": "Ann", "output": "None"}


def test_loogle_pairs_are_data_in_pythons_grammar() -> None:
    pairs = [{"Q": "Where?", "A": "In Rome.", "S": ["Ann was\nborn in Rome."], "type": "x"}]
    for written in (repr(pairs), pairs):
        (question,) = questions("loogle", "longdep_qa", {**LOOGLE, "qa_pairs": written})
        assert question.evidence == ("Ann was\nborn in Rome.",)
        assert question.evidence[0] in question.document
        assert set_of("loogle", "longdep_qa").rule("She was born In Rome.", question) == 1
        assert set_of("loogle", "longdep_qa").rule("In Oslo", question) == 0.5
    for broken in ("none", "__import__('os')", "[]", 3, "[3]"):
        with pytest.raises(DataError, match=r"file: line 1: 'qa_pairs"):
            questions("loogle", "longdep_qa", {**LOOGLE, "qa_pairs": broken})
    cloze = repr([{"Q": "<mask-0> died", "A": {"<mask-0>": "Ann"}, "S": ""}])
    (masked,) = questions("loogle", "shortdep_cloze", {**LOOGLE, "qa_pairs": cloze})
    assert set_of("loogle", "shortdep_cloze").rule("{'<mask-0>': 'Ann'}", masked) == 1
    (summed,) = questions("loogle", "longdep_summarization", {**LOOGLE, "qa_pairs": "none", "output": "Ann died"})
    assert set_of("loogle", "longdep_summarization").rule("Ann", summed) == 0.5


INFINITE: dict[str, object] = {"id": 0, "context": "A book.", "input": "What?", "answer": ["42"], "options": []}
FOUR = ["f_a", "f_b", "f_c", "f_d"]


@pytest.mark.parametrize(
    ("name", "changed", "output", "score"),
    [
        ("passkey", {}, "42 or 43", 1),
        ("passkey", {"answer": 42}, "x 42", 1),
        ("number_string", {}, "43 42", 0),
        ("kv_retrieval", {"answer": "a-b"}, '"a-b".', 1),
        ("longbook_qa_eng", {"answer": ["Mr Grey", "Grey"]}, "grey", 1),
        ("longbook_qa_chn", {"answer": ["北京"]}, "北京。", 1),
        ("longbook_sum_eng", {"answer": ["one two"]}, "One, two!", 1),
        ("longbook_choice_eng", {"answer": ["f_b"], "options": FOUR}, "B", 1),
        ("longbook_choice_eng", {"answer": ["f_b", "B"], "options": FOUR}, "the answer is f_b", 1),
        ("code_debug", {"answer": "f_c", "options": FOUR}, "C. f_c", 1),
        ("code_debug", {"answer": "f_c", "options": FOUR}, "C", 0),
        ("longdialogue_qa_eng", {"answer": ["ANN"]}, "It is Ann.", 1),
        ("math_find", {"answer": [8]}, "8.0", 1),
        ("math_calc", {"answer": [1, 3, 5]}, "1, 3, 6", 2 / 3),
        ("code_run", {"answer": [-3]}, "It is -3.", 1),
    ],
)
def test_infinitebench_is_judged_as_published(
    name: str, changed: Mapping[str, object], output: str, score: float
) -> None:
    assert judged("infinitebench", name, {**INFINITE, **changed}, output) == pytest.approx(score)


def test_infinitebench_answers_are_among_the_options() -> None:
    with pytest.raises(DataError, match="'answer' is '42', and that is none of 'options'"):
        questions("infinitebench", "code_debug", {**INFINITE, "options": FOUR})
    with pytest.raises(DataError, match="'options' has 3 entries, 4 are needed"):
        questions("infinitebench", "code_debug", {**INFINITE, "options": FOUR[:3]})
    with pytest.raises(DataError, match="'answer' is no list of whole numbers"):
        questions("infinitebench", "math_calc", {**INFINITE, "answer": ["x"]})


def scrolls_row(number: int = 0, output: str | None = "The cat") -> dict[str, object]:
    start, document, question = "Read it.\n\nReport:\n", "A cat sat. " * 40, "\n\nQuestion:\nWho?\n\nAnswer:\n"
    return {
        "id": str(number),
        "pid": f"{number}_0",
        "input": start + document + question,
        "output": output,
        "document_start_index": len(start),
        "document_end_index": len(start + document),
        "query_start_index": len(start + document) + 2,
        "query_end_index": len(start + document + question),
        "truncation_seperator": "... [The rest is omitted]\n\n",
    }


def test_zero_scrolls_rows_hold_whole_prompts(tmp_path: Path) -> None:
    folder = tmp_path / "qasper"
    folder.mkdir()
    rows = [scrolls_row(0), scrolls_row(0, "One cat"), scrolls_row(1)]
    (folder / "validation.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (task,) = document_tasks(BENCHMARKS["zero_scrolls"], [], tmp_path, BYTES, None, None)
    assert task.available(1024, "test") == 2  # the answers of one id are together
    whole, cut = (task.generate(0, length, 1, "test")[0] for length in (4096, 1024 + 300))
    assert BYTES.decode(whole.prompt.tolist()) == rows[0]["input"]
    text = BYTES.decode(cut.prompt.tolist())
    assert "... [The rest is omitted]\n\n\n\nQuestion:\nWho?\n\nAnswer:\n" in text
    assert len(text) == 300
    assert {sample.text_answers for sample in task.generate(0, 4096, 2, "test")} == {
        ("The cat", "One cat"),
        ("The cat",),
    }
    with pytest.raises(DataError, match="'output' is null, a list of texts is needed"):
        questions("zero_scrolls", "qasper", scrolls_row(output=None))
    with pytest.raises(DataError, match="'document_end_index' is 5, which does not fit"):
        questions("zero_scrolls", "qasper", {**scrolls_row(), "document_end_index": 5})


def test_zero_scrolls_is_judged_by_data_set() -> None:
    assert judged("zero_scrolls", "quality", scrolls_row(output="(B) Ann"), "B") == 1
    assert judged("zero_scrolls", "quality", scrolls_row(output="(B) Ann"), "A. B") == 0
    assert judged("zero_scrolls", "space_digest", scrolls_row(output="60%"), "50%") == 0.5
    assert judged("zero_scrolls", "book_sum_sort", scrolls_row(output="3,1,2"), "3, 2, 1") == pytest.approx(2 / 3)
    assert judged("zero_scrolls", "gov_report", scrolls_row(output="one two three"), "one two three") == pytest.approx(
        1
    )


def test_hotpotqa_marks_its_evidence() -> None:
    row = {
        "_id": "1",
        "question": "Who?",
        "answer": "Ann",
        "supporting_facts": [["B", 0]],
        "context": [["A", ["One. ", "Two."]], ["B", ["Ann."]]],
    }
    (question,) = questions("hotpotqa", "distractor", row)
    assert question.document == "A\nOne. Two.\n\nB\nAnn."
    assert question.evidence == ("B\nAnn.",)


@pytest.mark.parametrize(
    ("benchmark", "folder", "sets", "count"),
    [
        ("longbench_v1", "longbench_v1", 1, 200),
        ("leval", "leval", 8, 1000),
        ("loogle", "loogle_sample", 4, 222),
        ("hotpotqa", "hotpotqa_dev500", 1, 500),
    ],
)
def test_real_files_are_read_cut_and_judged(benchmark: str, folder: str, sets: int, count: int) -> None:
    if not (DATA / folder).is_dir():
        pytest.skip(f"no data in {DATA / folder}")
    suite = read(LongdocSuite, {"benchmark": benchmark, "source": str(DATA / folder), "readings": []})
    tokenizer = train_bpe(["The city of the king was not far from the sea, and the road was long. " * 20], 300)
    for kind in (BYTES, tokenizer):
        tasks = [task for task in suite.tasks(kind) if isinstance(task, DocumentTask)]
        assert len(tasks) == sets
        assert sum(task.available(1024, "test") for task in tasks) >= count
        for task in tasks:
            samples = task.generate(0, 6144, 3, "test")
            for sample in samples:
                check_sample(sample, 6144)
            gold = [BYTES.encode(sample.text_answers[0]) for sample in samples]
            if kind is BYTES:  # the small vocabulary of the other does not write every sign
                assert min(task.score(samples, gold)) > 0.9, task.name
                assert max(task.score(samples, [BYTES.encode(" ~")] * 3)) < 0.6, task.name


def check_sample(sample: Sample, length: int) -> None:
    question = sample.reference
    assert isinstance(question, Question)
    assert ("no_context" in sample.prompts) == any(question.fields.values())
    assert ("gold_only" in sample.prompts) == bool(question.evidence)
    assert len(sample.prompt) + sample.budget == sample.length <= length
    assert sample.unfilled or sample.length >= 0.98 * length
    assert all(0 <= depth <= 1 for depth in sample.depths)
    assert sample.right or not sample.choices


def test_the_evidence_of_real_files_is_where_it_is_said(tmp_path: Path) -> None:
    if not (DATA / "loogle_sample").is_dir():
        pytest.skip(f"no data in {DATA / 'loogle_sample'}")
    tokenizer = train_bpe([(DATA / "loogle_sample" / "shortdep_qa.jsonl").read_text()[:20_000]], 500)
    (task,) = document_tasks(BENCHMARKS["loogle"], ["shortdep_qa"], DATA / "loogle_sample", tokenizer, None, None)
    samples: Sequence[Sample] = task.generate(0, 1 << 17, 12, "test")
    found = 0
    for sample in samples:
        question = sample.reference
        assert isinstance(question, Question)
        written = [part for part in question.evidence if part in question.document]
        assert len(sample.gold) == len(written)
        for (low, high), part in zip(sample.gold, written, strict=True):
            assert part in tokenizer.decode(sample.prompt[low:high].tolist())
            found += 1
    assert found > 5
