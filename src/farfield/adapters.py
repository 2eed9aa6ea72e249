"""LoRA: a trained model learns by matrices of a low rank beside its own, which stay as they are.

    y = W x + b + (alpha / r) B A x        A (r, I) drawn, B (O, r) zero at the start

Hu et al., https://arxiv.org/abs/2106.09685. A map that is several in one, as of queries, keys and values, has an A and
a B for each, as where they stand apart:

    W = [W_q; W_k; W_v]        B A = [B_q A_q; B_k A_k; B_v A_v]

Beside them, embeddings and norms may be trained whole, as LongLoRA does (https://arxiv.org/abs/2309.12307); the rest
has no gradient and no state of the optimiser. Merged, W + (alpha / r) B A are weights like any other: what a run
exports loads without adapters. The adapter alone is a small file, beside every model with the same other weights. It
says of what settings the model was that it was learnt in, and how long the rows were: `read_adapter`.

Shapes: I inputs, O outputs, P maps in one, r rank.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field, field_validator
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from farfield.architectures.encoders.stack import EncoderConfig
from farfield.architectures.feedforward import GELU, SwiGLU
from farfield.architectures.ops.decoded import Linear
from farfield.architectures.ops.rms_norm import RMSNorm
from farfield.architectures.projection import Projection
from farfield.architectures.saved_state import CHECKSUM, checksum
from farfield.config import Config, ConfigError, ModelError, read
from farfield.model import LanguageModel, ModelConfig

__all__ = [
    "BASE",
    "Adapted",
    "AdapterConfig",
    "LowRank",
    "SavedAdapter",
    "adapt",
    "adapter_of",
    "check_adapter",
    "merged",
    "read_adapter",
    "trained",
    "with_adapter",
]

# What an adapter's file says: the checksum of the weights that it leaves as they are, the settings of the model that it
# was learnt in, and the tokens of the rows.
BASE, MODEL, LENGTH = "base", "model", "length"
FILE = "adapter.safetensors"  # of a run, what its adapter learnt
WITHIN = ".low_rank."  # in the name of a weight: it is an adapter's

Tokens = Annotated[int, Field(ge=2)]
Share = Annotated[float, Field(gt=0, lt=1)]


class AdapterConfig(Config):
    """What is learnt of a trained model, and by what attention."""

    kind: Literal["lora"] = "lora"
    rank: int = Field(8, ge=1, description="of the matrices beside each map")
    alpha: float = Field(16.0, gt=0, description="they are multiplied by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of their inputs that is left out in training")
    maps: tuple[Literal["attention", "feedforward"], ...] = Field(
        ("attention",), min_length=1, description="which maps get them"
    )
    whole: tuple[Literal["embeddings", "norms"], ...] = Field((), description="what is trained whole beside them")
    shifted: Tokens | Share | None = Field(
        None, description="attend in shifted groups in training: their share of a row, or tokens; null: fully"
    )

    @field_validator("shifted")
    @classmethod
    def _even(cls, shifted: int | float | None) -> int | float | None:
        if isinstance(shifted, int) and shifted % 2:
            raise ValueError(f"{shifted} given; groups are shifted by half, so an even number of tokens is needed.")
        return shifted

    def group(self, length: int) -> int | None:
        """Tokens in a shifted group of rows of `length` tokens; None where attention is full."""
        if self.shifted is None or isinstance(self.shifted, int):
            return self.shifted
        return max(2, 2 * round(self.shifted * length / 2))


class LowRank(nn.Module):
    """(alpha / r) B A x of P maps in one, whose outputs are `sizes`."""

    def __init__(self, inputs: int, sizes: Sequence[int], config: AdapterConfig, like: Tensor) -> None:
        super().__init__()
        self.down = nn.Parameter(like.new_empty(len(sizes) * config.rank, inputs))
        self.up = nn.ParameterList(nn.Parameter(like.new_zeros(size, config.rank)) for size in sizes)
        self.dropout = nn.Dropout(config.dropout)
        self.scale: Tensor
        self.register_buffer("scale", like.new_tensor(config.alpha / config.rank))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """A begins as nn.Linear does, B as zero: the model begins as it was."""
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        for matrix in self.up:
            nn.init.zeros_(matrix)

    def forward(self, x: Tensor) -> Tensor:
        """(..., O) of x (..., I)."""
        inner = nn.functional.linear(self.dropout(x), self.down)
        return nn.functional.linear(inner * self.scale, torch.block_diag(*self.up))


class Adapted(Linear):
    """A map that keeps its weights, by their names, and learns beside them."""

    def __init__(self, map_: nn.Linear, sizes: Sequence[int], config: AdapterConfig) -> None:
        super().__init__(map_.in_features, map_.out_features, bias=map_.bias is not None, device="meta")
        self.weight, self.bias = map_.weight, map_.bias
        self.low_rank = LowRank(map_.in_features, sizes, config, map_.weight)

    def forward(self, x: Tensor) -> Tensor:
        beside: Tensor = self.low_rank(x)
        return super().forward(x) + beside


def check_adapter(config: AdapterConfig, model: ModelConfig) -> None:
    """Raise ValueError, in one line that begins with a path, where nothing of such a model could be adapted."""
    if isinstance(model.architecture, EncoderConfig):
        raise ValueError(
            f"adapter.kind: '{config.kind}' is for models that read from left to right, and the architecture is "
            "bidirectional. Use adapter=none."
        )
    if model.augmentation is not None:
        raise ValueError(
            f"augmentation.kind: '{model.augmentation.kind}' has weights of its own, which an adapter would leave as "
            "they are. Use adapter=none, or augmentation=none."
        )
    alone = ModelConfig(architecture=model.architecture, vocabulary=model.vocabulary)
    if model.memory is not None and model.parameters() > alone.parameters():
        raise ValueError(
            f"memory.name: '{model.memory.name}' has weights of its own, which an adapter would leave as they are. Use "
            "adapter=none, or a memory without weights."
        )


def adapt(model: LanguageModel, config: AdapterConfig) -> None:
    """Leaves the weights of `model` as they are, but for what learns by `config`.

    Raises:
        ModelError: it has no maps of a kind that is named.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for kind in config.maps:
        found = list(_maps(model, kind))
        if not found:
            raise ModelError(f"adapter.maps: '{kind}' given, and no layer of the model has {MAPS[kind]}.")
        for owner, name, sizes in found:
            setattr(owner, name, Adapted(getattr(owner, name), sizes, config))
    for name, parameter in model.named_parameters():
        if _whole(model, name, config.whole):
            parameter.requires_grad_(True)


