"""A causal language model of Hugging Face, from a folder, as the runner sees it.

    subject = HubSubject(*load_hub("models/stories260k", torch.float32, "cpu"), name="stories260k", settings=settings)

The model is transformers' own class, called as its `generate` calls it. Whether its cache goes on exactly from where a
piece of text ended is tried when it is opened: of recurrent models of transformers many read a whole text right and one
token more, but not a second piece. Such a model reads each prompt in one call, and shares no beginnings.

Shapes: B batch, T time, V vocabulary.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.cache_utils import Cache

from farfield.architectures.saved_state import checksum
from farfield.benchmarks.subjects.hf_tokenizer import HubTokenizer, Template, answer_start, begin_of, template_of
from farfield.benchmarks.subjects.subject import Capability, Lacking, Prefilled, Reading, Written, incapable
from farfield.benchmarks.subjects.subject_settings import HuggingFaceConfig
from farfield.benchmarks.subjects.ties import rounding, tied, tied_where
from farfield.benchmarks.tasks.sample import Ids, Turn
from farfield.config import ModelError
from farfield.huggingface.caches import branch, cache_bytes, rows
from farfield.huggingface.positions import learnt_positions

__all__ = ["HubSubject"]

CACHES = ("past_key_values", "cache_params")  # what models call what they carry from call to call
PROBE = 24  # tokens on which a cache is tried
LOGITS = 1 << 27  # logits that are held at once


@dataclass(frozen=True)
class _Known:
    """The cache behind some tokens, how many there are, and the logits (B, V) there."""

    cache: Cache
    seen: int
    logits: Tensor


class HubSubject:
    """A model of transformers with its tokenizer."""

    def __init__(self, model: Any, tokenizer: Any, name: str, settings: HuggingFaceConfig) -> None:
        """Tries how the model's cache goes on.

        Raises:
            ModelError: it goes on from nowhere. ConfigError: the tokenizer has not what the settings ask for.
        """
        self.model, self._name, self.settings = model, name, settings
        begin = begin_of(tokenizer, settings.begin)
        self._tokenizer = HubTokenizer(tokenizer, begin)
        self.turn: Turn = "begun" if settings.chat else "none"
        self.template = template_of(self._tokenizer, settings.system, begin) if settings.chat else Template(begin=begin)
        self.takes = frozenset(inspect.signature(model.forward).parameters)
        self.carried = next((one for one in CACHES if one in self.takes), None)
        self.longest = learnt_positions(model)
        self.ends = _ends(model, tokenizer)
        self.pieces, self._probed = self._tried()

    @property
    def name(self) -> str:
        return self._name

    @property
    def tokenizer(self) -> HubTokenizer:
        return self._tokenizer

    @property
    def capabilities(self) -> frozenset[Capability]:
        """In a chat a prompt is wrapped as a whole, and nothing is asked within it."""
        if self.turn != "none":
            return frozenset(("generate", "score"))
        return frozenset(("generate", "score", "read", "state") if self.pieces else ("generate", "score", "read"))

    def describe(self) -> Mapping[str, object]:
        """The class, sizes, the format of prompts, the training length where it is known, and the weights."""
        config, weights = self.model.config, self.model.state_dict()
        return {
            "name": self.name,
            "architecture": type(self.model).__name__,
            "memory": None,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "precision": str(self.model.dtype).removeprefix("torch."),
            "trained_length": getattr(config, "max_position_embeddings", None),
            "begin": self.template.begin,
            "chat": self.settings.chat,
            "system": self.settings.system,
            "added_tokens": self.template.tokens,
            "weights": checksum({key: one.detach().cpu().contiguous() for key, one in weights.items()})[:16],
        }

    def state_bytes(self, length: int) -> int:
        return cache_bytes(self._probed, length)

    @torch.no_grad()
    def prefill(self, tokens: NDArray[np.int64], after: Prefilled | None = None) -> Prefilled:
        assert after is None or isinstance(after, _Known)
        if after is not None:
            return self._prefilled(self._ids(tokens), after)
        if self.turn == "none":
            return self._prefilled(self._opened(tokens), None)
        wrapped = [self.template.wrap(row, self._split(row)) for row in tokens.tolist()]
        if len({len(row) for row in wrapped}) == 1:
            return self._prefilled(self._ids(np.array(wrapped)), None)
        return [self._prefilled(self._ids(np.array([row])), None) for row in wrapped]

    @torch.no_grad()
    def select(self, prefilled: Prefilled, rows: Sequence[int]) -> Prefilled:
        assert isinstance(prefilled, _Known)
        return self._rows(prefilled, rows)

    @torch.no_grad()
    def generate(self, prefilled: Prefilled, budget: int, stop: tuple[str, ...] = ()) -> Written:
        parts = [self._written(known, budget, stop) for known in _parts(prefilled)]
        return Written([row for part in parts for row in part.ids], [one for part in parts for one in part.ties])

    @torch.no_grad()
    def score(self, prefilled: Prefilled, candidates: NDArray[np.int64]) -> NDArray[np.floating]:
        logits = torch.cat([known.logits for known in _parts(prefilled)])
        found: NDArray[np.floating] = _logprobs(logits).gather(1, self._ids(candidates)).cpu().numpy()
        return found

    def rounding(self, prefilled: Prefilled) -> NDArray[np.float64]:
        found: NDArray[np.float64] = torch.cat([rounding(known.logits) for known in _parts(prefilled)]).cpu().numpy()
        return found

    @torch.no_grad()
    def choose(self, prefilled: Prefilled, choices: Sequence[Sequence[Ids]]) -> list[NDArray[np.float64]]:
        """The choices of one row go through the model side by side, padded on the right; nothing reads the padding."""
        found, row = [], 0
        for known in _parts(prefilled):
            for at in range(known.logits.shape[0]):
                one = self._rows(known, [at])
                found.append(self._chosen(one, choices[row]))
                row += 1
        return found

    @torch.no_grad()
    def read(self, tokens: NDArray[np.int64], targets: NDArray[np.int64], after: Prefilled | None = None) -> Reading:
        assert after is None or isinstance(after, _Known)
        ids = self._ids(tokens) if after is not None else self._opened(tokens)
        extra = ids.shape[1] - tokens.shape[1]
        wanted = nn.functional.pad(self._ids(targets), (extra, 0), value=-1)
        likely, logprobs, ties, known = [], [], [], after
        for first, last in self._spans(ids, after, LOGITS):
            logits, known = self._forward(ids[:, first:last], known, whole=True)
            aim = wanted[:, first:last]
            chosen = _logprobs(logits).gather(-1, aim.clamp(min=0)[..., None])[..., 0].double()
            logprobs.append(torch.where(aim < 0, 0.0, chosen).cpu())
            likely.append(logits.argmax(-1).cpu())
            ties.append(tied_where(logits, aim >= 0).cpu())
        return Reading(known, *(torch.cat(column, 1)[:, extra:].numpy() for column in (likely, logprobs, ties)))

    @property
    def turns(self) -> frozenset[Turn]:
        return frozenset(("begun", "whole", "none") if self.settings.chat else ())

    def taking(self, turn: Turn) -> HubSubject:
        if turn not in self.turns:
            return self
        other = copy.copy(self)
        other.turn = turn
        other.template = Template(begin=self.template.begin) if turn == "none" else self.template
        return other

    def bare(self) -> HubSubject:
        """The same model, which reads what it is given and nothing before it."""
        other = copy.copy(self)
        other.template = Template()
        return other

    def without_memory(self) -> HubSubject:
        raise incapable(self, "memory")

    def shuffled(self, prefilled: Prefilled, seed: int) -> Prefilled:
        raise incapable(self, "memory")

    def _split(self, prompt: Sequence[int]) -> int:
        """Where the user's turn ends in a prompt."""
        return answer_start(self.tokenizer, prompt) if self.turn == "begun" else len(prompt)

    def _ids(self, tokens: NDArray[np.int64]) -> Tensor:
        return torch.as_tensor(np.asarray(tokens, dtype=np.int64), device=self.model.device)

    def _opened(self, tokens: NDArray[np.int64]) -> Tensor:
        """`tokens` (B, T) behind what a text begins with, which is there once, even if a task brings it."""
        firsts = set(tokens[:, 0].tolist())
        opened = self.template.opened(firsts.pop() if len(firsts) == 1 else -1)
        return self._ids(np.concatenate([np.tile(np.array(opened, dtype=np.int64), (len(tokens), 1)), tokens], axis=1))

    def _spans(self, ids: Tensor, after: _Known | None, most: int = 1 << 62) -> list[tuple[int, int]]:
        """The calls in which ids (B, T) are read: pieces, or where a cache cannot go on from one, all or each."""
        time = ids.shape[1]
        piece = max(1, min(self.settings.piece, most // (ids.shape[0] * self.model.config.vocab_size)))
        if not self.pieces:
            piece = time if after is None else 1
        return [(first, min(first + piece, time)) for first in range(0, time, piece)]

    def _prefilled(self, ids: Tensor, after: _Known | None) -> _Known:
        known = after
        for first, last in self._spans(ids, after):
            _, known = self._forward(ids[:, first:last], known)
        assert known is not None, "a prompt has tokens"
        return known

    def _forward(self, ids: Tensor, after: _Known | None, whole: bool = False) -> tuple[Tensor, _Known]:
        """Logits (B, T, V) behind each of ids (B, T), or behind the last alone, and what is known then."""
        seen = ids.shape[1] + (after.seen if after else 0)
        if self.longest is not None and seen > self.longest:
            raise Lacking(f"needs {seen:,} positions, and {self.name} has learnt {self.longest:,}")
        assert self.carried is not None, "tried when it was opened"
        given: dict[str, Any] = {"use_cache": True, self.carried: branch(after.cache) if after else None}
        if "logits_to_keep" in self.takes and not whole:
            given["logits_to_keep"] = 1
        found = self.model(ids, **given)
        logits: Tensor = found.logits
        return logits, _Known(getattr(found, self.carried), seen, logits[:, -1])

    def _rows(self, known: _Known, index: Sequence[int]) -> _Known:
        places = torch.tensor(index, device=known.logits.device)
        return replace(known, cache=rows(known.cache, places), logits=known.logits[places])

    def _written(self, known: _Known, budget: int, stop: tuple[str, ...]) -> Written:
        found: list[list[int]] = [[] for _ in range(known.logits.shape[0])]
        ties, going = [0] * len(found), list(range(len(found)))
        for step in range(budget):
            chosen = known.logits.argmax(-1)
            for place, (token, tie) in enumerate(zip(chosen.tolist(), tied(known.logits), strict=True)):
                found[going[place]].append(token)
                ties[going[place]] += tie
            kept = [place for place, row in enumerate(going) if not self._ended(found[row], stop)]
            if not kept or step == budget - 1:
                break
            if len(kept) < len(going):
                known, chosen = self._rows(known, kept), chosen[kept]
                going = [going[place] for place in kept]
            _, known = self._forward(chosen[:, None], known)
        return Written(found, ties)

    def _ended(self, ids: list[int], stop: tuple[str, ...]) -> bool:
        if ids[-1] in self.ends:
            return True
        return bool(stop) and any(text in self.tokenizer.decode(ids) for text in stop)

    def _chosen(self, known: _Known, choices: Sequence[Ids]) -> NDArray[np.float64]:
        """Log-probability of each of `choices` behind the one row of `known`."""
        first = _logprobs(known.logits)[0]
        found = np.array([float(first[int(choice[0])]) for choice in choices])
        longest = max(len(choice) for choice in choices)
        if longest == 1:
            return found
        padded = np.zeros((len(choices), longest), dtype=np.int64)
        for at, choice in enumerate(choices):
            padded[at, : len(choice)] = choice
        side = max(1, LOGITS // (longest * self.model.config.vocab_size))
        for low in range(0, len(choices), side):
            ids = self._ids(padded[low : low + side])
            repeated, parts = self._rows(known, [0] * len(ids)), []
            for start, end in self._spans(ids[:, :-1], repeated, LOGITS):
                logits, repeated = self._forward(ids[:, start : min(end, longest - 1)], repeated, whole=True)
                parts.append(_logprobs(logits).gather(-1, ids[:, start + 1 : end + 1, None])[..., 0].double())
            logprobs = torch.cat(parts, 1).cpu().numpy()
            for at, choice in enumerate(choices[low : low + side]):
                found[low + at] += logprobs[at, : len(choice) - 1].sum()
        return found

    @torch.no_grad()
    def _tried(self) -> tuple[bool, Cache]:
        """Whether the cache goes on from any piece, and one of PROBE tokens."""
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(self.model.config.vocab_size, (1, PROBE), generator=generator).to(self.model.device)
        if self.carried is None:
            raise ModelError(f"{self.name}: {type(self.model).__name__} hands on no cache, and cannot be asked.")
        self.pieces = True  # until it is known
        whole, known = self._forward(ids, None, whole=True)
        if not isinstance(known.cache, Cache):
            raise ModelError(f"{self.name}: {type(self.model).__name__} keeps a cache that cannot be copied.")
        _, half = self._forward(ids[:, : PROBE // 2], None)
        second, _ = self._forward(ids[:, PROBE // 2 :], half, whole=True)
        stepped = half
        for at in range(PROBE // 2, PROBE):
            _, stepped = self._forward(ids[:, at : at + 1], stepped)
        if not _same(stepped.logits, whole[:, -1]):
            raise ModelError(f"{self.name}: {type(self.model).__name__} does not go on from its own cache.")
        return _same(second, whole[:, PROBE // 2 :]), known.cache


def _parts(prefilled: Prefilled) -> list[_Known]:
    """Rows that are known together; in a chat each may be alone."""
    found = [one for one in (prefilled if isinstance(prefilled, list) else [prefilled]) if isinstance(one, _Known)]
    assert found, "what `prefill` gave"
    return found


def _logprobs(logits: Tensor) -> Tensor:
    """Log-probabilities (..., V) in nats, float32 or wider, of logits (..., V)."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def _same(left: Tensor, right: Tensor) -> bool:
    """Equal but for rounding, of numbers that are not all finite too."""
    near = 2**-4 if left.dtype in (torch.bfloat16, torch.float16) else 1e-4
    scale = float(right.nan_to_num(0, 0, 0).abs().max())
    return torch.allclose(left.double(), right.double(), rtol=0, atol=near * scale + 1e-30, equal_nan=True)


def _ends(model: Any, tokenizer: Any) -> frozenset[int]:
    """The ids that end what the model writes."""
    given = getattr(model.generation_config, "eos_token_id", None)
    several = given if isinstance(given, list) else [given]
    return frozenset(one for one in (*several, tokenizer.eos_token_id) if one is not None)
