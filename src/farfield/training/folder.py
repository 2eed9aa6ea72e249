"""A run's folder: when a run may begin there, and from which checkpoint it goes on.

<root>/<name>/      see farfield.pretrained for config.yaml, tokenizer/, checkpoints/ and the weights
    checkpoints/step-00000500.ckpt      the newest ones before last.ckpt: training.checkpoint.keep
    adapter.safetensors                 of a run with an adapter, what it learnt alone
    metrics.csv  tensorboard/  figures/loss.png
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

try:
    import fcntl
except ImportError:  # Windows has none; two runs in one folder are not noticed there
    fcntl = None  # type: ignore[assignment]

from farfield.config import ConfigError, ModelError, TrainingError, read
from farfield.huggingface.reading import GENERATION
from farfield.pretrained import BEST, CHECKPOINTS, CONFIG, EXPORT, FORMAT, LAST, OURS, TOKENIZER, read_checkpoint
from farfield.progress import say
from farfield.settings import TrainSettings
from farfield.tokenizers import Tokenizer
from farfield.training import metrics
from farfield.training.saving import write_text

__all__ = [
    "ADAPTER",
    "FIGURE",
    "LAST_EXPORT",
    "LOGS",
    "Start",
    "check_same",
    "choose_start",
    "clear",
    "describe",
    "owned",
    "record",
]

ADAPTER, LAST_EXPORT, FIGURE, LOGS, LOCK = (
    "adapter.safetensors",
    "last.safetensors",
    "figures/loss.png",
    "tensorboard",
    ".lock",
)

# What may differ between a run and its continuation: where, how and how long it computes, not what is learnt of what.
FREE = (
    "name",
    "root",
    "augmentation.database",
    "data.cache",
    "training.steps",
    "training.checkpoint",
    "training.validation",
    "training.log",
    "training.recompute",
    "training.compile",
    "training.accelerator",
    "training.strategy",
    "training.threads",
)

# What a source says of itself that may differ as well: where its files lie.
FREE_FACTS = ("data", "store")

Start = tuple[Path, dict[str, Any]]
"""A checkpoint, and our entry in it: config, facts, progress, states."""


def choose_start(folder: Path, resume: bool) -> Start | None:
    """The newest checkpoint of `folder` where the run is to go on from it; None for a run from the beginning.

    Raises:
        TrainingError: something was trained there and `resume` is false, or the newest checkpoint is damaged.
    """
    files = _checkpoints(folder)
    if not resume:
        if files:
            raise TrainingError(
                f"{folder}: this run exists. Go on with it (resume=true), take another name=..., or remove the folder."
            )
        return None
    if not files:
        say(f"farfield: {folder} has no checkpoint to go on from: starting from the beginning.")
        return None
    found = [(file, _ours(file)) for file in files]
    return max(found, key=lambda start: int(start[1]["progress"]["step"]))


def describe(settings: TrainSettings, vocabulary: int) -> dict[str, Any]:
    """All that the run is made from, as plain values: what config.yaml and checkpoints hold."""
    mapping = settings.mapping()
    del mapping["resume"]
    return {"format": FORMAT, "vocabulary": vocabulary, **mapping}


def check_same(folder: Path, ours: Mapping[str, Any], settings: TrainSettings) -> None:
    """Refuses to go on with other settings than those that the run began with.

    Raises:
        TrainingError: names the first one that differs.
    """
    vocabulary = ours["config"]["vocabulary"]
    before, now = dict(_leaves(_completed(ours["config"]))), dict(_leaves(describe(settings, vocabulary)))
    for key in [*now, *before]:
        if not _free(key, FREE) and before.get(key) != now.get(key):
            raise TrainingError(
                f"{folder}: resume=true goes on with the run's own settings, and {key} was {_said(before, key)} "
                f"where it is {_said(now, key)} now. Set it back, or begin another run with name=..."
            )
    done = ours["progress"]["step"]
    if settings.training.steps < done:
        raise TrainingError(
            f"{folder}: training.steps: {settings.training.steps} given, but {done} steps are done. "
            "Give more to go on, or begin another run with name=..."
        )


def _completed(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A run's settings, with the defaults of those that are younger than it; as they are where some no longer fit."""
    ours = {key: value for key, value in config.items() if key not in ("format", "vocabulary")}
    try:
        return describe(read(TrainSettings, ours), config["vocabulary"])
    except ConfigError:
        return config


