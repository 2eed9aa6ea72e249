"""Causal models that our layers do not cover, run by transformers behind what a `TextModel` offers of reading on.

    model = open_borrowed("models/gpt2", torch.float32, "cpu", FolderConfig())
    logits, state = model.prefill([[5, 9, 2], [7]])         # behind each prompt
    logits, state = model.go_on(tokens, state)              # one more token of each row
    text = model.generate("Once upon a time", tokens=64)

Each row has a cache of its own and is read by itself, so that rows of different lengths need no padding, which many of
these models do not take; a batch costs as much as its rows one after the other. A cache is copied before it is read on
from: what is known behind some tokens stays as it was. Memories, sessions, banks and datastores are our own layers'.

Shapes: B batch, T time, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from farfield.amortized import AmortizedBank
from farfield.config import ModelError, read
from farfield.generation import (
    Continues,
    Generated,
    GenerationConfig,
    Piece,
    choose,
    decode,
    drawing,
    opened,
    written,
)
from farfield.huggingface.loading import hub_class, load_hub_model
from farfield.huggingface.positions import learnt_positions
from farfield.huggingface.settings import FolderConfig
from farfield.huggingface.vocabularies import begin_of, folder_tokenizer
from farfield.inputs import prompt_ids, stop_texts
from farfield.knn import KnnLM
from farfield.retrieval.neighbours import Database
from farfield.tokenizers import Tokenizer

__all__ = ["BorrowedModel", "BorrowedState", "check_borrowed", "open_borrowed"]

CACHES = ("past_key_values", "cache_params")  # what models call what they carry from call to call
LOST = ("RecurrentGemmaForCausalLM",)  # hand on none, and read several tokens wrongly behind one that they are given
OURS = "is run by transformers, and only our own layers have {}. Leave it out."


@dataclass(frozen=True)
class BorrowedState:
    """A cache of transformers for each row, and how many tokens of the row it has seen."""

    caches: tuple[Any, ...]
    seen: tuple[int, ...]

    def select(self, rows: Sequence[int]) -> BorrowedState:
        """The rows picked, repeated or in another order."""
        return BorrowedState(tuple(self.caches[row] for row in rows), tuple(self.seen[row] for row in rows))


class BorrowedModel:
    """See the file's head."""

    def __init__(self, model: Any, tokenizer: Tokenizer, info: dict[str, Any]) -> None:
        self.model, self.tokenizer, self.info = model, tokenizer, info
        takes = inspect.signature(model.forward).parameters
        self._last = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        self._carried = _carried(type(model), info["path"])
        self._longest = learnt_positions(model)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        found: torch.device = self.model.device
        return found

    @property
    def begin(self) -> int | None:
        """The id that a text begins with."""
        found: int | None = self.info["begin"]
        return found

    def opened(self, ids: Sequence[int]) -> list[int]:
        """The ids of a text behind the one that it begins with, which is there once."""
        return opened(ids, self.begin)

    @torch.no_grad()
    def prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, BorrowedState]:
        """Logits (B, V) behind the last token of each prompt, and the state there.

        Raises:
            ModelError: no prompts, one without tokens, or one that is longer than what the model has learnt.
        """
        if not prompts or not all(len(prompt) for prompt in prompts):
            raise ModelError("prompt: empty. A model needs at least one token to go on from.")
        nothing = BorrowedState((None,) * len(prompts), (0,) * len(prompts))
        return self._read([torch.tensor([list(prompt)]) for prompt in prompts], nothing)

    @torch.no_grad()
    def go_on(self, tokens: Tensor, state: BorrowedState) -> tuple[Tensor, BorrowedState]:
        """Logits (B, V) behind tokens (B, T) more, and the state there; `state` stays as it was.

        Raises:
            ModelError: more tokens than the model has learnt positions.
        """
        from farfield.huggingface.caches import branch

        return self._read(list(tokens[:, None]), replace(state, caches=tuple(branch(cache) for cache in state.caches)))

    def _read(self, rows: Sequence[Tensor], before: BorrowedState) -> tuple[Tensor, BorrowedState]:
        seen = tuple(past + row.shape[1] for row, past in zip(rows, before.seen, strict=True))
        if self._longest is not None and max(seen) > self._longest:
            raise ModelError(
                f"prompt: {max(seen):,} tokens with what is written behind it, and {self.info['name']} has learnt "
                f"{self._longest:,} positions. Take fewer generation.tokens, "
                "prompt.tokens where an index is asked, or a shorter document."
            )
        logits, after = [], []
        for row, cache in zip(rows, before.caches, strict=True):
            found = self.model(row.to(self.device), use_cache=True, **{self._carried: cache}, **self._last)
            logits.append(found.logits[:, -1])
            after.append(getattr(found, self._carried))
        return torch.cat(logits), BorrowedState(tuple(after), seen)

    def behind(self, prompt: Sequence[int], neighbours: Database | None) -> tuple[list[int], None]:
        """The ids of a prompt.

        Raises:
            ModelError: neighbours are given.
        """
        if neighbours is not None:
            raise ModelError(f"neighbours: {self.info['name']} {OURS.format('them')}")
        return list(prompt), None

    def generate(
        self,
        prompt: str | Sequence[str | Sequence[int]],
        tokens: int = 64,
        *,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        seed: int = 0,
        stop: Iterable[str] = (),
    ) -> Any:
        """The text behind `prompt`: one text for a text, a list for a list. Greedy unless `temperature` is above 0.

        Raises:
            ModelError: prompts that are neither texts nor rows of ids, an empty one, an id outside of the vocabulary,
                or more than what the model has learnt. ConfigError: settings that make no sense.
        """
        given = {"tokens": tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
        config = read(GenerationConfig, {**given, "stop": stop_texts(stop)}, "generate")
        encode, known = self.tokenizer.encode, self.model.config.get_text_config().vocab_size
        ids = prompt_ids(prompt, lambda text: self.opened(encode(text)), known)
        texts = [answer.text for answer in written(self.stream(ids, config))]
        return texts[0] if isinstance(prompt, str) else texts

    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        config: GenerationConfig,
        bank: AmortizedBank | None = None,
        neighbours: Database | None = None,
        datastore: KnnLM | None = None,
    ) -> Generator[Piece, None, list[Generated]]:
        """Pieces of the texts behind prompts of ids as they come; see `begun`."""
        found = self.begun(prompts, config, bank, neighbours, datastore)
        return (yield from decode(found, self.tokenizer, prompts))

    def begun(
        self,
        prompts: Sequence[Sequence[int]],
        config: GenerationConfig,
        bank: AmortizedBank | None = None,
        neighbours: Database | None = None,
        datastore: KnnLM | None = None,
    ) -> Continues:
        """Rows whose prompts of ids have been read, for `farfield.generation.decode` to go on from.

        Raises:
            ModelError: what only our own layers have is given.
        """
        for name, given in (("bank", bank), ("neighbours", neighbours), ("datastore", datastore)):
            if given is not None:
                raise ModelError(f"{name}: {self.info['name']} {OURS.format('it')}")
        if config.capture is True:
            raise ModelError(f"generation.capture: {self.info['name']} {OURS.format('it')}")
        return _Continuing(self, *self.prefill(prompts), config)


