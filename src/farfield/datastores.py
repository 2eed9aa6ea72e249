"""A model's datastore of texts, built and opened: keys are what the model makes of each context, values what came next.

    texts ──> tokens ──> windows ──> keys, next tokens ──> datastore

Texts are read in windows that overlap, as many tokens as the model was trained on, so that every backbone reads them in
the context it knows; each token is an entry once.

Shapes: B rows, T tokens of a window, D width.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from farfield.augmentation import DatastoreSettings
from farfield.config import ConfigError, IndexingError
from farfield.data.store import open_store
from farfield.knn import Key, KnnLM, check_weight, keyed, numbers
from farfield.memory import OutputConfig
from farfield.model import LanguageModel, fingerprint
from farfield.progress import Bar
from farfield.retrieval.automaton import Automaton, Clusters, cluster
from farfield.retrieval.datastore import DatastoreWriter, open_datastore
from farfield.retrieval.key_index import index_keys, open_keys
from farfield.tokenizers import FolderConfig, Tokenizer

__all__ = ["Window", "Windows", "fill", "open_knn", "rows_of"]

CLUSTERS = "clusters.npy"


@dataclass(frozen=True)
class Window:
    """A stretch of a document: `length` tokens from place `begin` on are read; the first `seen` are no entries.

    Places count tokens of all documents. The token behind the last one read is in the document too.
    """

    document: int
    begin: int
    length: int
    seen: int
    last: bool


@dataclass(frozen=True)
class Windows:
    """How documents are cut: windows of `window` tokens, of which the first `overlap` were in the one before.

    document   t0 t1 t2 t3 t4 t5 t6 t7        window 4, overlap 2
    windows   |t0 t1 t2 t3|                   entries of t0 t1 t2 t3, with the values t1 t2 t3 t4
                    |.. .. t4 t5|             entries of t4 t5
                          |.. .. t6|          entry of t6: nothing comes behind t7
    """

    window: int
    overlap: int

    def cut(self, offsets: npt.NDArray[np.int64], first: int = 0) -> Iterator[Window]:
        """The windows of documents from number `first` on; document d has the tokens offsets[d] to offsets[d + 1]."""
        step = self.window - self.overlap
        for document in range(first, len(offsets) - 1):
            begin, end = int(offsets[document]), int(offsets[document + 1]) - 1
            places = range(begin, max(begin + 1, end - self.overlap), step) if end > begin else range(0)
            for place in places:
                length = min(self.window, end - place)
                yield Window(document, place, length, 0 if place == begin else self.overlap, place + length == end)

    def batches(self, offsets: npt.NDArray[np.int64], rows: int, first: int = 0) -> Iterator[list[Window]]:
        """The same, `rows` at a time."""
        windows = self.cut(offsets, first)
        while group := list(islice(windows, rows)):
            yield group


def rows_of(tokens: npt.NDArray[np.integer], group: Sequence[Window]) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, positions and next tokens (B, T) of windows, padded behind."""
    time = max(one.length for one in group)
    ids, positions, targets = (np.full((len(group), time), fill, np.int64) for fill in (0, -1, -100))
    for row, one in enumerate(group):
        read = tokens[one.begin : one.begin + one.length + 1].astype(np.int64)
        ids[row, : one.length], targets[row, : one.length] = read[:-1], read[1:]
        positions[row, : one.length] = np.arange(one.length)
    return torch.from_numpy(ids), torch.from_numpy(positions), torch.from_numpy(targets)


@torch.no_grad()
def fill(
    writer: DatastoreWriter,
    model: LanguageModel,
    key: Key,
    tokens: npt.NDArray[np.integer],
    offsets: npt.NDArray[np.int64],
    windows: Windows,
    rows: int = 16,
) -> None:
    """Writes the entries of all documents that `writer` does not hold yet; `rows` windows are read at once."""
    done, total = int(offsets[writer.documents] - offsets[0]), int(offsets[-1] - offsets[0])
    with Bar("datastore", total=total, unit="tokens", done=done) as bar:
        for group in windows.batches(offsets, rows, writer.documents):
            ids, positions, targets = rows_of(tokens, group)
            _, found, _ = keyed(model, key, ids.to(model.device), positions=positions.to(model.device))
            keys = numbers(found)
            for row, one in enumerate(group):
                while writer.documents < one.document:  # those without a token to predict
                    writer.end()
                own = slice(one.seen, one.length)
                writer.add(keys[row, own], targets[row, own].numpy())
                bar.step(one.length - one.seen)
                if one.last:
                    writer.end()
        while writer.documents < len(offsets) - 1:
            writer.end()


def source_of(*parts: object) -> str:
    """What stands for texts and how they are read."""
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def open_knn(
    model: LanguageModel, tokenizer: Tokenizer, config: OutputConfig, settings: DatastoreSettings, length: int
) -> KnnLM:
    """A model with its datastore, which is built where it is not there and texts are named.

    `length` is what is read at once where the settings do not say.

    Raises:
        ConfigError: it cannot be used or built, or is of another model.
    """
    check_weight(model, config)
    folder, maker = Path(settings.datastore).expanduser(), f"{fingerprint(model)} {config.key}"
    try:
        if settings.texts is not None and not folder.exists():
            _build(folder, maker, model, tokenizer, config.key, settings, settings.window or length)
        store = open_datastore(folder, maker, open_keys)
    except IndexingError as error:
        raise ConfigError(f"augmentation.{error}") from None
    automaton = None
    if config.least is not None:
        clusters = Clusters.made(np.load(folder / CLUSTERS))
        automaton = Automaton(store, clusters, config.least, config.most)
    return KnnLM(model, store, config, automaton)


def _build(
    folder: Path,
    maker: str,
    model: LanguageModel,
    tokenizer: Tokenizer,
    key: Key,
    settings: DatastoreSettings,
    window: int,
) -> None:
    """Reads the texts, and makes what finds their keys and what joins them."""
    assert settings.texts is not None
    with tempfile.TemporaryDirectory() as place:
        tokenizer.save(Path(place) / "tokenizer")
        chosen = FolderConfig(path=str(Path(place) / "tokenizer"))
        texts = open_store(Path(settings.texts).expanduser(), chosen, Path(settings.cache).expanduser())
    windows = Windows(window, min(round(settings.overlap * window), window - 1))
    source = source_of(texts.facts.source, texts.facts.tokenizer, windows.window, windows.overlap)

    def derive(place: Path, keys: npt.NDArray[np.float16]) -> None:
        index_keys(place, keys)
        np.save(place / CLUSTERS, cluster(keys, settings.cluster))

    with DatastoreWriter(folder, maker, source, model.config.architecture.width) as writer:
        fill(writer, model, key, texts.tokens, texts.offsets, windows)
        writer.finish(derive)
