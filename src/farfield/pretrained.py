"""Trained models from disk: a run's folder, or one of its files; or a folder of Hugging Face.

    model, tokenizer, info = load("runs/retnet")                        # the best weights of a run
    model, tokenizer, info = load("runs/retnet/checkpoints/last.ckpt")  # those of one checkpoint
    model, tokenizer, info = load("models/stories260k")                 # of a family that our layers cover

What a run leaves, and which file `load` takes: the first of the three marked ones that is there.

    runs/<name>/
        config.yaml             all that the model is rebuilt from
        tokenizer/
        generation_config.json  where it began with a folder of Hugging Face that has one
        model.safetensors       (1) best weights, written at the end
        last.safetensors            final weights, written at the end
        checkpoints/best.ckpt   (2) best so far, with all that the run needs to go on from there
        checkpoints/last.ckpt   (3) newest

Files are data here, never code: weights are read by safetensors, or by torch with `weights_only=True`.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError, safe_open
from torch import Tensor
from yaml import YAMLError  # type: ignore[import-untyped]  # PyYAML has no types; OmegaConf raises its errors

from farfield.adapters import BASE, merged
from farfield.architectures.encoders.stack import EncoderConfig
from farfield.architectures.saved_state import CHECKSUM, checksum
from farfield.augmentation import model_part
from farfield.config import ConfigError, DataError, ModelError, nearest, read
from farfield.encoding import EncoderModel
from farfield.huggingface.reading import GENERATION, is_folder, open_folder
from farfield.huggingface.settings import FolderConfig
from farfield.huggingface.vocabularies import begin_of, folder_tokenizer
from farfield.model import LanguageModel, ModelConfig
from farfield.tokenizers import BpeTokenizer, Tokenizer, load_tokenizer
from farfield.tokenizers.protocol import read_json

__all__ = [
    "BEST",
    "CHECKPOINTS",
    "CONFIG",
    "EXPORT",
    "FORMAT",
    "LAST",
    "MODEL_KEYS",
    "OURS",
    "TOKENIZER",
    "WEIGHTS",
    "WEIGHTS_PREFIX",
    "Pretrained",
    "PretrainedEncoder",
    "generation_of",
    "load",
    "load_encoder",
    "model_config",
    "read_checkpoint",
    "read_config",
    "run_config",
]

FORMAT = 1  # of config.yaml and of checkpoints; a reader refuses every other

CONFIG, TOKENIZER, EXPORT = "config.yaml", "tokenizer", "model.safetensors"
CHECKPOINTS, BEST, LAST = "checkpoints", "best.ckpt", "last.ckpt"

# A checkpoint is the mapping that Lightning makes, with one entry of ours: format, config, progress, states.
OURS, WEIGHTS, WEIGHTS_PREFIX = "farfield", "state_dict", "model."

MODEL_KEYS = ("architecture", "memory", "vocabulary")  # and of `augmentation`, what the model is built of


class Pretrained(NamedTuple):
    """A model in evaluation mode, the tokenizer it was trained with, and where they come from.

    `info` has: path, weights (the file), name, step, loss (of the best step, nats a token), begin (the id that its
    texts begin with, or None), parameters, config, generation (what a generation_config.json says, of a folder of
    Hugging Face or of a run that began with one); of such a folder also family.
    """

    model: LanguageModel
    tokenizer: Tokenizer
    info: dict[str, Any]


class PretrainedEncoder(NamedTuple):
    """As `Pretrained`, of an encoder."""

    model: EncoderModel
    tokenizer: Tokenizer
    info: dict[str, Any]


class _Weights(NamedTuple):
    """Tensors by the model's own names, and what the file says of them."""

    tensors: dict[str, Tensor]
    step: int | None
    loss: float | None
    config: dict[str, Any]


