"""What `import farfield` offers: models by name or from disk, and questions to them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from farfield import pretrained
from farfield.compose import option
from farfield.config import ConfigError, read
from farfield.data.objective import MaskedConfig
from farfield.encoding import EncoderModel, TextEncoder
from farfield.generation import TextModel
from farfield.model import LanguageModel, ModelConfig
from farfield.settings import DeviceConfig
from farfield.tokenizers import BytesTokenizer, Tokenizer

__all__ = ["build", "build_encoder", "load", "load_encoder", "open_model"]


def build(
    architecture: str,
    overrides: Sequence[str] = (),
    *,
    memory: str | None = None,
    tokenizer: Tokenizer | None = None,
    seed: int = 0,
) -> TextModel:
    """A model with fresh weights.

        farfield.build("retnet", ["width=64", "depth=2"])
        farfield.build("longformer", ["width=64", "depth=2"], memory="knn")

    Args:
        architecture: an option of the group `architecture`.
        overrides: settings within it, in Hydra's grammar.
        memory: an option of the group `memory`.
        tokenizer: bytes where none is given.
        seed: of the weights.

    Raises:
        ConfigError: an unknown option or key, or sizes that do not fit.
    """
    tokenizer = tokenizer or BytesTokenizer()
    config = _config(architecture, overrides, memory, tokenizer.vocabulary)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TextModel(LanguageModel(config), tokenizer).eval()


def build_encoder(
    architecture: str, overrides: Sequence[str] = (), *, tokenizer: Tokenizer | None = None, seed: int = 0
) -> TextEncoder:
    """An encoder with fresh weights, of a bidirectional architecture.

        farfield.build_encoder("longformer_encoder", ["width=64", "depth=2"])

    Args:
        architecture: an option of the group `architecture`.
        overrides: settings within it, in Hydra's grammar.
        tokenizer: bytes where none is given.
        seed: of the weights.

    Raises:
        ConfigError: an unknown option or key, or sizes that do not fit. ModelError: the architecture is no encoder.
    """
    tokenizer = tokenizer or BytesTokenizer()
    config = _config(architecture, overrides, None, MaskedConfig().vocabulary(tokenizer.vocabulary))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TextEncoder(EncoderModel(config), tokenizer).eval()


def _config(architecture: str, overrides: Sequence[str], memory: str | None, vocabulary: int) -> ModelConfig:
    """The settings of a model by the names of its parts."""
    if isinstance(overrides, str):
        raise ConfigError(f"overrides: a list is needed, as in ['{overrides}'].")
    mapping = {
        "architecture": option("architecture", architecture, overrides),
        "memory": option("memory", memory) if memory else None,
        "vocabulary": vocabulary,
    }
    return read(ModelConfig, mapping)


def load(path: str | Path, device: torch.device | str = "cpu") -> TextModel:
    """The trained model at `path`: a run's folder, or a checkpoint or weights file in one.

    Raises:
        ModelError: nothing there, or it cannot be used.
    """
    return TextModel(*pretrained.load(path, device))


def load_encoder(path: str | Path, device: torch.device | str = "cpu") -> TextEncoder:
    """The trained encoder at `path`: a run's folder, or a checkpoint or weights file in one.

    Raises:
        ModelError: nothing there, it cannot be used, or it is no encoder.
    """
    return TextEncoder(*pretrained.load_encoder(path, device))


def open_model(path: str | Path, device: DeviceConfig) -> TextModel:
    """The trained model at `path`, where and in the precision that `device` says.

    Raises:
        ModelError: nothing there, or it cannot be used.
        ConfigError: a GPU is asked for and there is none.
    """
    if device.threads is not None:
        torch.set_num_threads(device.threads)
    if device.accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError("device.accelerator: gpu given, but PyTorch sees none. Take cpu or auto.")
    place = "cuda" if device.accelerator != "cpu" and torch.cuda.is_available() else "cpu"
    model = load(path, place)
    return model.to(torch.bfloat16) if device.precision == "bf16" else model
