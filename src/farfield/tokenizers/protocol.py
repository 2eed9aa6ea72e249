"""What a tokenizer is, and the files that every saved tokenizer has."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from farfield.config import DataError

__all__ = [
    "BACKEND",
    "ENDS",
    "SETTINGS",
    "CorpusTokenizer",
    "Ids",
    "Tokenizer",
    "read_json",
    "told_ends",
    "write_settings",
]

Ids: TypeAlias = NDArray[np.uint32]  # (tokens,)

SETTINGS, BACKEND = "tokenizer_config.json", "tokenizer.json"
ENDS = "farfield_ends"  # of the settings: ids that end what a model writes, where they are not the usual one


class Tokenizer(Protocol):
    """Text to ids and back."""

    @property
    def kind(self) -> str: ...

    @property
    def vocabulary(self) -> int:
        """Ids are 0 ... vocabulary - 1."""
        ...

    @property
    def end(self) -> int:
        """The id that ends a document. It decodes to nothing."""
        ...

    @property
    def ends(self) -> frozenset[int]:
        """The ids that end what a model writes, `end` among them."""
        ...

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def save(self, folder: Path) -> None: ...


class CorpusTokenizer(Tokenizer, Protocol):
    """A tokenizer fast enough for whole collections."""

    def encode_many(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of each text, as `encode` gives them."""
        ...


def told_ends(settings: dict[str, object]) -> list[int]:
    """The ids that settings name as ends."""
    found = settings.get(ENDS)
    return [one for one in found if isinstance(one, int)] if isinstance(found, list) else []


def read_json(file: Path) -> dict[str, object]:
    """The object in a JSON file.

    Raises:
        DataError: it holds none.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not JSON: {error}") from None
    if not isinstance(found, dict):
        raise DataError(f"{file}: a JSON object is expected, not {type(found).__name__}.")
    return found


def write_settings(folder: Path, settings: dict[str, object]) -> None:
    """Makes `folder` if need be, and writes the settings file of a tokenizer there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
