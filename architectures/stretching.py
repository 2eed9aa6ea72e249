"""Rotary frequencies of a model that is to read texts longer than it was trained on, without training or with little.

    interpolation   w_i / s                                        Chen et al., https://arxiv.org/abs/2306.15595
    ntk             (b s^(D / (D - 2)))^(-2 i / D)                 the slowest pair interpolated, the fastest not
    yarn            blends w_i / s and w_i by turns in N tokens    Peng et al., https://arxiv.org/abs/2309.00071
    llama3          the same by another blend                      https://arxiv.org/abs/2407.21783

s is the factor, N the length that was trained on, b the base, w_i = b^(-2 i / D). A pair that turns r_i = N w_i / 2 pi
times within N tokens is kept by YaRN if r_i >= fast, interpolated if r_i <= slow, and blended between them along the
pair's index; Llama 3 blends along r_i. YaRN multiplies scores by (0.1 ln s + 1)^2 beside that.

Shapes: D width of a head.
"""

from __future__ import annotations

import abc
import math
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from farfield.architectures.ops.rotary import frequencies
from farfield.config import Config

__all__ = ["FARTHEST", "NTK", "SHARPEST", "TURNS", "Interpolation", "Llama3", "Scaling", "ScalingConfig", "YaRN"]

FARTHEST = 1 << 20  # times the trained length
LONGEST = 1 << 40  # tokens
TURNS = 1 << 20  # within the trained length; and one of so many parts of a turn is the least
SHARPEST = 100.0  # times that YaRN multiplies queries and keys


class Scaling(Config, abc.ABC):
    """How rotary frequencies are stretched."""

    factor: float = Field(ge=1, le=FARTHEST, description="how many times the trained length")
    trained: int | None = Field(None, ge=1, le=LONGEST, description="tokens that the model was trained on, if known")

    @abc.abstractmethod
    def frequencies(self, width: int, base: float) -> Tensor:
        """The D / 2 frequencies of heads of `width`, radians a token, float64."""

    @property
    def sharpness(self) -> float:
        """What scores are multiplied by."""
        return 1.0


class Interpolation(Scaling):
    """Position interpolation: positions are divided by the factor."""

    kind: Literal["interpolation"] = "interpolation"

    def frequencies(self, width: int, base: float) -> Tensor:
        return frequencies(width, "halves", base) / self.factor


class NTK(Scaling):
    """NTK-aware: a larger base, so that fast pairs stay and the slowest is interpolated."""

    kind: Literal["ntk"] = "ntk"

    def frequencies(self, width: int, base: float) -> Tensor:
        return frequencies(width, "halves", base * self.factor ** (width / max(width - 2, 1)))


class YaRN(Scaling):
    """Interpolates pairs that turn seldom, keeps those that turn often, and sharpens the softmax."""

    kind: Literal["yarn"] = "yarn"
    trained: int = Field(ge=1, le=LONGEST, description="tokens that the model was trained on")
    fast: float = Field(32.0, gt=0, le=TURNS, description="turns within them from which on a pair is kept")
    slow: float = Field(1.0, ge=1 / TURNS, description="turns up to which a pair is interpolated")
    temperature: float | None = Field(
        None, gt=0, le=SHARPEST, description="what queries and keys are multiplied by; null: 0.1 ln(factor) + 1"
    )
    whole: bool = Field(True, description="the blend begins and ends at whole pairs")

    @model_validator(mode="after")
    def _ordered(self) -> YaRN:
        if self.slow >= self.fast:
            raise ValueError(f".slow: {self.slow:g} given, less than fast = {self.fast:g} is needed.")
        return self

    def frequencies(self, width: int, base: float) -> Tensor:
        first, last = (self._pair(turns, width, base) for turns in (self.fast, self.slow))
        if self.whole:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, width - 1)
        # As published: where the ends cross, all pairs before the first are interpolated, and those behind are kept.
        span = last - first if last != first else 1e-3
        interpolated = ((torch.arange(width // 2, dtype=torch.float64) - first) / span).clamp(0, 1)
        kept = frequencies(width, "halves", base)
        return kept * (1 - interpolated + interpolated / self.factor)

    def _pair(self, turns: float, width: int, base: float) -> float:
        """The index, no whole number, of the pair that turns so often within the trained length."""
        return width * math.log(self.trained / (turns * 2 * math.pi)) / (2 * math.log(base))

    @property
    def sharpness(self) -> float:
        one = 0.1 * math.log(self.factor) + 1 if self.temperature is None else self.temperature
        return one**2


class Llama3(Scaling):
    """As the models of Llama 3.1 and later were trained."""

    kind: Literal["llama3"] = "llama3"
    trained: int = Field(8192, ge=1, le=LONGEST, description="tokens that the model was trained on before")
    fast: float = Field(4.0, gt=0, description="turns within them from which on a pair is kept")
    slow: float = Field(1.0, gt=0, description="turns up to which a pair is interpolated")

    @model_validator(mode="after")
    def _ordered(self) -> Llama3:
        if self.slow >= self.fast:
            raise ValueError(f".slow: {self.slow:g} given, less than fast = {self.fast:g} is needed.")
        return self

    def frequencies(self, width: int, base: float) -> Tensor:
        kept = frequencies(width, "halves", base)
        turns = self.trained * kept / (2 * math.pi)
        share = ((turns - self.slow) / (self.fast - self.slow)).clamp(0, 1)
        return kept * (share + (1 - share) / self.factor)


ScalingConfig = Annotated[Interpolation | NTK | YaRN | Llama3, Field(discriminator="kind")]
