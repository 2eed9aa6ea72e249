"""The task of one data set: questions about documents, read in several ways.

    full          introduction | document, cut to the length by the data set's rule | question
    remembered    introduction | document, whole                                    | question
    retrieved     introduction | the passages that are found for the question       | question
    gold_only     introduction | the parts that the data set marks as evidence      | question
    no_context                                                        closed question

All questions about one document leave it the same room, that beside the longest of them, so that they share their
beginning. A question is an index; those of one document are neighbours, and the seed draws the order of documents.
What the model writes is judged by the published rule; by likelihood it chooses among the options of the question, or
else among the answers to other questions of the data set.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from farfield.benchmarks.tasks.longdoc.chinese import check_words
from farfield.benchmarks.tasks.longdoc.cutting import Cutting, cut, located, passage_ids, placed
from farfield.benchmarks.tasks.longdoc.data_set import DataSet, Question, Questions
from farfield.benchmarks.tasks.sample import (
    Condition,
    Ids,
    Sample,
    Scoring,
    Split,
    Tokenizer,
    TooShortError,
    Turn,
    generator,
)
from farfield.benchmarks.tasks.wording_file import Wording
from farfield.config import ConfigError

__all__ = ["DocumentTask", "Finder"]

VERSION = 1
LEAST = 16  # tokens of a document without which there is nothing to ask about
CHOICES = 8  # answers to choose from where a question has no options of its own
FULL = 0.98


class Finder(Protocol):
    """Finds passages of a document."""

    @property
    def fingerprint(self) -> str: ...

    def find(self, document: str, question: str) -> Sequence[tuple[int, str]]:
        """Passages of `document` and where each begins in it, the best first."""
        ...


class Prompts(Mapping[Condition, Ids]):
    """Prompts that are made when they are asked for: a whole document may be long, and a search takes time."""

    def __init__(self, makers: Mapping[Condition, Callable[[], Ids]]) -> None:
        self.makers = makers

    def __getitem__(self, condition: Condition) -> Ids:
        return self.makers[condition]()

    def __iter__(self) -> Iterator[Condition]:
        return iter(self.makers)

    def __len__(self) -> int:
        return len(self.makers)


class DocumentTask:
    """A data set's questions as a task. An index is a question."""

    placed = False

    def __init__(
        self,
        benchmark: str,
        data_set: DataSet,
        questions: Questions,
        tokenizer: Tokenizer,
        wording: Wording,
        finder: Finder | None = None,
    ) -> None:
        self.name = f"{benchmark}_{data_set.name}"
        self.data_set, self.questions, self.tokenizer = data_set, questions, tokenizer
        self.wording, self.finder = wording, finder
        self.groups: dict[str, list[int]] = {}  # by a digest: to keep all documents may be too much
        self.group: list[str] = []
        answers: dict[str, None] = {}
        self.optional = True
        for place, question in enumerate(questions):
            self.group.append(hashlib.blake2b(question.document.encode(errors="surrogatepass")).hexdigest())
            self.groups.setdefault(self.group[-1], []).append(place)
            answers[question.answers[0]] = None
            self.optional &= bool(question.options)
        self.answers = tuple(answers)
        self._encoded = functools.lru_cache(maxsize=4)(self._encode)
        self._frame = functools.lru_cache(maxsize=None)(self._framed)
        self._sized = functools.lru_cache(maxsize=None)(self._longest)
        self._marked = functools.lru_cache(maxsize=None)(self._evidence)

    @property
    def metric(self) -> str:
        return self.data_set.metric

    @property
    def labels(self) -> Mapping[str, float]:
        return self.data_set.labels

    @property
    def stop(self) -> tuple[str, ...]:
        return self.data_set.stop

    @property
    def turn(self) -> Turn:
        return self.data_set.turn

    @property
    def scorings(self) -> tuple[Scoring, ...]:
        compared = self.optional or (self.data_set.compare and len(self.answers) > 1)
        return ("generate", "likelihood") if compared else ("generate",)

    def available(self, length: int, split: Split) -> int:
        """Questions that there are, whatever the length."""
        return len(self.questions)

    @functools.cached_property
    def fingerprint(self) -> str:
        content = hashlib.sha256()
        for question in self.questions:
            content.update(repr((question.document, question.fields, question.answers)).encode())
            if question.examples:
                content.update(repr(question.examples).encode())
        found = self.finder.fingerprint if self.finder else "none"
        turn = "" if self.turn == "begun" else f" {self.turn}"
        settings = f"{self.data_set.budget} {self.data_set.cut} {self.wording.fingerprint} {found}{turn}"
        return f"{self.name} {VERSION} {self.tokenizer.kind} {settings} {content.hexdigest()[:16]}"

    def check(self, seed: int, length: int, n: int, split: Split) -> None:
        if split == "train":
            raise ConfigError(f"{self.name}: its questions are for testing. Take split=test.")
        if self.data_set.chinese:
            check_words(self.name)
        asked = self._order(seed)[:n]
        least = max(self._frame(place) for place in asked) + LEAST
        if length < least:
            raise TooShortError(
                f"{self.name}: a length of {length} tokens is too short for the question and the answer of up to "
                f"{self.data_set.budget} tokens: {least} is the least for the questions asked ({len(asked)}). Give "
                "longer lengths."
            )

    def generate(
        self, seed: int, length: int, n: int, split: Split, *, depth: float | None = None, first: int = 0
    ) -> list[Sample]:
        self.check(seed, length, first + n, split)
        if first + n > len(self.questions):
            raise ConfigError(
                f"{self.name}: {first + n} samples asked for, and it has {len(self.questions)} questions. "
                f"Give samples={len(self.questions)} or fewer."
            )
        return [self._sample(seed, length, place) for place in self._order(seed)[first : first + n]]

    def score(self, samples: Sequence[Sample], outputs: Sequence[Sequence[int]]) -> list[float]:
        texts = [self.tokenizer.decode(list(output)) for output in outputs]
        return [self.data_set.rule(text, _question(sample)) for text, sample in zip(texts, samples, strict=True)]

    def _order(self, seed: int) -> list[int]:
        groups = list(self.groups.values())
        return [place for group in generator("facts", seed).permutation(len(groups)) for place in groups[group]]

    def _framed(self, place: int) -> int:
        """Tokens of everything but the document, for the longest question about it."""
        introduction = self._text("introduction", self.questions[place])
        return len(introduction) + self._sized(self.group[place]) + self.data_set.budget

    def _longest(self, group: str) -> int:
        return max(len(self._text("question", self.questions[place])) for place in self.groups[group])

    def _sample(self, seed: int, length: int, place: int) -> Sample:
        question, budget = self.questions[place], self.data_set.budget
        introduction, asked = self._text("introduction", question), self._text("question", question)
        document, mark = self._encoded(question.document), self._encode(question.mark)
        room = length - self._frame(place)
        # The published rule cuts whole prompts: half of the length before the cut, half of it behind.
        cutting = cut(len(document), room, self.data_set.cut, (length - budget) // 2 - len(introduction), len(mark))
        body = np.concatenate([introduction, cutting.apply(document, mark)])
        gold, depths = self._gold(place, cutting, len(introduction), len(mark))
        total = len(body) + len(asked) + budget
        choices, right = self._choices(seed, place)
        return Sample(
            prompt=np.concatenate([body, asked]),
            answer=self._encode(f" {question.answers[0]}")[:budget],
            length=total,
            budget=budget,
            seed=seed,
            version=VERSION,
            text_answers=question.answers,
            depths=depths,
            gold=gold,
            question=len(body) if len(asked) else 0,
            choices=choices,
            right=right,
            prompts=Prompts(self._prompts(question, introduction, asked, room)),
            unfilled=_unfilled(total, length, len(document) <= room),
            reference=question,
        )

    def _prompts(
        self, question: Question, introduction: Ids, asked: Ids, room: int
    ) -> dict[Condition, Callable[[], Ids]]:
        """How the prompts of the other readings are made."""

        def around(document: Ids) -> Ids:
            return np.concatenate([introduction, document, asked])

        makers: dict[Condition, Callable[[], Ids]] = {
            "remembered": lambda: around(self._encoded(question.document)),
        }
        closed = self._text("closed", question)
        # A question with no word of its own, as for a summary, asks nothing without its document.
        if any(question.fields.values()):
            makers["no_context"] = lambda: closed
        if question.evidence:
            makers["gold_only"] = lambda: around(self._joined(question.evidence, room))
        if self.finder is not None and question.query:
            makers["retrieved"] = lambda: around(self._found(question, room))
        return makers

    def _joined(self, parts: Sequence[str], room: int) -> Ids:
        return self._encode("\n\n".join(parts))[:room]

    def _found(self, question: Question, room: int) -> Ids:
        assert self.finder is not None
        return passage_ids(self.finder.find(question.document, question.query), self._encode, room)

    def _gold(
        self, number: int, cutting: Cutting, before: int, mark: int
    ) -> tuple[tuple[tuple[int, int], ...], tuple[float, ...]]:
        """Where the evidence stands in the prompt, as far as it was not cut away, and its depths in the document."""
        kept = [
            (place, span[0] / cutting.size)
            for span in self._marked(number)
            if (place := placed(span, cutting, before, mark)) is not None
        ]
        return tuple(place for place, _ in kept), tuple(depth for _, depth in kept)

    def _evidence(self, number: int) -> list[tuple[int, int]]:
        """The tokens of the whole document in which a question's evidence is written."""
        question = self.questions[number]
        ids = self._encoded(question.document)
        spans = [located(question.document, text, ids, self.tokenizer) for text in question.evidence]
        return [span for span in spans if span is not None]

    def _choices(self, seed: int, place: int) -> tuple[tuple[Ids, ...], tuple[int, ...]]:
        """Continuations of at most the budget's tokens, each once, the gold ones among them."""
        question = self.questions[place]
        if question.options:
            return tuple(map(self._encode, question.options)), question.right
        if "likelihood" not in self.scorings:
            return (), ()
        rng = generator("facts", seed, place)
        others = [self.answers[at] for at in rng.permutation(len(self.answers))]
        drawn = [question.answers[0], *(answer for answer in others if answer not in question.answers)]
        kept: dict[bytes, Ids] = {}
        for answer in drawn:
            ids = self._encode(f" {answer}")[: self.data_set.budget]
            if len(ids) and len(kept) < CHOICES:
                kept.setdefault(ids.tobytes(), ids)
        shuffled = rng.permutation(len(kept))
        return tuple(list(kept.values())[at] for at in shuffled), (int(np.flatnonzero(shuffled == 0)[0]),)

    def _text(self, name: str, question: Question) -> Ids:
        examples = "".join(self.wording["example"].format(**fields) for fields in question.examples)
        return self._encode(self.wording[name].format(**{"examples": examples, **question.fields}))

    def _encode(self, text: str) -> Ids:
        return np.array(self.tokenizer.encode(text) if text else [], dtype=np.int32)


def _question(sample: Sample) -> Question:
    assert isinstance(sample.reference, Question)
    return sample.reference


def _unfilled(total: int, length: int, whole: bool) -> str:
    if total >= FULL * length:
        return ""
    return "the document has no more" if whole else "room is kept for the longest question about the document"
