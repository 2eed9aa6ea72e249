"""Bits a token on held-out books, with neighbours and without, by how much of what is predicted they tell.

Three models: one that never reads neighbours, one trained with them in as many steps, and the first with neighbours
learnt afterwards, all else frozen. Each reads the first tokens of held-out texts; neighbours are found among the texts
that were trained on. A gain that comes from copies shows in two ways: passages are left out that share a long run with
the chunk that asks and the one behind it (`overlap`), and tokens are counted apart by the longest run that the chunk
they are in shares with the passages read there (`buckets`), as RETRO does (arxiv.org/abs/2112.04426, section 2.6).

Shapes: B documents, T tokens, C chunks, k passages of a chunk, r tokens of one, m tokens of a chunk.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import repeat
from torch import Tensor, nn

from farfield.benchmarks.memories.perplexity import documents_of, train_model
from farfield.config import DataError
from farfield.data.files import scan
from farfield.generation import TextModel
from farfield.memory import NeighboursConfig, Passages
from farfield.model import LanguageModel
from farfield.progress import Bar
from farfield.retrieval.neighbours import Database, Wanted
from farfield.retrieval.overlap import longest_runs

__all__ = ["EDGES", "Read", "Task", "compare", "found_for", "nats", "overlaps", "shares_of", "split_books"]

PIECE = 1024  # tokens that are read in one call
EDGES = (0.0, 1 / 32, 1 / 16, 1 / 8, 1 / 4, math.inf)
"""Where buckets of overlap begin, as shares of a chunk; the last one ends nowhere."""


@dataclass(frozen=True)
class Task:
    """What is compared: books to train on and to find neighbours in, documents to read; sizes in tokens."""

    books: Path
    documents: Path
    overlaps: tuple[float, ...] = (0.25, 0.125, 0.0625, 0.03125)
    architecture: str = "attention"
    length: int = 2048
    steps: int = 300
    more: int = 150
    width: int = 128
    depth: int = 4
    vocabulary: int = 2048
    row: int = 512
    batch: int = 8
    chunk: int = 64
    passages: int = 2
    dimension: int = 512
    seed: int = 0
    threads: int | None = None

    def words(self, out: Path, steps: int, more: Sequence[str]) -> list[str]:
        """`farfield train` of the small model, as the command line takes it."""
        return [
            f"architecture={self.architecture}",
            f"architecture.width={self.width}",
            f"architecture.depth={self.depth}",
            "data=text",
            f"data.path={_quoted(self.books)}",
            "data.tokenizer.kind=bpe",
            f"data.tokenizer.vocabulary={self.vocabulary}",
            f"data.cache={_quoted(out / 'data')}",
            f"data.length={self.row}",
            f"seed={self.seed}",
            f"training.steps={steps}",
            f"training.batch={self.batch}",
            f"training.threads={'null' if self.threads is None else self.threads}",
            *more,
        ]

    def augmented(self, out: Path) -> list[str]:
        """Further words, with neighbours."""
        return [
            "augmentation=neighbours",
            f"augmentation.database={_quoted(out / 'database')}",
            f"augmentation.chunk={self.chunk}",
            f"augmentation.continuation={self.chunk}",
            f"augmentation.passages={self.passages}",
            f"augmentation.dimension={self.dimension}",
        ]


@dataclass(frozen=True)
class Read:
    """What a model made of the documents: bits a token of each.

    `reads` says whether passages are read at all, and `overlap` which longest run they may share, as a share of a
    chunk; None: any. `found` is the share of chunks that have passages. `buckets` are tokens, and bits a token of all
    of them together where there are any, by overlap: see `EDGES`.
    """

    label: str
    model: str
    reads: bool
    overlap: float | None
    bits: tuple[float, ...]
    found: float
    buckets: tuple[tuple[int, float | None], ...]

    def mean(self) -> float:
        """Bits a token, every document weighing the same."""
        return sum(self.bits) / len(self.bits)

    def gain(self, other: Read) -> tuple[float, float]:
        """Bits a token saved against `other`, and the standard error over documents."""
        saved = [theirs - ours for ours, theirs in zip(self.bits, other.bits, strict=True)]
        error = float(np.std(saved, ddof=1)) / math.sqrt(len(saved)) if len(saved) > 1 else math.nan
        return sum(saved) / len(saved), error


def compare(task: Task, out: Path) -> Iterator[Read]:
    """Trains what has to be trained and reads the documents with every model, the one without neighbours first.

    Runs stand in `out`; what was trained before is not trained again.

    Raises:
        ConfigError, DataError: settings or folders that cannot be used.
    """
    scan(task.documents)  # what cannot be read is told before anything is trained
    plain = train_model(task.words(out, task.steps, []), out, "without")
    tokens = documents_of(task.documents, plain.tokenizer, task.length)
    trained = train_model(task.words(out, task.steps, task.augmented(out)), out, "neighbours")
    frozen = [*task.augmented(out), "augmentation.freeze=true", f"start={_quoted(out / 'without')}"]
    fitted = train_model(task.words(out, task.more, frozen), out, "retrofitted")
    database, settings = trained.open_neighbours(out / "database"), trained.config.neighbours
    assert settings is not None
    limits = (None, *task.overlaps)
    found = {limit: found_for(database, settings, tokens, limit) for limit in limits}
    shares = shares_of(tokens, found[None], task.chunk)
    with Bar("neighbours", total=3 + 2 * len(limits), unit="readings") as bar:
        for name, model in (("without", plain), ("neighbours", trained), ("retrofitted", fitted)):
            yield _read(name, model, "off", None, tokens, None, shares)
            bar.step(note=name)
            for limit in limits if model is not plain else ():
                how = "on" if limit is None else f"overlap up to {limit:g}"
                yield _read(name, model, how, limit, tokens, found[limit], shares)
                bar.step(note=name)


def split_books(books: Path, split: str, out: Path) -> tuple[Path, Path]:
    """Folders with links to the books that are trained on and to those of a `split` of index.json.

    Raises:
        DataError: `books` has no index.json, or none of such a split.
    """
    try:
        told = json.loads((books / "index.json").read_text(encoding="utf-8"))["books"]
        names = {part: [one["file"] for one in told if one["split"] == part] for part in ("train", split)}
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"{books}: no index.json that says of each book its file and split. Add --documents.") from None
    for part, files in names.items():
        if not files:
            raise DataError(f"{books}: no book of split '{part}' in its index.json.")
        (out / part).mkdir(parents=True, exist_ok=True)
        for file in files:
            link = out / part / file
            if not link.exists():
                link.symlink_to((books / file).resolve())
    return out / "train", out / split


def found_for(database: Database, settings: NeighboursConfig, tokens: Tensor, overlap: float | None) -> Tensor:
    """(B, C, k, r): passages of every chunk of documents (B, T + 1) that are not in the database.

    Those with a longer run than `overlap` chunks in common with the chunk and the one behind it are left out.
    """
    size, count = settings.chunk, (tokens.shape[1] - 1) // settings.chunk
    ids = tokens.numpy()
    wanted = [
        Wanted(row[n * size : (n + 1) * size], row[(n + 1) * size : (n + 2) * size], None)
        for row in ids
        for n in range(count)
    ]
    found = database.search(wanted, settings.passages, overlap)
    passages = database.passages(found, settings.length)
    return torch.from_numpy(passages.reshape(len(ids), count, settings.passages, settings.length))


def shares_of(tokens: Tensor, found: Tensor, size: int) -> Tensor:
    """(B, T): of the token that is predicted at each place, the overlap of its chunk with the passages read there.

    Args:
        tokens: (B, T + 1). found: (B, C, k, r), the passages of each chunk. Places that read none have 0.
    """
    batch, count, passages, _ = found.shape
    after = torch.full((batch, count * size + size), -2)
    after[:, : tokens.shape[1] - size] = tokens[:, size:][:, : after.shape[1]]
    chunks = after[:, : count * size].unflatten(1, (count, size))
    pairs = repeat(chunks, "b c m -> (b c k) m", k=passages).numpy()
    runs = torch.from_numpy(longest_runs(pairs, found.flatten(0, 2).numpy())).view(batch, count, passages).amax(2)
    place = (torch.arange(tokens.shape[1] - 1) + 1) // size - 1
    return torch.where(place >= 0, runs[:, place.clamp(0, count - 1)] / size, 0.0)


def overlaps(shares: Tensor) -> Tensor:
    """(B, T) int64: the bucket of each share (B, T)."""
    return torch.bucketize(shares, torch.tensor(EDGES[1:-1], dtype=shares.dtype), right=True)


@torch.no_grad()
def nats(model: LanguageModel, tokens: Tensor, found: Tensor | None) -> Tensor:
    """(B, T) of each token of documents (B, T + 1) but the first, read in pieces with what was found (B, C, k, r)."""
    state, losses, last = model.start(len(tokens)), [], tokens.shape[1] - 1
    positions = torch.arange(last).expand(len(tokens), -1)
    for begin in range(0, last, PIECE):
        at = slice(begin, min(begin + PIECE, last))
        settings, passages = model.config.neighbours, None
        if found is not None and settings is not None:
            passages = Passages(found).part(positions, at, settings.chunk)
        hidden, state = model.hidden(tokens[:, at], state, passages=passages)
        targets = tokens[:, begin + 1 : at.stop + 1]
        for part, target in zip(hidden.split(128, 1), targets.split(128, 1), strict=True):
            losses.append(nn.functional.cross_entropy(model.head(part).float().mT, target, reduction="none"))
    return torch.cat(losses, 1).double()


def _read(
    name: str,
    model: TextModel,
    how: str,
    limit: float | None,
    tokens: Tensor,
    found: Tensor | None,
    shares: Tensor,
) -> Read:
    """The documents as a model reads them with these passages; the buckets are those of all that were found."""
    bits, bucket = nats(model.model, tokens, found) / math.log(2), overlaps(shares)
    counted = [bits[bucket == number] for number in range(len(EDGES) - 1)]
    there = 0.0 if found is None else float((found >= 0).flatten(2).any(2).float().mean())
    return Read(
        label=f"{name}, {how}",
        model=name,
        reads=found is not None,
        overlap=limit,
        bits=tuple(bits.mean(1).tolist()),
        found=there,
        buckets=tuple((len(one), float(one.mean()) if len(one) else None) for one in counted),
    )


def _quoted(path: Path) -> str:
    return json.dumps(str(path), ensure_ascii=False)
