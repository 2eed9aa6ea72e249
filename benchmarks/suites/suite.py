"""What the runner needs of any suite, and the settings that all suites share.

Two kinds. An `AskedSuite` is a grid of tasks by lengths by depths: samples go to the model, and each is judged. A
`MeasuredSuite` has cells too, and measures each in its own way: perplexity, speed, retrieval.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeVar

import pydantic

from farfield.benchmarks.tasks.sample import Condition, Scoring, Split, Task, Tokenizer
from farfield.config import Config, ConfigError, unknown

if TYPE_CHECKING:
    from farfield.benchmarks.running.results import Cell, Measured
    from farfield.benchmarks.subjects.subject import Capability, Subject

__all__ = ["AskedSuite", "Count", "Lengths", "MeasuredSuite", "Several", "Suite", "chosen", "listed"]

Count = Annotated[int, pydantic.Field(ge=1)]
Control = Literal["no_context", "gold_only", "memory_off", "memory_shuffled"]
CONTROLS: tuple[Control, ...] = ("no_context", "gold_only", "memory_off", "memory_shuffled")


WORDED = "Prompts are worded by us (suite.wording=<file> for others): compare with models that were asked the same."


def listed(value: object) -> object:
    """A number or a name alone as a list of it; a list as a tuple, which strict settings ask for."""
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


T = TypeVar("T")
Several = Annotated[tuple[T, ...], pydantic.BeforeValidator(listed)]  # one may be given without brackets


def rising(lengths: tuple[int, ...]) -> tuple[int, ...]:
    """Raises ValueError unless there is a length, and each is longer than the one before."""
    if not lengths or list(lengths) != sorted(set(lengths)):
        raise ValueError(f"{list(lengths)} given. Give one or more lengths in rising order, each once.")
    return lengths


Lengths = Annotated[Several[Count], pydantic.AfterValidator(rising)]


def chosen(suite: str, asked: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """The tasks of `known` that are asked for, in the order of `known`; all where none is named.

    Raises:
        ConfigError: an unknown task, with the nearest name.
    """
    for name in asked:
        if name not in known:
            raise ConfigError(f"suite.tasks: {suite} has no " + unknown("task", name, known))
    return tuple(name for name in known if name in asked or not asked)


class Suite(Config):
    """Settings that every suite has.

    kind:     its name, a Literal in each
    lengths:       tokens, the room for an answer included
    cell_seconds:  a cell that has taken longer is closed with what it has; null: never. It says how fast, not what: a
                   run may be resumed with another one

    `needs_model` is false for a suite that measures something else: its `subject` gives it.
    """

    needs_model: ClassVar[bool] = True
    lengths: Lengths
    seed: Annotated[int, pydantic.Field(ge=0)] = 0
    cell_seconds: Annotated[float, pydantic.Field(gt=0)] | None = None

    @property
    def name(self) -> str:
        """The kind: what the result file is called."""
        return str(getattr(self, "kind"))  # noqa: B009  declared by each suite as a literal of its own

    def subject(self) -> Subject:
        """What is measured where no model is asked.

        Raises:
            ConfigError: the suite asks one.
        """
        raise ConfigError(f"suite: {self.name} asks a model. Give model=.")


class AskedSuite(Suite):
    """A grid of tasks by lengths by depths.

    samples:         of each cell
    scoring:         how answers are judged; null: each task in its usual way
    controls:        what is asked beside the grid, once for each task and length, to see what its numbers are worth
    wording:         a yaml file with wording of the user's own in the place of ours

    The last two say how fast, not what: a run may be resumed with others.

    batch:           rows prefilled at once: at most `batch`, and at most `batch_tokens` tokens
    """

    samples: Count = 20
    split: Split = "test"
    scoring: Scoring | None = None
    controls: Several[Control] = CONTROLS
    wording: str | None = None

    batch: Count = 16
    batch_tokens: Count = 262_144

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """What is asked beside the full prompt."""
        return self.controls

    def places(self) -> tuple[float | None, ...]:
        """The depths of each row of the grid; (None,) where the gold stands anywhere."""
        return (None,)

    def notes(self, tokenizer: Tokenizer) -> tuple[str, ...]:
        """What a reader of its tables should know, one sentence each: above all where it is not what was published."""
        return ()

    def told(self, tokenizer: Tokenizer) -> tuple[str, ...]:
        """The notes, with one on whose wording the prompts have."""
        if self.wording is not None or tokenizer.kind == "ids":
            return self.notes(tokenizer)
        return (*self.notes(tokenizer), WORDED)

    @abstractmethod
    def tasks(self, tokenizer: Tokenizer) -> Sequence[Task]:
        """The tasks, as samples for `tokenizer`.

        Raises:
            ConfigError, DataError: a task and a tokenizer do not fit, or a file of the user's cannot be used.
        """


class MeasuredSuite(Suite):
    """Cells that are measured one by one, each in one go."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Equal for two suites only if they measure the same data."""

    @abstractmethod
    def cells(self, subject: Subject) -> Sequence[tuple[Cell, frozenset[Capability]]]:
        """The cells, in the order in which they are measured, and what each needs of a subject.

        Raises:
            ConfigError, DataError: the suite does not fit the subject, or its data cannot be used.
        """

    @abstractmethod
    def labels(self) -> Mapping[str, Mapping[str, float]]:
        """The names of its tasks, and the numbers that tell each from its kin."""

    @abstractmethod
    def measure(self, subject: Subject, cell: Cell) -> Measured:
        """What the cell gives. Raises `Lacking` of `benchmarks.subjects` where it has no meaning for the subject."""