def load(
    path: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    hub: FolderConfig | None = None,
) -> Pretrained:
    """The trained model at `path`: a run's folder, a .ckpt or a .safetensors file in it, or a folder of Hugging Face.

    Args:
        path: where it is. device: where it goes. dtype: of its weights; None: as they are stored.
        hub: how a folder of Hugging Face is opened.

    Raises:
        UncoveredError: a folder of Hugging Face, of a family or with a setting that our layers do not have.
        ModelError: nothing there, not a run, a file that is cut short, one of another version, or an encoder.
    """
    if is_folder(Path(path).expanduser()):
        return _from_folder(Path(path).expanduser(), device, dtype, hub or FolderConfig())
    model, tokenizer, info = _load(path, device)
    model = model if dtype is None else model.to(dtype)
    if isinstance(model, EncoderModel):
        raise ModelError(f"{path}: an encoder, which writes no text. Load it with farfield.load_encoder.")
    return Pretrained(model, tokenizer, info)


def _from_folder(
    path: Path, device: torch.device | str, dtype: torch.dtype | None, settings: FolderConfig
) -> Pretrained:
    """The model in a folder of Hugging Face, by our layers."""
    folder = open_folder(path, settings.ignore_unknown)
    tokenizer = folder_tokenizer(path, folder.config.vocabulary, folder.ends())
    begin = begin_of(tokenizer, settings.begin)
    model = folder.model(device, dtype)
    data = {} if folder.longest is None else {"data": {"length": folder.longest}}
    info = {
        "path": str(path),
        "weights": str(path),
        "name": path.resolve().name,
        "family": folder.family.name,
        "generation": folder.generation(),
        "begin": begin,
        "step": None,
        "loss": None,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "config": {**folder.config.mapping(), **data},
    }
    return Pretrained(model, tokenizer, info)


def load_encoder(path: str | Path, device: torch.device | str = "cpu") -> PretrainedEncoder:
    """The trained encoder at `path`; see `load`.

    Raises:
        ModelError: as `load`, or no encoder.
    """
    if is_folder(Path(path).expanduser()):
        raise ModelError(f"{path}: a folder of Hugging Face, of which models that write are read: farfield.load.")
    model, tokenizer, info = _load(path, device)
    if isinstance(model, LanguageModel):
        raise ModelError(f"{path}: a model that reads from left to right. Load it with farfield.load.")
    return PretrainedEncoder(model, tokenizer, info)


def _load(
    path: str | Path, device: torch.device | str
) -> tuple[LanguageModel | EncoderModel, Tokenizer, dict[str, Any]]:
    """A model of either kind in evaluation mode, its tokenizer, and where they come from."""
    path = Path(path).expanduser()
    file = _weights_file(path)
    run = _run_of(file)
    weights = _from_checkpoint(file) if file.suffix == ".ckpt" else _from_export(file, run / CONFIG)
    model = _rebuilt(weights, file).to(device)
    try:
        tokenizer = load_tokenizer(run / TOKENIZER)
    except (DataError, OSError) as error:
        raise ModelError(f"{path}: its tokenizer cannot be read: {error}") from None
    info = {
        "path": str(path),
        "weights": str(file),
        "name": weights.config.get("name", run.name),
        "step": weights.step,
        "loss": weights.loss,
        "begin": _begin(weights.config, tokenizer),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "config": weights.config,
        "generation": generation_of(path),
    }
    return model, tokenizer, info


def generation_of(path: str | Path | None) -> dict[str, Any]:
    """What generation_config.json says of a folder of Hugging Face or a run that began with one, else nothing.

    Raises:
        ModelError: nothing is at `path`, or the file cannot be read.
    """
    if path is None:
        return {}
    path = Path(path).expanduser()
    file = (path if is_folder(path) else _run_of(_weights_file(path))) / GENERATION
    try:
        return read_json(file) if file.is_file() else {}
    except (DataError, OSError) as error:
        raise ModelError(str(error)) from None


