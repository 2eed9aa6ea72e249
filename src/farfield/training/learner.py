"""The model as Lightning sees it: the loss of a batch, the optimiser, what a checkpoint holds beside the weights.

Where `training.carry` is set, row b of a batch goes on from the state that row b of the batch before it left, without
its gradients' history: truncated backpropagation through time, over a stream that never ends. `training.cut` does the
same within a row, every so many tokens. With `training.fill`, the first tokens of each document are read into whatever
the model remembers by, and only what comes after them is scored.

Shapes: B batch, T time.
"""

from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as lightning
import torch
from torch import Tensor

from farfield.amortized import learning
from farfield.architectures.mixer import Stepped
from farfield.architectures.ops.cross_entropy import IGNORED
from farfield.config import TrainingError
from farfield.encoding import EncoderModel
from farfield.knn import KnnLM
from farfield.memory import Passages
from farfield.model import LanguageModel, Loss, ModelState
from farfield.pretrained import OURS
from farfield.training import generators
from farfield.training.feed import Fed
from farfield.training.optimizer import build_optimizer
from farfield.training.options import TrainingConfig
from farfield.training.progress import Progress

__all__ = ["Learner"]


class Learner(lightning.LightningModule):
    """One step of learning, and all that it takes to go on with it later.

    `losses`, `read` and `norm` are of the step under way: the loss of each forward pass (nats a token), the tokens
    read, the gradient's norm before it was clipped.
    """

    def __init__(
        self,
        model: LanguageModel | EncoderModel,
        training: TrainingConfig,
        kept: dict[str, Any],
        knn: KnnLM | None = None,
        taught: LanguageModel | None = None,
    ) -> None:
        """`kept` goes into each checkpoint: format, config, facts. With `knn`, its weight is what is learned.

        Steps of training are taken by `taught`, of the same weights, where one is given.
        """
        super().__init__()
        self.taught = (model if taught is None else taught,)  # a tuple: its weights are the model's, and saved with it
        self.model, self.training_config, self.kept, self.knn = model, training, kept, knn
        self.progress = Progress()
        self.losses: list[float] = []
        self.told: list[dict[str, Tensor]] = []
        self.read, self.norm = 0, math.nan
        self.carried: ModelState | None = None
        self.heard: ModelState | None = None
        self.saved: dict[str, Any] = {}

    def begin_step(self) -> None:
        """Forgets the step before."""
        self.losses, self.told, self.read = [], [], 0

    def end_step(self) -> None:
        """Tells the modules that change by steps how many are done."""
        for module in self.model.modules():
            if isinstance(module, Stepped):
                module.stepped(self.progress.step)

    def training_step(self, batch: Fed, index: int) -> Tensor:
        """The loss to minimise.

        Raises:
            TrainingError: it is not a number.
        """
        loss = self._loss(self.taught[0], batch, self.carried if self.training_config.carry else None)
        # One look at the device a forward pass: a loss that is no number must not reach the weights.
        total, nll = torch.stack((loss.total.detach(), loss.nll.detach())).tolist()
        if not math.isfinite(total):
            raise self.diverged(self.progress.step + 1, f"the loss is {total}")
        if self.training_config.carry and loss.state is not None:
            self.carried = _settled(loss.state)
        self.losses.append(nll)
        self.told.append({name: value.detach() for name, value in (loss.auxiliary | loss.metrics).items()})
        self.read += batch.read
        return loss.total

    def validation_step(self, batch: Fed, index: int) -> Tensor:
        """(2,) float64: summed negative log-likelihood in nats, and how many tokens were scored."""
        carry = self.training_config.carry
        loss = self._loss(self.model, batch, self.heard if carry and index else None)
        self.heard = loss.state if carry else None
        scored = torch.tensor(float(loss.tokens), dtype=torch.float64, device=loss.nll.device)
        return torch.stack((loss.nll.double() * scored, scored))

    def _loss(self, model: LanguageModel | EncoderModel, batch: Fed, state: ModelState | None) -> Loss:
        """The loss of a batch that goes on from `state`: the mean over its scored tokens, also where it is cut."""
        targets = self._scored(batch)
        if isinstance(model, EncoderModel):
            return model.loss(batch.tokens, targets, positions=batch.positions)
        positions, sets = batch.positions, batch.sets
        if sets is not None:
            asked = batch.tokens, positions, sets.question
            state, positions = learning(model, *asked, sets.tokens, sets.positions)
        passages = None if batch.passages is None else Passages(batch.passages)
        if self.knn is not None:
            return self.knn.loss(batch.tokens, targets, state, positions=positions)
        time, cut = batch.tokens.shape[1], self.training_config.cut
        if cut is None or cut >= time:
            return model.loss(batch.tokens, targets, state, positions=positions, passages=passages)
        found: list[Loss] = []
        for begin in range(0, time, cut):
            at = slice(begin, begin + cut)
            state = state if state is None or not found else state.detach()
            own = self._part(passages, positions, at)
            given = batch.tokens[:, at], targets[:, at], state
            found.append(model.loss(*given, positions=positions[:, at], passages=own))
            state = found[-1].state
        return Loss.joined(found)

    def _part(self, passages: Passages | None, positions: Tensor, at: slice) -> Passages | None:
        """The passages of the chunks that end in the columns `at`."""
        if passages is None or self.model.config.neighbours is None:
            return passages
        return passages.part(positions, at, self.model.config.neighbours.chunk)

    def _scored(self, batch: Fed) -> Tensor:
        """The targets (B, T) without those of tokens that only fill the memory."""
        fill = self.training_config.fill
        return batch.targets.masked_fill(batch.positions < fill, IGNORED) if fill else batch.targets

    def measured(self) -> dict[str, float]:
        """What the layers told in this step, the mean over its forward passes, one number a column of metrics.csv."""
        if not self.told or not self.told[0]:
            return {}
        found: dict[str, float] = {}
        for name in self.told[0]:
            mean = torch.stack([told[name].double() for told in self.told]).mean(0)
            layer, _, metric = name.rpartition(".")
            if not layer:
                found[name] = float(mean)
                continue
            found |= {f"{metric}.{layer}.{place}": value for place, value in enumerate(mean.tolist())}
        return found

    def diverged(self, step: int, what: str) -> TrainingError:
        """What to tell a user whose loss is no longer a number."""
        rate = self.training_config.optimizer.learning_rate
        try_this = f"a lower training.optimizer.learning_rate (now {rate:g}) or a longer training.schedule.warmup"
        if self.training_config.precision != "fp32":
            try_this += ", or training.precision=fp32"
        return TrainingError(
            f"step {step}: {what}. Training stops here; checkpoints of earlier steps, if any, stay. Try {try_this}."
        )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; its learning rate is set before each step, so no schedule is registered."""
        return build_optimizer(self.model, self.training_config.optimizer)

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clips, and keeps the norm before it.

        Raises:
            TrainingError: the norm is not a number.
        """
        clip = self.training_config.optimizer.clip
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), math.inf if clip is None else clip)
        self.norm = float(norm)
        if not math.isfinite(self.norm):
            raise self.diverged(self.progress.step + 1, f"the gradient's norm is {self.norm}")

    def transfer_batch_to_device(self, batch: Fed, device: torch.device, dataloader_idx: int) -> Fed:
        return batch.to(device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds our entry; Lightning's own count of batches is left out, for the place in the data is our step."""
        del checkpoint["loops"]
        state = None if self.carried is None else self.carried.tensors()
        checkpoint[OURS] = {
            **self.kept,
            "progress": self.progress.mapping(),
            "generators": generators.capture(),
            "state": state,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps our entry until training begins: by then the model is on its device."""
        self.saved = checkpoint[OURS]
        self.progress = Progress.read(self.saved["progress"])

    def on_train_start(self) -> None:
        """Takes up what the checkpoint held, last of all: nothing draws from the generators in between."""
        if not self.saved:
            return
        state = self.saved["state"]
        if state is not None and isinstance(self.model, LanguageModel):
            empty = self.model.start(len(state["position"]))
            self.carried = empty.restored(state).to(self.device)
        generators.restore(self.saved["generators"])
        self.saved = {}


def _settled(state: ModelState) -> ModelState:
    """The state as it is read back from a checkpoint: no history, no slack, no strides. So both give the same bits."""
    plain = state.detach().compact()
    return plain.restored({name: tensor.contiguous() for name, tensor in plain.tensors().items()})
