"""The model with what its datastore finds: kNN-LM in training and in generation.

    context ──> key ──> neighbours ──> mixed with the model's own distribution

The search is between two calls, never inside of a model's: `keyed` gives the key, the caller searches, and the mixture
comes after it. `farfield.memory.knn_lm` is the mixture, `farfield.retrieval.datastore` what is searched.

Shapes: B rows, T time, n tokens, D width, K neighbours, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from farfield.architectures.decoder import Decoder, Layer
from farfield.architectures.ops.cross_entropy import IGNORED
from farfield.config import ModelError
from farfield.inputs import check_targets
from farfield.memory import OutputConfig, Passages
from farfield.memory.knn_lm import Found, log_mixture, log_mixture_of
from farfield.model import LanguageModel, Loss, ModelState
from farfield.retrieval.automaton import Automaton, Steps
from farfield.retrieval.datastore import Datastore, Neighbours

__all__ = ["Key", "KnnLM", "Mixing", "check_weight", "keyed", "numbers"]

Ids = npt.NDArray[np.int64]
Key = Literal["feedforward", "output"]


class KnnLM:
    """A model with a datastore of its own: its distribution mixed with that of the neighbours.

    `automaton` saves searches while rows go on token by token.
    """

    def __init__(
        self, model: LanguageModel, store: Datastore, config: OutputConfig, automaton: Automaton | None = None
    ) -> None:
        """Raises ModelError where the weight is learned, and the model has learnt none."""
        check_weight(model, config)
        self.model, self.store, self.config, self.automaton = model, store, config, automaton

    def keyed(
        self,
        tokens: Tensor,
        state: ModelState | None = None,
        *,
        positions: Tensor | None = None,
        passages: Passages | None = None,
    ) -> tuple[Tensor, Tensor, ModelState]:
        """As `LanguageModel.hidden`, with the keys (B, T, D) in between."""
        return keyed(self.model, self.config.key, tokens, state, positions=positions, passages=passages)

    def search(self, keys: Tensor, without: Ids | None = None) -> Found:
        """The neighbours (n, K) of keys (n, D); `without` (n,) as in `Datastore.search`."""
        return self.tensors(self.store.search(numbers(keys), self.config.k, without))

    def tensors(self, found: Neighbours) -> Found:
        """What a search found, where the model is."""
        place = self.model.device
        return Found(torch.from_numpy(found.values).to(place), torch.from_numpy(found.distances).to(place))

    def log_probs(self, logits: Tensor, keys: Tensor, found: Found) -> Tensor:
        """The mixture (n, V), as logarithms, of the model's logits (n, V)."""
        weight, temperature = self._weight(logits, keys, found)
        return log_mixture(logits.float(), found, temperature, weight)

    def log_probs_of(self, logits: Tensor, targets: Tensor, keys: Tensor, found: Found) -> Tensor:
        """The same of targets (n,) alone: (n,)."""
        weight, temperature = self._weight(logits, keys, found)
        own = logits.float().log_softmax(-1).gather(1, targets[:, None])[:, 0]
        return log_mixture_of(own, targets, found, temperature, torch.as_tensor(weight, device=own.device))

    def loss(
        self,
        tokens: Tensor,
        targets: Tensor,
        state: ModelState | None = None,
        *,
        positions: Tensor | None = None,
        piece: int = 1024,
    ) -> Loss:
        """As `LanguageModel.loss`, of the mixture. The layers have no gradients: only the weight is learned."""
        with torch.no_grad():
            hidden, keys, state = self.keyed(tokens, state, positions=positions)
        check_targets(tokens, targets, self.model.config.vocabulary)
        scored = targets != IGNORED
        hidden, keys, targets = hidden[scored], keys[scored], targets[scored]
        nll = hidden.new_zeros(())
        for first in range(0, len(targets), piece):
            part = slice(first, first + piece)
            with torch.no_grad():
                logits, found = self.model.head(hidden[part]), self.search(keys[part])
            nll = nll - self.log_probs_of(logits, targets[part], keys[part], found).sum()
        nll = nll / max(len(targets), 1)
        return Loss(nll, nll, {}, {}, len(targets), state)

    def _weight(self, logits: Tensor, keys: Tensor, found: Found) -> tuple[Tensor | float, Tensor | float]:
        if isinstance(self.config.weight, float):
            return self.config.weight, self.config.temperature
        assert self.model.mixing is not None
        return self.model.mixing(keys, logits, found), self.model.mixing.temperature


def check_weight(model: LanguageModel, config: OutputConfig) -> None:
    """Raise ModelError where the weight is learned, and the model has learnt none."""
    if config.weight == "learned" and model.mixing is None:
        raise ModelError(
            "augmentation.weight: learned given, but the model has learnt none. Give a share, or train one: "
            "farfield train start=<the run> augmentation=output."
        )


class Mixing:
    """Rows that go on token by token, with what the datastore finds in their logits.

    Takes the place of a model's `hidden` and `head`: between them travels the key beside the hidden state.
    """

    def __init__(self, knn: KnnLM, rows: int) -> None:
        self.knn = knn
        self.steps = None if knn.automaton is None else Steps(knn.automaton, rows, knn.config.k)

    def read(
        self,
        tokens: Tensor,
        state: ModelState | None = None,
        *,
        positions: Tensor | None = None,
        passages: Passages | None = None,
    ) -> tuple[Tensor, ModelState]:
        """Hidden states and keys (B, T, 2 D), and the state behind them."""
        hidden, keys, state = self.knn.keyed(tokens, state, positions=positions, passages=passages)
        return torch.cat((hidden, keys.to(hidden.dtype)), -1), state

    def logits(self, read: Tensor) -> Tensor:
        """Log-probabilities (B, V) behind what was read (B, 2 D)."""
        hidden, keys = read.chunk(2, -1)
        found = self.knn.search(keys) if self.steps is None else self.knn.tensors(self.steps.read(numbers(keys)))
        return self.knn.log_probs(self.knn.model.head(hidden), keys, found)

    def came(self, tokens: Sequence[int]) -> None:
        """The tokens that were chosen, one a row."""
        if self.steps is not None:
            self.steps.came(tokens)

    def select(self, rows: Sequence[int]) -> None:
        """Goes on with these rows alone."""
        if self.steps is not None:
            self.steps.select(rows)


def keyed(
    model: LanguageModel,
    key: Key,
    tokens: Tensor,
    state: ModelState | None = None,
    *,
    positions: Tensor | None = None,
    passages: Passages | None = None,
) -> tuple[Tensor, Tensor, ModelState]:
    """Hidden states and keys (B, T, D), and the state behind them; padding, if any, stands behind a row's tokens.

    Where there is no last feed-forward to look into (a layer without one, or a memory around the whole stack, which
    runs it segment by segment), the key is the layers' output.
    """
    seen: list[Tensor] = []
    last = None if key == "output" else _last(model)
    tap = last and last.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    try:
        hidden, state = model.hidden(tokens, state, positions=positions, passages=passages)
    finally:
        if tap:
            tap.remove()
    return hidden, seen[-1] if seen else hidden, state


def _last(model: LanguageModel) -> nn.Module | None:
    """The last feed-forward, where it sees whole calls."""
    if not isinstance(model.stack, Decoder):
        return None
    layer = model.stack.layers[-1]
    assert isinstance(layer, Layer)
    return None if layer.feedforward_norm is None else layer.feedforward


def numbers(keys: Tensor) -> npt.NDArray[np.float32]:
    """Keys as the datastore takes them."""
    found: npt.NDArray[np.float32] = keys.detach().float().cpu().numpy()
    return found
