"""Hidden states of a model that was trained here, as vectors of texts and as states of their tokens.

    text ──> tokens ──> parts of at most `tokens` ──> output of a layer in the middle ──> mean over all tokens

Hidden states of language models point in one direction more than they differ; the index takes the mean of its whole
collection off (`Embedder.centred`). Which weights made them is part of what is kept: the version is the model's
fingerprint, and after further training the next ingest embeds anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from farfield import pretrained
from farfield.config import IndexingError
from farfield.model import fingerprint
from farfield.retrieval.embedders import FunctionEmbedder, Matrix
from farfield.retrieval.settings import HiddenConfig

__all__ = ["HiddenStates"]


class HiddenStates:
    """A layer's output at each token of texts. Which texts are read at once changes nothing but the time."""

    centred = True

    def __init__(self, config: HiddenConfig) -> None:
        """Loads the model.

        Raises:
            ModelError: nothing there, or it cannot be used. IndexingError: it has no such layer.
        """
        self._model, self._tokenizer, info = pretrained.load(config.model)
        depth = len(self._model.decoder.layers)
        self._layer = config.layer or -(-depth // 2)
        if self._layer > depth:
            raise IndexingError(f"embedder.layer: {self._layer} given, but '{config.model}' has {depth} layers.")
        self._most, self._batch = config.tokens, config.batch
        self._begin: int | None = info.get("begin")
        self.dimension = self._model.config.architecture.width
        self.name = f"hidden-1 model={info['name']} layer={self._layer} tokens={config.tokens}"
        self.version = fingerprint(self._model)

    def vectors(self, texts: Sequence[str]) -> Matrix:
        """(texts, dimension): the mean over each text's tokens; zeros for a text without any."""
        out = np.zeros((len(texts), self.dimension), np.float32)
        for row, states in zip(out, self.states(texts), strict=True):
            if len(states):
                row[:] = states.mean(axis=0, dtype=np.float64)
        return out

    def embedder(self) -> FunctionEmbedder:
        """An embedder of its vectors."""
        return FunctionEmbedder(self.name, self.dimension, self.vectors, version=self.version, centred=self.centred)

    def states(self, texts: Sequence[str]) -> list[Matrix]:
        """The layer's output at each text's tokens, (tokens, dimension) each."""
        parts: list[list[int]] = []
        owners: list[int] = []
        for number, text in enumerate(texts):
            ids = self._tokenizer.encode(text)
            cut = [ids[first : first + self._most] for first in range(0, len(ids), self._most)]
            parts += cut
            owners += [number] * len(cut)
        found: list[Matrix] = [np.zeros((0, self.dimension), np.float32)] * len(parts)
        for batch in self._batches(parts):
            for place, states in zip(batch, self._read([parts[place] for place in batch]), strict=True):
                found[place] = states
        empty = np.zeros((0, self.dimension), np.float32)
        own: list[list[Matrix]] = [[empty] for _ in texts]
        for owner, states in zip(owners, found, strict=True):
            own[owner].append(states)
        return [np.concatenate(states) for states in own]

    def _batches(self, parts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Places of parts of about the same length, so many that they hold at most `batch` tokens with padding."""
        batch: list[int] = []
        for place in sorted(range(len(parts)), key=lambda place: len(parts[place])):
            if batch and (len(batch) + 1) * len(parts[place]) > self._batch:
                yield batch
                batch = []
            batch.append(place)
        if batch:
            yield batch

    @torch.no_grad()
    def _read(self, rows: Sequence[Sequence[int]]) -> list[Matrix]:
        """The layer's output at each row's tokens; each row is a document, with padding behind it.

        A model that was trained with a token before each text gets it, and what it says of that one is left out.
        """
        begin = [] if self._begin is None else [self._begin]
        rows = [[*begin, *row] for row in rows]
        lengths = torch.tensor([len(row) for row in rows])
        tokens = nn.utils.rnn.pad_sequence([torch.tensor(row, dtype=torch.int64) for row in rows], batch_first=True)
        column = torch.arange(tokens.shape[1])
        positions = torch.where(column < lengths[:, None], column, -1)
        device = self._model.device
        with self._tapped() as outputs:
            self._model.hidden(tokens.to(device), positions=positions.to(device))
        states = outputs[-1].float().cpu().numpy()
        return [one[len(begin) : length] for one, length in zip(states, lengths.tolist(), strict=True)]

    @contextmanager
    def _tapped(self) -> Iterator[list[Tensor]]:
        """What the layer gives while this lasts, the newest last."""
        outputs: list[Tensor] = []
        layer = self._model.decoder.layers[self._layer - 1]
        tap = layer.register_forward_hook(lambda module, given, found: outputs.append(found[0]))
        try:
            yield outputs
        finally:
            tap.remove()
