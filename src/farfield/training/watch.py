"""What happens after each step of the optimiser: validation, a line of metrics, checkpoints, progress, the end.

    step n done -> validate? -> metrics.csv? -> checkpoint? -> next step, or stop

Checkpoints are only ever written here, between two steps, and after the step's line in metrics.csv: a run that goes on
from one has a line of every step.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from farfield.config import ModelError
from farfield.data import Source
from farfield.pretrained import BEST, CHECKPOINTS, LAST, OURS, read_checkpoint
from farfield.progress import Bar
from farfield.training.feed import shard
from farfield.training.interrupt import Interrupt
from farfield.training.learner import Learner
from farfield.training.metrics import Metrics, Row
from farfield.training.options import TrainingConfig
from farfield.training.saving import link
from farfield.training.schedule import share

__all__ = ["Reports", "Watch"]

BAR_SECONDS = 0.1  # between two updates of the bar


class Reports:
    """Where a run's numbers go: metrics.csv, TensorBoard, the bar. Only the first process of a run has one."""

    def __init__(self, metrics: Metrics, board: TensorBoardLogger, bar: Bar) -> None:
        self.metrics, self.board, self.bar = metrics, board, bar
        self.pending, self.spoke = 0, 0.0

    def row(self, row: Row) -> None:
        """One line of metrics."""
        self.metrics.append(row)
        self.board.log_metrics({name: value for name, value in row.items() if name != "step"}, int(row["step"]))

    def step(self, note: str, last: bool) -> None:
        """One step is done; the bar hears of it with others, for a small model makes hundreds a second."""
        self.pending += 1
        now = time.monotonic()
        if last or now - self.spoke > BAR_SECONDS:
            self.bar.step(self.pending, note)
            self.pending, self.spoke = 0, now


