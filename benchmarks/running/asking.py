"""One batch of samples through a model: prompts at all depths side by side, common beginnings prefilled once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from farfield.benchmarks.running.excerpt import excerpt
from farfield.benchmarks.running.prefixes import Walk, grouped
from farfield.benchmarks.running.results import Answers, Cell
from farfield.benchmarks.subjects.subject import Capability, Lacking, Prefilled, Subject
from farfield.benchmarks.tasks.sample import IGNORED, Condition, Ids, Sample, Scoring, Task

__all__ = ["Asking", "Batch", "Lacking", "needed"]

NEEDED: dict[Scoring, Capability] = {"generate": "generate", "likelihood": "score", "read": "read"}
MEMORY: tuple[Condition, ...] = ("memory_off", "memory_shuffled")
UNLIKELY = -1e9  # the log-probability that is written for zero, which JSON cannot hold


def needed(scoring: Scoring, condition: Condition) -> frozenset[Capability]:
    """What a subject must be able to do."""
    more: dict[Condition, frozenset[Capability]] = {
        "memory_off": frozenset({"memory"}),
        "memory_shuffled": frozenset({"memory", "state"}),
        "remembered": frozenset({"state"}),
    }
    return frozenset({NEEDED[scoring]}) | more.get(condition, frozenset())


@dataclass(frozen=True)
class _Judged:
    """One sample's score, what the model answered, how likely it held the gold, in nats, and ties on the way.

    chance: the score to be expected of guessing, where candidates are compared
    silent: whether the model never came to its answer
    """

    score: float
    output: list[int]
    logprob: float | None = None
    ties: int = 0
    chance: float | None = None
    silent: bool = False


@dataclass(frozen=True)
class Asking:
    """How the cells of one task and condition are asked.

    rows: prompts that are read side by side, at most
    read: called with the tokens of each prefill
    """

    task: Task
    scoring: Scoring
    condition: Condition
    seed: int
    rows: int
    read: Callable[[int], None]


class Batch:
    """The samples of the indices from `first` on in cells of one row and condition, the same number for each."""

    def __init__(
        self, how: Asking, subject: Subject, samples: Mapping[Cell, Sequence[Sample]], first: int, count: int
    ) -> None:
        self.how, self.task, self.scoring, self.condition = how, how.task, how.scoring, how.condition
        self.subject = subject.without_memory() if self.condition == "memory_off" else subject
        self.samples, self.first, self.count = samples, first, count
        self.each = len(next(iter(samples.values()))) // count
        self.members = [(cell, asked) for cell in samples for asked in range(self.each)]
        self.judged: dict[Cell, dict[int, _Judged]] = {cell: {} for cell in samples}
        self.fresh = dict.fromkeys(samples, 0)
        self.seconds = dict.fromkeys(samples, 0.0)

    def run(self, take: Callable[[Cell, Answers], None]) -> None:
        """Hands the answers of each cell to `take` when its last sample is judged.

        Raises:
            Lacking: the task has no prompts of this condition.
            TemporaryError: the subject has given up for now.
        """
        self.take, self.clock = take, time.perf_counter()
        alone = {"read": self._read, "memory_shuffled": self._shuffled}
        apart = alone.get("read" if self.scoring == "read" else self.condition)
        if apart is None:
            prompts = [[self._prompt(self._sample(row, one)) for one in self.members] for row in range(self.count)]
            Walk(self.subject, self._leaf, self.how.rows, self.how.read)(prompts)
            return
        for at, member in enumerate(self.members):
            for rows in grouped(range(self.count), partial(self._signature, member), self.how.rows):
                apart(rows, at)

    def _sample(self, row: int, member: tuple[Cell, int]) -> Sample:
        """A member's sample of a row: members are the questions of each cell, rows the indices."""
        cell, asked = member
        return self.samples[cell][row * self.each + asked]

    def _signature(self, member: tuple[Cell, int], row: int) -> tuple[int, int]:
        """Equal for two rows only if they can be read side by side."""
        sample = self._sample(row, member)
        return len(self._prompt(sample)), sample.question

    def _prompt(self, sample: Sample) -> Ids:
        if self.condition == "full" or self.condition in MEMORY:
            return sample.prompt
        if self.condition not in sample.prompts:
            raise Lacking(sample.unasked.get(self.condition, f"{self.task.name} has no prompts of {self.condition}"))
        return sample.prompts[self.condition]

    def _targets(self, sample: Sample) -> Ids:
        """What comes next at the places of `_prompt` that are asked at."""
        whole = self.condition == "full" or self.condition in MEMORY
        targets = sample.targets if whole else sample.asked.get(self.condition)
        if targets is None:
            raise Lacking(f"{self.task.name} has no targets of {self.condition}")
        return targets

    def _leaf(self, rows: Sequence[int], at: int, known: Prefilled, fresh: int) -> None:
        """Asks for the answers of a member."""
        samples = [self._sample(row, self.members[at]) for row in rows]
        judge = _generated if self.scoring == "generate" else _chosen
        self._note(rows, at, judge(self.subject, self.task, samples, known), fresh)

    def _shuffled(self, rows: Sequence[int], at: int) -> None:
        """The text, the memory exchanged, and then the question."""
        samples = [self._sample(row, self.members[at]) for row in rows]
        prompts: NDArray[np.int64] = np.stack([self._prompt(sample) for sample in samples]).astype(np.int64)
        question, known = self._exchanged(samples[0], prompts)
        known = self.subject.prefill(prompts[:, question:], known)
        self.how.read(prompts.size)
        self._leaf(rows, at, known, prompts.size)

    def _exchanged(self, sample: Sample, prompts: NDArray[np.int64]) -> tuple[int, Prefilled]:
        """Where the question of prompts (rows, time) begins, and what is known there, the memory exchanged."""
        if not sample.question:
            why = f"{self.task.name} does not tell where its question begins"
            raise Lacking(sample.unasked.get(self.condition, why))
        known = self.subject.prefill(prompts[:, : sample.question])
        return sample.question, self.subject.shuffled(known, self.how.seed)

    def _read(self, rows: Sequence[int], at: int) -> None:
        samples = [self._sample(row, self.members[at]) for row in rows]
        prompts: NDArray[np.int64] = np.stack([self._prompt(sample) for sample in samples]).astype(np.int64)
        wanted: NDArray[np.int64] = np.stack([self._targets(sample) for sample in samples]).astype(np.int64)
        begin, known = self._exchanged(samples[0], prompts) if self.condition == "memory_shuffled" else (0, None)
        asked = wanted != IGNORED
        assert not asked[:, :begin].any(), "nothing is asked before the question"
        asked = asked[:, begin:]
        reading = self.subject.read(prompts[:, begin:], wanted[:, begin:], known)
        self.how.read(prompts.size)
        outputs = [row[mask].tolist() for row, mask in zip(reading.likely, asked, strict=True)]
        logprobs = [float(row[mask].sum()) for row, mask in zip(reading.logprobs, asked, strict=True)]
        logprobs = [logprob if math.isfinite(logprob) else UNLIKELY for logprob in logprobs]
        scores = self.task.score(samples, outputs)
        ties = (reading.ties & asked).sum(axis=1).tolist()
        judged = [_Judged(*one) for one in zip(scores, outputs, logprobs, ties, strict=True)]
        self._note(rows, at, judged, prompts.size)

    def _note(self, rows: Sequence[int], at: int, answers: Sequence[_Judged], fresh: int) -> None:
        """Keeps answers, and hands those of their cell on when they are the last."""
        cell, asked = self.members[at]
        judged = self.judged[cell]
        judged.update(zip((row * self.each + asked for row in rows), answers, strict=True))
        now = time.perf_counter()
        self.seconds[cell] += now - self.clock
        self.fresh[cell] += fresh
        self.clock = now
        if len(judged) == len(self.samples[cell]):
            self.take(cell, self._answers(cell))

    def _answers(self, cell: Cell) -> Answers:
        samples = self.samples[cell]
        judged = [self.judged[cell][at] for at in range(len(samples))]
        decode = self.subject.tokenizer.decode
        return Answers(
            first=self.first,
            count=self.count,
            scoring=self.scoring,
            scores=[answer.score for answer in judged],
            lengths=[sample.length for sample in samples],
            depths=[list(sample.depths) for sample in samples],
            outputs=[decode(answer.output) for answer in judged],
            answers=[", ".join(sample.text_answers) or decode(sample.answer.tolist()) for sample in samples],
            logprobs=[answer.logprob for answer in judged if answer.logprob is not None],
            excerpts=[
                "" if answer.score == 1 else self._excerpt(sample)
                for sample, answer in zip(samples, judged, strict=True)
            ],
            ties=sum(answer.ties for answer in judged),
            unfilled=next((sample.unfilled for sample in samples if sample.unfilled), ""),
            capped=False,
            prefilled=self.fresh[cell],
            naive=sum(len(self._prompt(sample)) for sample in samples),
            seconds=round(self.seconds[cell], 6),
            chances=[answer.chance for answer in judged if answer.chance is not None],
            silent=sum(answer.silent for answer in judged),
        )

    def _excerpt(self, sample: Sample) -> str:
        """The prompt as far as a reader needs it to see why an answer is wrong."""
        prompt = self._prompt(sample)
        return excerpt(prompt, sample.gold if prompt is sample.prompt else (), self.subject.tokenizer.decode)


