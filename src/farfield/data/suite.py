"""data=suite: the training split of any suite that asks, as rows to train on.

    a sample of prompt p q r and answer x y        tokens   p q r x y       targets  . . x y ^
    a sample with targets of its own (read)        tokens   p q r s         targets  . v . w

A target stands where the suite scores: at the answer, with the end behind it where the suite leaves room for one, or at
the places within the text that a task asks at. A step draws one length, and each of its rows a task of that length, by
the weights of the mixture; rows that are shorter than the longest of their step are filled up behind, unscored.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, ConfigDict, Field

from farfield.benchmarks.settings import Suite
from farfield.benchmarks.suites.suite import AskedSuite
from farfield.benchmarks.tasks.sample import IGNORED, LackingError, Sample, Split, Task, generator
from farfield.config import Config, ConfigError, unknown
from farfield.data.batch import PADDING, UNSCORED, Batch, Description, Ids
from farfield.tokenizers import BytesConfig, FolderConfig, IdsConfig, Tokenizer, opening

__all__ = ["Share", "SuiteData", "SuiteSource"]

VALIDATION_SEED = 0  # whatever the training's seed, so that runs are compared on the same questions
SPLITS: dict[Split, int] = {"train": 0, "test": 1}


class Share(Config):
    """How often one task of a suite comes up at one length, compared with the others."""

    task: str
    length: int = Field(ge=1)
    weight: float = Field(1.0, gt=0)


def _trains(suite: Suite) -> Suite:
    """The suite with the split that rows are of, whatever it would ask."""
    return suite.model_copy(update={"split": "train"}) if isinstance(suite, AskedSuite) else suite


class SuiteData(Config):
    """Questions of a suite, made as they are needed.

    suite: its settings; its lengths are the rows', unless there is a mixture.
    mixture: the tasks, by the names that results have, and their lengths; empty: all that the suite has, alike.
    validation: batches of the other split, the same for every seed.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "elsewhere": {
                "length": "Rows are as long as the suite's samples, data.suite.lengths=[512], or as data.mixture says."
            }
        }
    )

    kind: Literal["suite"] = "suite"
    suite: Annotated[Suite, AfterValidator(_trains)]
    tokenizer: Annotated[BytesConfig | IdsConfig | FolderConfig, Field(discriminator="kind")] = IdsConfig()
    mixture: tuple[Share, ...] = ()
    validation: int = Field(4, ge=0)

    @property
    def length(self) -> int:
        """Tokens of the longest row."""
        return max([share.length for share in self.mixture] or self.suite.lengths)

    def open(self, seed: int, batch: int) -> SuiteSource:
        """The source.

        Raises:
            ConfigError: the suite asks nothing, or a share of the mixture cannot be made.
            DataError: a file of the suite or the tokenizer cannot be used.
        """
        return SuiteSource(self, seed, batch)


class SuiteSource:
    """Batches that are drawn when asked for; no two steps have the same."""

    def __init__(self, config: SuiteData, seed: int, batch: int) -> None:
        if not isinstance(config.suite, AskedSuite):
            raise ConfigError(
                f"data.suite: '{config.suite.name}' measures, and asks nothing to learn from. Take one that asks."
            )
        self.config, self.seed, self.rows = config, seed, batch
        self.tokenizer: Tokenizer = config.tokenizer.build(tuple)
        self.begin = opening(config.tokenizer, self.tokenizer)
        self.shares = _shares(config.suite.tasks(self.tokenizer), config)
        self.lengths = sorted(self.shares)
        weights = np.array([sum(weight for _, weight in self.shares[length]) for length in self.lengths])
        self.weights = weights / weights.sum()

    @property
    def tokens_per_batch(self) -> int:
        """Of the longest rows."""
        return self.rows * self.lengths[-1]

    @property
    def validation_batches(self) -> int:
        return self.config.validation

    def batch(self, step: int) -> Batch:
        return self._drawn(self.seed, step, "train")

    def validation(self, index: int) -> Batch:
        return self._drawn(VALIDATION_SEED, index, "test")

    def describe(self) -> Description:
        return {
            "data": f"suite {self.config.suite.name}",
            "tokenizer": f"{self.tokenizer.kind}, {self.tokenizer.vocabulary} ids",
            "tasks": ", ".join(f"{task.name} {length}" for length in self.lengths for task, _ in self.shares[length]),
            "length": self.lengths[-1],
        }

    def _drawn(self, seed: int, step: int, split: Split) -> Batch:
        """(batch, longest row) tokens."""
        rng = generator("suite", seed, step, SPLITS[split])
        length = self.lengths[rng.choice(len(self.lengths), p=self.weights)]
        tasks, weights = zip(*self.shares[length], strict=True)
        chosen = rng.choice(len(tasks), self.rows, p=np.array(weights) / sum(weights))
        rows = [
            self._row(tasks[task].generate(seed, length, 1, split, first=step * self.rows + row), rng)
            for row, task in enumerate(chosen)
        ]
        longest = max(len(tokens) for tokens, _ in rows)
        tokens = np.full((self.rows, longest), self.tokenizer.end, np.int64)
        targets, positions = np.full_like(tokens, UNSCORED), np.full_like(tokens, PADDING)
        for row, (ids, wanted) in enumerate(rows):
            tokens[row, : len(ids)], targets[row, : len(ids)] = ids, wanted
            positions[row, : len(ids)] = np.arange(len(ids))
        return Batch(tokens, targets, positions)

    def _row(self, samples: list[Sample], rng: np.random.Generator) -> tuple[Ids, Ids]:
        """Tokens and targets of one of the samples of an index, which ask about the same text."""
        tokens, targets = self._scored(samples[rng.integers(len(samples))])
        if self.begin is None:
            return tokens, targets
        return np.concatenate(([self.begin], tokens)), np.concatenate(([UNSCORED], targets))

    def _scored(self, sample: Sample) -> tuple[Ids, Ids]:
        """Tokens and targets of a sample."""
        if sample.targets is not None:
            targets = sample.targets.astype(np.int64)
            return sample.prompt.astype(np.int64), np.where(targets == IGNORED, UNSCORED, targets)
        tokens = np.concatenate([sample.prompt, sample.answer]).astype(np.int64)
        following = [*sample.answer.tolist(), self.tokenizer.end if sample.budget > len(sample.answer) else UNSCORED]
        targets = np.full_like(tokens, UNSCORED)
        targets[len(sample.prompt) - 1 :] = following
        return tokens, targets


def _shares(tasks: Sequence[Task], config: SuiteData) -> dict[int, list[tuple[Task, float]]]:
    """The tasks of each length and their weights.

    Raises:
        ConfigError: there is no such task, or it cannot be made at its length.
    """
    known = {task.name: task for task in tasks}
    found: dict[int, list[tuple[Task, float]]] = defaultdict(list)
    for share in config.mixture:
        if share.task not in known:
            raise ConfigError("data.mixture: " + unknown("unknown task", share.task, known))
        for split in SPLITS:
            known[share.task].check(0, share.length, 1, split)
        found[share.length].append((known[share.task], share.weight))
    lacking: LackingError | None = None
    for task, length in ((task, length) for task in tasks for length in config.suite.lengths if not config.mixture):
        try:
            for split in SPLITS:
                task.check(0, length, 1, split)
        except LackingError as error:
            lacking = error
            continue
        found[length].append((task, 1.0))
    if not found and lacking is not None:
        raise lacking
    return dict(found)