def _begin(config: Mapping[str, Any], tokenizer: Tokenizer) -> int | None:
    """The id that the texts of a run began with, by the settings that it was trained with."""
    told = config.get("data", {}).get("tokenizer")
    begins = isinstance(told, dict) and told.get("begin") is True
    return tokenizer.begin if begins and isinstance(tokenizer, BpeTokenizer) else None


def _run_of(file: Path) -> Path:
    """The folder of the run that a file of weights is of."""
    return file.parent.parent if file.parent.name == CHECKPOINTS else file.parent


def run_config(path: Path) -> tuple[Path, dict[str, Any]]:
    """The folder of the run at `path`, as `load` takes it, and the settings that it was trained with.

    Raises:
        ModelError: as `load`.
    """
    run = _run_of(_weights_file(path))
    return run, read_config(run / CONFIG)


def model_config(config: Mapping[str, Any], file: Path) -> ModelConfig:
    """The model's settings among those of a run; `file` is where they were read.

    Raises:
        ModelError: they do not fit this version.
    """
    try:
        augmentation = model_part(config.get("augmentation"))  # runs before there was any have none
        return read(ModelConfig, {**{key: config[key] for key in MODEL_KEYS}, "augmentation": augmentation})
    except KeyError as error:
        raise ModelError(f"{file}: {error} is missing. Was it written by `farfield train`?") from None
    except ConfigError as error:
        raise ModelError(f"{file}: made by another version of Farfield, or changed since: {error}") from None


def read_config(file: Path) -> dict[str, Any]:
    """The settings that a run was trained with, from its config.yaml.

    Raises:
        ModelError: it cannot be read, or is of another format.
    """
    try:
        # Unresolved: a text with ${} in it is a text.
        content: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{file}: cannot be read: {error}") from None
    except (YAMLError, OmegaConfBaseException) as error:
        raise ModelError(f"{file}: not a run's settings: {_first_line(error)}") from None
    return _checked(content, file)


def read_checkpoint(file: Path, mapped: bool = False) -> dict[str, Any]:
    """The mapping in a checkpoint, its tensors on the CPU.

    Args:
        file: the checkpoint.
        mapped: leave the tensors on disk until they are used. The file must stay as it is meanwhile.

    Raises:
        ModelError: it is cut short or damaged, no checkpoint of ours, or of another format.
    """
    try:
        with zipfile.ZipFile(file) as archive:  # torch checks no sums, and a changed byte would be a changed weight
            if archive.testzip() is not None:
                raise ModelError(_damaged(file))
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        if isinstance(error, OSError) and not file.is_file():
            raise ModelError(f"{file}: no such file.") from None
        raise ModelError(_damaged(file)) from None
    if not isinstance(content, dict) or not isinstance(content.get(OURS), dict):
        raise ModelError(f"{file}: not a checkpoint of `farfield train`.")
    _checked(content[OURS], file)
    return content


def _checked(content: Any, file: Path) -> dict[str, Any]:
    """`content`, which must be a mapping of our format."""
    if not isinstance(content, dict) or "format" not in content:
        raise ModelError(f"{file}: not written by `farfield train`.")
    if content["format"] != FORMAT:
        raise ModelError(
            f"{file}: of format {content['format']}, and this version of Farfield reads format {FORMAT}. "
            "Load it with the version that trained it."
        )
    return content


def _damaged(file: Path) -> str:
    """One line on a file that cannot be read, with what stands beside it."""
    others = sorted(other.name for other in file.parent.glob(f"*{file.suffix}") if other != file)
    instead = f"Take another one beside it: {', '.join(others)}." if others else "There is no other one beside it."
    return f"{file}: cut short or damaged ({file.stat().st_size:,} bytes). {instead}"


