"""How far a run is: all of it that is neither a weight nor a state, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Best", "Progress"]


@dataclass(frozen=True)
class Best:
    """The step with the lowest loss so far, in nats a scored token, and on which data: see `Progress.improved`."""

    step: int
    loss: float
    by: Literal["validation", "training"]


@dataclass
class Progress:
    """Steps of the optimiser that are done, tokens read in them, and seconds that they took.

    `recent` and `counted` sum up the training loss since the last regular checkpoint: without validation data, a
    checkpoint is judged by it, for the loss of a single step is mostly noise.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    recent: float = 0.0
    counted: int = 0
    best: Best | None = None

    def mapping(self) -> dict[str, Any]:
        """Plain values that `read` takes back."""
        return asdict(self)

    @staticmethod
    def read(mapping: Mapping[str, Any]) -> Progress:
        """The progress that `mapping` was made of."""
        best = mapping["best"]
        return Progress(**{**mapping, "best": Best(**best) if best else None})

    def count(self, loss: float, tokens: int, seconds: float) -> None:
        """One more step."""
        self.step += 1
        self.tokens += tokens
        self.seconds += seconds
        self.recent += loss
        self.counted += 1

    def improved(self, loss: float, by: Literal["validation", "training"]) -> bool:
        """Whether this step is the best one; the first one to reach a loss stays the best."""
        if self.best is not None and self.best.loss <= loss:
            return False
        self.best = Best(self.step, loss, by)
        return True

    def drain(self) -> float:
        """The mean training loss since it was last asked for."""
        mean = self.recent / max(1, self.counted)
        self.recent, self.counted = 0.0, 0
        return mean
