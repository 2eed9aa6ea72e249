"""What a run takes over from the model that it starts from: all that its user left open.

    farfield train start=runs/reader data=text data.path=books data.length=2048

architecture    that model's, with the settings that were given below `architecture` changed
tokenizer       that model's, where the data is text, and the token that its texts begin with

It is anything that `farfield.pretrained.load` opens: a run, a file in one, a folder of Hugging Face of a known family.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from farfield.config import ModelError, TrainingError
from farfield.huggingface.reading import is_folder, open_folder
from farfield.huggingface.vocabularies import begin_of, folder_tokenizer
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
            folder = open_folder(path)
            tokenizer = folder_tokenizer(path, folder.config.vocabulary, folder.ends())
            begins = begin_of(tokenizer, "auto") is not None
            return folder.config.architecture.mapping(), _kept_in(start, begins)
        run, config = run_config(path)
    except ModelError as error:
        raise TrainingError(f"start: {error}") from None
    if not isinstance(config.get("architecture"), dict):
        raise TrainingError(f"start: {start} does not say its architecture. Name one: architecture=...")
    own = config.get("data", {}).get("tokenizer", {})
    if isinstance(own, dict) and own.get("kind") == "bytes":
        return config["architecture"], {"kind": "bytes"}
    begins = isinstance(own, dict) and own.get("begin") is True
    return config["architecture"], _kept_in(str(run / TOKENIZER), begins)


def _kept_in(folder: str, begins: bool) -> dict[str, Any]:
    """The settings of the tokenizer in a folder, whose token stands before every text where the text `begins` so."""
    return {"kind": "folder", "path": folder, **({"begin": True} if begins else {})}


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`below` with the settings of `above`, mapping by mapping."""
    found = dict(below)
    for key, value in above.items():
        own = found.get(key)
        found[key] = _laid_over(own, value) if isinstance(own, Mapping) and isinstance(value, Mapping) else value
    return found
