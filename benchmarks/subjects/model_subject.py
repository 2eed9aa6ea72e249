"""A Farfield model as the runner sees it.

Shapes: B batch, T time, N candidates.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from farfield.benchmarks.subjects.subject import Capability, Lacking, Prefilled, Reading, Written
from farfield.benchmarks.subjects.ties import rounding, tied, tied_where
from farfield.benchmarks.tasks.sample import Ids
from farfield.config import ModelError
from farfield.context import trained_length
from farfield.forgetting import exchanged, without_memory
from farfield.generation import GenerationConfig, TextModel, continuing, opened
from farfield.generation import prefill as prefilled_prompts
from farfield.model import ModelState
from farfield.tokenizers import Tokenizer

__all__ = ["ModelSubject"]

PIECE = 2048  # tokens of a row that are read in one call
WHOLE = 1 << 40  # of a model whose answers depend on where calls end: a prompt is one call
LOGITS = 1 << 24  # logits that are held at once, whatever is read
CHOSEN = 1 << 14  # tokens of choices that are read at once
HELD = 1 << 28  # bytes of states that are repeated for choices


@dataclass(frozen=True)
class _Known:
    """The state behind some tokens, and the logits (B, V) there."""

    state: ModelState
    logits: Tensor


class ModelSubject:
    """A trained model, asked by ids.

    begin: the id that stands before every text, for models that were trained so; it does not count in lengths
    """

    def __init__(self, model: TextModel, name: str) -> None:
        self.model, self._name, self.begin = model, name, model.begin
        self.piece = PIECE if self._split_exact else WHOLE

    @property
    def name(self) -> str:
        return self._name

    @property
    def tokenizer(self) -> Tokenizer:
        return self.model.tokenizer

    @property
    def capabilities(self) -> frozenset[Capability]:
        found: set[Capability] = {"generate", "score"}
        if self.model.model.windows is None:  # tokens within a prompt are not read behind those before them
            found.add("read")
        if self._split_exact:
            found.add("state")
        if self.model.config.memory is not None:
            found.add("memory")
        return frozenset(found)

    @property
    def _split_exact(self) -> bool:
        """Whether a prompt may be read in pieces: any split into calls gives the same answer."""
        config = self.model.config
        exact = config.decoder.split_exact and (config.memory is None or config.memory.split_exact)
        return exact and self.model.model.windows is None

    def describe(self) -> Mapping[str, object]:
        """Architecture, memory, sizes, the training length where it is known, and a fingerprint of the weights."""
        config, windows = self.model.config, self.model.model.windows
        kinds = sorted({config.architecture.layer(i).mixer.kind for i in range(config.architecture.depth)})
        return {
            "name": self.name,
            "architecture": "+".join(kinds),
            "memory": config.memory.name if config.memory else None,
            "parameters": config.parameters(),
            "dtype": str(self.model.model.embedding.weight.dtype).removeprefix("torch."),
            "config": config.mapping(),
            "trained_length": trained_length(self.model.info),
            "step": self.model.info.get("step"),
            "weights": self._fingerprint(),
            **({} if self.begin is None else {"begin": self.begin}),
            **({} if windows is None else {"windows": windows.mapping()}),
        }

    def bare(self) -> ModelSubject:
        """The same model, which reads what it is given and nothing before it."""
        other = copy.copy(self)
        other.begin = None
        return other

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
        if self.model.model.windows is not None:
            assert after is None, "windows are those of whole prompts"
            logits, state = prefilled_prompts(self.model.model, [opened(row, self.begin) for row in ids.tolist()])
            return _Known(state, logits)
        state = after.state if after is not None else self._start(ids)
        hidden = torch.empty(0)
        for first in range(0, ids.shape[1], self.piece):
            hidden, state = self.model.hidden(ids[:, first : first + self.piece], state)
        return _Known(state, self.model.head(hidden[:, -1]))

    def _start(self, ids: Tensor) -> ModelState:
        """The state before ids (B, T): behind the beginning of a text, unless they bring it."""
        state = self.model.start(len(ids))
        if self.begin is None or bool((ids[:, 0] == self.begin).all()):
            return state
        _, state = self.model.hidden(torch.full_like(ids[:, :1], self.begin), state)
        return state

    def generate(self, prefilled: Prefilled, budget: int, stop: tuple[str, ...] = ()) -> Written:
        assert isinstance(prefilled, _Known)
        config = GenerationConfig(tokens=budget)
        decoding = continuing(self.model.model, prefilled.logits, prefilled.state, config)
        found: list[list[int]] = [[] for _ in decoding.rows]
        ties = [0] * len(found)
        for step in range(budget):
            for row, tie in zip(decoding.rows, tied(decoding.logits), strict=True):
                ties[row] += tie
            chosen = decoding.ids()
            for row, token in chosen.items():
                found[row].append(token)
            ended = {row for row in chosen if self._ended(found[row], stop)}
            if len(ended) == len(chosen) or step == budget - 1:
                break
            decoding.advance(ended)
        return Written(found, ties)

    def _ended(self, ids: list[int], stop: tuple[str, ...]) -> bool:
        if ids[-1] in self.tokenizer.ends:
            return True
        return bool(stop) and any(text in self.tokenizer.decode(ids) for text in stop)

    def score(self, prefilled: Prefilled, candidates: NDArray[np.int64]) -> NDArray[np.floating]:
        assert isinstance(prefilled, _Known)
        ids = torch.as_tensor(np.asarray(candidates, dtype=np.int64), device=prefilled.logits.device)
        found: NDArray[np.floating] = _logprobs(prefilled.logits).gather(1, ids).cpu().numpy()
        return found

    def rounding(self, prefilled: Prefilled) -> NDArray[np.float64]:
        assert isinstance(prefilled, _Known)
        found: NDArray[np.float64] = rounding(prefilled.logits.detach()).cpu().numpy()
        return found

    @torch.no_grad()
    def choose(self, prefilled: Prefilled, choices: Sequence[Sequence[Ids]]) -> list[NDArray[np.float64]]:
        """See `Subject.choose`: choices of one length go through the model together, each behind its row's state."""
        assert isinstance(prefilled, _Known)
        first, found = _logprobs(prefilled.logits), [np.empty(len(row)) for row in choices]
        lengths: dict[int, list[tuple[int, int]]] = {}
        for row, several in enumerate(choices):
            for number, choice in enumerate(several):
                lengths.setdefault(len(choice), []).append((row, number))
        held = max(1, prefilled.state.bytes // len(prefilled.logits))
        for length, places in lengths.items():
            count = max(1, min(CHOSEN // length, HELD // held))
            for begin in range(0, len(places), count):
                part = places[begin : begin + count]
                rows = torch.tensor([row for row, _ in part], device=first.device)
                ids: NDArray[np.int64] = np.stack([choices[row][number] for row, number in part]).astype(np.int64)
                total = first[rows, torch.as_tensor(ids[:, 0], device=first.device)].double().cpu().numpy()
                if length > 1:
                    state = prefilled.state.select(rows)
                    total += self._read(ids[:, :-1], ids[:, 1:], state).logprobs.sum(1)
                for (row, number), one in zip(part, total, strict=True):
                    found[row][number] = one
        return found

    @torch.no_grad()
    def read(self, tokens: NDArray[np.int64], targets: NDArray[np.int64], after: Prefilled | None = None) -> Reading:
        assert after is None or isinstance(after, _Known)
        ids = torch.as_tensor(np.asarray(tokens, dtype=np.int64), device=self.model.device)
        return self._read(tokens, targets, self._start(ids) if after is None else after.state)

    @torch.no_grad()
    def _read(self, tokens: NDArray[np.int64], targets: NDArray[np.int64], state: ModelState) -> Reading:
        ids = torch.as_tensor(np.asarray(tokens, dtype=np.int64), device=self.model.device)
        wanted = torch.as_tensor(np.asarray(targets, dtype=np.int64), device=self.model.device)
        likely, logprobs, ties, hidden = [], [], [], torch.empty(0)
        for first in range(0, ids.shape[1], self.piece):
            hidden, state = self.model.hidden(ids[:, first : first + self.piece], state)
            aims = wanted[:, first : first + self.piece].split(self._columns(len(ids)), 1)
            for part, aim in zip(hidden.split(self._columns(len(ids)), 1), aims, strict=True):
                logits = self.model.head(part)
                chosen = _logprobs(logits).gather(-1, aim.clamp(min=0)[..., None])[..., 0]
                logprobs.append(torch.where(aim < 0, 0.0, chosen.double()).cpu())
                likely.append(logits.argmax(-1).cpu())
                ties.append(tied_where(logits, aim >= 0).cpu())
        known = _Known(state, self.model.head(hidden[:, -1]))
        return Reading(known, *(torch.cat(column, 1).numpy() for column in (likely, logprobs, ties)))

    def _columns(self, batch: int) -> int:
        """Columns whose logits are held at once."""
        return max(1, LOGITS // (batch * self.model.config.vocabulary))

    def select(self, prefilled: Prefilled, rows: Sequence[int]) -> Prefilled:
        assert isinstance(prefilled, _Known)
        index = torch.tensor(rows, dtype=torch.int64, device=prefilled.logits.device)
        return _Known(prefilled.state.select(index), prefilled.logits[index])

    def without_memory(self) -> ModelSubject:
        try:
            return self._alone
        except ModelError as reason:
            raise Lacking(str(reason)) from None

    @cached_property
    def _alone(self) -> ModelSubject:
        alone = without_memory(self.model.model)
        return ModelSubject(TextModel(alone, self.tokenizer, self.model.info), f"{self.name} without its memory")

    def shuffled(self, prefilled: Prefilled, seed: int) -> Prefilled:
        assert isinstance(prefilled, _Known)
        try:
            return replace(prefilled, state=exchanged(self.model.model, prefilled.state, seed))
        except ModelError as reason:
            raise Lacking(str(reason)) from None


def _logprobs(logits: Tensor) -> Tensor:
    """Log-probabilities (..., V) in nats, float32 or wider, of logits (..., V)."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
