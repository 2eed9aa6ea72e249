"""LongBench v1 (21 data sets, five of them Chinese, two of code) and v2 (503 questions of four choices).

https://github.com/THUDM/LongBench. What is too long loses its middle. Of trec, triviaqa, samsum and lsht only the first
line that is written counts. A chat model gets whole prompts as the user's turn, those of examples and of code (`PLAIN`)
without its template. LongBench-E has 13 of the data sets in files of their own, evenly spread over lengths: a data set
for each of its three ranges, `<name>_e_0`, `<name>_e_4000`, `<name>_e_8000`, by the words from which it is, as the rows
count them. A data set of v2 is a length and a difficulty, as `short_easy`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from farfield.benchmarks.tasks import scoring
from farfield.benchmarks.tasks.letters import longbench_letter
from farfield.benchmarks.tasks.longdoc.chinese import cut_words
from farfield.benchmarks.tasks.longdoc.data_set import Benchmark, DataSet, Question, Rule, over, texts
from farfield.benchmarks.tasks.longdoc.rows import Row
from farfield.benchmarks.tasks.rouge import summary_l
from farfield.benchmarks.tasks.sample import Turn

__all__ = ["LONGBENCH_V1", "LONGBENCH_V2"]

PASSAGES = texts(
    "Read these passages. A question about them follows, to be answered in a few words.\n\n",
    "\n\nAnswer in a few words, and write nothing else.\nQuestion: {input}\nAnswer:",
)
ARTICLE = texts(
    "Read this text. A question about it follows.\n\n",
    "\n\nAnswer as briefly as you can, and write nothing else.\nQuestion: {input}\nAnswer:",
)
PAPER = texts(
    "Read this article. A question about it follows.\n\n",
    "\n\nAnswer as briefly as you can. Write yes or no where that is asked, and unanswerable where the article does "
    "not say.\nQuestion: {input}\nAnswer:",
)
SUMMARY = texts("Read this text, and then sum it up on one page.\n\n", "\n\nSum up the text.\nSummary:")
MEETING = texts(
    "This is the record of a meeting. A question about it follows.\n\n",
    "\n\nAnswer in one or a few sentences.\nQuestion: {input}\nAnswer:",
)
SHOTS = texts("Go on in the manner of the examples.\n\n", "\n\n{input}")
CODE = texts("Write the next line of this code.\n", "\nNext line of code:\n")
COUNT = texts(
    "Some of these paragraphs are there twice or more often. Count the different ones.\n\n",
    "\n\nWrite the number of different paragraphs, and nothing else.\nNumber:",
)
WHICH = texts(
    "Here are numbered paragraphs, and behind them a summary of one.\n\n",
    '\n\nSummary: {input}\n\nWrite the number of its paragraph, as "Paragraph 1".\nAnswer:',
)
CHINESE = texts("请阅读下面的文字，然后回答问题。\n\n", "\n\n请简短回答。\n问题：{input}\n答案：")
CHINESE_SUMMARY = texts("请阅读下面的会议记录，然后写总结。\n\n", "\n\n会议总结：")
CHINESE_SHOTS = texts("请按照例子继续。\n\n", "\n\n{input}")
CHINESE_WHICH = texts(
    "下面是若干段落和一段摘要。\n\n", '\n\n摘要：{input}\n\n请写出摘要所属的段落，如"段落1"。\n答案：'
)
CHOICE = texts(
    "Read this text. A question with four choices follows.\n\n",
    "\n\nQuestion: {question}\n(A) {choice_A}\n(B) {choice_B}\n(C) {choice_C}\n(D) {choice_D}\n\n"
    'Answer in this form: "The correct answer is (A)".\n',
)
EVEN = """
qasper multifieldqa_en hotpotqa 2wikimqa gov_report multi_news trec triviaqa samsum passage_count passage_retrieval_en
lcc repobench-p
""".split()


PLAIN = frozenset(("trec", "triviaqa", "samsum", "lsht", "lcc", "repobench-p"))  # asked without a chat's template


def _asked(row: Row) -> Iterator[Question]:
    """`input` about `context`."""
    asked = row.text("input")
    answers = row.texts("answers")
    yield Question(row.text("context"), {"input": asked}, answers, query=asked)


def _classes(row: Row) -> Iterator[Question]:
    """`input` is of one of `all_classes`."""
    classes, answers = row.texts("all_classes"), row.texts("answers")
    right = tuple(index for index, name in enumerate(classes) if name in answers)
    options = tuple(f" {name}" for name in classes)
    for question in _asked(row):
        yield replace(question, options=options if right else (), right=right, reference=classes)


def _code(row: Row) -> Iterator[Question]:
    """All code is the document: what is to be gone on with must not be cut away, and its beginning may be."""
    code = row.text("context") + row.text("input")
    yield Question(code, {}, row.texts("answers"), query=code[-500:])


def _classified(output: str, question: Question) -> float:
    classes = question.reference
    assert isinstance(classes, tuple)
    return scoring.best(partial(_named, classes), scoring.first_line(output), question.answers)


def _named(classes: tuple[str, ...], output: str, answer: str) -> float:
    return scoring.classified(output, answer, classes)


def _rouge(output: str, answer: str) -> float:
    return summary_l(output, answer).f1


def _chinese(rule: Callable[[list[str], list[str]], float]) -> Rule:
    return over(lambda output, answer: rule(cut_words(output), cut_words(answer)))


def _chinese_rouge(output: list[str], answer: list[str]) -> float:
    return _rouge(" ".join(output), " ".join(answer))


def _set(name: str, rule: Rule, metric: str, prompt: dict[str, str], budget: int) -> DataSet:
    turn: Turn = "none" if name in PLAIN else "whole"
    return DataSet(name, f"{name}.jsonl", _asked, rule, metric, prompt, budget, turn=turn)


F1, FIRST_F1, ROUGE = over(scoring.token_f1), over(scoring.token_f1, first_line=True), over(_rouge)
WORD_F1 = _chinese(scoring.word_f1)
NUMBERS = over(scoring.right_integers)

PARTS = "classes named within the answer's name do not count, where the published rule counts every second of them"

SETS = (
    _set("narrativeqa", F1, "F1", ARTICLE, 128),
    _set("qasper", F1, "F1", PAPER, 128),
    _set("multifieldqa_en", F1, "F1", ARTICLE, 64),
    replace(_set("multifieldqa_zh", WORD_F1, "F1", CHINESE, 64), chinese=True),
    _set("hotpotqa", F1, "F1", PASSAGES, 32),
    _set("2wikimqa", F1, "F1", PASSAGES, 32),
    _set("musique", F1, "F1", PASSAGES, 32),
    replace(_set("dureader", _chinese(_chinese_rouge), "ROUGE-L", CHINESE, 128), chinese=True),
    replace(_set("gov_report", ROUGE, "ROUGE-L", SUMMARY, 512), compare=False),
    replace(_set("qmsum", ROUGE, "ROUGE-L", MEETING, 512), compare=False),
    replace(_set("multi_news", ROUGE, "ROUGE-L", SUMMARY, 512), compare=False),
    replace(_set("vcsum", _chinese(_chinese_rouge), "ROUGE-L", CHINESE_SUMMARY, 512), compare=False, chinese=True),
    replace(_set("trec", _classified, "accuracy", SHOTS, 64), load=_classes, differs=PARTS),
    _set("triviaqa", FIRST_F1, "F1", SHOTS, 32),
    # As published, a line's end ends a summary of samsum: models go on with the next dialogue else.
    replace(_set("samsum", over(_rouge, first_line=True), "ROUGE-L", SHOTS, 128), stop=("\n",), compare=False),
    replace(_set("lsht", _classified, "accuracy", CHINESE_SHOTS, 64), load=_classes, differs=PARTS),
    _set("passage_count", NUMBERS, "accuracy", COUNT, 32),
    _set("passage_retrieval_en", NUMBERS, "accuracy", WHICH, 32),
    _set("passage_retrieval_zh", NUMBERS, "accuracy", CHINESE_WHICH, 32),
    replace(_set("lcc", over(scoring.code_similarity), "similarity", CODE, 64), load=_code),
    replace(_set("repobench-p", over(scoring.code_similarity), "similarity", CODE, 64), load=_code),
)


def _even(one: DataSet, low: int, high: float) -> DataSet:
    """The rows of LongBench-E's file whose `length` is in a range."""

    def load(row: Row) -> Iterator[Question]:
        if low <= row.number("length") < high:
            yield from one.load(row)

    labels = {"words from": low}
    return replace(one, name=f"{one.name}_e_{low}", file=f"{one.name}_e.jsonl", load=load, labels=labels)


