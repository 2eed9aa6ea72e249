"""HELMET's answers with citations (ALCE): passages by number, and answers that cite them as [1][2].

`alce_asqa_8` is for 4k tokens, `alce_asqa_700` for 128k: the first so many passages of the same file. Two examples
stand before, of HELMET's prompt files `asqa_revised.json` and `qampari_revised.json` (in its folder `prompts`; copy
them beside the data); their fields are those of the files of the same kind in its repository, for these two could not
be looked at. How well citations fit what they stand behind is judged there by a model of 11 billion weights that
infers (T5 XXL), and is left out. QAMPARI's lists are judged by the recall of five answers, as HELMET reports it;
`alce_qampari_precision_8` and `alce_qampari_f1_8`, which ask the same, are there by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from farfield.benchmarks.tasks.longdoc.data_set import DataSet, Question, Rule, texts
from farfield.benchmarks.tasks.longdoc.examples import Example, Examples
from farfield.benchmarks.tasks.longdoc.rows import Row
from farfield.benchmarks.tasks.scoring import normalised

__all__ = ["CITING", "Listed", "listed", "named_share", "without_citations"]

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


class Listed(NamedTuple):
    """Shares of the entries that are answers, of the answers that are entries, and of five of these."""

    precision: float
    recall: float
    recall_5: float

    @property
    def f1(self) -> float:
        """Of the precision and of the recall of all answers."""
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0


def without_citations(output: str) -> str:
    """One line without [1] and other brackets' ends, and without " |", as published."""
    line = re.sub(r"\n+", " ", output)
    return re.sub(r" ?\[\d+", "", line).replace(" |", "").replace("]", "")


def named_share(output: str, wanted: tuple[tuple[str, ...], ...]) -> float:
    """The share of short answers of which one form is written, both in SQuAD's form (ALCE's str_em)."""
    text = normalised(without_citations(output))
    return sum(any(normalised(form) in text for form in forms) for forms in wanted) / len(wanted)


def listed(output: str, wanted: tuple[tuple[str, ...], ...]) -> Listed:
    """A list with commas against answers of several forms each (ALCE's QAMPARI).

    One of its forms must be a whole entry of the list, both in SQuAD's form.
    """
    given = [entry for entry in map(normalised, without_citations(output).split(",")) if entry]
    answers = [{normalised(form) for form in forms} for forms in wanted]
    known = set[str]().union(*answers)
    found = sum(not forms.isdisjoint(given) for forms in answers)
    precision = sum(entry in known for entry in given) / len(given) if given else 0.0
    return Listed(precision, found / len(answers), min(FIVE, found) / min(FIVE, len(answers)))


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
) -> tuple[DataSet, ...]:
    return tuple(
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
    )


LISTS = _set("qampari", _several, _rule(lambda output, wanted: listed(output, wanted).recall_5), "recall-5", QAMPARI)
OTHERWISE = {
    "precision": _rule(lambda output, wanted: listed(output, wanted).precision),
    "f1": _rule(lambda output, wanted: listed(output, wanted).f1),
}
CITING = (
    *_set("asqa", _ambiguous, _rule(named_share), "str-EM", ASQA),
    *LISTS,
    *(
        replace(one, name=one.name.replace("qampari", f"qampari_{name}"), rule=rule, metric=name, apart=True)
        for name, rule in OTHERWISE.items()
        for one in LISTS
    ),
)
