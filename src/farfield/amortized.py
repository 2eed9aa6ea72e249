"""Sets of documents as a bank that questions ask: the memory of amortized contexts as it was published.

    e_d  = what document d leaves, read by itself                    bank = e_1 .. e_D, for as long as it is kept
    q    = what the question leaves, read by itself
    [.; h] = layers([aggregate(w + q; e_1 .. e_D, q); question; answer])

    bank = model.amortize({"gate": "The Velamo gate opens with the code 4719."})
    bank = model.amortize({"ferry": "The ferry leaves at 07:40."}, bank)        # nothing else changes
    text = model.generate("Which code opens the Velamo gate?", bank=bank)

A document of several segments leaves an entry for each, as the memory makes them when it reads a stream; so does the
open one at its end. The question's newest entry asks, and stands in the bank as the newest: what is asked is the state
of a model that has read as many segments as there are entries, and question and answer are its next segment. Question
and answer are read from left to right, any split into calls answers the same; that the question be known whole before
its first token is read is what this form asks for and a stream does not.

Shapes: N documents, B rows, T tokens of a row, L of a document, S vectors, M of one entry, D width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from farfield.architectures.saved_state import load_tensors, save_tensors
from farfield.config import Config, ConfigError, ModelError, read
from farfield.memory.mac import AmortizedContexts, AmortizedState
from farfield.memory.prefix import Segmented, SegmentedState
from farfield.model import LanguageModel, ModelState, fingerprint

__all__ = ["AmortizedBank", "Ids", "amortize", "asked", "asking", "learning", "left", "open_bank"]

PIECE = 1024  # tokens of a document that are read in one call

Ids = Sequence[int]


class _Documents(Config):
    """What a bank's file tells of its documents."""

    names: tuple[str, ...]
    counts: tuple[int, ...]
    digests: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class AmortizedBank:
    """What documents left, in the order in which they came: a value, which adding to it does not change.

    `vectors` (S, D) are all of theirs, `counts` how many each left, `digests` stand for their tokens, and `maker` for
    the model that read them.
    """

    vectors: Tensor
    names: tuple[str, ...]
    counts: tuple[int, ...]
    digests: tuple[str, ...]
    maker: str

    def __len__(self) -> int:
        """Number of documents."""
        return len(self.names)

    def save(self, path: str | Path) -> None:
        """Writes it whole or not at all, as safetensors with a checksum; see `TextModel.open_bank`."""
        told = _Documents(names=self.names, counts=self.counts, digests=self.digests)
        text = torch.tensor(list(json.dumps(told.mapping()).encode()), dtype=torch.uint8)
        save_tensors({"vectors": self.vectors, "documents": text}, Path(path).expanduser(), self.maker)


def open_bank(model: LanguageModel, path: str | Path) -> AmortizedBank:
    """The bank in a file that `save` wrote, where the model is.

    Raises:
        ModelError: no such file, a damaged one, or the bank of another model.
    """
    memory, file, maker = _memory(model), Path(path).expanduser(), fingerprint(model)
    tensors = load_tensors(file, maker, "the bank", "amortize")
    try:
        told = read(_Documents, json.loads(tensors["documents"].numpy().tobytes()))
        vectors = tensors["vectors"]
    except (KeyError, ValueError, ConfigError):
        raise ModelError(f"{file}: not a bank of amortized documents.") from None
    if not len(told.names) == len(told.counts) == len(told.digests) or tuple(vectors.shape) != (
        sum(told.counts),
        memory.written.shape[1],
    ):
        raise ModelError(f"{file}: not a bank of amortized documents.")
    return AmortizedBank(vectors.to(model.device), told.names, told.counts, told.digests, maker)


