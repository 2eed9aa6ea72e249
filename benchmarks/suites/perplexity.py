"""The suite `perplexity`.

farfield evaluate suite=perplexity suite.texts=books 'suite.lengths=[512,2048]' suite.tokens=65536
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pydantic
from numpy.typing import NDArray

from farfield.benchmarks.long_reading import Costs, Streaming, begin_of, prefix_of, streamed, windowed
from farfield.benchmarks.reports.spread import mean_half, ratio_half
from farfield.benchmarks.running.results import Cell, Curve, Measured
from farfield.benchmarks.subjects.subject import Lacking
from farfield.benchmarks.suites.suite import Count, Lengths, MeasuredSuite, Several
from farfield.benchmarks.tasks.long_text import (
    Document,
    Window,
    blocks,
    edges,
    middles,
    rolling,
    sliding,
    tokenised,
)
from farfield.benchmarks.tasks.sample import Tokenizer
from farfield.config import ConfigError

if TYPE_CHECKING:
    from farfield.benchmarks.subjects.subject import Capability, Subject
    from farfield.data.files import Collection

__all__ = ["PerplexitySuite"]

Protocol = Literal["block", "sliding", "rolling", "streaming"]
MemoryControl = Literal["memory_off", "memory_shuffled"]
PIECE = 1 << 16  # characters of a file that are decoded at once
GAIN = "context_gain_"
STEPS = 8  # a reading of the near past alone moves by an eighth of it
LARGEST = 700  # e to a larger power is not a number that JSON has
INCOMPARABLE = "not comparable between tokenizers"

Floats = NDArray[np.float64]


class PerplexitySuite(MeasuredSuite):
    """What long texts cost: by protocol and window, by position, and what the far past is worth.

    lengths:       tokens of a window; streams, which have none, stand at the longest
    protocols:     see `farfield.benchmarks.tasks.long_text`
    stride:        of sliding windows, in tokens
    near:          for each, at each longer length, what is gained over a reading of the last so many tokens alone
    texts:         a file, or a folder of them; null: the sample documents that come with Farfield
    documents:     at most so many of them
    tokens:        at most so many of each, from its beginning; null: all
    reach:         curves by position are of documents of at least so many tokens; null: the longest of lengths
    piece:         tokens that a stream reads in one call
    controls:      streams without the memory, and with its contents exchanged before each piece
    batch_tokens:  tokens that are read at once; says how fast, not what

    With `cell_seconds` documents are read one by one, until the time of a cell is over.
    """

    kind: Literal["perplexity"] = "perplexity"
    lengths: Lengths = (512, 2048)
    protocols: Several[Protocol] = ("block", "sliding", "rolling", "streaming")
    stride: Count = 256
    near: Several[Count] = (512,)
    texts: Annotated[str, pydantic.Field(min_length=1)] | None = None
    documents: Count | None = None
    tokens: Count | None = 65536
    reach: Count | None = None
    piece: Count = 2048
    controls: Several[MemoryControl] = ("memory_off", "memory_shuffled")
    batch_tokens: Count = 8192

    # What one tokenizer made of the texts: cells are measured one by one, and tokenise them once.
    _made: tuple[Tokenizer, list[Document]] | None = pydantic.PrivateAttr(None)

    @pydantic.model_validator(mode="after")
    def _fit(self) -> PerplexitySuite:
        if "sliding" in self.protocols and self.stride > self.lengths[0]:
            raise ValueError(
                f"stride={self.stride} is more than the window of {self.lengths[0]} tokens, and tokens would be left "
                "out. Take a smaller stride or longer lengths."
            )
        if self.tokens is not None and self.tokens < (self.reach or 1):
            raise ValueError(f"reach={self.reach} is more than the tokens={self.tokens} that are read of a document.")
        if not self.protocols and not self._gains():
            raise ValueError("no protocol and no near past shorter than a length: nothing is measured.")
        return self

    @cached_property
    def _collection(self) -> Collection:
        from farfield.data.files import scan

        sample = Path(str(files("farfield"))) / "demo" / "documents"
        return scan(Path(self.texts) if self.texts else sample, "suite.texts")

    @property
    def fingerprint(self) -> str:
        return self._collection.fingerprint

    def cells(self, subject: Subject) -> Sequence[tuple[Cell, frozenset[Capability]]]:
        if subject.tokenizer.kind == "ids":
            raise ConfigError("perplexity: texts are read, and a model of the ids tokenizer reads none.")
        read: frozenset[Capability] = frozenset(("read",))
        kept: frozenset[Capability] = read | {"state"}
        longest = self.lengths[-1]
        found = [
            (Cell(protocol, length), read)
            for protocol in self.protocols
            if protocol != "streaming"
            for length in self.lengths
        ]
        if "streaming" in self.protocols:
            found.append((Cell("streaming", longest), kept))
            found += [(Cell("streaming", longest, None, control), kept | {"memory"}) for control in self.controls]
        return found + [(Cell(f"{GAIN}{near}", length), read) for near, length in self._gains()]

    def labels(self) -> Mapping[str, Mapping[str, float]]:
        plain: dict[str, dict[str, float]] = {protocol: {} for protocol in self.protocols}
        if "sliding" in plain:
            plain["sliding"] = {"stride": self.stride}
        return {**plain, **{f"{GAIN}{near}": {"near": near} for near, _ in self._gains()}}

    def _gains(self) -> list[tuple[int, int]]:
        return [(near, length) for near in self.near for length in self.lengths if near < length]

    def measure(self, subject: Subject, cell: Cell) -> Measured:
        began = time.perf_counter()
        documents = self._tokenised(subject.tokenizer)
        if cell.condition == "memory_off":
            subject = subject.without_memory()
        if cell.task.startswith(GAIN):
            measured = self._gained(subject, documents, int(cell.task.removeprefix(GAIN)), cell.length)
        else:
            measured = self._cost(subject, documents, cell)
        return replace(measured, seconds=round(time.perf_counter() - began, 6))

    def _tokenised(self, tokenizer: Tokenizer) -> list[Document]:
        """Raises Lacking where no text has a token."""
        if self._made is None or self._made[0] is not tokenizer:
            self._made = tokenizer, tokenised(self._read(), tokenizer, self.tokens)
        if not self._made[1]:
            raise Lacking("the texts have not a single token")
        return self._made[1]

    def _read(self) -> Iterator[tuple[str, str]]:
        """Name and text of each document."""
        from farfield.data.files import pieces

        held: list[str] = []
        count = 0
        for piece in pieces(self._collection, PIECE):
            held.append(piece.text)
            if piece.last:
                yield piece.file, "".join(held)
                held, count = [], count + 1
                if count == self.documents:
                    return

    def _timely(self, documents: Sequence[Document]) -> Iterator[Sequence[Document]]:
        """All documents at once; where a cell's time is counted one by one, until it is over."""
        if self.cell_seconds is None:
            yield documents
            return
        end = time.perf_counter() + self.cell_seconds
        for document in documents:
            yield [document]
            if time.perf_counter() >= end:
                return

    def _cost(self, subject: Subject, given: Sequence[Document], cell: Cell) -> Measured:
        costs = Costs([])
        for part in self._timely(given):
            costs.add(self._costs(subject, part, cell))
        documents = given[: len(costs.nats)]
        reach = self.reach or self.lengths[-1]
        rows = [row for row in costs.nats if len(row) >= reach]
        curves = {"nats_by_position": _by_position(rows, reach, "nats a token")} if rows else {}
        windows = [_window_means(row, cell.length) for row in costs.nats if len(row) >= cell.length]
        if cell.task == "block" and windows:
            inside = _by_position(windows, cell.length, "nats a token")
            curves["nats_by_window_position"] = replace(inside, x_name="position in the window, tokens")
        return Measured(
            **_values(costs, documents),
            curves=curves,
            notes=[
                *_closed(len(documents), len(given)),
                *self._facts(documents, cell, len(rows), reach),
                *_ranges(costs, documents),
                *_doubts(subject, documents, cell),
            ],
            prefilled=costs.read,
            naive=costs.read,
            capped=len(documents) < len(given),
        )

    def _costs(self, subject: Subject, documents: Sequence[Document], cell: Cell) -> Costs:
        windows: Mapping[str, Callable[[int], Iterable[Window]]] = {
            "block": partial(blocks, length=cell.length),
            "sliding": partial(sliding, length=cell.length, stride=self.stride),
            "rolling": partial(rolling, length=cell.length),
        }
        if cell.task in windows:
            before = prefix_of if cell.task == "rolling" else begin_of
            return windowed(subject, documents, windows[cell.task], self.batch_tokens, before)
        shuffle = self.seed if cell.condition == "memory_shuffled" else None
        rows = max(1, self.batch_tokens // self.piece)
        return streamed(subject, documents, Streaming(self.piece, rows, shuffle))

    def _gained(self, subject: Subject, documents: Sequence[Document], near: int, length: int) -> Measured:
        """What the first `length` tokens of long enough documents cost less with all that is before them."""
        long = [_first(document, length) for document in documents if len(document.tokens) >= length]
        if not long:
            longest = max(len(document.tokens) for document in documents)
            raise Lacking(f"no document has {length:,} tokens: the longest has {longest:,}")
        step = max(1, near // STEPS)
        full, last = Costs([]), Costs([])
        for part in self._timely(long):
            full.add(windowed(subject, part, partial(blocks, length=length), self.batch_tokens))
            last.add(windowed(subject, part, partial(sliding, length=near, stride=step), self.batch_tokens))
        gains = [near_row - row for near_row, row in zip(last.nats, full.nats, strict=True)]
        measures = {"gain": gains, "near": last.nats, "full": full.nats}
        each = {name: [float(row[near:].mean()) for row in rows] for name, rows in measures.items()}
        read = full.read + last.read
        return Measured(
            values={name: float(np.mean(values)) for name, values in each.items()},
            half=_known({name: mean_half(values) for name, values in each.items()}),
            units=dict.fromkeys(measures, "nats a token"),
            each=each["gain"],
            curves={"gain_by_position": _by_position(gains, length, "nats a token gained")},
            notes=[
                *_closed(len(gains), len(long)),
                f"{len(long)} of {len(documents)} documents have {length:,} tokens; means are over tokens {near:,} to "
                f"{length:,} of each, the near past is the last {near - step + 1:,} to {near:,} tokens.",
            ],
            prefilled=read,
            naive=read,
            capped=len(gains) < len(long),
        )

    def _facts(self, documents: Sequence[Document], cell: Cell, reached: int, reach: int) -> list[str]:
        """What was read."""
        tokens, size = (sum(column) for column in zip(*((len(d.tokens), d.bytes) for d in documents), strict=True))
        cut = sum(not document.whole for document in documents)
        told = f"{len(documents)} documents of {tokens:,} tokens, {size:,} bytes"
        told += f"; {cut} cut behind {self.tokens:,} tokens" if cut and self.tokens else ""
        curve = f"the curve is of {reached} of at least {reach:,} tokens" if reached else "none for a curve by position"
        skipped = self._collection.skipped
        left = [f"Not UTF-8, left out: {', '.join(skipped[:3])}."] if skipped else []
        return [f"{told}; {curve}.", *left]


def _closed(read: int, given: int) -> Iterator[str]:
    """That a cell's time was over before all documents were read."""
    if read < given:
        yield f"Closed early, its time was over: {read} of {given} documents were read."


def _doubts(subject: Subject, documents: Sequence[Document], cell: Cell) -> Iterator[str]:
    """What a reader may stumble over."""
    prefix = prefix_of(subject.tokenizer) if cell.task == "rolling" else None
    if begin_of(subject.tokenizer) is None and prefix is not None:
        yield f"The tokenizer has no beginning-of-text id: id {prefix} stands before a document, as in lm-eval."
    elif begin_of(subject.tokenizer) is None:
        yield (
            "The tokenizer has no beginning-of-text id: a document's first token costs as any of "
            f"{subject.tokenizer.vocabulary:,}."
        )
    if cell.task == "streaming":
        longest = max(len(document.tokens) for document in documents)
        yield f"The state is kept over whole documents, of up to {longest:,} tokens."
        return
    short = sum(len(document.tokens) <= cell.length for document in documents)
    if short == len(documents):
        yield f"No document is longer than the window of {cell.length:,} tokens: no window moves, protocols are alike."
    elif short:
        yield f"{short} of {len(documents)} documents are not longer than the window: in them no window moves."


def _values(costs: Costs, documents: Sequence[Document]) -> dict[str, Any]:
    """The fields of `Measured` about what all tokens cost."""
    nats = [float(row.sum()) for row in costs.nats]
    size = [float(document.bytes) for document in documents]
    tokens, words = [float(len(document.tokens)) for document in documents], [float(one.words) for one in documents]
    bits = [one / math.log(2) for one in nats]
    values = {"bits_per_byte": sum(bits) / sum(size), "nats_per_token": sum(nats) / sum(tokens)}
    half = {"bits_per_byte": ratio_half(bits, size), "nats_per_token": ratio_half(nats, tokens)}
    for name, units in (("word_perplexity", words), ("token_perplexity", tokens)):
        exponent = sum(nats) / sum(units) if sum(units) else math.inf
        if exponent < LARGEST:
            values[name] = math.exp(exponent)
    return {
        "values": values,
        "half": _known(half),
        "units": {"token_perplexity": INCOMPARABLE},
        "each": [bit / count for bit, count in zip(bits, size, strict=True)],
    }


def _ranges(costs: Costs, documents: Sequence[Document]) -> Iterator[str]:
    """Intervals of perplexities, which are even about their logarithms and not about them."""
    nats, words = [float(row.sum()) for row in costs.nats], [float(document.words) for document in documents]
    spread = ratio_half(nats, words) if sum(words) else None
    if spread is not None:
        exponent = sum(nats) / sum(words)
        low, high = (math.exp(min(one, LARGEST)) for one in (exponent - spread, exponent + spread))
        yield f"95 % interval of the word perplexity, by its logarithm: {low:.4g} to {high:.4g}."


def _known(half: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in half.items() if value is not None}


def _by_position(rows: Sequence[Floats], reach: int, called: str) -> Curve:
    """Means over buckets of positions up to `reach`: of the same rows, which are at least as long, in each bucket."""
    means = [[float(row[low:high].mean()) for row in rows] for low, high in pairwise(edges(reach))]
    halves = [mean_half(some) for some in means]
    return Curve(
        x=middles(reach),
        y=[float(np.mean(some)) for some in means],
        half=[half for half in halves if half is not None],
        x_name="position in the document, tokens",
        y_name=called,
    )


def _window_means(row: Floats, length: int) -> Floats:
    """What each place of a window costs, of a document's (n,) costs: (length,) means over its whole windows."""
    whole = row[: len(row) // length * length]
    means: Floats = whole.reshape(-1, length).mean(0)
    return means


def _first(document: Document, length: int) -> Document:
    """The document's first `length` tokens; what they spell is not asked for."""
    return replace(document, tokens=document.tokens[:length], whole=False)
