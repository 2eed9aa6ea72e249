"""A state as a file: safetensors whose parts can be read one by one, each with a checksum of its own.

    0.position  0.logits           part 0: what is no layer's
    1.near.keys  1.near.values     part 1: the first layer
    metadata                       format, key, and the SHA-256 of each part: names, types, shapes and values

A file is written beside its place, synced, and moved there in one step; what is read is copied before it is checked, so
that nothing can change it afterwards.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from farfield.architectures.saved_state import checksum
from farfield.config import StoreError

__all__ = ["DamagedError", "Part", "StateFile", "serialised", "write_whole"]

FORMAT = "1"

Part: TypeAlias = Mapping[str, Tensor]
"""Tensors by name, on the CPU, each alone on its memory."""


class DamagedError(StoreError):
    """A stored state is not what was stored."""


def serialised(key: str, parts: Sequence[Part]) -> bytes:
    """The content of the file of a state."""
    tensors = {f"{number}.{name}": tensor for number, part in enumerate(parts) for name, tensor in part.items()}
    checksums = json.dumps([checksum(part) for part in parts])
    return safetensors.torch.save(tensors, {"format": FORMAT, "key": key, "parts": checksums})


def write_whole(file: Path, content: bytes) -> None:
    """`file` with this content, on the disk when this returns; whoever looks sees all of it or nothing new.

    Raises:
        StoreError: the disk is full, or the folder cannot be written.
    """
    temporary = file.with_name(f".{file.name}")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
        _sync_folder(file.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise StoreError(f"{file}: cannot be written: {error.strerror or error}.") from None


def _sync_folder(folder: Path) -> None:
    """Makes a new name last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class StateFile(Sequence[Part]):
    """The parts of a stored state, read and checked one by one. What was opened stays readable when it is removed."""

    def __init__(self, file: Path, key: str) -> None:
        """Opens the state of `key` in `file`.

        Raises:
            DamagedError: there is none, it is cut short, or it is the state of something else.
        """
        self.file = file
        try:
            opened: Any = safe_open(file, framework="pt", device="cpu")
            said, names = opened.metadata() or {}, list(opened.keys())
        except (SafetensorError, OSError, RuntimeError):  # of torch, where a file goes while it is opened
            what = "cut short or damaged" if file.is_file() else "no such file"
            raise DamagedError(f"{file}: {what}; prefill anew.") from None
        if said.get("format") != FORMAT or said.get("key") != key:
            raise DamagedError(f"{file}: the state of another model or text; prefill anew.")
        self._opened = opened
        try:
            self._checksums: list[str] = json.loads(said["parts"])
            self._names: list[list[str]] = [[] for _ in self._checksums]
            for name in names:
                self._names[int(name.partition(".")[0])].append(name)
        except (KeyError, ValueError, TypeError, IndexError):
            raise DamagedError(f"{file}: cut short or damaged; prefill anew.") from None

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Part:  # type: ignore[override]  # parts are read one by one
        """Part `index`, on memory of its own.

        Raises:
            DamagedError: it is not what was stored.
        """
        try:
            part = {name.partition(".")[2]: self._opened.get_tensor(name).clone() for name in self._names[index]}
        except (SafetensorError, OSError, RuntimeError):  # of torch, where a file goes while it is opened
            raise DamagedError(f"{self.file}: cut short or damaged; prefill anew.") from None
        if checksum(part) != self._checksums[index]:
            raise DamagedError(f"{self.file}: damaged: its checksum does not fit; prefill anew.")
        return part
