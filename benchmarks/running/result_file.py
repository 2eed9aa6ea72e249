"""Writing a result file: one line at a time, each on the disk before the next is begun.

Lines that are no records are dropped, and what they told is evaluated again. A file of other settings, another model or
another version, or without a head, is never written to: it is kept aside under a numbered name. One process writes to a
file at a time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO, Any

from farfield.benchmarks.running.results import Cell, Result, read_head, read_result, record_about
from farfield.config import DataError

try:
    import fcntl
except ImportError:  # Windows: evaluations there are not held off one another
    fcntl = None  # type: ignore[assignment]

__all__ = ["ResultFile"]

IDENTITY = {"format": "another version", "settings_hash": "other settings", "model_hash": "another model"}


class ResultFile:
    """A result file that is being written, for this process alone until the block ends.

        with ResultFile(path, head) as file:
            file.add("cell", cell, content)

    result: what it holds
    aside:  where an older file of other settings, another model or another version was put, and `why`
    """

    aside: Path | None

    def __init__(self, path: Path, head: Mapping[str, Any]) -> None:
        """Opens `path`: goes on with it if it has this head's identity, else starts it anew.

        Raises:
            DataError: another process writes to it.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.aside, self.why = path, None, ""
        self.lock = _locked(path)
        old = _opened(path)
        if isinstance(old, Result):
            self.why = _difference(old.head, head)
        elif old is not None:
            self.why = "a first line that cannot be read"
        if self.why:
            self.aside, old = _keep_aside(path), None
        self.result = old if isinstance(old, Result) else Result(path, dict(head))
        if self.result.dropped:
            _write_again(path, self.result.dropped)
        self._append({"record": "resumed", "provenance": head["provenance"]} if old else {"record": "head", **head})

    def __enter__(self) -> ResultFile:
        return self

    def __exit__(self, *raised: object) -> None:
        _lock_of(self.path).unlink(missing_ok=True)
        self.lock.close()

    def add(self, kind: str, cell: Cell, content: Mapping[str, Any]) -> None:
        """Writes a record about `cell` and takes it into `result`."""
        record = record_about(kind, cell, content)
        self._append(record)
        self.result.add(record)

    def _append(self, record: Mapping[str, Any]) -> None:
        """One line, by one write, on the disk when this returns."""
        with self.path.open("ab") as file:
            file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def _lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _locked(path: Path) -> IO[bytes]:
    """A lock that the system drops when the process ends, however it ends.

    Raises:
        DataError: another process has it.
    """
    file = _lock_of(path).open("wb")
    if fcntl is None:
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever had it may have removed the file between the two calls: then the lock holds nobody off.
        if os.fstat(file.fileno()).st_nlink:
            return file
    except BlockingIOError:
        pass
    file.close()
    raise DataError(f"{path}: another evaluation writes to it. Wait for it, or take name=...")


def _opened(path: Path) -> Result | DataError | None:
    """What is at `path`: nothing, a result file of any version, or one without a head."""
    try:
        if not path.exists() or not path.stat().st_size:
            return None
        return read_result(path)
    except DataError as error:
        lines = path.read_bytes().split(b"\n")
        if len(lines) == 1:  # the head was being written when it was cut off
            path.unlink()
            return None
        try:
            return Result(path, read_head(path, lines[0]))
        except DataError:
            return error


def _write_again(path: Path, dropped: Collection[int]) -> None:
    """The file without the lines of these numbers: whole, or as it was."""
    lines = path.read_bytes().split(b"\n")
    kept = [line for number, line in enumerate(lines, start=1) if line and number not in dropped]
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(b"".join(line + b"\n" for line in kept))
    fresh.replace(path)


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Why results of the two heads do not go together; empty if they do."""
    return " and ".join(words for key, words in IDENTITY.items() if old.get(key) != new[key])


def _keep_aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.stem}.{number}{path.suffix}")).exists():
        number += 1
    return path.rename(aside)
