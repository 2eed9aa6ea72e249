"""The tensors of a folder, by name: in model.safetensors, or in several files that an index names.

    tensors = Tensors.of(folder)
    tensors.shapes["model.norm.weight"]         # without reading it
    tensors.mapped("model.norm.weight")         # on the pages of the file, read when they are touched
    tensors.copy("model.norm.weight", part)     # read into place; nothing else stays in memory

Whoever opens a file checks its header first: how long it says it is, whether the offsets lie in the file and apart, and
whether shapes fit them. The file must stay as it is while a mapped tensor lives; one that takes its place by a rename
does it no harm. Pickled files are never opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from farfield.config import ModelError
from farfield.huggingface.given import Given

__all__ = ["INDEX", "SINGLE", "Tensors"]

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class Tensors:
    """Where each tensor is, its shape and its dtype as safetensors spells it."""

    files: Mapping[str, Path]
    shapes: Mapping[str, tuple[int, ...]]
    kinds: Mapping[str, str]

    @staticmethod
    def of(folder: Path) -> Tensors:
        """Those of a folder.

        Raises:
            ModelError: there are none, or a file is damaged, missing, or named outside of the folder.
        """
        if (folder / SINGLE).is_file():
            files, promised = [folder / SINGLE], {}
        elif (folder / INDEX).is_file():
            promised = _promised(folder)
            files = [folder / name for name in sorted(set(promised.values()))]
        else:
            raise ModelError(_none(folder))
        where: dict[str, Path] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        kinds: dict[str, str] = {}
        for file in files:
            with opened(file) as handle:
                for name in handle.keys():  # noqa: SIM118  # no mapping
                    if name in where:
                        raise ModelError(f"{file}: {name} is in {where[name].name} too.")
                    part = handle.get_slice(name)
                    where[name], shapes[name], kinds[name] = file, tuple(part.get_shape()), part.get_dtype()
        for name, file_name in promised.items():
            if name not in where:
                raise ModelError(f"{folder / INDEX}: promises {name} in {file_name}, which has no such tensor.")
        return Tensors(where, shapes, kinds)

    @property
    def numbers(self) -> int:
        """How many numbers all of them hold."""
        return sum(torch.Size(shape).numel() for shape in self.shapes.values())

    def dtype(self, name: str) -> torch.dtype:
        """Of a tensor.

        Raises:
            ModelError: it holds no floating-point numbers of two bytes or more.
        """
        kind = self.kinds[name]
        if kind not in DTYPES:
            raise ModelError(f"{self.files[name]}: {name}: {kind} given, one of {', '.join(DTYPES)} is needed.")
        return DTYPES[kind]

    def mapped(self, name: str) -> Tensor:
        """The tensor on the pages of its file; writing to it changes this process's pages alone."""
        with opened(self.files[name]) as handle:
            found: Tensor = handle.get_tensor(name)
        return found if found.data_ptr() % found.element_size() == 0 else found.clone()


@contextmanager
def opened(file: Path) -> Iterator[Any]:
    """A handle of safetensors.

    Raises:
        ModelError: no such file, or it is cut short, damaged, or something else.
    """
    if not file.is_file():
        raise ModelError(f"{file}: no such file.")
    try:
        with safe_open(file, framework="pt", device="cpu") as handle:
            yield handle
    except (SafetensorError, OSError) as error:
        said = " ".join(str(error).split())[:100]
        size = f"{file.stat().st_size:,} bytes"
        raise ModelError(f"{file}: cut short, damaged, or no safetensors file ({size}): {said}.") from None


def _promised(folder: Path) -> dict[str, str]:
    """The file of each tensor, by the index."""
    index = Given.of(folder / INDEX)
    found = index.within("weight_map")
    if found is None or not found.values:
        raise ModelError(f"{index.file}: weight_map is missing.")
    for name, file in found.values.items():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            found.refuse(name, "the name of a .safetensors file in the same folder is needed")
    return dict(found.values)


def _none(folder: Path) -> str:
    others = sorted(one.name for kind in (*PICKLED, "*.safetensors") for one in folder.glob(kind))
    pickled = [one for one in others if not one.endswith(".safetensors")]
    instead = f" {pickled[0]} is pickled, and is never read." if pickled else ""
    instead = instead or (f" There is {others[0]}." if others else "")
    return f"{folder}: no weights there: neither {SINGLE} nor {INDEX}.{instead}"
