"""What a state holds, whoever's it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

__all__ = ["state_bytes", "tensors_of"]


def tensors_of(state: object) -> list[Tensor]:
    """The tensors that a state is made of: of mappings, sequences, and what objects have as attributes; each once."""
    found: list[Tensor] = []
    seen: set[int] = set()

    def visit(part: object) -> None:
        if id(part) in seen:
            return
        seen.add(id(part))
        if isinstance(part, Tensor):
            found.append(part)
        elif isinstance(part, Mapping):
            every(part.values())
        elif isinstance(part, list | tuple):
            every(part)
        elif hasattr(part, "__dict__") and not isinstance(part, type):
            every(vars(part).values())

    def every(parts: Iterable[object]) -> None:
        for part in parts:
            visit(part)

    visit(state)
    return found


def state_bytes(state: object) -> int:
    """Bytes of the memory behind a state's tensors, slack included, each memory once."""
    storages = [tensor.untyped_storage() for tensor in tensors_of(state)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
