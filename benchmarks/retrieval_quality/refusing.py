"""Can the best passage's match tell whether the documents answer a question at all?

Every second paragraph of each article is left out of an index: questions about those are not answered by it, and the
paragraphs that are left are about the same things. The threshold is chosen on the first half of the articles, and
judged on the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from farfield.benchmarks.retrieval_quality.collection import Collection
from farfield.benchmarks.retrieval_quality.methods import METHODS, opened
from farfield.benchmarks.tasks.ranking_metrics import area, decided, kept_share

__all__ = ["Refusal", "refused"]


@dataclass(frozen=True)
class Refusal:
    """A threshold, and what it does to questions that it was not chosen on.

    Attributes:
        least: the threshold that keeps `kept` of the answerable questions of the first half.
        area: under the ROC of the second half.
        answered: share of the second half's answerable questions that stay answered.
        precision, recall: of telling the questions that have no answer.
    """

    method: str
    kept: float
    least: float
    area: float
    answered: float
    precision: float
    recall: float
    questions: int


def refused(collection: Collection, name: str, folder: Path, shares: Sequence[float]) -> list[Refusal]:
    """The thresholds that keep each of `shares` of the answerable questions."""
    with opened(folder, METHODS[name]) as index:
        answers = index.answers([question.text for question in collection.questions])
    groups = 1 + max(question.group for question in collection.questions)
    good: tuple[list[float], list[float]] = ([], [])
    bad: tuple[list[float], list[float]] = ([], [])
    for question, answer in zip(collection.questions, answers, strict=True):
        (good if question.relevant else bad)[2 * question.group // groups].append(answer.match)
    rows = []
    for share in shares:
        least = kept_share(good[0], share)
        precision, found = decided(good[1], bad[1], least)
        answered = sum(score >= least for score in good[1]) / len(good[1])
        count = len(good[1]) + len(bad[1])
        rows.append(Refusal(name, share, least, area(good[1], bad[1]), answered, precision, found, count))
    return rows
