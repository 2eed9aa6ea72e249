"""The pieces of work that the files at a path, or the rows of a data set, fall into.

Small files go together, JSON lines are handed on by offset, a megabyte at a time: nothing here holds more than a block
of a file, however long its lines are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from farfield.retrieval.digests import digest
from farfield.retrieval.documents import Document, Skipped, read_documents
from farfield.retrieval.documents.document import LINES, too_large
from farfield.retrieval.documents.hub import Dataset
from farfield.retrieval.preparing import Done, Files, Lines, Preparation, Rows, Task, file_mark, read_part
from farfield.retrieval.store import Snapshot

__all__ = ["file_tasks", "look", "row_tasks"]

BLOCK = 1 << 20
FILES_AT_ONCE = 64
ROWS_AT_ONCE = 256

Reading = Callable[[], Snapshot]


def file_tasks(files: Sequence[Path], preparation: Preparation, current: Reading) -> Iterator[Task | Done]:
    """The work that `files` are, in their order; `current` tells what is stored."""
    together: list[str] = []
    size = 0
    for file in files:
        if file.suffix.lower() in LINES:
            if together:
                yield Files(tuple(together))
                together, size = [], 0
            yield from _line_tasks(file, preparation, current)
            continue
        together.append(file.as_posix())
        size += file.stat().st_size if file.exists() else 0
        if size >= BLOCK or len(together) >= FILES_AT_ONCE:
            yield Files(tuple(together))
            together, size = [], 0
    if together:
        yield Files(tuple(together))


def _line_tasks(file: Path, preparation: Preparation, current: Reading) -> Iterator[Task | Done]:
    """The work that a file of JSON lines is; none if it is stored as it is."""
    path = file.as_posix()
    try:
        mark = file_mark(file, preparation.marks)
        snapshot = current()
        if snapshot.mark(path) == mark:
            yield Done(path, unchanged=len(snapshot.documents(path)), bytes=file.stat().st_size)
            return
        emptied = True
        for part in _parts(file, preparation.largest):
            emptied = False
            yield part
    except OSError as error:
        yield Done(path, ((0, Skipped(path, f"cannot be read ({error.strerror})")),))
        return
    if emptied:
        yield Done(path, ((0, Skipped(path, "empty")),))
    yield Done(path, mark=mark, emptied=emptied)


def _parts(file: Path, largest: int) -> Iterator[Lines | Done]:
    """Whole lines, a block or more at a time; a line of more than `largest` bytes is named."""
    path, begin, number = file.as_posix(), 0, 1
    blank = True
    with file.open("rb") as source:
        place = 0
        while block := source.read(BLOCK):
            blank = blank and not block.removeprefix(b"\xef\xbb\xbf" if place == 0 else b"").strip()
            first, last = block.find(b"\n"), block.rfind(b"\n")
            if first >= 0 and place + first - begin > largest:
                yield _long(path, number, place + first - begin, largest)
                begin, number = place + first + 1, number + 1
            if last >= 0 and place + last + 1 > begin:
                if not blank:
                    yield Lines(path, begin, place + last + 1 - begin, number)
                number += block.count(b"\n", max(begin - place, 0))
                begin = place + last + 1
            place += len(block)
    if place - begin > largest:
        yield _long(path, number, place - begin, largest)
    elif place > begin and not blank:
        yield Lines(path, begin, place - begin, number)


def _long(path: str, number: int, size: int, largest: int) -> Done:
    return Done(path, ((number, Skipped(f"{path}:{number}", f"a line {too_large(size, largest)}")),), bytes=size)


def row_tasks(dataset: Dataset, preparation: Preparation, current: Reading) -> Iterator[Task | Done]:
    """The work that a data set is; none if it is stored as it is."""
    mark = digest(dataset.fingerprint, repr(dataset.columns), *preparation.marks)
    snapshot = current()
    if dataset.fingerprint and snapshot.mark(dataset.path) == mark:
        yield Done(dataset.path, unchanged=len(snapshot.documents(dataset.path)), bytes=dataset.length)
        return
    entries, first = dataset.entries(), 1
    while rows := tuple(islice(entries, ROWS_AT_ONCE)):
        yield Rows(dataset.path, first, rows)
        first += len(rows)
    yield Done(dataset.path, mark=mark)


def look(file: Path, preparation: Preparation) -> Iterator[Document | Skipped]:
    """What is in a file, one after another, read no further than it is asked for."""
    path = file.as_posix()
    try:
        if file.suffix.lower() not in LINES:
            size = file.stat().st_size
            if size > preparation.largest:
                yield Skipped(path, too_large(size, preparation.largest))
            else:
                yield from read_documents(file, file.read_bytes(), preparation.encoding)
            return
        for part in _parts(file, preparation.largest):
            items = part.items if isinstance(part, Done) else read_part(part, preparation)
            yield from (item for _, item in items if isinstance(item, Document | Skipped))
    except OSError as error:
        yield Skipped(path, f"cannot be read ({error.strerror})")
