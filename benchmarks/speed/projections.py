"""What a layer costs at least: the products with the weights of its linear maps, and nothing between them.

    forward     out = x W^T                                 of every map
    backward    dx = dout W and dW = dout^T x, too

Bare matrix products into memory that is there: no norm, no gate, no mixing of tokens, no fresh tensor. A layer with
maps as large cannot be faster than that, whoever wrote it, so its time over a peer's bounds the ratio.

Shapes: N tokens, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from farfield.benchmarks.peers import Layer
from farfield.benchmarks.speed.rows import OURS

__all__ = ["ALONE", "Product", "products", "projections"]

ALONE = f"{OURS}, its projections alone"


class Product(NamedTuple):
    """One linear map: of how many tokens, from and to what width."""

    tokens: int
    inputs: int
    outputs: int


class _Products(TorchDispatchMode):
    """Within it, products with any of the weights are noted, whatever calls them: a module, or an op of ours.

    A part of a weight is a map of fewer outputs, and what an op copies to turn it is the weight still.
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types there
        self.place = {_memory(weight): index for index, weight in enumerate(weights)}
        self.copies: list[Tensor] = []  # kept, so that nothing else takes their memory
        self.tokens: dict[tuple[int, int, int], int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm):
            left, right = args[-2:]
            self._note(right, right.shape, left.shape[0])
            self._note(left, left.T.shape, right.shape[1])
        elif func.overloadpacket is torch.ops.aten.clone and _memory(args[0]) in self.place:
            self.place[_memory(found)] = self.place[_memory(args[0])]
            self.copies.append(found)
        return found

    def _note(self, weight: Tensor, sizes: Sequence[int], tokens: int) -> None:
        """One product of tokens with what may be a weight, of so many inputs and outputs."""
        index = self.place.get(_memory(weight))
        if index is not None:
            one = (index, sizes[0], sizes[1])
            self.tokens[one] = self.tokens.get(one, 0) + tokens


def _memory(x: Tensor) -> int:
    """Where what `x` is a view of stands."""
    return x.untyped_storage().data_ptr()


@torch.no_grad()
def products(made: Layer, x: Tensor) -> list[Product]:
    """The linear maps of a layer as it reads x (B, T, D)."""
    weights = [part.weight for part in made.module.modules() if isinstance(part, nn.Linear)]
    with _Products(weights) as seen:
        made.forward(x)
    return [Product(tokens, inputs, outputs) for (_, inputs, outputs), tokens in sorted(seen.tokens.items())]


def projections(maps: Sequence[Product], like: Tensor, backward: bool) -> Callable[[], None]:
    """These products, one behind the other, in the dtype and on the device of `like`; with `backward` its two too."""
    made = [_Map(one, like) for one in maps]

    @torch.no_grad()
    def work() -> None:
        for one in made:
            torch.mm(one.x, one.weight.t(), out=one.out)
        for one in reversed(made if backward else []):
            torch.mm(one.above, one.weight, out=one.dx)
            torch.mm(one.above.t(), one.x, out=one.dweight)

    return work


class _Map:
    """Memory of one map: x, dx (N, I), out, above (N, O), weight, dweight (O, I)."""

    def __init__(self, one: Product, like: Tensor) -> None:
        self.x, self.dx = like.new_ones(2, one.tokens, one.inputs)
        self.out, self.above = like.new_ones(2, one.tokens, one.outputs)
        self.weight, self.dweight = like.new_ones(2, one.outputs, one.inputs)