def check_same_data(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuses to go on with other data.

    Raises:
        TrainingError: names the first fact that differs.
    """
    for key in [*now, *before]:
        if key not in FREE_FACTS and before.get(key) != now.get(key):
            raise TrainingError(
                f"{folder}: the data has changed since the run began: '{key}' was {before.get(key)} and is "
                f"{now.get(key)}. Put the files back, or begin another run with name=..."
            )


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """The run's folder, which is made, for this process alone.

    Raises:
        TrainingError: another process trains there, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("w")
    except OSError as error:
        raise TrainingError(f"{folder}: cannot be written: {error.strerror}.") from None
    with file:
        try:
            if fcntl is not None:  # the system drops it when the process ends, however it ends
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainingError(f"{folder}: another process trains there. Wait for it, or take name=...") from None
        try:
            yield
        finally:
            (folder / LOCK).unlink(missing_ok=True)


def clear(folder: Path, anew: bool) -> None:
    """Removes what the training that now begins makes untrue; if it begins `anew`, also what an earlier try logged."""
    stale = [
        folder / EXPORT,
        folder / LAST_EXPORT,
        folder / ADAPTER,
        *folder.glob(f"{CHECKPOINTS}/.*"),
        *folder.glob(".*.safetensors.*"),
    ]
    if anew:
        stale += [folder / metrics.FILE, *folder.glob(f"{LOGS}/events.out.*")]
    for file in stale:
        file.unlink(missing_ok=True)


def record(
    folder: Path, config: Mapping[str, Any], tokenizer: Tokenizer, generation: Mapping[str, Any] | None = None
) -> None:
    """Makes the folder with config.yaml and the tokenizer.

    Args:
        folder: of the run. config: its settings. tokenizer: of its data.
        generation: what a generation_config.json says of the model that it begins with; None: what is there stays.

    Raises:
        TrainingError: it cannot be written.
    """
    text = "# Written by `farfield train`: all that the model is rebuilt from.\n"
    try:
        (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        tokenizer.save(folder / TOKENIZER)
        if generation:
            write_text(folder / GENERATION, json.dumps(dict(generation), indent=2) + "\n")
        elif generation is not None:
            (folder / GENERATION).unlink(missing_ok=True)  # of an earlier try that began elsewhere
    except OSError as error:
        raise TrainingError(f"{folder}: cannot be written: {error.strerror or error}.") from None
    write_text(folder / CONFIG, text + OmegaConf.to_yaml(OmegaConf.create(dict(config))))


def _checkpoints(folder: Path) -> list[Path]:
    """Those to go on from: last and best, or where last was taken away, all."""
    named = [folder / CHECKPOINTS / name for name in (LAST, BEST)]
    if named[0].is_file():
        return [file for file in named if file.is_file()]
    return sorted((folder / CHECKPOINTS).glob("*.ckpt"))


def _ours(file: Path) -> dict[str, Any]:
    try:
        ours: dict[str, Any] = read_checkpoint(file, mapped=True)[OURS]
    except ModelError as error:
        raise TrainingError(
            f"{error} Remove {file.name}, and resume=true goes on from the newest that is left."
        ) from None
    return ours


def _leaves(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting by its dotted path."""
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from _leaves(item, f"{path}{key}.")
        else:
            yield f"{path}{key}", item


def _free(key: str, free: tuple[str, ...]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in free)


def _said(leaves: Mapping[str, Any], key: str) -> str:
    return str(leaves[key]) if key in leaves else "not set"
