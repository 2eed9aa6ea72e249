"""InfiniteBench: 12 data sets of 100k tokens and more.

https://github.com/OpenBMB/InfiniteBench. What is too long loses its middle; budgets are its own, very short ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from farfield.benchmarks.tasks import scoring
from farfield.benchmarks.tasks.letters import infinitebench_choice, infinitebench_debug
from farfield.benchmarks.tasks.longdoc.data_set import Benchmark, DataSet, Question, Rule, over, texts
from farfield.benchmarks.tasks.longdoc.rows import Row
from farfield.benchmarks.tasks.rouge import rouge_l_sum

__all__ = ["INFINITEBENCH", "asked_row", "chosen_row"]

HIDDEN = texts("Something important is hidden in this text. Find it and remember it.\n\n", "\n\n{input}")
PAIRS = texts("Here is a JSON object.\n\n", "\n\n{input}\nThe value is:")
BOOK = texts("Read this book. A question about it follows.\n\n", "\n\nQuestion: {input}\nAnswer in a few words:")
CHINESE = texts("请阅读这本书，然后回答问题。\n\n", "\n\n问题：{input}\n请简短回答。答案：")
SUMMARY = texts("Read this book, and then sum it up.\n\n", "\n\nSum up the book.\nSummary:")
SCRIPT = texts(
    "In this dialogue a name is masked with $$MASK$$.\n\n", "\n\nWhose name is masked? Write the name alone.\nName:"
)
OPTIONS = "\nA. {A}\nB. {B}\nC. {C}\nD. {D}\nWrite the letter of the right one.\nAnswer:"
CHOICE = texts("Read this book. A question about it follows.\n\n", "\n\nQuestion: {input}" + OPTIONS)
DEBUG = texts("One function of this code has an obvious mistake.\n\n", "\n\nWhich function is it?" + OPTIONS)
RUN = texts("Here are definitions of functions.\n\n", "\n\n{input}\nThe value is:")
LIST = texts("Here is a list of numbers.\n\n", "\n\n{input}\nAnswer:")
SUM = texts(
    "Here is a long sum.\n\n", "\n\nWrite the intermediate result behind each number, from the second.\nResults:"
)


def asked_row(row: Row) -> Iterator[Question]:
    """`input` about `context`."""
    asked = row.text("input")
    yield Question(row.text("context"), {"input": asked}, row.texts("answer"), query=asked)


def chosen_row(row: Row) -> Iterator[Question]:
    """One of four `options`; `answer` is its text, or a list of its text, or of text and letter."""
    options, answer = row.texts("options"), row.texts("answer")
    if len(options) != 4:
        raise row.error("options", f"has {len(options)} entries, 4 are needed")
    if len(answer) == 2 and answer[1] in tuple("ABCD"):
        place = "ABCD".index(answer[1])
    elif answer[0] in options:
        place = options.index(answer[0])
    else:
        raise row.error("answer", f"is '{answer[0]}', and that is none of 'options'")
    asked = row.text("input")
    fields = {"input": asked, **dict(zip("ABCD", options, strict=True))}
    choices = tuple(f" {letter}" for letter in "ABCD")
    query = " ".join((asked, *options))
    yield Question(
        row.text("context"),
        fields,
        (options[place],),
        options=choices,
        right=(place,),
        query=query,
        reference="ABCD"[place],
    )


def _results(row: Row) -> Iterator[Question]:
    """`answer` is a list of integers, and all of them count."""
    for question in asked_row(row):
        try:
            numbers = [int(number) for number in question.answers]
        except ValueError:
            raise row.error("answer", "is no list of whole numbers") from None
        yield replace(question, answers=(", ".join(question.answers),), reference=numbers)


def _choice(output: str, question: Question) -> float:
    return infinitebench_choice(output, str(question.reference), question.answers[0])


def _debug(output: str, question: Question) -> float:
    return infinitebench_debug(output, str(question.reference), question.answers[0])


def _leading(output: str, question: Question) -> float:
    numbers = question.reference
    assert isinstance(numbers, list)
    return scoring.leading_share(output, numbers)


def _name(output: str, question: Question) -> float:
    """Whether the first answer is a word of the output, whatever the output's case."""
    words = re.sub(r"[\n:\"'.,?!{}]", " ", output).upper().split()
    return float(question.answers[0] in words)


def _summed(output: str, answer: str) -> float:
    return rouge_l_sum(output, answer).f1


def _set(name: str, rule: Rule, metric: str, prompt: dict[str, str], budget: int) -> DataSet:
    return DataSet(name, f"{name}.jsonl", asked_row, rule, metric, prompt, budget)


INFINITEBENCH = Benchmark(
    "infinitebench",
    (
        _set("passkey", over(scoring.first_integer), "accuracy", HIDDEN, 6),
        _set("number_string", over(scoring.first_integer), "accuracy", HIDDEN, 12),
        _set("kv_retrieval", over(scoring.whole_token), "accuracy", PAIRS, 50),
        replace(_set("longbook_sum_eng", over(_summed), "ROUGE-Lsum", SUMMARY, 1200), compare=False),
        replace(_set("longbook_choice_eng", _choice, "accuracy", CHOICE, 40), load=chosen_row),
        _set("longbook_qa_eng", over(scoring.token_f1), "F1", BOOK, 40),
        _set("longbook_qa_chn", over(scoring.character_f1), "F1", CHINESE, 40),
        _set("longdialogue_qa_eng", _name, "accuracy", SCRIPT, 40),
        _set("math_find", over(scoring.first_number), "accuracy", LIST, 3),
        replace(_set("math_calc", _leading, "share", SUM, 30_000), load=_results, compare=False),
        _set("code_run", over(scoring.last_word_integer), "accuracy", RUN, 5),
        replace(_set("code_debug", _debug, "accuracy", DEBUG, 5), load=chosen_row),
    ),
    "xinrongzhang2022/InfiniteBench",
    ("*.jsonl",),
)
