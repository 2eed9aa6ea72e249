"""A Farfield model as the runner sees it.

Shapes: B batch, T time, N candidates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from farfield.benchmarks.subjects import Capability, Prefilled, Reading, Written
from farfield.benchmarks.tasks.sample import Ids
from farfield.generation import Decoding, GenerationConfig, TextModel
from farfield.model import ModelState
from farfield.tokenizers import Tokenizer

__all__ = ["ModelSubject"]

PIECE = 2048  # tokens that are prefilled in one call


@dataclass(frozen=True)
class _Known:
    """The state behind some tokens, and the logits (B, V) there."""

    state: ModelState
    logits: Tensor


class ModelSubject:
    """A trained model, asked by ids."""

    def __init__(self, model: TextModel, name: str) -> None:
        self.model, self._name = model, name

    @property
    def name(self) -> str:
        return self._name

    @property
    def tokenizer(self) -> Tokenizer:
        return self.model.tokenizer

    @property
    def capabilities(self) -> frozenset[Capability]:
        return frozenset(("state", "generate", "score", "read"))

    def describe(self) -> Mapping[str, object]:
        """Architecture, memory, sizes, the training length where it is known, and a fingerprint of the weights."""
        config, trained = self.model.config, self.model.info.get("config", {})
        kinds = sorted({config.architecture.layer(i).mixer.kind for i in range(config.architecture.depth)})
        data: Any = trained.get("data", {})
        return {
            "name": self.name,
            "architecture": "+".join(kinds),
            "memory": config.memory.name if config.memory else None,
            "parameters": config.parameters(),
            "config": config.mapping(),
            "trained_length": data.get("length"),
            "step": self.model.info.get("step"),
            "weights": self._fingerprint(),
        }

    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def state_bytes(self, length: int) -> int:
        return self.model.config.state_bytes(length, self.model.model.embedding.weight.element_size())

    @torch.no_grad()
    def prefill(self, tokens: NDArray[np.int64], after: Prefilled | None = None) -> Prefilled:
        assert after is None or isinstance(after, _Known)
        ids = torch.as_tensor(np.asarray(tokens, dtype=np.int64), device=self.model.device)
        state = after.state if after is not None else self.model.start(ids.shape[0])
        hidden = torch.empty(0)
        for first in range(0, ids.shape[1], PIECE):
            hidden, state = self.model.hidden(ids[:, first : first + PIECE], state)
        return _Known(state, self.model.head(hidden[:, -1]))

    def generate(self, prefilled: Prefilled, budget: int, stop: tuple[str, ...] = ()) -> Written:
        assert isinstance(prefilled, _Known)
        config = GenerationConfig(tokens=budget)
        decoding = Decoding(self.model.model, prefilled.logits, prefilled.state, config)
        found: list[list[int]] = [[] for _ in decoding.rows]
        for step in range(budget):
            chosen = decoding.ids()
            for row, token in chosen.items():
                found[row].append(token)
            ended = {row for row in chosen if self._ended(found[row], stop)}
            if len(ended) == len(chosen) or step == budget - 1:
                break
            decoding.advance(ended)
        return Written(found, [0] * len(found))

    def _ended(self, ids: list[int], stop: tuple[str, ...]) -> bool:
        if ids[-1] == self.tokenizer.end:
            return True
        return bool(stop) and any(text in self.tokenizer.decode(ids) for text in stop)

    def score(self, prefilled: Prefilled, candidates: NDArray[np.int64]) -> NDArray[np.floating]:
        assert isinstance(prefilled, _Known)
        ids = torch.as_tensor(np.asarray(candidates, dtype=np.int64), device=prefilled.logits.device)
        found: NDArray[np.floating] = prefilled.logits.float().log_softmax(-1).gather(1, ids).cpu().numpy()
        return found

    def choose(self, prefilled: Prefilled, choices: Sequence[Sequence[Ids]]) -> list[NDArray[np.float64]]:
        assert isinstance(prefilled, _Known)
        found = [np.empty(len(row)) for row in choices]
        for at, row in enumerate(choices):
            known = _Known(
                prefilled.state.select(torch.tensor([at], device=prefilled.logits.device)),
                prefilled.logits[at : at + 1],
            )
            for number, choice in enumerate(row):
                first = float(self.score(known, choice[None, :1].astype(np.int64))[0, 0])
                rest = 0.0
                if len(choice) > 1:
                    tokens, targets = choice[None, :-1].astype(np.int64), choice[None, 1:].astype(np.int64)
                    rest = float(self.read(tokens, targets, known).logprobs.sum())
                found[at][number] = first + rest
        return found

    @torch.no_grad()
    def read(self, tokens: NDArray[np.int64], targets: NDArray[np.int64], after: Prefilled | None = None) -> Reading:
        assert after is None or isinstance(after, _Known)
        ids = torch.as_tensor(np.asarray(tokens, dtype=np.int64), device=self.model.device)
        wanted = torch.as_tensor(np.asarray(targets, dtype=np.int64), device=self.model.device)
        state = after.state if after is not None else self.model.start(ids.shape[0])
        likely, logprobs, last = [], [], torch.empty(0)
        for first in range(0, ids.shape[1], PIECE):
            hidden, state = self.model.hidden(ids[:, first : first + PIECE], state)
            logits = self.model.head(hidden)
            aim = wanted[:, first : first + PIECE]
            chosen = logits.log_softmax(-1).gather(-1, aim.clamp(min=0)[..., None])[..., 0]
            logprobs.append(torch.where(aim < 0, 0.0, chosen.double()).cpu())
            likely.append(logits.argmax(-1).cpu())
            last = logits[:, -1]
        return Reading(_Known(state, last), torch.cat(likely, 1).numpy(), torch.cat(logprobs, 1).numpy())

    def without_memory(self) -> ModelSubject:
        raise NotImplementedError

    def shuffled(self, prefilled: Prefilled, seed: int) -> Prefilled:
        raise NotImplementedError
