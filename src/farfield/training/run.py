"""`farfield train`: from settings to a finished folder.

Everything that can be wrong is looked at in the order of what it costs to look: settings, the run's folder, the data,
the model. Lightning is imported last, once the run is sure to start.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from farfield.adapters import AdapterConfig, adapt, check_adapter, trained
from farfield.architectures.encoders.stack import EncoderConfig
from farfield.augmentation import OutputTraining
from farfield.config import ConfigError, TrainingError
from farfield.context import Parts, trained_length, unstretched
from farfield.data import FactsData, TextData, open_source
from farfield.data.text import TextSource
from farfield.datastores import open_knn
from farfield.encoding import EncoderModel
from farfield.knn import KnnLM
from farfield.memory import NeighboursConfig, StackMemory
from farfield.model import LanguageModel, ModelConfig, check_memory
from farfield.pretrained import (
    BEST,
    CHECKPOINTS,
    EXPORT,
    LAST,
    OURS,
    generation_of,
    load,
    load_encoder,
    model_config,
    read_checkpoint,
)
from farfield.progress import say
from farfield.retrofit import retrofit
from farfield.settings import TrainSettings
from farfield.shifted import in_groups, shifted
from farfield.tokenizers import Tokenizer
from farfield.training import metrics
from farfield.training.devices import choose_devices, threads
from farfield.training.folder import (
    ADAPTER,
    FIGURE,
    LAST_EXPORT,
    check_same,
    check_same_data,
    choose_start,
    clear,
    describe,
    owned,
    record,
)
from farfield.training.generators import seeded
from farfield.training.saving import LEARNT, export, export_adapter, link

__all__ = ["train"]

INTERRUPTED = 130  # the exit status of a command that Ctrl-C has ended


def train(settings: TrainSettings) -> dict[str, Any]:
    """Trains a model, or goes on with it, and says what came of it as plain values.

    Returns:
        name, folder, steps, loss and validation_loss (the last ones, nats a token), best (step, loss, by), tokens,
        tokens_per_second (while training), parameters, of an adapter how many are trained, seconds (of this call), and
        the paths of what was written.

    Raises:
        ConfigError: settings that do not fit each other.
        DataError: data that cannot be used.
        TrainingError: the run cannot start or cannot go on.
        KeyboardInterrupt: Ctrl-C, once the step under way is saved; its text says how to go on.
    """
    began = time.monotonic()
    rank = int(os.environ.get("LOCAL_RANK", "0"))  # Lightning starts the other processes of a run by the same command
    settings = _settled(settings)
    _check(settings)
    with seeded(settings.seed), threads(settings.training.threads), _answering(rank):
        _train(settings, rank)
    return _finish(settings, began)


def _settled(settings: TrainSettings) -> TrainSettings:
    """With the layers and the memory that the context makes of them: a run is recorded as what it trains.

    Raises:
        ConfigError: the context does not fit them. ModelError: there is nothing to start from.
    """
    if settings.context is None or settings.start is None:
        return settings
    trained = trained_length(load(settings.start).info)
    parts = settings.context.applied(Parts(settings.architecture, settings.memory), trained)
    try:
        check_memory(parts.architecture, parts.memory)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    changed = {"architecture": parts.architecture, "memory": parts.memory, "context": None}
    return settings.model_copy(update=changed)


@contextmanager
def _answering(rank: int) -> Iterator[None]:
    """The first process of a run goes on behind the block; the others end there, and leave the words to the first."""
    try:
        yield
    except KeyboardInterrupt:
        if rank:
            raise SystemExit(INTERRUPTED) from None
        raise
    if rank:
        raise SystemExit(0)


def _check(settings: TrainSettings) -> None:
    """Raise ConfigError for what teaches something that is not so.

    Carrying states and reading streams go together; neither goes with states that cannot be read after some steps.
    """
    if settings.training.carry and isinstance(settings.architecture, EncoderConfig):
        raise ConfigError(
            "training.carry: a bidirectional architecture reads whole documents and carries nothing. "
            "Use training.carry=false."
        )
    streams = isinstance(settings.data, TextData) and settings.data.order == "streams"
    if settings.training.carry and not streams:
        raise ConfigError(
            "training.carry: a state is carried from row to row of a stream, and this data has none. "
            "Use data=text with data.order=streams, or training.carry=false."
        )
    if streams and not settings.training.carry:
        raise ConfigError(
            "data.order: the rows of streams go on with a past that only a carried state knows. "
            "Use training.carry=true, or data.order=shuffled."
        )
    _check_fill(settings)
    memory = settings.memory
    if isinstance(memory, StackMemory) and memory.freezes and settings.start is None:
        raise ConfigError(
            "memory.frozen: true given, but layers with fresh weights would never learn. "
            "Use start=<a run without the memory>, or memory.frozen=false."
        )
    if settings.adapter is not None:
        _check_adapter(settings.adapter, settings)
    if isinstance(settings.augmentation, OutputTraining):
        _check_output(settings.augmentation, settings.start)
    augmentation = None if settings.augmentation is None else settings.augmentation.model
    if isinstance(augmentation, NeighboursConfig) and augmentation.freeze and settings.start is None:
        raise ConfigError(
            "augmentation.freeze: true given, but layers with fresh weights would never learn. "
            "Use start=<a run without neighbours>, or augmentation.freeze=false."
        )
    if isinstance(settings.architecture, EncoderConfig) or not settings.training.carry:
        return
    outdated = None if memory is None else memory.outdated()
    if outdated is not None:
        raise ConfigError(f"memory.{outdated}, or training.carry=false.")
    for name, layer in settings.architecture.layers.items():
        outdated = layer.mixer.resolved().outdated()
        if outdated is not None:
            raise ConfigError(f"architecture.layers.{name}.mixer.{outdated}, or training.carry=false.")


def _check_adapter(adapter: AdapterConfig, settings: TrainSettings) -> None:
    """Raise ConfigError where an adapter would stand beside nothing that was learnt, or not see what it is to learn."""
    if settings.start is None:
        raise ConfigError(
            f"adapter.kind: '{adapter.kind}' given, but it learns beside weights that stay, and fresh ones never "
            "would. Use start=<a trained model>, or adapter=none."
        )
    reads = None if settings.augmentation is None else settings.augmentation.model
    model = ModelConfig(architecture=settings.architecture, memory=settings.memory, vocabulary=1, augmentation=reads)
    group = adapter.group(settings.data.length)
    try:
        check_adapter(adapter, model)
        if group is not None:
            in_groups(model, group)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if group is not None and settings.training.carry:
        raise ConfigError(
            "training.carry: true given, but a state of shifted groups is not one of full attention. Use "
            "training.carry=false, or adapter.shifted=null."
        )


def _check_output(augmentation: OutputTraining, start: str | None) -> None:
    """Raise ConfigError where a datastore would leave nothing to learn, or be of a model that changes."""
    if augmentation.weight != "learned":
        raise ConfigError(
            f"augmentation.weight: {augmentation.weight:g} given, which leaves nothing to learn. Use "
            "augmentation.weight=learned, or give a share where the model is asked."
        )
    if augmentation.least is not None:
        raise ConfigError(
            f"augmentation.least: {augmentation.least} given, and in training every token searches. Leave it null, and "
            "give it where the model is asked."
        )
    if start is None:
        raise ConfigError(
            "augmentation.kind: 'output' is of a trained model, whose keys the datastore keeps. Use start=<a run>."
        )


def _check_fill(settings: TrainSettings) -> None:
    """Raise ConfigError where nothing would be scored, or nothing could be filled or cut."""
    training, length = settings.training, settings.data.length
    if isinstance(settings.architecture, EncoderConfig):
        for name, value in (("fill", training.fill), ("cut", training.cut)):
            if value:
                raise ConfigError(
                    f"training.{name}: {value} given, but a bidirectional architecture reads whole documents at once."
                )
    if training.fill >= length and not training.carry:
        raise ConfigError(
            f"training.fill: {training.fill} given, but rows have {length} tokens, of which none would be scored. "
            f"At most {length - 1}, or a longer data.length."
        )


def _train(settings: TrainSettings, rank: int) -> None:
    """Everything up to the last checkpoint."""
    training, folder = settings.training, _folder(settings)
    start = choose_start(folder, settings.resume) if rank == 0 or settings.resume else None
    if start is not None:
        check_same(folder, start[1], settings)
    devices = choose_devices(training, rank)
    objective = settings.learnt
    source = open_source(settings.data, settings.seed, training.batch * devices.count)
    source = objective.source(source, settings.seed)
    if settings.augmentation is not None:
        assert isinstance(source, TextSource), "see farfield.settings"
        source = settings.augmentation.source(source)
    config, facts = describe(settings, objective.vocabulary(source.tokenizer.vocabulary)), source.describe()
    if start is not None:
        check_same_data(folder, start[1]["facts"], facts)
    done = 0 if start is None else int(start[1]["progress"]["step"])
    if start is not None and done == training.steps:
        if start[0].name != LAST:  # killed after the best checkpoint was written, and before it was named the newest
            link(start[0], start[0].with_name(LAST))
        return
    # A checkpoint is read later; the layers whose keys a datastore has never change, and are needed before.
    begun = start is None or isinstance(settings.augmentation, OutputTraining)
    model = _model(model_config(config, folder), settings.start if begun else None)
    taught = _adapted(model, settings)
    knn = _knn(settings, model, source.tokenizer)
    with owned(folder) if rank == 0 else nullcontext():
        if rank == 0:
            _tell(settings, model)
            record(folder, config, source.tokenizer, None if start else generation_of(settings.start))
            clear(folder, anew=start is None)

        from farfield.training.fit import Job, fit  # seconds of lightning, which no mistake above should wait for

        kept = {"format": config["format"], "config": config, "facts": facts}
        if settings.adapter is not None:
            kept[LEARNT] = trained(model)
        checkpoint = None if start is None else start[0]
        fit(Job(settings.name, training, model, source, folder, kept, checkpoint, done, knn, taught), devices)


def _model(config: ModelConfig, begun: str | None) -> LanguageModel | EncoderModel:
    """With fresh weights, or those of a run that has `begun`: what its memory has not learnt is fresh.

    Raises:
        TrainingError: the run is of another architecture or vocabulary. ModelError: it cannot be loaded.
    """
    if begun is None:
        return EncoderModel(config) if isinstance(config.architecture, EncoderConfig) else LanguageModel(config)
    if isinstance(config.architecture, EncoderConfig):
        encoder = load_encoder(begun).model
        _check_begun(begun, encoder.config, config)
        return encoder.train()
    model = load(begun, dtype=torch.float32).model
    _check_begun(begun, model.config, config)
    return retrofit(model, config.memory, True, config.architecture, config.augmentation).train()


def _adapted(model: LanguageModel | EncoderModel, settings: TrainSettings) -> LanguageModel | None:
    """Puts the adapter beside the weights of `model`; the form of it that is trained, if that is another one."""
    if settings.adapter is None:
        return None
    assert isinstance(model, LanguageModel), "see _check_adapter"
    adapt(model, settings.adapter)
    group = settings.adapter.group(settings.data.length)
    return None if group is None else shifted(model, group)


def _knn(settings: TrainSettings, model: LanguageModel | EncoderModel, tokenizer: Tokenizer) -> KnnLM | None:
    """The model with its datastore, where the weight of that is what is learned."""
    if not isinstance(settings.augmentation, OutputTraining):
        return None
    assert isinstance(model, LanguageModel), "see farfield.settings"
    return open_knn(model, tokenizer, settings.augmentation.model, settings.augmentation, settings.data.length)


def _check_begun(begun: str, before: ModelConfig, now: ModelConfig) -> None:
    same = {
        "vocabulary": before.vocabulary == now.vocabulary,
        "architecture": unstretched(before.architecture) == unstretched(now.architecture),
    }
    for key, alike in same.items():
        if not alike:
            told = f": {before.vocabulary} ids there, {now.vocabulary} here" if key == "vocabulary" else ""
            raise TrainingError(
                f"start: {begun} was trained with another {key}{told}. Give this run the settings of that one: without "
                "architecture=... and data.tokenizer=... it has them."
            )


def _tell(settings: TrainSettings, model: LanguageModel | EncoderModel) -> None:
    """A line on an adapter's size, and where memory or passages would never be read: the rows are too short."""
    config, length = model.config, settings.data.length
    if settings.adapter is not None:
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
        total, learnt = sum(size for size, _ in sizes), sum(size for size, learns in sizes if learns)
        group = settings.adapter.group(length)
        groups = "" if group is None else f"; attention in groups of {group} tokens while it trains, full elsewhere"
        say(
            f"farfield: adapter={settings.adapter.kind}: {learnt:,} of {total:,} weights are trained "
            f"({learnt / total:.1%}){groups}."
        )
    reads = config.neighbours
    if reads is not None and length < reads.chunk and not settings.training.carry:
        say(
            f"farfield: augmentation={reads.kind}: rows of {length} tokens have no whole chunk of {reads.chunk}, and "
            "read no passages. Use a longer data.length, or a smaller augmentation.chunk."
        )
    needed = config.memory_from()
    if isinstance(settings.data, FactsData):  # each row asks it
        return
    if needed is not None and settings.data.length < needed and not settings.training.carry:
        say(
            f"farfield: memory={settings.memory.name if settings.memory else None}: rows of {settings.data.length} "
            f"tokens never read it; that begins at {needed}. Use a longer data.length, or a smaller memory.segment "
            "and window."
        )


