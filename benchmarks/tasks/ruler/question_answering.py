"""Questions about documents: those that answer one stand among others, at places that are drawn for each sample.

    Answer the question from the documents below. ...                          introduction

    Document 1:
    ...

    Document 2:
    ...

    Answer the question from the documents above. ...                          question

    Question: ...
    Answer:                                                                    beginning of the answer

Distractors are first of all those of the same article (SQuAD) or of the same question (HotpotQA); where there are no
more documents they come again, but never one that answers. The last of them is cut so that the length is filled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from farfield.benchmarks.tasks.ruler.assembly import OTHERS, Parts, Pieces, joined
from farfield.benchmarks.tasks.ruler.documents import Collection, Question
from farfield.benchmarks.tasks.ruler.task import Place
from farfield.benchmarks.tasks.ruler.words import held
from farfield.benchmarks.tasks.sample import Ids, LackingError, Split, generator
from farfield.benchmarks.tasks.wording_file import Wording

__all__ = ["QA", "QuestionAnswering"]

BUDGET = 32
LEAST = 4  # tokens of a document that is cut
BEGINNING = 32  # tokens of another document, without which there would be nothing to choose
LOOKED_AT = 64  # answers of other questions, among which those nearest in size are wrong choices
QA = {
    "introduction": "Answer the question from the documents below. Write the answer alone, without any other words."
    "\n\nThese are the documents.",
    "document": "Document {number}:",
    "question": "Answer the question from the documents above. Write the answer alone, without any other words."
    "\n\nQuestion: {query}",
    "answer": "\nAnswer:",
}


@dataclass(frozen=True, eq=False)
class QuestionAnswering:
    """Questions of one collection."""

    pieces: Pieces
    wording: Wording
    collection: Collection

    @cached_property
    def fingerprint(self) -> str:
        return f"{self.pieces.tokenizer.kind} {self.wording.fingerprint} {self.collection.fingerprint}"

    def questions(self, split: Split) -> int:
        return max(1, len(self._numbers(split)))

    def least(self, place: Place) -> int:
        asked = self._asked(place)
        gold = sum(len(self._document(one)) + self._header(at) for at, one in enumerate(asked.gold))
        return self._frame(asked) + gold + self._header(len(asked.gold)) + BEGINNING

    def parts(self, place: Place) -> Parts:
        rng = place.rng()
        asked = self._asked(place)
        chosen, left = self._filled(rng, asked, place.length - self._frame(asked))
        order = rng.permutation(len(chosen))
        body: list[Ids] = []
        for number, at in enumerate(order):
            body += [self._heading(number), chosen[at]]
        ends = np.cumsum([len(piece) for piece in body])
        places = [int(np.flatnonzero(order == at)[0]) for at in range(len(asked.gold))]
        spans = sorted((int(ends[2 * at]), int(ends[2 * at + 1])) for at in places)
        alone = [piece for at, gold in enumerate(chosen[: len(places)]) for piece in (self._heading(at), gold)]
        short = left >= self._header(len(chosen)) + LEAST
        return Parts(
            before=joined([self._introduction, self.pieces.blank(0 if short else left)]),
            body=joined(body),
            question=self._question(asked),
            gold=spans,
            depths=[start / int(ends[-1]) for start, _ in spans],
            alone=joined(alone),
            answer=self._answer(asked.answers[0]),
            budget=self._budget(asked),
            choices=[self._answer(asked.answers[0]), *self._wrong(rng, asked)],
            right=1,
            texts=asked.answers,
            unfilled=f"{self.collection.source} has no other document" if short else "",
        )

    @property
    def _introduction(self) -> Ids:
        return self.pieces(self.wording["introduction"])

    def _question(self, asked: Question) -> Ids:
        text = "\n\n" + self.wording["question"].format(query=asked.text) + self.wording["answer"]
        return self.pieces.once(text)

    def _answer(self, text: str) -> Ids:
        return self.pieces.once(f" {text}")

    def _budget(self, asked: Question) -> int:
        return max(BUDGET, *(len(self._answer(answer)) for answer in asked.answers))

    def _document(self, number: int) -> Ids:
        return self.pieces("\n" + self.collection.documents[number])

    def _heading(self, at: int) -> Ids:
        return self.pieces("\n\n" + self.wording["document"].format(number=at + 1))

    def _header(self, at: int) -> int:
        return len(self._heading(at))

    def _frame(self, asked: Question) -> int:
        """Tokens without the documents."""
        return len(self._introduction) + len(self._question(asked)) + self._budget(asked)

    def _asked(self, place: Place) -> Question:
        """The questions of the split in an order of the seed's; where there are no more they come again."""
        questions = self._numbers(place.split)
        if not len(questions):
            raise LackingError(f"{place.task}: {self.collection.source} has too few questions for a split. Give more.")
        order = generator("sample", place.seed).permutation(questions)
        return self.collection.questions[int(order[place.index % len(order)])]

    def _numbers(self, split: Split) -> NDArray[np.int64]:
        """A quarter of the questions is for training: what a user gives is mostly for testing."""
        numbers = np.arange(len(self.collection.questions))
        chosen: NDArray[np.int64] = numbers[held(numbers) == (split == "train")]
        return chosen

    def _filled(self, rng: np.random.Generator, asked: Question, room: int) -> tuple[list[Ids], int]:
        """Documents, the gold ones first, the last one cut; and the tokens that are left."""
        chosen = [self._document(one) for one in asked.gold]
        left = room - sum(len(one) + self._header(at) for at, one in enumerate(chosen))
        for number in self._distractors(rng, asked):
            document, header = self._document(number), self._header(len(chosen))
            if left < header + LEAST:
                break
            chosen.append(document[: left - header])
            left -= header + len(chosen[-1])
        return chosen, left

    def _distractors(self, rng: np.random.Generator, asked: Question) -> Iterator[int]:
        """Documents for ever, none of them gold: the related ones, all others, and all of them again."""
        yield from rng.permutation(asked.related).tolist()
        near = {*asked.gold, *asked.related}
        size = len(self.collection.documents)
        yield from (one for one in rng.permutation(size).tolist() if one not in near)
        while size > len(asked.gold):
            yield from (one for one in rng.permutation(size).tolist() if one not in asked.gold)

    def _wrong(self, rng: np.random.Generator, asked: Question) -> list[Ids]:
        """Answers of other questions, of about the same size."""
        gold = {answer.lower() for answer in asked.answers}
        looked = rng.choice(len(self.collection.questions), LOOKED_AT).tolist()
        texts = dict.fromkeys(self.collection.questions[at].answers[0] for at in looked)
        answers = [self._answer(text) for text in texts if text.lower() not in gold]
        size = len(self._answer(asked.answers[0]))
        return sorted(answers, key=lambda answer: abs(len(answer) - size))[:OTHERS]
