"""Lightning's Trainer on our learner: devices, precision, gradient accumulation; everything else is ours or off."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as lightning
import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import TensorBoardLogger

from farfield.config import TrainingError
from farfield.data import Source
from farfield.encoding import EncoderModel
from farfield.knn import KnnLM
from farfield.model import LanguageModel
from farfield.pretrained import CHECKPOINTS, LAST, read_checkpoint
from farfield.progress import Bar
from farfield.training import metrics
from farfield.training.devices import Devices
from farfield.training.feed import feed
from farfield.training.folder import LOGS
from farfield.training.interrupt import Interrupt, command_again
from farfield.training.learner import Learner
from farfield.training.options import TrainingConfig
from farfield.training.saving import save_checkpoint
from farfield.training.watch import Reports, Watch

__all__ = ["Job", "fit"]

PRECISION: dict[str, Literal["32-true", "bf16-mixed"]] = {"fp32": "32-true", "bf16": "bf16-mixed"}
NOISY = (
    "lightning.pytorch",
    "lightning.fabric",
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric.utilities.rank_zero",
)


@dataclass(frozen=True)
class Job:
    """A run that is sure to start: its title, what it learns, from what, where, and from which checkpoint on.

    `taught` takes the steps of training, where it is another form of the model.
    """

    title: str
    training: TrainingConfig
    model: LanguageModel | EncoderModel
    source: Source
    folder: Path
    kept: dict[str, Any]
    checkpoint: Path | None
    done: int
    knn: KnnLM | None = None
    taught: LanguageModel | None = None


class WholeFiles(CheckpointIO):
    """Checkpoints that are never half written, and never unpickled."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        save_checkpoint(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def fit(job: Job, devices: Devices) -> None:
    """Trains until `training.steps` are done.

    Raises:
        KeyboardInterrupt: Ctrl-C; its text says what was saved and how to go on.
        TrainingError: the loss is not a number, the device's memory is too small, or a file cannot be written.
    """
    training = job.training
    for model in (job.model, job.taught):
        if model is not None:
            model.stack.checkpointing = training.recompute
            if training.compile:
                model.stack.compile()
    learner = Learner(job.model, training, job.kept, job.knn, job.taught)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_quiet())
        interrupt = stack.enter_context(Interrupt(quiet=devices.rank > 0))
        reports = stack.enter_context(_reports(job)) if devices.rank == 0 else None
        watch = Watch(training, job.source, job.folder, interrupt, reports)
        try:
            trainer = _trainer(job, devices, watch)
        except (ValueError, MisconfigurationException) as error:
            raise TrainingError(f"training.strategy: {' '.join(str(error).split())}") from None
        batches = stack.enter_context(feed(job.source, training, job.done, devices.rank, devices.count))
        try:
            trainer.fit(learner, batches, ckpt_path=job.checkpoint, weights_only=True)
        except SystemExit:  # Lightning's answer to a second Ctrl-C, and to a signal in the last step
            if not interrupt.asked:
                raise
        except torch.OutOfMemoryError:
            raise TrainingError(_too_large(training, learner.progress.step + 1)) from None
        if learner.progress.step < training.steps:
            raise KeyboardInterrupt(_stopped(job, watch.stopped, learner.progress.step))


def _trainer(job: Job, devices: Devices, watch: Watch) -> lightning.Trainer:
    """Lightning's trainer, for the steps that are left, without what it would do beside our own."""
    training = job.training
    # A step need not use every weight: a memory's gate is idle until a document is longer than a segment.
    strategy = training.strategy
    if strategy == "auto" and devices.count > 1:
        strategy = "ddp_find_unused_parameters_true"
    return lightning.Trainer(
        accelerator=devices.kind,
        devices=devices.count,
        strategy=strategy,
        precision=PRECISION[training.precision],
        max_steps=training.steps - job.done,
        max_epochs=-1,
        accumulate_grad_batches=training.accumulate,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        logger=False,
        callbacks=[watch],
        plugins=[WholeFiles()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=job.folder,
    )


@contextlib.contextmanager
def _reports(job: Job) -> Iterator[Reports]:
    """Metrics, TensorBoard and the bar, open while the run trains."""
    board = TensorBoardLogger(job.folder, name=LOGS, version="", purge_step=job.done + 1)
    with (
        metrics.Metrics(job.folder / metrics.FILE, job.model.config.architecture.told()) as lines,
        Bar(job.title, total=job.training.steps, unit="steps", done=job.done) as bar,
        contextlib.closing(board.experiment),
    ):
        yield Reports(lines, board, bar)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Lightning's tips, notices and warnings about its own options stay off the screen; errors do not."""
    loggers = [logging.getLogger(name) for name in NOISY]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\..*")
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*LeafSpec.*")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)


def _too_large(training: TrainingConfig, step: int) -> str:
    """What to tell a user whose device has run out of memory."""
    less = [f"a smaller training.batch (now {training.batch}) with training.accumulate"]
    less += [] if training.recompute else ["training.recompute=true"]
    less += [] if training.precision == "bf16" else ["training.precision=bf16"]
    return f"step {step}: the device's memory is too small for this model and batch. Try {', or '.join(less)}."


def _stopped(job: Job, saved: bool, step: int) -> str:
    """What to tell a user who pressed Ctrl-C."""
    file = job.folder / CHECKPOINTS / LAST
    if saved:
        return f"Step {step} is saved in {file}. Go on with {command_again()}"
    if file.is_file():
        return f"{file} holds an earlier step. Go on from there with {command_again()}"
    return "Nothing was saved yet."
