"""L-Eval: 20 data sets of 3k to 200k tokens, several questions to a document.

https://github.com/OpenLMLab/LEval. What is too long loses its end (codeU its beginning), as in its baselines, which
write 512 tokens at most and are told how long an answer to an open question should be. Rows for human judges or judging
models are left out, as they are there; the paper prefers judges for all open questions, and the metrics here are its
automatic ones. That of summaries is a geometric mean of three ROUGE scores: there of their means over all questions,
here of each question's, so that it is a little lower.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

from farfield.benchmarks.tasks import scoring
from farfield.benchmarks.tasks.letters import leval_choice, true_false
from farfield.benchmarks.tasks.longdoc.data_set import Benchmark, DataSet, Question, Rule, over, texts
from farfield.benchmarks.tasks.longdoc.rows import Row
from farfield.benchmarks.tasks.rouge import geometric_mean

__all__ = ["LEVAL", "contained", "last_number", "printed"]

EXAM = texts(
    "Read this text. A question about it follows.\n\n",
    "\n\n{instruction}\n\nAnswer with the right letter, as A, or as directly as you can.\nAnswer:",
)
LETTERS = texts(
    "Read this text. A question about it follows, with one right choice or several.\n\n",
    "\n\n{instruction}\n\nAnswer with the letters of all right choices, as A or AB.\nAnswer:",
)
STORY = texts(
    "Read this story. A statement follows.\n\n",
    "\n\n{instruction}\n\nSay whether it is so in the story, and in brackets whether it is so in fact, as: "
    "True [fact: False]\nAnswer:",
)
TALK = texts("Here is a record of conversations, topic by topic.\n\n", "\n\n{instruction}\nAnswer:")
SHOTS = texts("Go on in the manner of the examples.\n\n", "\n\n{instruction}")
CODE = texts("Here is a code base.\n\n", "\n\n{instruction}\nFinal output:")
OPEN = texts(
    "Read this text, and do then what is asked.\n\n", "\n\n{instruction}\nAnswer in about {words} words.\nAnswer:"
)
BUDGET = 512
AUTOMATIC = ("exam", "f1", "rouge")
COMBINATIONS = tuple("".join(some) for size in range(1, 5) for some in combinations("ABCD", size))
TRUTHS = tuple(f"{one} [fact: {other}]" for one in ("True", "False") for other in ("True", "False"))


def _asked(row: Row) -> Iterator[Question]:
    """`instructions` about `input`, each with one of `outputs`."""
    document, asked, answers = row.text("input"), row.texts("instructions"), row.texts("outputs")
    if len(asked) != len(answers):
        raise row.error("outputs", f"has {len(answers)} entries, and 'instructions' has {len(asked)}")
    if row.text("evaluation") not in AUTOMATIC:
        return
    for instruction, answer in zip(asked, answers, strict=True):
        fields = {"instruction": instruction, "words": str(len(answer.split()))}
        yield Question(document, fields, (answer,), query=instruction)


def _lettered(row: Row) -> Iterator[Question]:
    for question in _asked(row):
        yield _among(question, "ABCD", _letters(question.answers[0]))


def _combined(row: Row) -> Iterator[Question]:
    for question in _asked(row):
        yield _among(question, COMBINATIONS, _letters(question.answers[0]))


def _stated(row: Row) -> Iterator[Question]:
    for question in _asked(row):
        yield _among(question, TRUTHS, question.answers[0])


def _letters(answer: str) -> str:
    return re.sub("[^A-D]", "", (answer.split() or [""])[0])


def _among(question: Question, options: str | tuple[str, ...], right: str) -> Question:
    if right not in tuple(options):
        return question
    places = (tuple(options).index(right),)
    return replace(question, options=tuple(f" {option}" for option in options), right=places)


def contained(output: str, answer: str) -> float:
    """L-Eval's exact match where there are no letters: equal numbers, or the answer in the first line with text."""
    try:
        return float(float(output) == float(answer))
    except ValueError:
        line = next((line for line in output.split("\n") if len(line) > 1), output)
        return float(answer.lower().replace(" ", "") in line.lower().replace(" ", ""))


def last_number(text: str) -> str:
    """The digits, up to a point, behind "The answer is", or of the first paragraph's last word with any (gsm100)."""
    said = re.search(r"The answer is (\S+)", text)
    words = text.split("\n\n")[0].split(" ")[::-1]
    word = said[1] if said else next((word for word in words if re.search(r"\d", word)), "")
    return re.sub(r"\D", "", word.split(".")[0])


def printed(output: str, answer: str) -> float:
    """Whether the last words of the output, or those behind "the final output", hold the answer (codeU)."""
    size = len(answer.split()) + 3
    text = _plain(output)
    for filler in ("will be", "of the code", "is", "would be", "the value of", "the result of", "printed"):
        text = text.replace(filler, "")
    if "the final output" in text:
        words = re.split(r"\s+", text.split("the final output")[-1])[:size]
    else:
        words = re.split(r"\s+", text)[-size:]
    return contained(" ".join(words), _plain(answer))


def _plain(text: str) -> str:
    text = re.sub(r"\s+", " ", text)
    for part in (",", "'", "\\", ".0"):
        text = text.replace(part, "")
    for apart, joined in (("] [", "]["), ("[ [", "[["), ("] ]", "]]")):
        text = text.replace(apart, joined)
    return text


def _numbers(output: str, answer: str) -> float:
    return contained(last_number(output), last_number(answer))


def _several(output: str, answer: str) -> float:
    return leval_choice(output, answer, several=True)


def _set(name: str, rule: Rule, metric: str, prompt: dict[str, str]) -> DataSet:
    return DataSet(name, f"{name}.jsonl", _asked, rule, metric, prompt, BUDGET, cut="end")


OPEN_SETS = "financial_qa legal_contract_qa multidoc_qa narrative_qa natural_question scientific_qa".split()
SUMMARIES = "gov_report_summ meeting_summ news_summ paper_assistant patent_summ review_summ tv_show_summ".split()

LEVAL = Benchmark(
    "leval",
    (
        replace(_set("coursera", over(_several), "accuracy", LETTERS), load=_combined),
        replace(_set("quality", over(leval_choice), "accuracy", EXAM), load=_lettered),
        replace(_set("tpo", over(leval_choice), "accuracy", EXAM), load=_lettered),
        replace(_set("sci_fi", over(true_false), "accuracy", STORY), load=_stated),
        _set("topic_retrieval_longchat", over(contained), "accuracy", TALK),
        _set("gsm100", over(_numbers), "accuracy", SHOTS),
        replace(_set("codeU", over(printed), "accuracy", CODE), cut="start"),
        *(_set(name, over(scoring.token_f1), "F1 (automatic)", OPEN) for name in OPEN_SETS),
        *(replace(_set(name, over(geometric_mean), "ROUGE (automatic)", OPEN), compare=False) for name in SUMMARIES),
    ),
    "L4NLP/LEval",
)
