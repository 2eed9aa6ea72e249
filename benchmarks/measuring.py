"""What work takes, in seconds and in bytes of tensors.

Bytes are of tensors: exact on a CPU, and the same on every machine. What a kernel takes and gives back within itself is
not in them; on a GPU the count is the allocator's, and has it.
"""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Held", "Peak", "held", "tensors", "timed"]

T = TypeVar("T")


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Seconds until the work is done, on a GPU too, and its result."""
    began = time.perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began, result


class Held(NamedTuple):
    """Bytes of tensors that the work made: at its peak, and those that its result keeps."""

    peak: int
    kept: int


def held(work: Callable[[], object]) -> Held:
    """The bytes of the work's tensors, on a GPU if it has any there; what was there before is not in them."""
    on_gpu = _on_gpu(work) if torch.cuda.is_available() else Held(0, 0)
    return on_gpu if on_gpu.peak else _on_cpu(work)


def _on_gpu(work: Callable[[], object]) -> Held:
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = work()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    gc.collect()
    kept = torch.cuda.memory_allocated() - before
    del result
    return Held(peak, kept)


def _on_cpu(work: Callable[[], object]) -> Held:
    with Peak(()) as count:
        result = work()
        gc.collect()
        kept = count.held
        del result
    return Held(count.most, kept)


def tensors(values: object) -> Iterator[Tensor]:
    """Those among what an operation takes or gives, also in its lists; torch's own walk takes longer than most do."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (tuple, list)):
        for value in values:
            yield from tensors(value)
    elif isinstance(values, dict):
        yield from tensors(list(values.values()))


class Peak(TorchDispatchMode):
    """The most bytes that tensors made within it hold at once: `most`.

    What was there before is not counted: tensors that are read before they are made, and those of `without`.
    """

    def __init__(self, without: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held = self.most = 0
        self.live: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        for tensor in without:
            self._see(tensor.untyped_storage(), 0)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for tensor in tensors((args, kwargs)):  # what is read before it is made was there before
            self._see(tensor.untyped_storage(), 0)
        out = func(*args, **(kwargs or {}))
        for tensor in tensors(out):
            storage = tensor.untyped_storage()
            self._see(storage, storage.nbytes())
        return out

    def _see(self, storage: torch.UntypedStorage, size: int) -> None:
        """Count a storage once, until it is freed: its Python object lives as long as the memory does."""
        key = id(storage)
        if key in self.live:
            return

        def free(_: object) -> None:
            del self.live[key]
            self.held -= size

        self.live[key] = weakref.ref(storage, free)
        self.held += size
        self.most = max(self.most, self.held)
