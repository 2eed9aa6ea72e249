"""Data sets of the Hugging Face hub, or of a folder that `save_to_disk` wrote: one document a row.

Nothing is fetched but what is named: `path=rajpurkar/squad source=dataset dataset.text=context`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from farfield.config import DataError, unknown
from farfield.retrieval.settings import DatasetConfig

__all__ = ["Dataset", "open_dataset"]


class Dataset(NamedTuple):
    """A split of a data set: under which path it is stored, what changes with its content, and how long it is."""

    path: str
    fingerprint: str
    length: int
    rows: Any
    columns: DatasetConfig

    def entries(self) -> Iterator[dict[str, object]]:
        """The rows, as lines of JSON would say them."""
        ours = self.columns
        for row in self.rows:
            entry = {name: value for name, value in row.items() if name not in (ours.text, ours.id, ours.title)}
            yield entry | {"text": row[ours.text], "id": row.get(ours.id), "title": row.get(ours.title)}


def open_dataset(path: str, settings: DatasetConfig) -> Dataset:
    """A split of the data set `path`.

    Raises:
        DataError: it cannot be had, or has no such split or column.
    """
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise DataError(
            f"path: data sets cannot be read ({error}). Install what they need with: pip install 'farfield[hf]'"
        ) from error
    folder = Path(path).expanduser()
    try:
        if folder.is_dir():
            found, name = datasets.load_from_disk(str(folder)), folder.resolve().as_posix()
        else:
            found, name = datasets.load_dataset(path, settings.subset), f"hub:{path}"
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise DataError(f"path: the data set '{path}' cannot be had ({' '.join(str(error).split())}).") from error
    if not hasattr(found, "column_names") or isinstance(found, dict):
        if settings.split not in found:
            raise DataError(f"dataset.{unknown('split', settings.split, sorted(found))}")
        found = found[settings.split]
    if settings.text not in found.column_names:
        raise DataError(f"dataset.{unknown('text', settings.text, sorted(found.column_names))}")
    place = "/".join(part for part in (name, settings.subset, settings.split) if part)
    return Dataset(place, str(getattr(found, "_fingerprint", "")), len(found), found, settings)