def _weights_file(path: Path) -> Path:
    """The file that holds the weights of what the user named."""
    if path.is_file():
        if path.suffix not in (".ckpt", ".safetensors"):
            raise ModelError(f"{path}: not a trained model. Name a run's folder, a .ckpt or a .safetensors file.")
        return path
    if not path.is_dir():
        raise ModelError(_missing(path))
    if not (path / CONFIG).is_file():
        raise ModelError(_no_run(path))
    candidates = (path / EXPORT, path / CHECKPOINTS / BEST, path / CHECKPOINTS / LAST)
    found = next((file for file in candidates if file.is_file()), None)
    if found is None:
        raise ModelError(f"{path}: nothing has been trained there yet: no {EXPORT} and no checkpoint.")
    return found


def _missing(path: Path) -> str:
    """One line on a path that does not exist, with the nearest one that does."""
    known = _runs(path.parent)
    near = nearest(path.name, known)
    hint = f" Did you mean '{path.parent / near}'?" if near else ""
    listed = f" Runs in {path.parent}: {', '.join(known)}." if known else f" There is no run in {path.parent}."
    return f"{path}: no such run or file.{hint}{listed}"


def _no_run(path: Path) -> str:
    """One line on a folder that is no run."""
    inside = _runs(path)
    if inside:
        return f"{path}: not a run, but it holds some. Name one: {', '.join(str(path / name) for name in inside)}."
    return f"{path}: not a model: it has neither a {CONFIG} of `farfield train` nor a config.json of Hugging Face."


def _runs(folder: Path) -> list[str]:
    """The names of the runs in `folder` that have something to load."""
    weights = (EXPORT, f"{CHECKPOINTS}/{BEST}", f"{CHECKPOINTS}/{LAST}")
    runs = (file.parent for file in folder.glob(f"*/{CONFIG}"))
    return sorted(run.name for run in runs if any((run / name).is_file() for name in weights))


def _from_checkpoint(file: Path) -> _Weights:
    content = read_checkpoint(file, mapped=True)
    ours = content[OURS]
    progress = ours["progress"]
    best = progress["best"]
    tensors = merged({name.removeprefix(WEIGHTS_PREFIX): tensor for name, tensor in content[WEIGHTS].items()})
    loss = best["loss"] if best and best["step"] == progress["step"] else None
    return _Weights(tensors, progress["step"], loss, ours["config"])


def _from_export(file: Path, config: Path) -> _Weights:
    if not config.is_file():
        whole = f" Name the folder of Hugging Face: {file.parent}." if is_folder(file.parent) else ""
        raise ModelError(f"{file}: its {CONFIG} is missing. It must stand beside the weights.{whole}")
    try:
        with safe_open(file, framework="pt", device="cpu") as opened:
            # safetensors has no types, and its handle is no mapping.
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            said = opened.metadata() or {}
    except (SafetensorError, OSError):
        raise ModelError(_damaged(file)) from None
    if BASE in said:
        raise ModelError(
            f"{file}: an adapter, which is read beside the model that it was learnt in. Name that one, with "
            f"adapter_file={file}; from Python: farfield.load(..., adapter=...)."
        )
    if CHECKSUM in said and said[CHECKSUM] != checksum(tensors):
        raise ModelError(_damaged(file))
    step, loss = said.get("step"), said.get("loss")
    return _Weights(tensors, int(step) if step else None, float(loss) if loss else None, read_config(config))


def _rebuilt(weights: _Weights, file: Path) -> LanguageModel | EncoderModel:
    """The model with these weights, in evaluation mode."""
    config = model_config(weights.config, file)
    # Fresh weights are drawn and then replaced; the caller's random numbers stay as they are.
    with torch.random.fork_rng(devices=[]):
        model = EncoderModel(config) if isinstance(config.architecture, EncoderConfig) else LanguageModel(config)
    try:
        model.load_state_dict(weights.tensors)
    except RuntimeError as error:
        raise ModelError(f"{file}: the weights do not fit the settings: {_first_line(error)}") from None
    return model.eval()


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
