"""What a question is asked of beside an index: a document before it, a bank of documents, neighbours, a datastore."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

from farfield.amortized import AmortizedBank
from farfield.augmentation import OutputTraining
from farfield.config import ConfigError, DataError, IndexingError
from farfield.generation import TextModel
from farfield.knn import KnnLM
from farfield.progress import say
from farfield.retrieval.documents import Skipped, find, read_documents, require_files
from farfield.retrieval.neighbours import Database

__all__ = ["open_bank", "open_datastore", "open_neighbours", "read_document"]


def read_document(path: str) -> str:
    """The text of a file, with an empty line behind it.

    Raises:
        DataError: it cannot be read, or is not UTF-8.
    """
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"document: '{path}' cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise DataError(f"document: '{path}' is not UTF-8 text.") from None
    return text.rstrip() + "\n\n"


def open_bank(
    model: TextModel | None, documents: str | None, bank: str | None
) -> tuple[AmortizedBank | None, dict[str, float]]:
    """The bank that is asked, with the documents that are new to it, and the seconds that took; kept where told to.

    Args:
        model: that asks. documents: a file or folder of them. bank: a file that keeps what they left.

    Raises:
        DataError: no documents. ModelError: no such bank, that of another model, or without room.
    """
    if model is None or (documents is None and bank is None):
        return None, {}
    began = time.perf_counter()
    file = None if bank is None else Path(bank).expanduser()
    kept = None if file is None or (documents is not None and not file.exists()) else model.open_bank(file)
    texts = {} if documents is None else _texts(documents)
    filled = model.amortize(texts, kept)
    if file is not None and len(filled) > len(kept or ()):
        filled.save(file)
    return filled, {"amortize": time.perf_counter() - began}


def open_neighbours(
    model: TextModel | None, name: str | None, in_sessions: bool, with_index: bool
) -> tuple[Database | None, dict[str, float]]:
    """What a model that reads neighbours is given, and the seconds that took.

    Args:
        model: that reads. name: of a database; `none` for none, and None for that of the model's training.
        in_sessions: the question is asked in sessions, which keep no neighbours.
        with_index: an index has passages for the prompt, so that a model trained behind passages needs no others.

    Raises:
        ConfigError: no such database. ModelError: it is named, and the model reads none.
    """
    if model is None or name == "none":
        return None, {}
    if name is None and model.config.neighbours is None and (with_index or model.prompted is None):
        return None, {}
    if in_sessions:
        say("farfield: sessions keep no neighbours: the model answers as if none were found.")
        return None, {}
    began = time.perf_counter()
    try:
        found = model.open_neighbours(name)
    except IndexingError as error:
        raise ConfigError(f"neighbours: {error} Or go on without: neighbours=none.") from None
    return found, {"open neighbours": time.perf_counter() - began}


def open_datastore(
    model: TextModel | None, chosen: OutputTraining | Literal["trained"] | None, in_sessions: bool
) -> tuple[KnnLM | None, dict[str, float]]:
    """The model with the datastore whose findings are mixed in, and the seconds that took.

    Args:
        model: that answers. chosen: its datastore; `trained` for that of its training, if there was one.
        in_sessions: the question is asked in sessions, which mix nothing in.

    Raises:
        ConfigError: it cannot be used or built, or is of another model.
    """
    if model is None or chosen is None or (chosen == "trained" and model.model.mixing is None):
        return None, {}
    if in_sessions:
        say("farfield: sessions mix no datastore in: the model answers alone.")
        return None, {}
    began = time.perf_counter()
    found = model.open_datastore(None if chosen == "trained" else chosen)
    return found, {"open datastore": time.perf_counter() - began}


def _texts(path: str) -> dict[str, str]:
    """Documents at `path` by name: their place below it, and their key in a file that holds several.

    Raises:
        DataError: none there, or a file that cannot be read.
    """
    try:
        found = find(path)
        require_files(found, path)
    except DataError as error:
        raise DataError(f"documents: {str(error).removeprefix('path: ')}") from None
    texts: dict[str, str] = {}
    skipped = list(found.skipped)
    for file in found.files:
        place = Path(file.name) if file == found.root else file.relative_to(found.root)
        try:
            content = file.read_bytes()
        except OSError as error:
            raise DataError(f"documents: '{file}' cannot be read: {error.strerror}.") from None
        for document in read_documents(place, content):
            if isinstance(document, Skipped):
                skipped.append(document)
            else:
                texts[f"{place.as_posix()}:{document.key}" if document.key else place.as_posix()] = document.text
    for one in skipped:
        say(f"farfield: documents: {one}, left out.")
    if not texts:
        raise DataError(f"documents: '{path}' holds no text.")
    return texts
