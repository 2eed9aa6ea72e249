"""Bits a token on long documents, with no memory and with each, by memory size and by place in the document.

One small model with a window is trained without a memory; memories that need no training are put on it. Then it is
trained further with each memory attached, and without one as a control, in as many steps of the same batches. Every
model reads the same documents from their first token on, in pieces, its state kept. The gain of a memory is the
difference to the model without one on the same tokens, a document at a time; its standard error is over documents.

Shapes: B documents, T tokens.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from farfield.api import load
from farfield.architectures.architecture import ArchitectureConfig
from farfield.benchmarks.memories.plan import WHOLE, Variant, checked, memory_of, variants
from farfield.compose import compose
from farfield.config import Config, DataError, TrainingError, read
from farfield.data.files import pieces, scan
from farfield.generation import TextModel
from farfield.model import LanguageModel
from farfield.progress import Bar
from farfield.retrofit import retrofit
from farfield.settings import TrainSettings
from farfield.tokenizers import Tokenizer
from farfield.training import train

__all__ = ["Read", "Task", "bits", "buckets", "compare", "documents_of", "train_model"]

PIECE = 1024  # tokens that are read in one call
LAYERS = {"near": "rope", "far": "none"}  # memories stand around layers without positions, as Focused Transformer's
CHARACTERS = 12  # more than this many a token no text has on average


@dataclass(frozen=True)
class Task:
    """What is compared: books to train on, documents to read, memories and their sizes, all sizes in tokens.

    The model is a pattern of four layers, repeated: windows, of which the third knows no positions. There the memories
    stand that stand around layers.
    """

    books: Path
    documents: Path
    memories: tuple[str, ...]
    sizes: tuple[int, ...]
    window: int = 63
    length: int = 16384
    steps: int = 400
    width: int = 128
    patterns: int = 1
    vocabulary: int = 2048
    row: int = 1024
    batch: int = 8
    more: int = 60
    rate: float = 5e-4
    threads: int | None = None
    cache: Path = Path(".farfield/data")
    told: tuple[str, ...] = ()

    def words(self, steps: int, memory: Sequence[str]) -> list[str]:
        """`farfield train` of the small model with a memory, as the command line takes it."""
        mixer = f"kind:longformer,window:{self.window},globals:0,conv:4,position"
        return [
            "architecture=longformer",
            f"architecture.width={self.width}",
            f"architecture.depth={4 * self.patterns}",
            "architecture.pattern=[near,near,far,near]",
            "~architecture.layers.longformer",
            *(f"architecture.layers.{name}={{mixer:{{{mixer}:{position}}}}}" for name, position in LAYERS.items()),
            *memory,
            "data=text",
            f"data.path={json.dumps(str(self.books), ensure_ascii=False)}",
            "data.tokenizer.kind=bpe",
            f"data.tokenizer.vocabulary={self.vocabulary}",
            f"data.cache={json.dumps(str(self.cache), ensure_ascii=False)}",
            f"data.length={self.row}",
            f"training.steps={steps}",
            f"training.batch={self.batch}",
            "training.optimizer.learning_rate=3e-3",
            f"training.threads={'null' if self.threads is None else self.threads}",
        ]

    def tuned(self, out: Path, name: str, memory: Sequence[str]) -> TextModel:
        """The model without a memory, trained for `more` steps with one, or, as a control, without."""
        begun = f"start={json.dumps(str(out / 'none'), ensure_ascii=False)}"
        gently = f"training.optimizer.learning_rate={self.rate}"  # what has been learnt is not to be shaken off
        return train_model([*self.words(self.more, memory), begun, gently], out, f"{name}-trained")

    def variants(self, name: str) -> list[Variant]:
        """The memory in all its sizes."""
        far = [4 * pattern + 2 for pattern in range(self.patterns)]
        return variants(name, self.sizes, self.window, f"layers=[{','.join(map(str, far))}]", self.told)


@dataclass(frozen=True)
class Read:
    """What a model made of the documents: bits a token of each document (outer) and bucket of positions (inner)."""

    label: str
    memory: str
    size: int | None
    trained: bool
    state_bytes: int
    edges: tuple[int, ...]
    bits: tuple[tuple[float, ...], ...]

    def each(self, first: int = 0) -> list[float]:
        """Bits a token of each document from bucket `first` on."""
        spans = [high - low for low, high in itertools.pairwise(self.edges)][first:]
        return [sum(b * n for b, n in zip(one[first:], spans, strict=True)) / sum(spans) for one in self.bits]

    def mean(self, first: int = 0) -> float:
        """Bits a token from bucket `first` on, every document weighing the same."""
        return sum(self.each(first)) / len(self.bits)

    def gains(self, other: Read) -> list[float]:
        """Bits a token saved against `other` in each bucket."""
        pairs = [zip(theirs, ours, strict=True) for theirs, ours in zip(other.bits, self.bits, strict=True)]
        saved = [[theirs - ours for theirs, ours in pair] for pair in pairs]
        return [sum(column) / len(column) for column in zip(*saved, strict=True)]

    def gain(self, other: Read, first: int = 0) -> tuple[float, float]:
        """Bits a token saved against `other` from bucket `first` on, and the standard error over documents."""
        single = [theirs - ours for ours, theirs in zip(self.each(first), other.each(first), strict=True)]
        mean = sum(single) / len(single)
        if len(single) < 2:
            return mean, math.nan
        spread = math.sqrt(sum((one - mean) ** 2 for one in single) / (len(single) - 1))
        return mean, spread / math.sqrt(len(single))


def buckets(window: int, length: int) -> tuple[int, ...]:
    """Where buckets of positions begin: 0, one window, and doubling from there on; the last one is the length."""
    edges, edge = [0], window + 1
    while edge < length:
        edges.append(edge)
        edge *= 2
    return (*edges, length)


def documents_of(folder: Path, tokenizer: Tokenizer, length: int) -> Tensor:
    """The first `length` tokens, and the one behind them, (B, T + 1), of each text in `folder` that is long enough.

    Raises:
        DataError: there is none.
    """
    rows: list[Tensor] = []
    held, full = "", False
    for piece in pieces(scan(folder), 1 << 16):
        if not full:  # a book is read no further than it takes
            held += piece.text
            ids = tokenizer.encode(held) if piece.last or len(held) > CHARACTERS * length else []
            full = len(ids) > length
            rows += [torch.tensor(ids[: length + 1])] if full else []
        if piece.last:
            held, full = "", False
    if not rows:
        raise DataError(f"{folder}: no text of more than {length:,} tokens in it. Take a shorter --length.")
    return torch.stack(rows)


def train_model(words: Sequence[str], root: Path, name: str, settings: Mapping[str, Any] | None = None) -> TextModel:
    """The model that `farfield train` with these words makes; a finished run is taken as it is, another goes on.

    `settings` take the place of those that the words give.

    Raises:
        TrainingError: what stands there was trained with other settings.
    """
    resume = (root / name / "checkpoints").is_dir()
    quoted = json.dumps(str(root), ensure_ascii=False)
    mapping = compose("train", [*words, f"root={quoted}", f"name={name}", f"resume={resume}"])
    try:
        train(read(TrainSettings, {**mapping, **(settings or {})}))
    except TrainingError as error:
        if resume:
            raise TrainingError(f"{error} Comparisons of other settings go into another --out.") from None
        raise
    return load(root / name, layers="farfield")


@torch.no_grad()
def bits(model: LanguageModel, tokens: Tensor, edges: Sequence[int]) -> tuple[tuple[float, ...], ...]:
    """Bits a token of each document of tokens (B, T + 1), by the buckets between `edges`."""
    state, found, last = model.start(len(tokens)), [], tokens.shape[1] - 1
    for begin in range(0, last, PIECE):
        end = min(begin + PIECE, last)
        hidden, state = model.hidden(tokens[:, begin:end], state)
        for part, target in zip(hidden.split(128, 1), tokens[:, begin + 1 : end + 1].split(128, 1), strict=True):
            found.append(nn.functional.cross_entropy(model.head(part).float().mT, target, reduction="none"))
    nll = torch.cat(found, 1).double() / math.log(2)
    spans = list(itertools.pairwise(edges))
    return tuple(tuple(float(row[low:high].mean()) for low, high in spans) for row in nll)


def compare(task: Task, out: Path) -> Iterator[Read]:
    """Trains what has to be trained and reads the documents with everything, the model without a memory first.

    Runs stand in `out`; what was trained before is not trained again.

    Raises:
        ConfigError, DataError: settings or folders that cannot be used.
    """
    by_name = {name: task.variants(name) for name in task.memories}
    for wanted in by_name.values():
        checked(wanted)
    for folder in (task.books, task.documents):
        scan(folder)  # what cannot be read is told before anything is trained
    plain = train_model(task.words(task.steps, ["memory=none"]), out, "none")
    tokens = documents_of(task.documents, plain.tokenizer, task.length)
    edges = buckets(task.window, task.length)
    with Bar("perplexity", total=2 + 2 * sum(map(len, by_name.values())), unit="readings") as bar:
        for trained in (False, True) if task.more else (False,):
            model = task.tuned(out, "none", ["memory=none"]) if trained else plain
            found = bits(model.model, tokens, edges)
            state = plain.config.state_bytes(task.length)
            yield Read(_label("none", trained), "none", None, trained, state, edges, found)
            bar.step(note="none")
            for name, wanted in by_name.items():
                if trained and name in WHOLE:
                    continue
                words = [f"memory={name}", *(f"memory.{word}" for word in wanted[-1].words)]
                with_it = task.tuned(out, wanted[-1].place, words) if trained else plain
                for one in _reads(with_it, wanted, trained, tokens, edges):
                    yield one
                    bar.step(note=one.label)


def _whole(model: TextModel) -> ArchitectureConfig:
    """The layers with full attention in the place of the windows that memories stand around."""
    mapping = model.config.architecture.mapping()
    far = mapping["layers"]["far"]["mixer"]
    for name in ("window", "dilation", "globals"):
        del far[name]
    far["kind"] = "attention"
    return read(_One, {"architecture": mapping}).architecture


class _One(Config):
    architecture: ArchitectureConfig


def _label(name: str, trained: bool) -> str:
    return f"{name}, trained" if trained else name


def _reads(
    model: TextModel, wanted: Sequence[Variant], trained: bool, tokens: Tensor, edges: tuple[int, ...]
) -> Iterator[Read]:
    """The documents as `model` reads them with each of the memories; those whose weights it has not learnt left out."""
    length = tokens.shape[1] - 1
    for variant in wanted:
        memory = memory_of(variant)
        if memory.trained and not trained:
            continue
        with_it = retrofit(model.model, memory, architecture=_whole(model) if variant.name in WHOLE else None)
        label = _label(variant.label, trained)
        state, found = with_it.config.state_bytes(length), bits(with_it, tokens, edges)
        yield Read(label, variant.name, variant.size, trained, state, edges, found)
