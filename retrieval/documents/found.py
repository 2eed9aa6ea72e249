"""The files at a path that can hold documents.

Hidden files and folders are left out. Links are followed to files within the folder, and no further: what a folder that
is handed over can make visible is what lies in it. A linked folder is not entered, so that no loop can arise.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from farfield.config import DataError, nearest, printable
from farfield.retrieval.documents.document import LINES, PARSED, PLAIN, Skipped

__all__ = ["Found", "find", "require_files"]

KNOWN = (*PLAIN, *PARSED, *LINES)


@dataclass(frozen=True)
class Found:
    """The files at or below `root`, sorted, and what lies between them.

    Attributes:
        skipped: files that could hold documents, but are named in bytes that are not UTF-8, or lie elsewhere.
        ignored: how many files of other kinds, by ending.
    """

    root: Path
    files: tuple[Path, ...]
    skipped: tuple[Skipped, ...]
    ignored: dict[str, int]


def find(path: str) -> Found:
    """The files at or below `path` that can hold documents, maybe none. Hidden files and folders are left out.

    Raises:
        DataError: what is at `path` cannot be told.
    """
    there = _exists(path)
    root = Path(path).expanduser().resolve()
    files = sorted(_below(root)) if root.is_dir() else [root] * there
    known = [file for file in files if file.suffix.lower() in KNOWN]
    others = Counter(printable(file.suffix.lower() or file.name) for file in files if file.suffix.lower() not in KNOWN)
    flaws = [(file, _flaw(file, root)) for file in known]
    return Found(
        root,
        files=tuple(file for file, flaw in flaws if not flaw),
        skipped=tuple(Skipped(printable(str(file)), flaw) for file, flaw in flaws if flaw),
        ignored=dict(sorted(others.items())),
    )


def require_files(found: Found, path: str) -> None:
    """Raises a DataError if there is nothing at `path`, or no file of a known kind."""
    if found.files or found.skipped:
        return
    known = ", ".join(KNOWN)
    if found.ignored:
        raise DataError(f"path: {path}: no file of a known kind ({', '.join(found.ignored)} given). Known: {known}.")
    if found.root.is_dir():
        raise DataError(f"path: {path} is an empty folder. It should hold files that end in {known}.")
    raise DataError(f"path: {path} does not exist.{_sibling(Path(path).expanduser())}")


def _exists(path: str) -> bool:
    """Whether there is anything at `path`. What may not be looked at must not look as if it were gone."""
    try:
        Path(path).expanduser().stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise DataError(f"path: {path} cannot be read ({error.strerror}).") from error
    return True


def _flaw(file: Path, root: Path) -> str:
    """Why a file cannot be used, as far as its path tells: it must be UTF-8, as all that is stored and printed."""
    if printable(str(file)) != str(file):
        return "its name is not UTF-8"
    if file.is_symlink() and not file.resolve().is_relative_to(root):
        return f"a link out of the folder, to {printable(str(file.resolve()))}; ingest that by its own path"
    return ""


def _sibling(path: Path) -> str:
    """A hint at what lies beside a path that does not exist."""
    parent = path.parent
    try:
        near = nearest(path.name, sorted(entry.name for entry in parent.iterdir()))
    except OSError:
        return ""
    return f" Did you mean '{printable(str(parent / near))}'?" if near else ""


def _unreadable(error: OSError) -> None:
    """A folder that cannot be listed stops everything: its documents would look as if they were gone."""
    folder = printable(str(error.filename))
    raise DataError(f"path: the folder {folder} cannot be read ({error.strerror}).") from error


def _below(root: Path) -> Iterator[Path]:
    """Every visible regular file below `root`; links to folders are not followed, so that no loop can arise."""
    for folder, subfolders, names in os.walk(root, onerror=_unreadable):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in names:
            file = Path(folder, name)
            if not name.startswith(".") and file.is_file():
                yield file