class Watch(Callback):
    """See the file's head."""

    def __init__(
        self, training: TrainingConfig, source: Source, folder: Path, interrupt: Interrupt, reports: Reports | None
    ) -> None:
        self.training, self.source, self.interrupt, self.reports = training, source, interrupt, reports
        self.checkpoints = folder / CHECKPOINTS
        self.validation_batches = min(training.validation.batches, source.validation_batches)
        self.stopped = False
        self.clock = 0.0
        self.rate = 0.0
        self.since: tuple[int, float] = (0, 0.0)  # tokens and seconds at the last line of metrics

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, Learner)
        self.since = (pl_module.progress.tokens, pl_module.progress.seconds)
        self.clock = time.monotonic()

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Before the first forward pass of a step: its learning rate."""
        if batch_idx % self.training.accumulate:
            return
        assert isinstance(pl_module, Learner)
        pl_module.begin_step()
        rate = self.learning_rate(pl_module.progress.step)
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = rate

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After the last forward pass of a step, and the step."""
        if (batch_idx + 1) % self.training.accumulate:
            return
        assert isinstance(pl_module, Learner)
        self._count(trainer, pl_module)
        pl_module.end_step()
        step = pl_module.progress.step
        asked = trainer.strategy.reduce_boolean_decision(self.interrupt.asked, all=False)
        last = step == self.training.steps
        validation = self._validate(trainer, pl_module) if self._due(step, last) else None
        if step == 1 or last or step % self.training.log == 0 or validation is not None:
            self._report(pl_module, validation)
        self._save(trainer, pl_module, validation, last, asked)
        if self.reports:
            self.reports.step(f"loss {pl_module.losses[0]:.3f}, {self.rate:,.0f} tokens/s", last or asked)
        self.stopped = trainer.should_stop = asked
        self.clock = time.monotonic()

    def learning_rate(self, step: int) -> float:
        """That of step `step`, counted from 0."""
        return self.training.optimizer.learning_rate * share(self.training.schedule, step, self.training.steps)

    def _count(self, trainer: lightning.Trainer, learner: Learner) -> None:
        """The step's numbers, over all devices: losses become their mean, tokens their sum."""
        loss, read = sum(learner.losses) / len(learner.losses), learner.read
        if trainer.world_size > 1:
            both = torch.tensor([loss, read], dtype=torch.float64, device=learner.device)
            summed, read = trainer.strategy.reduce(both, reduce_op="sum").tolist()
            loss = summed / trainer.world_size
        learner.losses = [loss]
        learner.progress.count(loss, int(read), time.monotonic() - self.clock)

    def _due(self, step: int, last: bool) -> bool:
        return self.validation_batches > 0 and (last or step % self.training.validation.every == 0)

    def _validate(self, trainer: lightning.Trainer, learner: Learner) -> float:
        """The loss on the held-out batches, in nats a scored token.

        Raises:
            TrainingError: it is not a number. The weights are not worth a checkpoint then.
        """
        learner.eval()
        sums = torch.zeros(2, dtype=torch.float64, device=learner.device)
        with torch.no_grad():
            for index in range(self.validation_batches):
                batch = shard(self.source.validation(index), trainer.global_rank, trainer.world_size)
                found = trainer.strategy.validation_step(batch.to(learner.device), index)
                assert isinstance(found, torch.Tensor)
                sums += found
        learner.heard = None
        learner.train()
        nats, scored = trainer.strategy.reduce(sums, reduce_op="sum").tolist()
        if not math.isfinite(nats):
            raise learner.diverged(learner.progress.step, f"the validation loss is {nats}")
        return float(nats / max(scored, 1))

    def _report(self, learner: Learner, validation: float | None) -> None:
        progress = learner.progress
        tokens, seconds = progress.tokens - self.since[0], progress.seconds - self.since[1]
        self.rate = tokens / max(seconds, 1e-9)
        self.since = (progress.tokens, progress.seconds)
        if self.reports is None:
            return
        row: Row = {
            "step": progress.step,
            "loss": learner.losses[0],
            "learning_rate": self.learning_rate(progress.step - 1),
            "gradient_norm": learner.norm,
            "tokens": progress.tokens,
            "tokens_per_second": self.rate,
            **learner.measured(),
        }
        self.reports.row(row if validation is None else {**row, "validation_loss": validation})

    def _save(
        self, trainer: lightning.Trainer, learner: Learner, validation: float | None, last: bool, asked: bool
    ) -> None:
        """The best checkpoint where this is it, and the newest where it is due.

        In this order: whenever the process is killed, no checkpoint knows of a better one than best.ckpt is.
        """
        progress = learner.progress
        regular = last or progress.step % self.training.checkpoint.every == 0
        best = False
        if validation is not None:
            best = progress.improved(validation, "validation")
        elif regular and not self.validation_batches:
            best = progress.improved(progress.drain(), "training")
        if best:
            trainer.save_checkpoint(self.checkpoints / BEST, weights_only=False)
        if not regular and not asked:
            return
        if trainer.is_global_zero:
            self._keep_newest()
        if not best:
            trainer.save_checkpoint(self.checkpoints / LAST, weights_only=False)
        elif trainer.is_global_zero:
            link(self.checkpoints / BEST, self.checkpoints / LAST)
        if self.reports:
            self.reports.board.experiment.flush()

    def _keep_newest(self) -> None:
        """Another name for the checkpoint that is about to be replaced, and none any more for the oldest."""
        before, kept = self.checkpoints / LAST, self.training.checkpoint.keep - 1
        try:
            step = read_checkpoint(before, mapped=True)[OURS]["progress"]["step"] if before.is_file() and kept else None
        except ModelError:  # damaged: nothing to keep
            step = None
        if step is not None:
            link(before, self.checkpoints / f"step-{step:08d}.ckpt")
        older = sorted(self.checkpoints.glob("step-*.ckpt"))
        for file in older[: max(0, len(older) - kept)]:
            file.unlink()