MAPS = {
    "attention": "softmax attention with a key for each token",
    "feedforward": "a feed-forward of kind swiglu or gelu",
}


def _maps(model: LanguageModel, kind: str) -> Iterator[tuple[nn.Module, str, list[int]]]:
    """The maps of a kind: whose they are, their names there, and the outputs of each map in one."""
    for module in model.modules():
        if kind == "attention" and isinstance(module, Projection):
            yield module, "qkv", [size for size in module.sizes if size]
            yield module, "out", [module.out.out_features]
        if kind == "feedforward" and isinstance(module, SwiGLU | GELU):
            several = 2 if isinstance(module, SwiGLU) else 1
            yield module, "up", [module.up.out_features // several] * several
            yield module, "down", [module.down.out_features]


def _whole(model: LanguageModel, name: str, kinds: Iterable[str]) -> bool:
    """Whether a weight is one that is trained whole."""
    owner, _, last = name.rpartition(".")
    module = model.get_submodule(owner)
    norm = isinstance(module, nn.RMSNorm | RMSNorm) or last in ("query_gain", "key_gain")
    embedding = isinstance(module, nn.Embedding)
    return ("norms" in kinds and norm) or ("embeddings" in kinds and embedding)


def trained(model: nn.Module) -> list[str]:
    """The names of the weights that are trained."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def merged(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a model, adapters added into the weights that they stand beside; without adapters, as they are."""
    plain = {name: tensor for name, tensor in tensors.items() if WITHIN not in name}
    for name, down in tensors.items():
        place, _, last = name.partition(WITHIN)
        if last != "down":
            continue
        within = place + WITHIN
        parts = sum(other.startswith(f"{within}up.") for other in tensors)
        up = torch.block_diag(*(tensors[f"{within}up.{part}"] for part in range(parts)))
        weight = plain[f"{place}.weight"]
        plain[f"{place}.weight"] = (weight + tensors[f"{within}scale"] * (up @ down)).to(weight.dtype)
    return plain


class SavedAdapter(NamedTuple):
    """An adapter's file: its tensors, and what they were learnt in: a `model` of such settings, rows of `length`."""

    file: Path
    tensors: dict[str, Tensor]
    base: str
    model: ModelConfig
    length: int | None
    step: int | None


def adapter_of(
    tensors: Mapping[str, Tensor], learnt: Sequence[str], model: ModelConfig, length: int | None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Of the weights of an adapted model those of the adapter, and what its file says of them.

    Args:
        tensors: all of the model's. learnt: the names of those that were trained.
        model: its settings. length: tokens of the rows.
    """
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    own = {name: tensor for name, tensor in whole.items() if WITHIN in name or name in learnt}
    rest = {name: tensor for name, tensor in whole.items() if name not in own}
    said = {BASE: checksum(rest), CHECKSUM: checksum(own), MODEL: json.dumps(model.mapping())}
    return own, said if length is None else {**said, LENGTH: str(length)}


def read_adapter(file: str | Path) -> SavedAdapter:
    """A saved adapter.

    Raises:
        ModelError: there is none, it is damaged, or of another version.
    """
    path = _adapter_path(file)
    try:
        with safe_open(path, framework="pt", device="cpu") as opened:
            own = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # no mapping
            said = opened.metadata() or {}
    except (SafetensorError, OSError):
        raise ModelError(f"{path}: cut short or damaged.") from None
    if not {BASE, MODEL} <= said.keys() or said.get(CHECKSUM) != checksum(own):
        raise ModelError(f"{path}: not an adapter of `farfield train`, or damaged.")
    try:
        model = read(ModelConfig, json.loads(said[MODEL]))
        length, step = (None if said.get(key) is None else int(said[key]) for key in (LENGTH, "step"))
    except (ConfigError, ValueError, TypeError) as error:
        raise ModelError(f"{path}: made by another version of Farfield, or changed since: {error}") from None
    return SavedAdapter(path, own, said[BASE], model, length, step)


def _adapter_path(file: str | Path) -> Path:
    """Where a file is.

    Raises:
        ModelError: there is none.
    """
    path = Path(file)
    try:
        path = path.expanduser()
        folder, there = path.is_dir(), path.exists()
    except (OSError, RuntimeError) as error:  # a name that is too long, a folder that is closed, a user that is not
        raise ModelError(f"{path}: cannot be read: {error}.") from None
    if folder:
        kept = path / FILE
        raise ModelError(
            f"{path}: a folder, and an adapter is a file: {kept if kept.is_file() else FILE + ' of a run'}."
        )
    if not there:
        raise ModelError(f"{path}: no such file. An adapter is the {FILE} of a run that was trained with adapter=lora.")
    return path


def with_adapter(model: LanguageModel, adapter: SavedAdapter) -> LanguageModel:
    """`model` with a saved adapter in its weights, which it was trained beside.

    Raises:
        ModelError: one of other weights, or learnt by other settings, such as in another context.
    """
    if model.config != adapter.model:
        raise ModelError(f"{adapter.file}: learnt in a model of other settings, of its context or its memory for one.")
    weights = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    if adapter.base != checksum({name: tensor for name, tensor in weights.items() if name not in adapter.tensors}):
        raise ModelError(f"{adapter.file}: made beside other weights than those of this model.")
    model.load_state_dict(merged({**weights, **adapter.tensors}))
    return model