def _generated(subject: Subject, task: Task, samples: Sequence[Sample], known: Prefilled) -> list[_Judged]:
    """The model writes; the task judges."""
    written = subject.generate(known, max(sample.budget for sample in samples), task.stop)
    outputs = [list(ids[: sample.budget]) for sample, ids in zip(samples, written.ids, strict=True)]
    scores = task.score(samples, outputs)
    return [
        _Judged(score, ids, None, ties, silent=row in written.silent)
        for row, (score, ids, ties) in enumerate(zip(scores, outputs, written.ties, strict=True))
    ]


def _chosen(subject: Subject, task: Task, samples: Sequence[Sample], known: Prefilled) -> list[_Judged]:
    """The model's most likely candidate is its answer."""
    if any(sample.candidates is None for sample in samples):
        return _continued(subject, samples, known)
    candidates: NDArray[np.int64] = np.stack([_candidates(sample) for sample in samples])
    logprobs = np.nan_to_num(subject.score(known, candidates), nan=UNLIKELY, neginf=UNLIKELY)
    outputs = [[int(row[best])] for row, best in zip(candidates, logprobs.argmax(axis=1), strict=True)]
    gold = [
        float(row[ids == sample.answer[0]][0]) for sample, ids, row in zip(samples, candidates, logprobs, strict=True)
    ]
    scores, bounds = task.score(samples, outputs), subject.rounding(known)
    ties = [_undecided(row, np.full(len(row), bound), 1) for row, bound in zip(logprobs, bounds, strict=True)]
    chances = [float((ids == sample.answer[0]).mean()) for sample, ids in zip(samples, candidates, strict=True)]
    return [_Judged(*judged) for judged in zip(scores, outputs, gold, ties, chances, strict=True)]


