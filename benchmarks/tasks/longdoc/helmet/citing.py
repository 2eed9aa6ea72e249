"""HELMET's answers with citations (ALCE): passages by number, and answers that cite them as [1][2].

`alce_asqa_8` is for 4k tokens, `alce_asqa_700` for 128k: the first so many passages of the same file. Two examples
stand before, of HELMET's prompt files `asqa_revised.json` and `qampari_revised.json` (in its folder `prompts`; copy
them beside the data); their fields are those of the files of the same kind in its repository, for these two could not
be looked at. How well citations fit what they stand behind is judged there by a model of 11 billion weights that
infers (T5 XXL), and is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial

from farfield.benchmarks.tasks.longdoc.data_set import DataSet, Question, Rule, texts
from farfield.benchmarks.tasks.longdoc.examples import Example, Examples
from farfield.benchmarks.tasks.longdoc.rows import Row
from farfield.benchmarks.tasks.scoring import normalised

__all__ = ["CITING", "named_share", "recall_of_five", "without_citations"]

ASQA = (
    "Answer the question from the passages below, some of which may be of no use. Write a short and exact text, and "
    "behind each sentence the numbers of the passages that say so, as [1][2]."
)
QAMPARI = (
    "List the answers to the question that the passages below have, some of which may be of no use. Write commas "
    "between answers, and behind each the numbers of the passages that say so, as [1][2]. Write five answers if there "
    "are as many."
)
COUNTS = (8, 30, 75, 165, 345, 700)
FIVE = 5
NO_JUDGE = "how well citations fit (their precision and recall) is left out, for a large model judges it there"


def without_citations(output: str) -> str:
    """One line without [1] and other brackets' ends, and without " |", as published."""
    line = re.sub(r"\n+", " ", output)
    return re.sub(r" ?\[\d+", "", line).replace(" |", "").replace("]", "")


def named_share(output: str, wanted: tuple[tuple[str, ...], ...]) -> float:
    """The share of short answers of which one form is written, both in SQuAD's form (ALCE's str_em)."""
    text = normalised(without_citations(output))
    return sum(any(normalised(form) in text for form in forms) for forms in wanted) / len(wanted)


def recall_of_five(output: str, wanted: tuple[tuple[str, ...], ...]) -> float:
    """The share of five answers, or of all if there are fewer, that a list with commas has (ALCE's QAMPARI).

    An answer has several forms, and one of them must be a whole entry, both in SQuAD's form.
    """
    line = without_citations(output).rstrip().rstrip(".").rstrip(",")
    given = {normalised(entry) for entry in line.split(",")} - {""}
    found = sum(not given.isdisjoint(map(normalised, forms)) for forms in wanted)
    return min(FIVE, found) / min(FIVE, len(wanted))


def _asked(count: int, row: Row, answers: tuple[tuple[str, ...], ...]) -> Question:
    """The question among the first `count` passages; of `answers` each has several forms."""
    question = row.text("question")
    gold = (", ".join(forms[0] for forms in answers),)
    return Question(_passages(row, count), {"question": question}, gold, query=question, reference=answers)


def _passages(row: Row, count: int | None = None) -> str:
    found = [row.inner("docs", number, one) for number, one in enumerate(row.entries("docs")[:count])]
    return "\n\n".join(
        f"Passage [{number}] ({one.text('title')}): {one.text('text')}" for number, one in enumerate(found, start=1)
    )


def _ambiguous(count: int, row: Row) -> Iterator[Question]:
    """ASQA: each meaning of the question, in `qa_pairs`, has its short answers."""
    pairs = [row.inner("qa_pairs", number, one) for number, one in enumerate(row.entries("qa_pairs"))]
    if not pairs:
        raise row.error("qa_pairs", "is empty, a pair or more is needed")
    yield _asked(count, row, tuple(pair.texts("short_answers") for pair in pairs))


def _several(count: int, row: Row) -> Iterator[Question]:
    """QAMPARI: `answers` is a list of answers, each a list of its forms."""
    answers = row.entries("answers")
    if not answers or not all(isinstance(forms, list) and forms for forms in answers):
        raise row.error("answers", "is no list of answers, each a list of its forms")
    yield _asked(count, row, tuple(tuple(map(str, forms)) for forms in answers))


def _shown(row: Row) -> Iterator[Example]:
    question = row.text("question")
    yield Example(question, {"question": question, "documents": _passages(row), "answer": row.text("answer")})


def _rule(score: Callable[[str, tuple[tuple[str, ...], ...]], float]) -> Rule:
    def judge(output: str, question: Question) -> float:
        assert isinstance(question.reference, tuple)
        return score(output, question.reference)

    return judge


def _texts(instruction: str) -> dict[str, str]:
    asked = f"{instruction}\n\nQuestion: {{question}}\n\n"
    example = f"{asked}{{documents}}\n\nAnswer: {{answer}}\n\n\n"
    return texts("{examples}" + asked, "\n\nAnswer:", "Question: {question}\n\nAnswer:") | {"example": example}


def _set(
    name: str, load: Callable[[int, Row], Iterator[Question]], rule: Rule, metric: str, prompt: str
) -> list[DataSet]:
    return [
        DataSet(
            f"alce_{name}_{count}",
            f"alce/{name}_eval_gtr_top2000.json",
            partial(load, count),
            rule,
            metric,
            _texts(prompt),
            300,
            cut="end",
            compare=False,
            labels={"passages": count},
            beside=Examples(f"{name}_revised.json", _shown),
            differs=NO_JUDGE,
        )
        for count in COUNTS
    ]


CITING = (
    *_set("asqa", _ambiguous, _rule(named_share), "str-EM", ASQA),
    *_set("qampari", _several, _rule(recall_of_five), "recall-5", QAMPARI),
)
