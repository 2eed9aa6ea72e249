"""Tokenizers from folders, and what tells one from another."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from farfield.config import DataError, unknown
from farfield.tokenizers.bpe import BpeTokenizer, load_bpe
from farfield.tokenizers.plain import BytesTokenizer, IdsTokenizer
from farfield.tokenizers.protocol import BACKEND, SETTINGS, CorpusTokenizer, Tokenizer, read_json, told_ends

__all__ = ["fingerprint", "load_tokenizer"]


MODEL_FILES = ("generation_config.json", "config.json")  # of a Hugging Face model; the first that names ends counts


def load_tokenizer(folder: Path) -> CorpusTokenizer:
    """The tokenizer that was saved in `folder`, by Farfield or by Hugging Face.

    Raises:
        DataError: there is none, or its files are damaged.
    """
    settings = read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    if "kind" not in settings and not (folder / BACKEND).is_file():
        raise DataError(f"{folder}: no tokenizer there: neither a {SETTINGS} of Farfield nor a {BACKEND}.")
    match settings.get("kind", "bpe"):
        case "bytes":
            return BytesTokenizer()
        case "ids":
            return IdsTokenizer(_vocabulary(settings, folder / SETTINGS), told_ends(settings))
        case "bpe":
            return load_bpe(folder, settings, _model_ends(folder))
        case other:
            raise DataError(f"{folder / SETTINGS}: " + unknown("unknown kind", str(other), ["bytes", "bpe", "ids"]))


def fingerprint(tokenizer: Tokenizer) -> str:
    """16 hexadecimal digits that are the same for tokenizers that give the same ids."""
    digest = hashlib.blake2b(digest_size=8)
    with tempfile.TemporaryDirectory() as folder:
        (tokenizer.bare() if isinstance(tokenizer, BpeTokenizer) else tokenizer).save(Path(folder))
        for file in sorted(Path(folder).iterdir()):
            digest.update(f"{file.name} {file.stat().st_size} ".encode() + file.read_bytes())
    return digest.hexdigest()


def _model_ends(folder: Path) -> list[int]:
    """The ids that end what the model beside a tokenizer writes, where there is one that names them."""
    for file in (folder / name for name in MODEL_FILES):
        value = read_json(file).get("eos_token_id") if file.is_file() else None
        if value is not None:
            found: list[int] = []
            for one in value if isinstance(value, list) else [value]:
                if isinstance(one, bool) or not isinstance(one, int) or one < 0:
                    raise DataError(f"{file}: eos_token_id: {one!r} given, ids are needed.")
                found.append(one)
            return found
    return []


def _vocabulary(settings: dict[str, object], file: Path) -> int:
    vocabulary = settings.get("vocabulary")
    if not isinstance(vocabulary, int) or vocabulary < 2:
        raise DataError(f"{file}: 'vocabulary' must be a whole number above 1, not {vocabulary!r}.")
    return vocabulary
