"""A model of ours as a folder of Hugging Face: config.json, safetensors, tokenizer.

    write_folder(model, tokenizer, "models/mine")           # all of it, or nothing

The folder is written beside its place and takes it by one rename. Weights larger than `shard` bytes go into several
files with an index; no more than one file's are copied at a time.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from farfield.config import ModelError
from farfield.huggingface.families import Family, family_of
from farfield.huggingface.reading import CONFIG, GENERATION
from farfield.huggingface.shards import INDEX, SINGLE
from farfield.huggingface.vocabularies import ids_of_texts, write_tokenizer
from farfield.huggingface.weights import Piece
from farfield.model import LanguageModel
from farfield.tokenizers import Tokenizer

__all__ = ["SHARD", "write_folder"]

SHARD = 2 << 30  # bytes of weights in one file


@dataclass(frozen=True)
class _Shard:
    """The pieces of one file."""

    name: str
    pieces: list[Piece]


def write_folder(
    model: LanguageModel,
    tokenizer: Tokenizer,
    folder: Path,
    *,
    family: str | None = None,
    begin: int | None = None,
    longest: int | None = None,
    generation: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    shard: int = SHARD,
) -> Path:
    """Writes the model, and returns where.

    Args:
        model: of layers that a family has. tokenizer: of its texts. folder: that does not exist yet, or is empty.
        family: the one to try first. begin: the id that the model's texts begin with.
        longest: tokens that it was trained for. generation: what else generation_config.json says.
        dtype: of the weights; None: as they are. shard: bytes of a file.

    Raises:
        ModelError: no family has such layers, the vocabularies do not fit, or something is in the folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelError(f"{folder}: exists already. Name a folder that does not, or an empty one.")
    if model.windows is not None:
        raise ModelError(
            "context.kind: 'parallel' given; no Hugging Face family reads in windows. Export the model without context."
        )
    if (needed := ids_of_texts(tokenizer)) > model.config.vocabulary:
        raise ModelError(f"tokenizer: {needed} ids, and the model has {model.config.vocabulary}. They must fit.")
    chosen = family_of(model.config, family)
    kind = dtype or model.embedding.weight.dtype
    config = {
        **_settings(chosen, model, longest),
        "bos_token_id": begin,
        "eos_token_id": _ends(tokenizer),
        "dtype": str(kind).removeprefix("torch."),
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        made.mkdir()
        _write_json(made / CONFIG, config)
        ids = {key: config[key] for key in ("bos_token_id", "eos_token_id")}
        _write_json(made / GENERATION, {**(generation or {}), **ids})
        write_tokenizer(tokenizer, made, begin)
        _write_weights(made, chosen.pieces(model.config), model.state_dict(), kind, shard)
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder


def _settings(family: Family, model: LanguageModel, longest: int | None) -> dict[str, Any]:
    """config.json without the ids of tokens and the dtype."""
    told = family.config(model.config)
    lengths = [one for one in (longest, told.get("max_position_embeddings")) if one is not None]
    length = {"max_position_embeddings": max(lengths)} if lengths else {}
    return {"architectures": [family.architecture], "model_type": family.name, **told, **length}


def _ends(tokenizer: Tokenizer) -> int | list[int]:
    more = sorted(tokenizer.ends - {tokenizer.end})
    return [tokenizer.end, *more] if more else tokenizer.end


def _write_json(file: Path, values: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _write_weights(
    folder: Path, pieces: list[Piece], ours: Mapping[str, Tensor], dtype: torch.dtype, shard: int
) -> None:
    """One file, or several and their index."""
    sizes = {piece.theirs: piece.part(ours[piece.ours]).numel() * dtype.itemsize for piece in pieces}
    shards = list(_shared_out(pieces, sizes, shard))
    for one in shards:
        tensors = {
            piece.theirs: piece.write(ours[piece.ours].detach())
            .to("cpu", dtype)
            .clone(memory_format=torch.contiguous_format)
            for piece in one.pieces
        }
        save_file(tensors, folder / one.name, metadata={"format": "pt"})
    if len(shards) > 1:
        where = {piece.theirs: one.name for one in shards for piece in one.pieces}
        _write_json(folder / INDEX, {"metadata": {"total_size": sum(sizes.values())}, "weight_map": where})


def _shared_out(pieces: list[Piece], sizes: Mapping[str, int], most: int) -> Iterator[_Shard]:
    """The pieces in files of at most `most` bytes, or of one piece that is larger."""
    parts: list[list[Piece]] = [[]]
    held = 0
    for piece in pieces:
        if parts[-1] and held + sizes[piece.theirs] > most:
            parts.append([])
            held = 0
        parts[-1].append(piece)
        held += sizes[piece.theirs]
    for number, part in enumerate(parts, start=1):
        yield _Shard(SINGLE if len(parts) == 1 else f"model-{number:05}-of-{len(parts):05}.safetensors", part)