EVEN_SETS = tuple(
    _even(one, low, high)
    for name in EVEN
    for one in SETS
    if one.name == name
    for low, high in ((0, 4000), (4000, 8000), (8000, math.inf))
)
LONGBENCH_V1 = Benchmark("longbench_v1", SETS + EVEN_SETS, "THUDM/LongBench", ("data.zip",))


def _choices(length: str, difficulty: str, row: Row) -> Iterator[Question]:
    """A question of four choices, if its text is as long, and it is as difficult, as wanted."""
    if (row.text("length"), row.text("difficulty")) != (length, difficulty):
        return
    answer = row.text("answer")
    if answer not in tuple("ABCD"):
        raise row.error("answer", f"is '{answer}', one of A, B, C, D is needed")
    names = ("question", "choice_A", "choice_B", "choice_C", "choice_D")
    fields = {name: row.text(name) for name in names}
    options = tuple(f"The correct answer is ({letter})" for letter in "ABCD")
    right = ("ABCD".index(answer),)
    yield Question(
        row.text("context"), fields, (answer,), options=options, right=right, query=" ".join(fields.values())
    )


def _letter(output: str, question: Question) -> float:
    return float(longbench_letter(output) == question.answers[0])


LONGBENCH_V2 = Benchmark(
    "longbench_v2",
    tuple(
        DataSet(f"{length}_{difficulty}", "data.json", load, _letter, "accuracy", CHOICE, 128, turn="whole")
        for length in ("short", "medium", "long")
        for difficulty in ("easy", "hard")
        for load in (partial(_choices, length, difficulty),)
    ),
    "THUDM/LongBench-v2",
    ("data.json",),
)
