"""A layer of another library that does what one of our mixers does, as it is measured beside it.

    peer.of          the case that it is measured in
    peer.missing()   None, or why it cannot be run here
    layer = peer.build(Sizes(width=256, heads=4, length=8192))
    layer.forward(x)                                    # (B, T, D) -> (B, T, D), projections and all
    state = layer.decoder.read(x); layer.decoder.step(token, state)

What a peer computes differently is said in `differs`. Libraries are imported in `build`, so that a peer whose library
is missing costs nothing and is a row with its reason.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

__all__ = ["Decoder", "Layer", "LayerPeer", "Peer", "Sizes"]

S = TypeVar("S")
M = TypeVar("M")


@dataclass(frozen=True)
class Sizes:
    """What a layer is built for: its width, its heads, and the most tokens that it reads."""

    width: int
    heads: int
    length: int

    @property
    def head(self) -> int:
        """Width of a head."""
        return self.width // self.heads


class Decoder(NamedTuple):
    """Token by token: the state behind a prompt (B, T, D), and one token (B, 1, D) with it."""

    read: Callable[[Tensor], Any]
    step: Callable[[Tensor, Any], tuple[Tensor, Any]]


class Layer(NamedTuple):
    """A module with its weights, its call, and how it decodes; None: it does not."""

    module: nn.Module
    forward: Callable[[Tensor], Tensor]
    decoder: Decoder | None = None


@dataclass(frozen=True)
class Peer(Generic[S, M]):
    """One layer of one library. `package` is what pip calls the library, `module` what Python calls it."""

    name: str
    package: str
    module: str
    of: str
    build: Callable[[S], M]
    differs: str = ""
    needs: tuple[str, ...] = ()
    """Further modules that it imports."""
    gpu: bool = False
    """Whether its kernels are for GPUs alone."""

    def missing(self) -> str | None:
        """Why it cannot be run here; None: it can."""
        if self.gpu and not torch.cuda.is_available():
            return "needs a GPU"
        for module in (self.module, *self.needs):
            if importlib.util.find_spec(module) is None:
                return f"{module} is not installed"
        return None

    @property
    def about(self) -> dict[str, str | None]:
        """What its rows tell of it."""
        return {"package": self.package, "version": self.version, "differs": self.differs}

    @property
    def version(self) -> str | None:
        """Of its library."""
        try:
            return version(self.package)
        except PackageNotFoundError:
            return None


LayerPeer: TypeAlias = Peer[Sizes, Layer]
