"""Question answering of Lost in the Middle over documents that a search found, one of which answers.

    Answer the question ...                          introduction; with the question in it, where the prompt is aware
    Document [1](Title: Physics) The first ...       others: the passages nearest to the question, without its answer
    Document [2](Title: List of laureates) ...       the gold one where its depth says
    Document [3](Title: Nobel Prize) ...

    Question: who got the first nobel prize in physics
    Answer:                                          question
     Wilhelm Conrad Röntgen                          answer: right if its first line holds one of the gold answers

The questions and their gold passages are a file's. Its own other passages are the others where it has such, else the
gold passages of other questions, by BM25. There are as many documents as fit, or a fixed number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice

import numpy as np

from farfield.benchmarks.tasks.bm25 import Bm25
from farfield.benchmarks.tasks.gold_row import WRITTEN, GoldRow, numbered, place_of, too_few
from farfield.benchmarks.tasks.lost_files import Passage, Searched
from farfield.benchmarks.tasks.sample import SPLITS, Ids, Sample, Scoring, Split, Tokenizer, generator, judged
from farfield.benchmarks.tasks.scoring import normalised
from farfield.benchmarks.tasks.wording_file import Wording
from farfield.config import ConfigError

__all__ = ["DOCUMENTS", "FoundDocuments", "subspan_match"]

DOCUMENTS = {
    "introduction": "Answer the question at the end from the documents here. Most of them are about other things.\n\n",
    "introduction_aware": "Answer the question from the documents here: {question}\n\n",
    # Cut where tokenizers cut too: headings and passages are encoded apart.
    "heading": "Document [{number}](Title:",
    "passage": " {title}) {text}\n",
    "question": "\nQuestion: {question}\nAnswer:",
    "reply": " {answer}",
}
VERSION = 1
CHOICES = 8


class FoundDocuments:
    """The task. Each index gives one sample, of another question."""

    name = "documents"
    metric = "accuracy"
    placed = True
    scorings: tuple[Scoring, ...] = ("generate", "likelihood")
    stop: tuple[str, ...] = ("\n",)
    labels: Mapping[str, float] = {}

    def __init__(
        self,
        tokenizer: Tokenizer,
        wording: Wording,
        questions: Sequence[Searched],
        source: str,
        documents: int | None = None,
        aware: bool = False,
    ) -> None:
        """What is asked.

        questions:  of the file `source`
        documents:  of each prompt, None as many as fit
        aware:      whether the introduction too says what is asked
        """
        self.tokenizer, self.wording, self.questions, self.source = tokenizer, wording, questions, source
        self.documents, self.aware = documents, aware
        self._headings: list[Ids] = []
        self._passages: dict[Passage, Ids] = {}

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr(self.questions).encode()).hexdigest()[:16]
        kind = self.tokenizer.kind
        return f"{self.name} {VERSION} {self.documents} {self.aware} {self.wording.fingerprint} {kind} {digest}"

    def check(self, seed: int, length: int, n: int, split: Split) -> None:
        if split == "train":
            raise ConfigError(f"suite.split: {self.source} is for testing. Take split=test.")
        least = self.documents or 2
        asked = [numbered(seed, index, len(self.questions), self.source) for index in range(n)]
        used = max(self._found(at, 0, least)[1] for at in asked)
        if used > length:
            raise too_few(length, f"{least} documents", used)

    def generate(
        self, seed: int, length: int, n: int, split: Split, *, depth: float | None = None, first: int = 0
    ) -> list[Sample]:
        return [self._ask(seed, length, index, split, depth) for index in range(first, first + n)]

    def score(self, samples: Sequence[Sample], outputs: Sequence[Sequence[int]]) -> list[float]:
        return judged(self.tokenizer, samples, outputs, subspan_match)

    def _ask(self, seed: int, length: int, index: int, split: Split, depth: float | None) -> Sample:
        at = numbered(seed, index, len(self.questions), self.source)
        rng, asked = generator("sample", seed, length, index, SPLITS[split]), self.questions[at]
        found, used = self._found(at, length, self.documents)
        if used > length:
            raise too_few(length, f"{len(found)} documents", used)
        gold, *others = found
        place = place_of(rng, depth, len(others) + 1)
        shown = [*others[:place], gold, *others[place:]]
        introduction, question = self._around(asked)
        row = GoldRow(
            introduction=introduction,
            things=[self._document(number, passage) for number, passage in enumerate(shown)],
            place=place,
            question=question,
            alone=self._document(0, gold),
            replies=[self._encode(self.wording["reply"].format(answer=answer)) for answer in self._replies(at)],
            values=asked.answers,
            why=f"{len(shown)} are asked for" if self.documents else "no other document fits",
        )
        return row.sample(rng, length, seed)

    def _found(self, at: int, length: int, most: int | None) -> tuple[list[Passage], int]:
        """The gold passage of a question, then others, the nearest first, and the tokens of all with the answer.

        They are as many as fit or as are asked for, and two at least, whether they fit or not.

        Raises:
            ConfigError: there are not so many without an answer.
        """
        found, least = [self.questions[at].gold], self.documents or 2
        used = sum(map(len, self._around(self.questions[at]))) + WRITTEN + len(self._document(0, found[0]))
        for passage in self._others(at):
            if len(found) == most or (len(found) >= least and used + self.smallest > length):
                break
            size = len(self._document(len(found), passage))
            if len(found) < least or used + size <= length:
                found.append(passage)
                used += size
        if len(found) < least:
            raise ConfigError(
                f"lost_in_the_middle: of {self.source} only {len(found)} documents are for the question "
                f"'{self.questions[at].question}', {least} are asked for. Give fewer documents_per_prompt."
            )
        return found, used

    def _others(self, at: int) -> Iterator[Passage]:
        """Passages that do not answer, the nearest first."""
        asked = self.questions[at]
        own = [passage for passage in asked.ctxs if not passage.isgold]
        if own:
            yield from own
            return
        answers = [normalised(answer) for answer in asked.answers]
        seen = {asked.gold.text}
        for other in self._index.nearest(asked.question):
            passage = self.questions[other].gold
            if passage.text not in seen and not any(answer in self._plain[other] for answer in answers if answer):
                seen.add(passage.text)
                yield passage

    def _replies(self, at: int) -> list[str]:
        """An answer that the gold passage has, and answers to the questions nearest to this one."""
        asked = self.questions[at]
        plain, right = self._plain[at], {normalised(answer) for answer in asked.answers}
        gold = next((answer for answer in asked.answers if normalised(answer) in plain), asked.answers[0])
        near = (self.questions[other].answers[0] for other in self._index.nearest(asked.question))
        wrong = {normalised(answer): answer for answer in islice(near, 4 * CHOICES) if normalised(answer) not in right}
        return [gold, *list(wrong.values())[: CHOICES - 1]]

    @cached_property
    def _index(self) -> Bm25:
        return Bm25([f"{asked.gold.title} {asked.gold.text}" for asked in self.questions])

    @cached_property
    def _plain(self) -> list[str]:
        """The gold passages as answers are looked for in them."""
        return [normalised(f"{asked.gold.title} {asked.gold.text}") for asked in self.questions]

    @cached_property
    def smallest(self) -> int:
        """Tokens that any document has at least."""
        return len(self._heading(0)) + min(len(self._passage(asked.gold)) for asked in self.questions)

    def _around(self, asked: Searched) -> tuple[Ids, Ids]:
        name = "introduction_aware" if self.aware else "introduction"
        parts = (self.wording[part].format(question=asked.question) for part in (name, "question"))
        introduction, question = map(self._encode, parts)
        return introduction, question

    def _document(self, number: int, passage: Passage) -> Ids:
        return np.concatenate([self._heading(number), self._passage(passage)])

    def _heading(self, number: int) -> Ids:
        while len(self._headings) <= number:
            self._headings.append(self._encode(self.wording["heading"].format(number=len(self._headings) + 1)))
        return self._headings[number]

    def _passage(self, passage: Passage) -> Ids:
        if passage not in self._passages:
            text = self.wording["passage"].format(title=passage.title, text=passage.text)
            self._passages[passage] = self._encode(text)
        return self._passages[passage]

    def _encode(self, text: str) -> Ids:
        return np.array(self.tokenizer.encode(text), dtype=np.int32)


def subspan_match(output: str, answers: Sequence[str]) -> float:
    """Whether the first line holds one of the answers, both in SQuAD's form (`best_subspan_em`).

    An answer that has nothing left in that form, as "The The", is in every output by the published rule; here the line
    must be that answer, but for case and spaces around it.
    """
    line = output.split("\n")[0].strip()
    plain = normalised(line)
    return float(
        any(
            form in plain if (form := normalised(answer)) else line.lower() == answer.strip().lower()
            for answer in answers
        )
    )
