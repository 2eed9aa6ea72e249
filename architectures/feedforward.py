"""Feed-forwards: what each token does alone.

    SwiGLU    y = W_2 (silu(x W_1) * x W_3)                  Shazeer, https://arxiv.org/abs/2002.05202
    GELU      y = W_2 gelu(x W_1)                            Vaswani et al., Hendrycks and Gimpel
    none      the layer is its mixer alone, as in the papers of Mamba, Mamba-2 and gated state spaces
    mixture   y = sum_{e in top-k of p} p_e SwiGLU_e(x)      p = softmax(x W_r): https://arxiv.org/abs/2401.04088

The router of a mixture is kept balanced by the loss E sum_e f_e P_e over the real tokens, where f_e is how often expert
e was chosen (summing to k) and P_e its mean probability (https://arxiv.org/abs/2101.03961). No expert has a capacity:
no token is dropped, so that a token's answer does not depend on the others'.

Shapes: B batch, T time, D width, I inner width, E experts, k experts of a token, N tokens.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from farfield.architectures.ops.decoded import Linear
from farfield.architectures.ops.swiglu import swiglu
from farfield.architectures.rows import Rows
from farfield.config import Config

__all__ = [
    "GELU",
    "Auxiliary",
    "FeedForward",
    "FeedForwardConfig",
    "FeedForwardSettings",
    "GELUConfig",
    "MixtureConfig",
    "MixtureOfExperts",
    "NoFeedForward",
    "NoFeedForwardConfig",
    "SwiGLU",
    "SwiGLUConfig",
]


@dataclass(frozen=True, eq=False)
class Auxiliary:
    """What a layer tells beside its output: returned, never kept on modules.

    `losses` are scalars to be minimised, already weighted; `metrics` are tensors without a gradient, to be looked at.
    """

    losses: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def of_layers(told: Sequence[Auxiliary]) -> Auxiliary:
        """What layers tell, from bottom to top: losses of one name are summed, metrics are called `<layer>.<name>`."""
        losses: dict[str, Tensor] = {}
        metrics: dict[str, Tensor] = {}
        for index, one in enumerate(told):
            for name, loss in one.losses.items():
                losses[name] = losses[name] + loss if name in losses else loss
            metrics |= {f"{index}.{name}": metric for name, metric in one.metrics.items()}
        return Auxiliary(losses, metrics)


class FeedForward(nn.Module, abc.ABC):
    """Maps each token by itself."""

    @abc.abstractmethod
    def forward(self, x: Tensor, rows: Rows) -> tuple[Tensor, Auxiliary]:
        """(B, T, D) of `x` (B, T, D), and what the layer tells beside it."""


class FeedForwardSettings(Config):
    """What the settings of a feed-forward tell without building it."""

    @property
    def absent(self) -> bool:
        """Whether the layer has none, nor the norm before it."""
        return False

    @abc.abstractmethod
    def check(self, width: int) -> None:
        """Raise ValueError, in one line that begins with the name of a setting, where the settings do not fit."""

    @abc.abstractmethod
    def build(self, width: int) -> FeedForward:
        """The feed-forward with fresh weights."""

    @abc.abstractmethod
    def parameters(self, width: int) -> int:
        """Number of weights."""

    def active(self, width: int) -> int:
        """Number of weights that a token meets."""
        return self.parameters(width)

    @abc.abstractmethod
    def flops(self, width: int) -> int:
        """Multiply-adds times two of one token."""

    def uncaptured(self) -> str | None:
        """As `MixerSettings.uncaptured`."""
        return None

    def losses(self) -> tuple[str, ...]:
        """The losses that the layer tells."""
        return ()

    def metrics(self) -> dict[str, int]:
        """The number of values of each metric that the layer tells."""
        return {}


def inner_width(width: int, ratio: float) -> int:
    """`ratio` times `width`, rounded up to a multiple of 8."""
    return -(-int(width * ratio) // 8) * 8


class SwiGLUConfig(FeedForwardSettings):
    """Gated linear unit with a swish gate."""

    kind: Literal["swiglu"] = "swiglu"
    ratio: float = Field(2.67, gt=0, description="inner width over width; rounded up to a multiple of 8")
    inner: int | None = Field(None, ge=1, description="inner width; null: by the ratio")
    bias: bool = Field(False, description="whether both maps have biases")

    def check(self, width: int) -> None:
        """Every width fits."""

    def size(self, width: int) -> int:
        """Inner width."""
        return self.inner or inner_width(width, self.ratio)

    def build(self, width: int) -> SwiGLU:
        return SwiGLU(width, self.size(width), self.bias)

    def parameters(self, width: int) -> int:
        inner = self.size(width)
        return 3 * width * inner + (2 * inner + width if self.bias else 0)

    def flops(self, width: int) -> int:
        return 2 * self.parameters(width)


class SwiGLU(FeedForward):
    """See the file's head."""

    def __init__(self, width: int, inner: int, bias: bool = False) -> None:
        super().__init__()
        self.up = Linear(width, 2 * inner, bias)
        self.down = Linear(inner, width, bias)

    def forward(self, x: Tensor, rows: Rows) -> tuple[Tensor, Auxiliary]:
        up, down = self.up, self.down
        if type(up) is Linear and type(down) is Linear:
            return swiglu(x, up.weight, down.weight, up.bias, down.bias), Auxiliary()
        gate, value = up(x).chunk(2, dim=-1)  # a map in a place of theirs, such as one with an addition of low rank
        return down(nn.functional.silu(gate) * value), Auxiliary()