def _candidates(sample: Sample) -> NDArray[np.int64]:
    assert sample.candidates is not None, "a task that is judged by likelihood has candidates or choices"
    return sample.candidates.astype(np.int64)


def _continued(subject: Subject, samples: Sequence[Sample], known: Prefilled) -> list[_Judged]:
    """The share of the right choices among as many of the likeliest; where two are equal, the wrong one counts."""
    judged = []
    every = subject.choose(known, [sample.choices for sample in samples])
    for sample, found, bound in zip(samples, every, subject.rounding(known), strict=True):
        logprobs = np.nan_to_num(found, nan=UNLIKELY, neginf=UNLIKELY)
        right = np.isin(np.arange(len(logprobs)), sample.right)
        best = np.lexsort((right, -logprobs))[: len(sample.right)]
        output = np.concatenate([sample.choices[at] for at in best]).tolist()
        bounds = bound * np.array([len(choice) for choice in sample.choices])  # each of its ids may be off
        ties, score, chance = _undecided(logprobs, bounds, len(best)), float(right[best].mean()), float(right.mean())
        judged.append(_Judged(score, output, float(logprobs[right].max()), ties, chance))
    return judged


def _undecided(logprobs: NDArray[np.floating], bounds: NDArray[np.float64], taken: int) -> int:
    """1 if rounding says which are the `taken` likeliest of `logprobs` (n,), each off by at most its bound; else 0."""
    if taken >= len(logprobs):
        return 0
    order = np.argsort(-logprobs)
    last, next_ = order[taken - 1], order[taken]
    return int(logprobs[last] - logprobs[next_] <= bounds[last] + bounds[next_])
