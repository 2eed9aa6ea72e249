"""Files that are written whole or not at all, checkpoints among them, and weights for others to read.

A file is written beside its place, forced to disk, and moved there in one step: whoever looks sees the old one or the
new one, whenever the process was killed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from farfield.adapters import adapter_of, merged
from farfield.architectures.saved_state import CHECKSUM, checksum
from farfield.config import TrainingError
from farfield.context import trained_length
from farfield.pretrained import OURS, WEIGHTS, WEIGHTS_PREFIX, model_config, read_checkpoint

__all__ = ["LEARNT", "export", "export_adapter", "link", "replacing", "save_checkpoint", "write_text"]

LEARNT = "learnt"  # in our entry of a checkpoint of a run with an adapter: the names of the weights that are trained


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A path beside `file` to write to; when the block ends without an error, it becomes `file`.

    Raises:
        TrainingError: the disk is full, or the folder cannot be written.
    """
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, file)  # noqa: PTH105  # the same as Path.replace, named for what it guarantees
        _sync_folder(file.parent)
    except OSError as error:
        raise TrainingError(f"{file}: cannot be written: {error.strerror or error}.") from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_text(file: Path, text: str) -> None:
    """`file` with this text."""
    with replacing(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


def save_checkpoint(content: dict[str, object], file: Path) -> None:
    """`content`, of plain values and tensors, as a file that `read_checkpoint` reads."""
    with replacing(file) as temporary, _torch_errors(file):
        torch.save(content, temporary)


def link(file: Path, name: Path) -> None:
    """`name` becomes another name of `file`, without a copy where the file system can."""
    with replacing(name) as temporary:
        try:
            os.link(file, temporary)
        except OSError:
            shutil.copyfile(file, temporary)


def export(checkpoint: Path, file: Path, metadata: dict[str, str]) -> None:
    """The weights of a checkpoint as safetensors, by the model's own names, with an adapter's in their places."""
    content = read_checkpoint(checkpoint, mapped=True)
    tensors = {name: tensor.contiguous() for name, tensor in merged(_weights(content)).items()}
    _export(tensors, {CHECKSUM: checksum(tensors), **metadata}, content, checkpoint, file)


def export_adapter(checkpoint: Path, file: Path) -> int:
    """What was learnt beside the weights of a checkpoint as safetensors; returns how many numbers these are."""
    content = read_checkpoint(checkpoint, mapped=True)
    config = content[OURS]["config"]
    model, length = model_config(config, checkpoint), trained_length({"config": config})
    tensors, said = adapter_of(_weights(content), content[OURS][LEARNT], model, length)
    _export(tensors, said, content, checkpoint, file)
    return sum(tensors[name].numel() for name in content[OURS][LEARNT])


def _weights(content: dict[str, Any]) -> dict[str, Tensor]:
    """The weights of a checkpoint by the model's own names."""
    return {name.removeprefix(WEIGHTS_PREFIX): tensor for name, tensor in content[WEIGHTS].items()}


def _export(
    tensors: dict[str, Tensor], said: dict[str, str], content: dict[str, Any], checkpoint: Path, file: Path
) -> None:
    """Tensors of a checkpoint as safetensors, with what is said of them."""
    with replacing(file) as temporary:
        save_file(tensors, temporary, {"format": "pt", "step": str(content[OURS]["progress"]["step"]), **said})
        shutil.copymode(checkpoint, temporary)  # safetensors lets no one else read what it writes


@contextmanager
def _torch_errors(file: Path) -> Iterator[None]:
    """torch.save reports a full disk as a RuntimeError of its zip writer."""
    try:
        yield
    except RuntimeError as error:
        raise TrainingError(f"{file}: cannot be written: {' '.join(str(error).split())[:200]}") from None


def _sync_folder(folder: Path) -> None:
    """Makes the new name last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