@torch.no_grad()
def amortize(
    model: LanguageModel, documents: Mapping[str, Ids], bank: AmortizedBank | None = None, batch: int = 8
) -> AmortizedBank:
    """A bank with what these documents leave behind that of `bank`; what it has by that name already is not read again.

    Args:
        model: with a memory of amortized contexts. documents: token ids by name. bank: of the same model.
        batch: documents that are read at once. What each leaves does not depend on it.

    Raises:
        ModelError: a document is empty or was another one in `bank`, they leave more than the memory's limit holds
            beside a question, `bank` is of another model, or the model has no such memory.
    """
    memory = _memory(model)
    maker, none = fingerprint(model), memory.written.new_zeros(0, memory.written.shape[1])
    bank = AmortizedBank(none.detach(), (), (), (), maker) if bank is None else bank
    _check_maker(bank, maker)
    new = _new(documents, bank)
    segment, tokens = memory.config.segment, memory.config.tokens
    counts = {name: -(-len(ids) // segment) * tokens for name, ids in new.items()}
    _check_room(memory, sum(bank.counts) + sum(counts.values()))
    found: dict[str, Tensor] = {}
    order = sorted(new, key=lambda name: len(new[name]))  # alike lengths: little padding
    for first in range(0, len(order), batch):
        names = order[first : first + batch]
        vectors, own = left(model, *_padded([new[name] for name in names], model.device))
        for name, row, count in zip(names, vectors, own.tolist(), strict=True):
            found[name] = row[len(row) - count :]
    return AmortizedBank(
        torch.cat([bank.vectors, *(found[name] for name in new)]),
        (*bank.names, *new),
        (*bank.counts, *counts.values()),
        (*bank.digests, *map(_digest, new.values())),
        maker,
    )


@torch.no_grad()
def asked(model: LanguageModel, bank: AmortizedBank, questions: Sequence[Ids]) -> ModelState:
    """The state in which each question (its ids) has asked the bank, a row each: what is to be read next is itself.

    Raises:
        ModelError: no question, an empty one, or the bank is of another model.
    """
    _memory(model)
    _check_maker(bank, fingerprint(model))
    if not questions or not all(len(ids) for ids in questions):
        raise ModelError("question: empty. A bank is asked by at least one token.")
    count = torch.full((len(questions),), sum(bank.counts), device=model.device)
    return asking(model, bank.vectors.expand(len(questions), -1, -1), count, *_padded(questions, model.device))


def left(model: LanguageModel, tokens: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """What documents leave that are each read from their start, with nothing before them.

    Args:
        tokens, positions: (N, L) int64, a document a row; -1 is padding, behind it.

    Returns:
        vectors (N, S, D), the newest last, and how many of them, the last ones, are a row's own (N,).
    """
    memory = _memory(model)
    state = model.start(len(tokens))
    (layers,) = state.layers
    assert isinstance(layers, SegmentedState)
    fresh = memory.holding(memory.written.new_zeros(len(tokens), 0, memory.written.shape[1]), drawn=False)
    state = replace(state, layers=(SegmentedState(layers.layers, fresh),))
    for first in range(0, tokens.shape[1], PIECE):
        piece = slice(first, first + PIECE)
        _, state = model.hidden(tokens[:, piece], state, positions=positions[:, piece])
    (layers,) = state.layers
    assert isinstance(layers, SegmentedState)
    assert isinstance(layers.memory, AmortizedState)
    return memory.left(layers.memory, state.position)


def asking(model: LanguageModel, bank: Tensor, count: Tensor, tokens: Tensor, positions: Tensor) -> ModelState:
    """The state in which questions have asked banks: what is read next, at its positions, is question and answer.

    Args:
        bank: (B, S, D), of which the last `count` (B,) vectors are a row's own.
        tokens, positions: (B, L) int64, the questions alone, from position 0; -1 is padding, behind them.

    Raises:
        ModelError: a bank and the question's entry are more than the memory's limit.
    """
    memory = _memory(model)
    size = memory.config.tokens
    _check_room(memory, bank.shape[1])
    entry, _ = left(model, tokens, positions)
    held = torch.cat((bank, entry[:, -size:].to(bank.dtype)), 1)
    empty = model.start(len(tokens))
    (layers,) = empty.layers
    assert isinstance(layers, SegmentedState)
    number = count.div(size, rounding_mode="floor") + 1
    return ModelState(number * memory.config.segment, (SegmentedState(layers.layers, memory.holding(held)),))


def learning(
    model: LanguageModel, tokens: Tensor, positions: Tensor, question: Tensor, documents: Tensor, places: Tensor
) -> tuple[ModelState, Tensor]:
    """The state in which rows have asked their documents, and the positions (B, T) at which they are read behind it.

    In training, gradients reach what a share of the documents leaves (`lift`), the same ones of every row; the others
    are read without a graph.

    Args:
        tokens, positions: (B, T) int64, question and answer a row, from position 0; -1 is padding, behind them.
        question: (B,) int64, how many of a row's first tokens are its question.
        documents, places: (G, K, L) int64, tokens and positions of the documents of each of G groups of B / G rows
            that stand together; one of nothing but padding is none.
    """
    memory = _memory(model)
    groups, number = documents.shape[:2]
    reached = memory.lifted(torch.arange(number, device=documents.device))
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for lifted in (True, False):
        which = (reached == lifted).nonzero()[:, 0]
        if len(which):
            with torch.set_grad_enabled(torch.is_grad_enabled() and lifted):
                found, own = left(model, documents[:, which].flatten(0, 1), places[:, which].flatten(0, 1))
            if not lifted:  # casts of weights that autocast keeps must have a graph, whatever version of PyTorch it is
                torch.clear_autocast_cache()
            parts.append((which, found.unflatten(0, (groups, -1)), own.unflatten(0, (groups, -1))))
    bank, count = _joined(parts)
    repeat = len(tokens) // groups
    whole = int(question.max())
    at = positions[:, :whole].masked_fill(positions[:, :whole] >= question[:, None], -1)
    bank, count = bank.repeat_interleave(repeat, 0), count.repeat_interleave(repeat, 0)
    state = asking(model, bank, count, tokens[:, :whole], at)
    return state, torch.where(positions < 0, -1, positions + state.position[:, None])


def _joined(parts: Sequence[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """What documents left, (G, S, D) in their order and the newest last, and how many are a row's own (G,).

    Args:
        parts: numbers (k,) of documents, what they left (G, k, s, D), and how many of it is theirs (G, k).
    """
    most = max(found.shape[2] for _, found, _ in parts)
    found = torch.cat([torch.nn.functional.pad(part, (0, 0, most - part.shape[2], 0)) for _, part, _ in parts], 1)
    order = torch.cat([which for which, _, _ in parts]).argsort()
    found, own = found[:, order], torch.cat([count for _, _, count in parts], 1)[:, order]
    valid = (torch.arange(most, device=own.device) >= most - own[..., None]).flatten(1)
    found, count = found.flatten(1, 2), valid.sum(1)
    if not bool(valid.all()):
        last = valid.to(torch.uint8).argsort(dim=1, stable=True)[:, valid.shape[1] - int(count.max()) :]
        found = found.gather(1, last[..., None].expand(-1, -1, found.shape[2]))
    return found, count


def _padded(rows: Sequence[Ids], device: torch.device) -> tuple[Tensor, Tensor]:
    """Tokens and positions (N, L) int64 of rows of ids, with padding behind them."""
    length = torch.tensor([len(ids) for ids in rows])
    tokens = torch.zeros(len(rows), int(length.max()), dtype=torch.int64)
    for row, ids in enumerate(rows):
        tokens[row, : len(ids)] = torch.as_tensor(ids, dtype=torch.int64)
    column = torch.arange(tokens.shape[1])
    positions = torch.where(column < length[:, None], column, -1)
    return tokens.to(device), positions.to(device)


def _new(documents: Mapping[str, Ids], bank: AmortizedBank) -> dict[str, Ids]:
    """The documents that the bank does not have."""
    known = dict(zip(bank.names, bank.digests, strict=True))
    for name, ids in documents.items():
        if not len(ids):
            raise ModelError(f"document '{name}': empty. At least one token is needed.")
        if name in known and known[name] != _digest(ids):
            raise ModelError(
                f"document '{name}': the bank holds another one of this name. Name it otherwise, or amortize anew."
            )
    return {name: ids for name, ids in documents.items() if name not in known}


def _digest(ids: Ids) -> str:
    return hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest()


def _memory(model: LanguageModel) -> AmortizedContexts:
    stack = model.decoder
    if isinstance(stack, Segmented) and isinstance(stack.memory, AmortizedContexts):
        return stack.memory
    name = model.config.memory.name if model.config.memory else "none"
    raise ModelError(f"memory '{name}': it keeps no sets of documents. Train a model with memory=mac.")


def _check_maker(bank: AmortizedBank, maker: str) -> None:
    if bank.maker != maker:
        raise ModelError("bank: of another model, or of other settings or weights; amortize anew.")


def _check_room(memory: AmortizedContexts, vectors: int) -> None:
    """Raise ModelError where so many vectors and a question's are more than the memory holds."""
    size, limit = memory.config.tokens, memory.config.limit
    if vectors + size > limit:
        raise ModelError(
            f"bank: documents of {vectors} vectors given, and memory.limit={limit} holds {limit - size} beside a "
            f"question's. Give fewer documents, or a model whose memory.limit is {vectors + size} or more."
        )
