"""What `import farfield` offers: models by name or from disk, and questions to them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import torch

from farfield import pretrained
from farfield.adapters import read_adapter, with_adapter
from farfield.borrowed import BorrowedModel, open_borrowed
from farfield.chunking import TokenStarts
from farfield.cluster import Cluster
from farfield.compose import option
from farfield.config import Config, ConfigError, ModelError, read
from farfield.context import ContextConfig, beside, by_context, trained_length, unstretched
from farfield.data.objective import MaskedConfig
from farfield.embedding import Models
from farfield.embedding.spread import Spread
from farfield.encoding import EncoderModel, TextEncoder
from farfield.generation import TextModel
from farfield.huggingface.reading import covered, is_folder, uncovered
from farfield.huggingface.settings import ChatConfig, FolderConfig
from farfield.huggingface.writing import SHARD, write_folder
from farfield.memory import MemoryConfig
from farfield.model import LanguageModel, ModelConfig
from farfield.progress import say
from farfield.retrieval import Embedder, Index, IngestConfig, IngestResult, RetrievalConfig
from farfield.retrieval import ingest as ingest_with
from farfield.retrieval import open_index as open_index_with
from farfield.retrofit import retrofit
from farfield.settings import DeviceConfig, ExportSettings
from farfield.tokenizers import BytesTokenizer, Tokenizer
from farfield.tokenizers.protocol import read_json

__all__ = [
    "build",
    "build_encoder",
    "check_decoder",
    "check_folder",
    "export",
    "ingest",
    "load",
    "load_encoder",
    "open_any",
    "open_index",
    "open_model",
    "place",
    "save",
    "tell_of_layers",
]


class _Memory(Config):
    memory: MemoryConfig | None


class _Before(NamedTuple):
    """The settings of a model without an adapter, and the tokens that it was trained on."""

    config: ModelConfig
    trained: int | None


class _Context(Config):
    context: ContextConfig | None


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


def check_decoder(architecture: str, overrides: Sequence[str] = ()) -> None:
    """Raises what `build` raises of an architecture and its settings, without weights."""
    _ = _config(architecture, overrides, None, BytesTokenizer().vocabulary).decoder


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


@overload
def load(
    path: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    *,
    layers: Literal["farfield"],
    memory: str | None = None,
    context: str | None = None,
    overrides: Sequence[str] = (),
    adapter: str | Path | None = None,
    begin: Literal["auto", "always", "never"] = "auto",
    ignore_unknown: bool = False,
) -> TextModel: ...


@overload
def load(
    path: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    *,
    layers: Literal["auto", "farfield", "transformers"] = "auto",
    memory: str | None = None,
    context: str | None = None,
    overrides: Sequence[str] = (),
    adapter: str | Path | None = None,
    begin: Literal["auto", "always", "never"] = "auto",
    ignore_unknown: bool = False,
) -> TextModel | BorrowedModel: ...


def load(
    path: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    *,
    layers: Literal["auto", "farfield", "transformers"] = "auto",
    memory: str | None = None,
    context: str | None = None,
    overrides: Sequence[str] = (),
    adapter: str | Path | None = None,
    begin: Literal["auto", "always", "never"] = "auto",
    ignore_unknown: bool = False,
) -> TextModel | BorrowedModel:
    """The trained model at `path`: a run's folder, a checkpoint or weights file in one, or a Hugging Face folder.

        farfield.load("runs/longformer", memory="knn", overrides=["capacity=4096"])
        farfield.load("models/qwen3", "cuda", torch.bfloat16)
        farfield.load("runs/attention", context="yarn", overrides=["context.factor=8"])
        farfield.load("models/llama", adapter="runs/llama-longlora-text/adapter.safetensors")

    Args:
        path: where it is. device: where it goes. dtype: of its weights; None: as they are stored.
        layers: whose layers read a Hugging Face folder: ours, transformers' own, or ours where they have its
            family and each setting of it.
        memory: an option of the group `memory` in the place of the one that the model was trained with.
        context: an option of the group `context`: how it reads more than it was trained on.
        overrides: settings within them, in Hydra's grammar; without `memory.` or `context.` before them, of the memory
            if one is named.
        adapter: the file of one that was learnt beside this model's weights: the model that its run had in the end,
            in its context too, beside which no other one is named.
        begin: the begin-of-text token before each prompt, of a Hugging Face folder; auto: as its tokenizer has it.
        ignore_unknown: leave out tensors that the model does not have, in the place of refusing them.

    Raises:
        ModelError: nothing there, or it cannot be used.
        ConfigError: the memory or the context does not fit, or a memory has weights of its own that the model has not
            learnt.
    """
    words = _words(overrides, memory, context)
    hub = FolderConfig(layers=layers, begin=begin, ignore_unknown=ignore_unknown)
    chosen: MemoryConfig | Literal["trained"] | None = "trained"
    if memory is not None:
        mapping = None if memory == "none" else option("memory", memory, words["memory"])
        chosen = read(_Memory, {"memory": mapping}).memory
    by = None
    if context is not None:
        by = read(_Context, {"context": option("context", context, words["context"])}).context
    return _opened(path, device, dtype, chosen, hub, by, adapter)


def _words(overrides: Sequence[str], memory: str | None, context: str | None) -> dict[str, list[str]]:
    """By group, the settings of each that is named.

    Raises:
        ConfigError: settings of one that is not.
    """
    found: dict[str, list[str]] = {}
    for group, name in (("memory", memory), ("context", context)):
        if name is not None:
            found[group] = []
    for word in overrides:
        group, dot, rest = word.partition(".")
        if not dot or group not in ("memory", "context"):
            group, rest = next(iter(found), "memory"), word
        if group not in found:
            raise ConfigError(f"overrides: settings of a {group}, and none is named. Add {group}=<name>.")
        found[group].append(rest)
    return found


def _opened(
    path: str | Path,
    device: torch.device | str,
    dtype: torch.dtype | None,
    memory: MemoryConfig | Literal["trained"] | None,
    hub: FolderConfig,
    context: ContextConfig | None = None,
    adapter: str | Path | None = None,
) -> TextModel | BorrowedModel:
    """The model at `path` by the layers that the settings say."""
    check_folder(path, hub)
    folder = Path(path).expanduser()
    if is_folder(folder) and covered(folder, hub.layers) == "transformers":
        if memory != "trained":
            named = "none" if memory is None else memory.name
            raise ModelError(f"memory.name: '{named}' given, but {path} is run by transformers. Leave it out.")
        if context is not None:
            raise ModelError(f"context.kind: '{context.kind}' given, but {path} is run by transformers. Leave it out.")
        if adapter is not None:
            raise ModelError(f"adapter: {adapter} given, but {path} is run by transformers. Leave it out.")
        return open_borrowed(folder, dtype, device, hub)
    if adapter is None:
        model, tokenizer, info = pretrained.load(path, device, dtype, hub)
        before = None
    else:
        (model, tokenizer, info), before = _adapted(path, device, dtype, hub, adapter)
    if memory != "trained":
        model = retrofit(model, memory)
    if before is not None:
        context = beside(context, before.config, model.config, before.trained)
    return TextModel(by_context(model, context, info), tokenizer, info)


def check_folder(path: str | Path, hub: FolderConfig) -> None:
    """Raises a ConfigError where a run is to be opened as only a folder of Hugging Face is."""
    folder = Path(path).expanduser()
    if not folder.exists() or is_folder(folder):
        return
    chat = isinstance(hub, ChatConfig) and hub.chat
    asked = {
        "chat": ("true", "false") if chat else None,
        "begin": (hub.begin, "auto") if hub.begin != "auto" else None,
        "layers": (hub.layers, "auto") if hub.layers == "transformers" else None,
    }
    for key, given in asked.items():
        if given is not None:
            raise ConfigError(
                f"hf.{key}: {given[0]} given, and {path} is no folder of Hugging Face. Take hf.{key}={given[1]}."
            )


def _adapted(
    path: str | Path, device: torch.device | str, dtype: torch.dtype | None, hub: FolderConfig, adapter: str | Path
) -> tuple[pretrained.Pretrained, _Before]:
    """The model at `path` as the run left it that has learnt the adapter beside it: its weights, layers and memory;
    and what was there before it.

    Raises:
        ModelError: no adapter, or it was learnt beside another model.
    """
    saved = read_adapter(adapter)
    model, tokenizer, info = pretrained.load(path, "cpu", torch.float32, hub)  # as the run has read it
    before, now = model.config, saved.model
    for key, alike in {
        "architecture": unstretched(before.architecture) == unstretched(now.architecture),
        "vocabulary": before.vocabulary == now.vocabulary,
    }.items():
        if not alike:
            raise ModelError(f"{adapter}: learnt beside a model with another {key} than {path} has.")
    model = with_adapter(retrofit(model, now.memory, architecture=now.architecture), saved).to(device, dtype)
    data = info["config"].get("data") if saved.length is None else {"length": saved.length}
    config = {**info["config"], **now.mapping(), "data": data or {}}
    told = {"adapter": str(adapter), "step": saved.step, "loss": None, "config": config}
    return pretrained.Pretrained(model, tokenizer, {**info, **told}), _Before(before, trained_length(info))


def save(model: TextModel, folder: str | Path, dtype: torch.dtype | None = None, shard: int = SHARD) -> Path:
    """Writes `model` as a folder that Hugging Face's libraries read, and returns where.

        farfield.save(farfield.load("runs/attention"), "models/mine")

    Args:
        model: of layers that a family of theirs has. folder: that does not exist yet.
        dtype: of the weights; None: as they are. shard: the most bytes of weights in one file.

    Raises:
        ModelError: no family has a word for a setting of the model, or something is in the folder.
    """
    trained = trained_length(model.info)
    return write_folder(
        model.model,
        model.tokenizer,
        Path(folder).expanduser(),
        family=model.info.get("family"),
        begin=model.begin,
        longest=trained,
        generation=model.info.get("generation"),
        dtype=dtype,
        shard=shard,
    )


def export(settings: ExportSettings) -> dict[str, Any]:
    """`farfield export`: what was written."""
    begin, ignore = settings.hf.begin, settings.hf.ignore_unknown
    model = load(
        settings.model,
        dtype=settings.dtype,
        layers="farfield",
        adapter=settings.adapter_file,
        begin=begin,
        ignore_unknown=ignore,
    )
    folder = save(model, settings.to, shard=settings.shard)
    files = sorted(folder.iterdir())
    kept = {"family": read_json(folder / "config.json")["model_type"], "parameters": model.info["parameters"]}
    lines = [f"wrote {file} ({file.stat().st_size:,} bytes)" for file in files]
    return {"folder": str(folder), **kept, "files": [str(file) for file in files], "text": "\n".join(lines)}


def load_encoder(path: str | Path, device: torch.device | str = "cpu") -> TextEncoder:
    """The trained encoder at `path`: a run's folder, or a checkpoint or weights file in one.

    Raises:
        ModelError: nothing there, it cannot be used, or it is no encoder.
    """
    return TextEncoder(*pretrained.load_encoder(path, device))


def open_model(
    path: str | Path,
    device: DeviceConfig,
    memory: MemoryConfig | Literal["trained"] | None = "trained",
    hub: FolderConfig | None = None,
    context: ContextConfig | None = None,
    adapter: str | None = None,
) -> TextModel:
    """The trained model at `path`, where and in the precision that `device` says, with another memory if one is given.

    Raises:
        ModelError: nothing there, or it cannot be used by our layers.
        ConfigError: a GPU is asked for and there is none, or the memory or the context cannot be put on it.
    """
    hub = (hub or FolderConfig()).model_copy(update={"layers": "farfield"})
    model = _opened(path, place(device), device.dtype, memory, hub, context, adapter)
    assert isinstance(model, TextModel)
    return model


def open_any(
    path: str | Path,
    device: DeviceConfig,
    memory: MemoryConfig | Literal["trained"] | None = "trained",
    hub: FolderConfig | None = None,
    context: ContextConfig | None = None,
    adapter: str | None = None,
) -> TextModel | BorrowedModel:
    """As `open_model`, by transformers' layers too; if for what ours do not have, standard error says so."""
    hub = hub or FolderConfig()
    model = _opened(path, place(device), device.dtype, memory, hub, context, adapter)
    tell_of_layers(path, hub.layers)
    return model


