"""What softmax attention in parts costs: the pairs that are computed, and the largest tensor that is made."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from test_softmax_parts import BACKENDS, SCALE, check, draw, leaves, packed, plain
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from farfield.architectures.ops import attention as op
from farfield.architectures.ops import backend, layouts
from farfield.architectures.ops.attention import Part, attention
from farfield.architectures.ops.layouts import Banded, Causal, Full, Selected


@dataclass
class Spy:
    """A kernel that remembers the shapes it is handed and leaves the work to the blocked one."""

    name: str = "spy"
    whole: bool = False
    seen: list[tuple[int, int]] = field(default_factory=list)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        self.seen.append((q.shape[2], k.shape[2]))
        return backend.choose(q, "blocked").forward(q, k, v, mask, causal, scale)

    def backward(self, gradient: Tensor, q: Tensor, k: Tensor, *rest: object) -> backend.Gradients:
        self.seen.append((q.shape[2], k.shape[2]))
        return backend.choose(q, "blocked").backward(gradient, q, k, *rest)  # type: ignore[arg-type]

    @property
    def work(self) -> int:
        """Pairs of a query and a key column."""
        return sum(queries * keys for queries, keys in self.seen)


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    found = Spy()
    monkeypatch.setattr(op, "choose", lambda q, kind: found)
    return found


class Largest(TorchDispatchMode):
    """The most bytes of memory behind a tensor that any operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return out


BANDS = {
    "plain": lambda time: Banded(**plain(time, 0), reach=32, regular=True),
    "dilated": lambda time: Banded(**plain(time, 0), reach=32, dilation=4, regular=True),
    "first": lambda time: Banded(**plain(time, 0), reach=32, first=3, regular=True),
    "documents": lambda time: Banded(**packed(time, 0), reach=32),
}


@pytest.mark.parametrize("name", BANDS)
def test_a_band_costs_linear_work(name: str, spy: Spy) -> None:
    """Twice the length is twice the pairs that the kernel is handed, forward and backward, and never T by T."""
    works = []
    for time in (1024, 2048):
        spy.seen.clear()
        parts, tensors = leaves([Part(*(draw(2, 1, time, 4) for _ in range(3)), BANDS[name](time))])
        torch.autograd.grad(attention(parts, SCALE)[0].sum(), tensors)
        works.append(spy.work)
        assert max(keys for _, keys in spy.seen) <= 64 + 32
        assert spy.work <= 2 * time * (64 + 32)
    assert 1.9 <= works[1] / works[0] <= 2.1


@pytest.mark.parametrize("kind", BACKENDS)
@pytest.mark.parametrize("name", BANDS)
def test_a_band_allocates_nothing_of_time_by_time(name: str, kind: backend.Backend) -> None:
    sizes = []
    for time in (1024, 2048):
        parts, tensors = leaves([Part(*(draw(2, 1, time, 4) for _ in range(3)), BANDS[name](time))])
        with Largest() as largest:
            torch.autograd.grad(attention(parts, SCALE, kind)[0].sum(), tensors)
        sizes.append(largest.bytes)
        assert largest.bytes <= 2 * time * 16 * 8
    assert sizes[1] <= 2.1 * sizes[0]


@pytest.mark.parametrize("layout", [Causal(), Full()], ids=["causal", "full"])
def test_whole_documents_are_read_a_block_of_queries_at_a_time(layout: layouts.Layout) -> None:
    """By the kernel that holds its scores: without this, they would be queries by keys."""
    time = 1100
    parts, tensors = leaves([Part(*(draw(1, 1, time, 4) for _ in range(3)), layout)])
    with Largest() as largest:
        torch.autograd.grad(attention(parts, SCALE, "blocked")[0].sum(), tensors)
    assert largest.bytes <= 8 * time * layouts.BLOCK
    check(parts, "blocked", 1e-11)


def test_a_band_without_reach_never_holds_all_scores() -> None:
    """A whole document behind packing: quadratic work by nature, but a block of queries at a time."""
    time = 1024
    parts, tensors = leaves([Part(*(draw(1, 1, time, 4) for _ in range(3)), Banded(**plain(time, 0, 1), reach=None))])
    with Largest() as largest:
        torch.autograd.grad(attention(parts, SCALE, "blocked")[0].sum(), tensors)
    assert largest.bytes <= 8 * time * layouts.BLOCK


@pytest.mark.parametrize("keys", [layouts.DENSE * 4, layouts.DENSE * 4 + 1], ids=["mask", "gathering"])
def test_selected_keys_are_read_a_block_of_queries_at_a_time(keys: int) -> None:
    """About the number of keys at which the one form takes over from the other; never queries by keys at once."""
    time, count, width = 1024, 4, 4
    index = torch.stack([torch.randperm(keys)[:count] for _ in range(time)])[None, None]
    layout = Selected(index, torch.ones_like(index, dtype=torch.bool))
    parts, tensors = leaves([Part(draw(1, 1, time, width), *(draw(1, 1, keys, width) for _ in range(2)), layout)])
    with Largest() as largest:
        torch.autograd.grad(attention(parts, SCALE)[0].sum(), tensors)
    block = layouts.BLOCK * (keys if keys <= layouts.DENSE * count else count * width)
    assert largest.bytes <= 8 * max(block, time * width)
    check(parts, "auto", 1e-11)
