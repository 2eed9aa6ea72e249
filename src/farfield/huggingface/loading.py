"""A Hugging Face model and its tokenizer from a folder: weights by safetensors alone, no code of the folder's."""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from farfield.config import ModelError
from farfield.huggingface.reading import is_folder, uncovered
from farfield.tokenizers.protocol import read_json

__all__ = ["hub_class", "load_hub", "load_hub_model", "load_hub_tokenizer"]

CAUSAL = ("ForCausalLM", "LMHeadModel")


def load_hub(path: str, dtype: torch.dtype, device: torch.device | str, online: bool = False) -> tuple[Any, Any]:
    """The model in evaluation mode, and its tokenizer.

    Args:
        path: the folder; with `online` a name on the hub too.
        dtype: of the weights. device: where they go.
        online: whether what is missing may be fetched.

    Raises:
        ModelError: transformers is not installed, or the folder holds no causal model that can be read.
    """
    return load_hub_model(path, dtype, device, online), load_hub_tokenizer(path, online)


def load_hub_tokenizer(path: str, online: bool = False) -> Any:
    """The tokenizer of `load_hub` alone."""
    transformers = _transformers(path)
    with _told(path), _quiet(transformers):
        return transformers.AutoTokenizer.from_pretrained(**_asked(path, online))


def load_hub_model(path: str, dtype: torch.dtype | None, device: torch.device | str, online: bool = False) -> Any:
    """The model of `load_hub` alone; without a `dtype` in that of its weights."""
    transformers = _transformers(path)
    folder = Path(path).expanduser()
    if folder.is_dir():
        _check_folder(folder, online)
    with _told(path), _quiet(transformers):
        model, found = transformers.AutoModelForCausalLM.from_pretrained(
            **_asked(path, online), dtype=dtype or "auto", use_safetensors=True, output_loading_info=True
        )
    wrong = sorted(found["missing_keys"]) + sorted(str(one) for one in found["mismatched_keys"])
    if wrong:
        raise ModelError(f"{path}: {len(wrong)} weights are missing or of another shape, {wrong[0]} for one.")
    return model.to(device).eval()


def hub_class(path: str) -> tuple[Any, Any]:
    """The class by which transformers would read a folder, and its settings; no weight is read.

    Raises:
        ModelError: transformers is not installed, or the folder holds no causal model that can be read.
    """
    from safetensors import safe_open

    transformers, folder = _transformers(path), Path(path).expanduser()
    _check_folder(folder, False)
    with _told(path), _quiet(transformers):
        config = transformers.AutoConfig.from_pretrained(**_asked(path, False))
        known = transformers.MODEL_FOR_CAUSAL_LM_MAPPING
        if type(config) not in known:
            raise ModelError(f"{path}: model_type '{config.model_type}', of which transformers has no causal model.")
        with torch.device("meta"):  # where weights take no memory
            transformers.AutoModelForCausalLM.from_config(config)
        for file in folder.glob("*.safetensors"):
            with safe_open(file, framework="pt"):
                pass  # its header is as it should be
        return known[type(config)], config


def _transformers(path: str) -> Any:
    try:
        return importlib.import_module("transformers")
    except ImportError:
        needed = "a Hugging Face model needs transformers: pip install 'farfield[hf]'."
        raise ModelError(f"{_lacking(path)}{path}: {needed}") from None


def _lacking(path: str) -> str:
    """Why our layers do not read a folder, where it is for what they do not have."""
    folder = Path(path).expanduser()
    try:
        reason = uncovered(folder) if is_folder(folder) else None
    except ModelError:  # not for that
        return ""
    return "" if reason is None else f"{reason} "


def _asked(path: str, online: bool) -> dict[str, Any]:
    """What every part of a folder is asked for with."""
    folder = Path(path).expanduser()
    source = str(folder) if folder.is_dir() else path
    return {"pretrained_model_name_or_path": source, "local_files_only": not online, "trust_remote_code": False}


def _check_folder(folder: Path, online: bool) -> None:
    """Raises a ModelError unless `folder` holds a causal model with weights that are data."""
    config = read_json(folder / "config.json")
    named = config.get("architectures")
    classes = [str(one) for one in named] if isinstance(named, list) else []
    if classes and not any(one.endswith(CAUSAL) for one in classes):
        raise ModelError(f"{folder}: {', '.join(classes)} given, a causal language model (...ForCausalLM) is needed.")
    if config.get("is_causal") is False:
        raise ModelError(
            f"{folder}: its tokens see those behind them (is_causal in config.json); a causal one is needed."
        )
    if "auto_map" in config:
        raise ModelError(f"{folder}: brings code of its own (auto_map in config.json), and none is run.")
    if not online and not any(folder.glob("*.safetensors")):
        others = sorted(one.name for kind in ("*.bin", "*.pt", "*.pth", "*.ckpt") for one in folder.glob(kind))
        instead = f"; {others[0]} is pickled, and is never read" if others else ""
        raise ModelError(f"{folder}: no weights there in *.safetensors{instead}.")


@contextmanager
def _told(path: str) -> Iterator[None]:
    """What transformers raises, as one line of ours; a file of weights that is cut short is the library's own error."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    told = OSError, ValueError, ImportError, KeyError, RuntimeError, ZeroDivisionError
    try:
        yield
    except (*told, SafetensorError, StrictDataclassError, json.JSONDecodeError) as error:
        said = " ".join(str(error).split())
        raise ModelError(f"{_lacking(path)}{path}: not a model that transformers can read: {said[:200]}") from None


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without transformers' bars and hints, which stand between ours."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(logging.ERROR)
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