def _finish(settings: TrainSettings, began: float) -> dict[str, Any]:
    """Writes the weights for others and the picture, from the files that training left, and tells what there is."""
    folder = _folder(settings)
    last, best = (folder / CHECKPOINTS / name for name in (LAST, BEST))
    ours = read_checkpoint(last, mapped=True)[OURS]
    progress = ours["progress"]
    export(last, folder / LAST_EXPORT, {})
    export(best if best.is_file() else last, folder / EXPORT, {"loss": repr(progress["best"]["loss"])})
    learnt = {}
    if LEARNT in ours:
        count = export_adapter(best if best.is_file() else last, folder / ADAPTER)
        learnt = {"trained": count, "adapter": str(folder / ADAPTER)}
    rows = metrics.read_metrics(folder / metrics.FILE)

    from farfield.training.figure import draw_losses  # matplotlib, which no mistake above should wait for

    draw_losses(rows, folder / FIGURE, settings.name)
    validated = [row["validation_loss"] for row in rows if "validation_loss" in row]
    return {
        "name": settings.name,
        "folder": str(folder),
        "steps": progress["step"],
        "loss": rows[-1]["loss"] if rows else None,
        "validation_loss": validated[-1] if validated else None,
        "best": progress["best"],
        "tokens": progress["tokens"],
        "tokens_per_second": round(progress["tokens"] / max(progress["seconds"], 1e-9), 1),
        "parameters": model_config(ours["config"], last).parameters(),
        **learnt,
        "seconds": round(time.monotonic() - began, 2),
        "weights": str(folder / EXPORT),
        "checkpoints": {"last": str(last), "best": str(best)},
        "metrics": str(folder / metrics.FILE),
        "figure": str(folder / FIGURE),
    }


def _folder(settings: TrainSettings) -> Path:
    return Path(settings.root).expanduser() / settings.name