def tell_of_layers(path: str | Path, layers: Literal["auto", "farfield", "transformers"]) -> None:
    """Says on standard error why a folder is run by transformers' layers, where that was not asked for."""
    folder = Path(path).expanduser()
    reason = uncovered(folder) if layers == "auto" and is_folder(folder) else None
    if reason is not None:
        say(f"farfield: {reason} It is run by transformers.")


def place(device: DeviceConfig) -> Literal["cuda", "cpu"]:
    """Where a model goes. Sets the threads of the CPU.

    Raises:
        ConfigError: a GPU is asked for and there is none.
    """
    if device.threads is not None:
        torch.set_num_threads(device.threads)
    if device.accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError("device.accelerator: gpu given, but PyTorch sees none. Take cpu or auto.")
    return "cuda" if device.accelerator != "cpu" and torch.cuda.is_available() else "cpu"


def ingest(settings: IngestConfig, embedder: Embedder | None = None) -> IngestResult:
    """Stores documents in an index, with embedders that are models too; see `farfield.retrieval.ingest`."""
    offsets = TokenStarts(settings.chunk.tokenizer) if settings.chunk.tokenizer else None
    if settings.ray is None:
        return ingest_with(settings, embedder, Models().embedder, offsets)
    with Cluster(settings.ray) as cluster:
        return ingest_with(settings, embedder, Spread(cluster).embedder, offsets)


def open_index(
    name: str | Path,
    root: str | Path = "indexes",
    settings: RetrievalConfig | None = None,
    embedder: Embedder | None = None,
) -> Index:
    """The index `name`, with embedders and re-rankers that are models too; see `farfield.retrieval.open_index`."""
    return open_index_with(name, root, settings, embedder, Models())
