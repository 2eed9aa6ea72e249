"""What a run takes over from the model that it starts from: all that its user left open.

    farfield train start=runs/reader data=text data.path=books data.length=2048

architecture    that model's, with the settings that were given below `architecture` changed
tokenizer       that model's, where the data is text

It is anything that `farfield.pretrained.load` opens: a run, a file in one, a folder of Hugging Face of a known family.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from farfield.config import ModelError, TrainingError
from farfield.huggingface.reading import is_folder, open_folder
from farfield.pretrained import TOKENIZER, run_config

__all__ = ["completed"]

WHOLE = ("width", "depth", "pattern", "layers")
"""What every architecture that was named has; one without is some settings, of the architecture of another model."""


def completed(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """The composed settings of `farfield train`, with what they leave to the model that they start from.

    Raises:
        TrainingError: there is no such model.
    """
    found, start = dict(mapping), mapping.get("start")
    given = mapping.get("architecture") or {}
    if not start or all(key in given for key in WHOLE):
        return found
    architecture, tokenizer = _told(str(start))
    found["architecture"] = _laid_over(architecture, given)
    data = dict(mapping.get("data") or {})
    if "tokenizer" in data and data["tokenizer"] is None:
        found["data"] = {**data, "tokenizer": tokenizer}
    return found


def _told(start: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The architecture of a trained model, and how its tokenizer is opened."""
    path = Path(start).expanduser()
    try:
        if is_folder(path):
            return open_folder(path).config.architecture.mapping(), {"kind": "folder", "path": start}
        run, config = run_config(path)
    except ModelError as error:
        raise TrainingError(f"start: {error}") from None
    if not isinstance(config.get("architecture"), dict):
        raise TrainingError(f"start: {start} does not say its architecture. Name one: architecture=...")
    own = config.get("data", {}).get("tokenizer", {})
    plain = isinstance(own, dict) and own.get("kind") == "bytes"
    return config["architecture"], {"kind": "bytes"} if plain else {"kind": "folder", "path": str(run / TOKENIZER)}


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`below` with the settings of `above`, mapping by mapping."""
    found = dict(below)
    for key, value in above.items():
        own = found.get(key)
        found[key] = _laid_over(own, value) if isinstance(own, Mapping) and isinstance(value, Mapping) else value
    return found
