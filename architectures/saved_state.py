"""States on disk: safetensors with a checksum, written whole or not at all.

save_state(state, Path("conversation.safetensors"), maker)
state = load_state(Path("conversation.safetensors"), model.start(batch), maker)

`maker` stands for the model, whose settings and weights a state is worth nothing without.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from farfield.architectures.state import State
from farfield.config import ModelError

__all__ = ["CHECKSUM", "alike", "checksum", "load_state", "load_tensors", "save_state", "save_tensors"]

S = TypeVar("S", bound=State)

CHECKSUM, MAKER = "sha256", "maker"  # their keys in the metadata of a safetensors file


def save_state(state: State, file: Path, maker: str = "") -> None:
    """Writes the compacted state to `file`, with what stands for its model: another file is never half replaced."""
    save_tensors(state.compact().tensors(), file, maker)


def save_tensors(tensors: Mapping[str, Tensor], file: Path, maker: str) -> None:
    """Writes tensors by name to `file`, with their checksum and what stands for their model."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        save_file(tensors, temporary, metadata={CHECKSUM: checksum(tensors), MAKER: maker})
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def load_state(file: Path, like: S, maker: str = "") -> S:
    """The state in `file`, built as `like` is: the empty state of the same model, on the device of `like`.

    Two models may have states of the same shapes: only a `maker` tells them apart. Where one is given here, a file that
    was saved with another or without any is refused.

    Raises:
        ModelError: no such file, a damaged one, or the state of another model.
    """
    tensors = load_tensors(file, maker, "the state", "prefill")
    wanted = like.tensors()
    if set(wanted) != set(tensors) or not all(alike(wanted[name], tensors[name]) for name in wanted):
        raise ModelError(f"{file}: the state of another model.")
    device = next(iter(wanted.values())).device if wanted else torch.device("cpu")
    return like.restored({name: tensor.to(device) for name, tensor in tensors.items()})


def load_tensors(file: Path, maker: str, what: str, do: str) -> dict[str, Tensor]:
    """The tensors in a file that `save_tensors` wrote, on the CPU; errors call them `what`, and say to `do` it anew.

    Raises:
        ModelError: no such file, a damaged one, or one of another model.
    """
    if not file.is_file():
        raise ModelError(f"{file}: no such file.")
    try:
        with safe_open(file, framework="pt", device="cpu") as opened:
            said = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # no mapping
    except (SafetensorError, OSError):
        raise ModelError(f"{file}: cut short or damaged; {do} anew.") from None
    if said.get(CHECKSUM) != checksum(tensors):
        raise ModelError(f"{file}: damaged: its checksum does not fit; {do} anew.")
    if maker and said.get(MAKER) != maker:
        raise ModelError(f"{file}: {what} of another model, or of other settings or weights; {do} anew.")
    return tensors


def alike(empty: Tensor, saved: Tensor) -> bool:
    """Whether a saved tensor may stand for the empty one: only rows and the number of tokens kept may differ."""
    if empty.ndim != saved.ndim:
        return False
    return all(mine in (0, theirs) for mine, theirs in zip(empty.shape[1:], saved.shape[1:], strict=True))


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values of tensors on the CPU."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        if tensor.numel():
            digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
