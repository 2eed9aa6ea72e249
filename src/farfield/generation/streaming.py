"""Prompts as text or ids into texts, streamed or whole."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence

import torch

from farfield.amortized import AmortizedBank, asked
from farfield.config import ModelError
from farfield.fetching import fetching_for
from farfield.generation.decoding import Held, continuing, no_graph
from farfield.generation.reading import prefill
from farfield.generation.writing import Generated, Piece, decode, written
from farfield.knn import KnnLM, Mixing
from farfield.model import LanguageModel
from farfield.retrieval.neighbours import Database
from farfield.sampling import GenerationConfig
from farfield.tokenizers import Tokenizer

__all__ = ["begun", "clock", "generate", "opened", "stream"]


def stream(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str | Sequence[int]],
    config: GenerationConfig,
    bank: AmortizedBank | None = None,
    neighbours: Database | None = None,
    datastore: KnnLM | None = None,
) -> Generator[Piece, None, list[Generated]]:
    """Pieces of text as they come, from prompts as text or ids; the generator returns all answers at its end.

    With a bank, each prompt asks it before it is read; with neighbours, each chunk of prompt and answer reads its own;
    with a datastore of the model's, what it finds is mixed with each token's distribution.

    Raises:
        ModelError: no prompts, an empty one, the bank of another model, or neighbours that the model does not read.
    """
    ids = [tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt) for prompt in prompts]
    return (yield from decode(begun(model, ids, config, bank, neighbours, datastore), tokenizer, ids))


def begun(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    bank: AmortizedBank | None = None,
    neighbours: Database | None = None,
    datastore: KnnLM | None = None,
) -> Held:
    """Rows whose prompts have been read, for `decode` to go on from; as `stream` otherwise."""
    if any(not stop for stop in config.stop):
        raise ModelError("generation.stop: an empty text ends every answer before it begins.")
    fetching = fetching_for(model, neighbours, len(prompts))
    state = None if bank is None else asked(model, bank, prompts)
    mixing = None if datastore is None else Mixing(datastore, len(prompts))
    no_graph(model, config, mixing)  # said before the prompt is read, which takes its time
    read = prefill(model, prompts, state, fetching=fetching, mixing=mixing)
    return continuing(model, *read, config, fetching, mixing)


def clock(device: torch.device) -> float:
    """Seconds of the clock, once a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def generate(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str | Sequence[int]],
    config: GenerationConfig,
    bank: AmortizedBank | None = None,
    neighbours: Database | None = None,
    datastore: KnnLM | None = None,
) -> list[Generated]:
    """All answers at once; see `stream`."""
    return written(stream(model, tokenizer, prompts, config, bank, neighbours, datastore))


def opened(ids: Sequence[int], begin: int | None) -> list[int]:
    """The ids of a text behind `begin`, which is there once; with None as they are."""
    return list(ids) if begin is None or list(ids[:1]) == [begin] else [begin, *ids]