class GELUConfig(FeedForwardSettings):
    """Two layers with a Gaussian error linear unit between them."""

    kind: Literal["gelu"] = "gelu"
    ratio: float = Field(4.0, gt=0, description="inner width over width; rounded up to a multiple of 8")

    def check(self, width: int) -> None:
        """Every width fits."""

    def build(self, width: int) -> GELU:
        return GELU(width, inner_width(width, self.ratio))

    def parameters(self, width: int) -> int:
        return 2 * width * inner_width(width, self.ratio)

    def flops(self, width: int) -> int:
        return 2 * self.parameters(width)


class GELU(FeedForward):
    """See the file's head."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.up = Linear(width, inner, bias=False)
        self.down = Linear(inner, width, bias=False)

    def forward(self, x: Tensor, rows: Rows) -> tuple[Tensor, Auxiliary]:
        return self.down(nn.functional.gelu(self.up(x))), Auxiliary()


class MixtureConfig(FeedForwardSettings):
    """Mixture of experts: each token goes through the experts that a router likes best for it."""

    kind: Literal["moe"] = "moe"
    experts: int = Field(16, ge=1, description="number of experts")
    top: int = Field(2, ge=1, description="experts of a token")
    ratio: float = Field(2.67, gt=0, description="inner width of an expert over width; rounded up to a multiple of 8")
    inner: int | None = Field(None, ge=1, description="inner width of an expert; null: by the ratio")
    renormalise: bool = Field(False, description="whether the weights of a token's experts are made to sum to 1")
    balance: float = Field(0.001, ge=0, description="weight of the loss that keeps the experts equally loaded")

    def check(self, width: int) -> None:
        if self.top > self.experts:
            raise ValueError(f"top: {self.top} experts a token given, but there are {self.experts}.")

    def size(self, width: int) -> int:
        """Inner width of an expert."""
        return self.inner or inner_width(width, self.ratio)

    def build(self, width: int) -> MixtureOfExperts:
        return MixtureOfExperts(self, width)

    def parameters(self, width: int) -> int:
        return self.experts * width * (3 * self.size(width) + 1)

    def active(self, width: int) -> int:
        return width * (self.experts + self.top * 3 * self.size(width))

    def flops(self, width: int) -> int:
        return 2 * self.active(width)

    def uncaptured(self) -> str | None:
        return "a mixture of experts counts the tokens of each"

    def losses(self) -> tuple[str, ...]:
        return ("balance",)

    def metrics(self) -> dict[str, int]:
        return {"load": self.experts}


class MixtureOfExperts(FeedForward):
    """See the file's head. Tells the loss `balance` and the metric `load` (E,): each expert's share of the choices."""

    def __init__(self, config: MixtureConfig, width: int) -> None:
        super().__init__()
        self.config = config
        inner = config.size(width)
        self.router = nn.Linear(width, config.experts, bias=False)
        self.up = nn.Parameter(torch.empty(config.experts, width, 2 * inner))
        self.down = nn.Parameter(torch.empty(config.experts, inner, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Each expert as nn.Linear begins: uniform within the inverse root of the inputs."""
        for weight in (self.up, self.down):
            bound = weight.shape[1] ** -0.5
            nn.init.uniform_(weight, -bound, bound)

    def forward(self, x: Tensor, rows: Rows) -> tuple[Tensor, Auxiliary]:
        tokens = x.flatten(0, 1)
        logits = self.router(tokens)
        probabilities = logits.softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
        weights, chosen = probabilities.topk(self.config.top)
        if self.config.renormalise:
            weights = weights / weights.sum(-1, keepdim=True)
        y = (self._experts(tokens, chosen) * weights[..., None].to(x.dtype)).sum(1)
        return y.unflatten(0, x.shape[:2]), self._auxiliary(probabilities, chosen, rows.real.flatten())

    def _experts(self, tokens: Tensor, chosen: Tensor) -> Tensor:
        """What each token's experts (N, k) make of it, (N, k, D): tokens are sorted by expert, so each runs once."""
        order = chosen.flatten().argsort(stable=True)
        counts = torch.bincount(chosen.flatten(), minlength=self.config.experts).tolist()
        groups = tokens[order // self.config.top].split(counts)
        outputs = []
        for group, up, down in zip(groups, self.up, self.down, strict=True):
            gate, value = (group @ up.to(group.dtype)).chunk(2, dim=-1)
            outputs.append((nn.functional.silu(gate) * value) @ down.to(group.dtype))
        back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        found: Tensor = torch.cat(outputs)[back].unflatten(0, chosen.shape)
        return found

    def _auxiliary(self, probabilities: Tensor, chosen: Tensor, real: Tensor) -> Auxiliary:
        """The balance loss and the load over the real tokens (N,)."""
        experts, count = self.config.experts, real.sum().clamp(min=1)
        picks = torch.zeros_like(probabilities).scatter_(1, chosen, 1.0)
        frequency = (picks * real[:, None]).sum(0) / count
        mean = (probabilities * real[:, None]).sum(0) / count
        loss = self.config.balance * experts * (frequency * mean).sum()
        return Auxiliary({"balance": loss}, {"load": (frequency / self.config.top).detach()})


class NoFeedForwardConfig(FeedForwardSettings):
    """No feed-forward: the layer is its mixer alone."""

    kind: Literal["none"] = "none"

    @property
    def absent(self) -> bool:
        return True

    def check(self, width: int) -> None:
        """Every width fits."""

    def build(self, width: int) -> NoFeedForward:
        return NoFeedForward()

    def parameters(self, width: int) -> int:
        return 0

    def flops(self, width: int) -> int:
        return 0


class NoFeedForward(FeedForward):
    """Adds nothing to the residual stream; layers do not call it."""

    def forward(self, x: Tensor, rows: Rows) -> tuple[Tensor, Auxiliary]:
        return torch.zeros_like(x), Auxiliary()


FeedForwardConfig = Annotated[
    SwiGLUConfig | GELUConfig | MixtureConfig | NoFeedForwardConfig, Field(discriminator="kind")
]
