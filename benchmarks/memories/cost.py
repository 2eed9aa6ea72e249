"""Time and bytes of a token read and written, against what a memory holds.

One softmax mixer with a window, alone and with each memory around it, has read so many tokens of one document. Then it
reads on: token by token (decoding) and in one call of `PIECE` tokens (prefill). Time is the least of some repeats, in
one process, and the mixer alone is measured beside every memory. Bytes are counted, not timed: those that operations
take (read) and those that they make and no view of what they took (written), a token.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from farfield.benchmarks.measuring import tensors
from farfield.benchmarks.memories.plan import WHOLE, Variant, checked, variants
from farfield.compose import option
from farfield.config import read
from farfield.model import LanguageModel, ModelConfig, ModelState
from farfield.progress import Bar

__all__ = ["Cost", "Moved", "Task", "compare", "moved"]

PIECE = 512  # tokens of a call of prefill
DECODED = 64  # tokens that are decoded one by one


@dataclass(frozen=True)
class Task:
    """What is measured: memories at sizes in tokens, around a layer of `width` with a window of so many tokens."""

    memories: tuple[str, ...]
    sizes: tuple[int, ...] = (512, 2048, 8192, 32768)
    width: int = 256
    window: int = 63
    repeats: int = 3


@dataclass(frozen=True)
class Cost:
    """Of a memory that holds `size` tokens, beside the same layer without one.

    Seconds a token of decoding and of prefill; bytes a decoded token reads and writes; bytes of the state.
    """

    memory: str
    size: int
    decode: float
    prefill: float
    plain_decode: float
    plain_prefill: float
    read: int
    written: int
    state: int


class Moved(TorchDispatchMode):
    """Bytes that operations take and make."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.read = self.written = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        taken, made = list(tensors((args, kwargs))), list(tensors(out))
        held = {tensor.untyped_storage().data_ptr() for tensor in taken}
        fresh = [tensor for tensor in made if tensor.untyped_storage().data_ptr() not in held]
        if fresh or func._schema.is_mutable:  # a view moves nothing
            self.read += sum(map(_bytes, taken))
            self.written += sum(map(_bytes, fresh or made))
        return out


def _bytes(tensor: Tensor) -> int:
    """What there is in memory: a tensor that was expanded is as small as before."""
    count = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else 1
    return count * tensor.element_size()


def compare(task: Task) -> Iterator[Cost]:
    """Every memory at every size. One that has no size is measured after as many tokens all the same."""
    for name in task.memories:
        checked(variants(name, task.sizes, task.window))
    with Bar("cost", total=len(task.memories) * len(task.sizes), unit="measures") as bar:
        for name in task.memories:
            for size in task.sizes:
                variant = variants(name, [size], task.window)[0]
                yield _cost(variant, size, task)
                bar.step(note=f"{name} {size:,}")


def _cost(variant: Variant, size: int, task: Task) -> Cost:
    plain, wrapped = _model(None, task), _model(variant, task)
    decode, prefill = _times(wrapped, size, task.repeats)
    plain_decode, plain_prefill = _times(plain, size, task.repeats)
    counted, state = moved(variant, size, task)
    return Cost(
        variant.name,
        size,
        decode,
        prefill,
        plain_decode,
        plain_prefill,
        counted.read // DECODED,
        counted.written // DECODED,
        state,
    )


VOCABULARY = 16


def _model(variant: Variant | None, task: Task) -> LanguageModel:
    """The layer, without a feed-forward, with the memory around it; two of them for a side network."""
    mixer: dict[str, Any] = {"kind": "longformer", "window": task.window, "globals": 0, "conv": 0}
    if variant is not None and variant.name in WHOLE:
        mixer = {"kind": "attention", "conv": 0}
    architecture = {
        "width": task.width,
        "depth": 2 if variant is not None and variant.name == "longmem" else 1,
        "pattern": ["layer"],
        "layers": {"layer": {"mixer": mixer, "feedforward": {"kind": "none"}}},
    }
    memory = None if variant is None else option("memory", variant.name, variant.words)
    torch.manual_seed(0)
    config = read(ModelConfig, {"architecture": architecture, "memory": memory, "vocabulary": VOCABULARY})
    return LanguageModel(config).eval()


@torch.no_grad()
def _filled(model: LanguageModel, size: int) -> ModelState:
    """The state after `size` random tokens."""
    tokens = torch.randint(VOCABULARY, (1, size), generator=torch.Generator().manual_seed(1))
    state = model.start(1)
    for piece in tokens.split(PIECE, 1):
        _, state = model.hidden(piece, state)
    return state


@torch.no_grad()
def _times(model: LanguageModel, size: int, repeats: int) -> tuple[float, float]:
    """Seconds a token of decoding and of prefill after `size` tokens, the least of the repeats."""
    before = _filled(model, size)
    tokens = torch.randint(VOCABULARY, (1, PIECE), generator=torch.Generator().manual_seed(2))
    decoding, prefilling = [], []
    for _ in range(repeats + 1):  # the first one warms up
        began, state = time.perf_counter(), before
        for token in tokens[:, :DECODED].split(1, 1):
            _, state = model.hidden(token, state)
        decoding.append((time.perf_counter() - began) / DECODED)
        began = time.perf_counter()
        model.hidden(tokens, before)
        prefilling.append((time.perf_counter() - began) / PIECE)
    return min(decoding[1:]), min(prefilling[1:])


@torch.no_grad()
def moved(variant: Variant, size: int, task: Task) -> tuple[Moved, int]:
    """What decoding `DECODED` tokens moves after `size` tokens, and the bytes of the state there."""
    model = _model(variant, task)
    before = _filled(model, size)
    _, state = model.hidden(torch.zeros(1, 1, dtype=torch.int64), before)  # room for more is made once
    with Moved() as counted:
        for _ in range(DECODED):
            _, state = model.hidden(torch.zeros(1, 1, dtype=torch.int64), state)
    return counted, before.bytes
