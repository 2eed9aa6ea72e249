"""Models of the library sentence-transformers: vectors of texts, states of their tokens, and cross-encoders.

Nothing is fetched unless the settings say so, and weights are read by safetensors alone: a folder that holds others is
refused before the library sees it.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from farfield.config import IndexingError
from farfield.retrieval.embedders import FunctionEmbedder, Matrix
from farfield.retrieval.settings import SentenceTransformersConfig

__all__ = ["CrossEncoder", "SentenceStates"]

SAFE, UNSAFE = ".safetensors", (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
BLOCK = 1 << 20


def _library() -> ModuleType:
    try:
        return importlib.import_module("sentence_transformers")
    except ImportError as error:
        raise IndexingError(
            f"sentence-transformers cannot be loaded ({error}). Install it with: pip install 'farfield[hf]'"
        ) from error


def _checked(model: str, online: bool) -> Path | None:
    """The folder of a model; None for a name that may be fetched.

    Raises:
        IndexingError: no such folder, and nothing may be fetched; or weights in it that only unpickling would read.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        if online:
            return None
        raise IndexingError(
            f"embedder.model: there is no folder '{model}', and nothing is fetched unless told to. Give a folder of"
            " sentence-transformers, or add embedder.online=true."
        )
    safe = {file.parent for file in folder.rglob(f"*{SAFE}")}
    for file in sorted(folder.rglob("*")):
        if file.suffix in UNSAFE and file.parent not in safe:
            raise IndexingError(
                f"embedder.model: '{file}' would have to be unpickled, which can run code. Save the model with"
                " safetensors (save_pretrained does)."
            )
    return folder


@contextmanager
def _told(model: str) -> Iterator[None]:
    """What the library says about a folder that it cannot read, in one line; and no progress bar of its own."""
    shown = importlib.import_module("transformers.utils.logging")
    before = shown.is_progress_bar_enabled()
    shown.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError, KeyError, AttributeError, RuntimeError, ImportError) as error:
        line = " ".join(str(error).split())[:200]
        raise IndexingError(f"embedder.model: '{model}' cannot be loaded as sentence-transformers ({line}).") from error
    finally:
        if before:
            shown.enable_progress_bar()


def _loading(online: bool) -> dict[str, Any]:
    return {
        "local_files_only": not online,
        "trust_remote_code": False,
        "model_kwargs": {"use_safetensors": True},
    }


def _version(folder: Path | None, model: Any) -> str:
    """Changes with any file that the vectors depend on; of a fetched model, with its weights."""
    hashed = hashlib.sha256()
    if folder is None:
        for name, tensor in sorted(model.state_dict().items()):
            hashed.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return hashed.hexdigest()
    for file in sorted(folder.rglob("*")):
        if file.suffix in (SAFE, ".json", ".txt", ".model"):
            hashed.update(file.relative_to(folder).as_posix().encode())
            with file.open("rb") as source:
                while block := source.read(BLOCK):
                    hashed.update(block)
    return hashed.hexdigest()


class SentenceStates:
    """A bi-encoder: a vector of each text, or a state of each of its tokens. Texts beyond its limit are cut there."""

    centred = False

    def __init__(self, config: SentenceTransformersConfig) -> None:
        """Loads the model.

        Raises:
            IndexingError: the library or the model cannot be loaded, or it would have to be fetched or unpickled.
        """
        folder = _checked(config.model, config.online)
        library = _library()
        with _told(config.model):
            loaded = library.SentenceTransformer(str(folder or config.model), **_loading(config.online))
        self._model: Any = loaded
        self.name = f"sentence-transformers {folder.name if folder else config.model}"
        self.version = _version(folder, loaded)
        self.dimension = int(loaded.get_embedding_dimension())
        self._batch = config.batch

    def vectors(self, texts: Sequence[str], prompt: str | None = None) -> Matrix:
        """(texts, dimension); the library batches by length."""
        named = prompt if prompt in self._model.prompts else None
        found = self._model.encode(
            list(texts), batch_size=self._batch, prompt_name=named, show_progress_bar=False, convert_to_numpy=True
        )
        return np.asarray(found, np.float32).reshape(len(texts), -1)

    def states(self, texts: Sequence[str]) -> list[Matrix]:
        """The states of each text's tokens, (tokens, dimension), without padding."""
        found = self._model.encode(
            list(texts), batch_size=self._batch, output_value="token_embeddings", show_progress_bar=False
        )
        return [one.float().cpu().numpy() for one in found]

    def embedder(self) -> FunctionEmbedder:
        """An embedder of its vectors. Questions get the model's prompt for them, where it has one."""
        return FunctionEmbedder(
            f"{self.name} dimension={self.dimension}",
            self.dimension,
            self.vectors,
            lambda texts: self.vectors(texts, "query"),
            version=self.version,
        )


def _check_head(folder: Path | None, model: str) -> None:
    """Raise IndexingError where a folder's model has no head that scores: the library would add an untrained one."""
    try:
        kinds = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"] if folder else []
    except (OSError, ValueError, KeyError, TypeError):
        kinds = []
    if not any("SequenceClassification" in str(kind) for kind in kinds or []):
        raise IndexingError(
            f"retrieval.rerank.model: '{model}' is no cross-encoder: its config.json names no model for sequence "
            "classification. With a model of embeddings use retrieval.rerank.kind=late."
        )


class CrossEncoder:
    """A model that reads question and passage as one text and tells how well they fit: `retrieval.rerank`."""

    def __init__(self, model: str) -> None:
        """Loads the model from a folder.

        Raises:
            IndexingError: the library or the model cannot be loaded, or it would have to be fetched or unpickled.
        """
        folder = _checked(model, online=False)
        _check_head(folder, model)
        library = _library()
        with _told(model):
            self._model: Any = library.CrossEncoder(str(folder), **_loading(online=False))
        if self._model.num_labels != 1:
            raise IndexingError(
                f"retrieval.rerank.model: '{model}' tells {self._model.num_labels} classes; one score is needed."
            )
        self.name = f"cross-encoder {folder.name if folder else model}"

    def scores(self, question: str, passages: Sequence[str]) -> Matrix:
        """(passages,): larger is better."""
        pairs = [(question, passage) for passage in passages]
        return np.asarray(self._model.predict(pairs, show_progress_bar=False), np.float32).reshape(len(passages))