@dataclass
class _Continuing:
    """Rows that are being continued."""

    model: BorrowedModel
    logits: Tensor
    state: BorrowedState
    config: GenerationConfig
    rows: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rows = list(range(len(self.logits)))
        self._generators = drawing(self.config, len(self.rows))

    def ids(self) -> dict[int, int]:
        """The next id of every row that goes on, by row."""
        self._next = choose(self.logits, self.config, self._generators)
        return dict(zip(self.rows, self._next.tolist(), strict=True))

    def advance(self, ended: set[int]) -> None:
        """Read the ids just chosen, but for rows that have `ended`."""
        kept = [place for place, row in enumerate(self.rows) if row not in ended]
        self.rows = [self.rows[place] for place in kept]
        self._generators = [self._generators[place] for place in kept]
        if kept:
            self.logits, self.state = self.model.go_on(self._next[kept, None], self.state.select(kept))


def _carried(kind: type, path: str) -> str:
    """What models of a class of transformers call the cache that they carry.

    Raises:
        ModelError: they carry none.
    """
    takes = inspect.signature(kind.forward).parameters  # type: ignore[attr-defined]  # a class of transformers
    found = next((one for one in CACHES if one in takes), None)
    if found is None or kind.__name__ in LOST:
        raise ModelError(f"{path}: {kind.__name__} hands on no cache, and cannot be asked.")
    return found


def check_borrowed(path: str | Path) -> None:
    """Raises what `open_borrowed` would raise of a folder, as far as it shows without reading weights."""
    kind, config = hub_class(str(path))
    _carried(kind, str(path))
    folder_tokenizer(Path(path).expanduser(), config.get_text_config().vocab_size, [])


def open_borrowed(
    path: str | Path, dtype: torch.dtype | None, device: torch.device | str, settings: FolderConfig
) -> BorrowedModel:
    """The model in a folder, by transformers; its tokenizer by our own classes.

    Raises:
        ModelError: transformers is not installed, or the folder holds no causal model that can be read.
        ConfigError: a begin-of-text token is asked for, and the tokenizer has none.
    """
    folder = Path(path).expanduser()
    model = load_hub_model(str(folder), dtype, device)
    ends = model.generation_config.eos_token_id
    several = ends if isinstance(ends, list) else [] if ends is None else [ends]
    tokenizer = folder_tokenizer(folder, model.config.get_text_config().vocab_size, several)
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    info = {
        "path": str(path),
        "weights": str(path),
        "name": folder.resolve().name,
        "family": model.config.model_type,
        "begin": begin_of(tokenizer, settings.begin),
        "step": None,
        "loss": None,
        "parameters": model.num_parameters(),
        "config": {} if longest is None else {"data": {"length": longest}},
    }
    return BorrowedModel(model, tokenizer, info)
