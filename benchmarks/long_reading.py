"""What each token of long documents costs a subject, by the protocols of `farfield.benchmarks.tasks.long_text`.

costs = windowed(subject, documents, lambda count: sliding(count, 2048, 256), rows=8)    # (n,) nats of each document
costs = streamed(subject, documents, Streaming(piece=2048, rows=8))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from farfield.benchmarks.subjects.subject import Lacking, Prefilled, Subject
from farfield.benchmarks.tasks.long_text import Document, Window, inputs
from farfield.benchmarks.tasks.sample import Tokenizer

__all__ = ["Costs", "Streaming", "begin_of", "prefix_of", "streamed", "windowed"]

Floats = NDArray[np.float64]


@runtime_checkable
class _Begins(Protocol):
    """A tokenizer that knows of an id for the beginning of a text, or of none."""

    @property
    def begin(self) -> int | None: ...


@runtime_checkable
class _Ends(Protocol):
    """A tokenizer that knows of an id for the end of a text."""

    @property
    def end(self) -> int | None: ...


@runtime_checkable
class _Prefixed(Protocol):
    """A tokenizer that knows what lm-evaluation-harness puts before a text."""

    @property
    def prefix(self) -> int | None: ...


@runtime_checkable
class _Opens(Protocol):
    """A subject that puts the beginning of a text before what it is given, and can be kept from it."""

    def bare(self) -> Subject: ...


@dataclass
class Costs:
    """Nats of each token of each document, and how many tokens were read for it."""

    nats: list[Floats]
    read: int = 0

    def add(self, more: Costs) -> None:
        """Takes in what the documents behind these cost."""
        self.nats += more.nats
        self.read += more.read


@dataclass(frozen=True)
class Streaming:
    """How streams are read: in calls of `piece` tokens, `rows` documents of one length side by side.

    shuffle: before each piece but the first, what the memory's keys are bound to is exchanged, by this seed
    """

    piece: int
    rows: int
    shuffle: int | None = None


def begin_of(tokenizer: Tokenizer) -> int | None:
    """The id that stands before every text, None where the tokenizer has none."""
    return tokenizer.begin if isinstance(tokenizer, _Begins) else None


def prefix_of(tokenizer: Tokenizer) -> int | None:
    """What lm-evaluation-harness puts before a text: its beginning, or where the tokenizer has none the end of one."""
    if (begin := begin_of(tokenizer)) is not None:
        return begin
    if isinstance(tokenizer, _Prefixed):
        return tokenizer.prefix
    return tokenizer.end if isinstance(tokenizer, _Ends) else None


def _bare(subject: Subject) -> Subject:
    """The subject, of which windows say themselves what stands before them."""
    return subject.bare() if isinstance(subject, _Opens) else subject


def windowed(
    subject: Subject,
    documents: Sequence[Document],
    windows: Callable[[int], Iterable[Window]],
    tokens: int,
    before: Callable[[Tokenizer], int | None] = begin_of,
) -> Costs:
    """The documents through windows, those of one size side by side: at most `tokens` tokens at once, or one window.

    `before` gives what stands before a window that begins as a text does.

    Raises:
        Lacking: a cost is not finite.
    """
    begin, subject = before(subject.tokenizer), _bare(subject)
    costs = _unread(subject, documents, begin)
    waiting: dict[int, list[_Piece]] = {}
    for at, document in enumerate(documents):
        for window in windows(len(document.tokens)):
            piece = _Piece(at, window.end, *inputs(document.tokens, window, begin))
            alike = waiting.setdefault(len(piece.read), [])
            alike.append(piece)
            if len(alike) >= max(1, tokens // max(len(piece.read), 1)):
                _read(subject, waiting.pop(len(piece.read)), costs)
    for alike in waiting.values():
        _read(subject, alike, costs)
    return _finite(costs, documents)


class _Piece(NamedTuple):
    """What is read of document `at`, and what comes next: (time,) each. Its last target is token `end - 1`."""

    at: int
    end: int
    read: NDArray[np.int64]
    targets: NDArray[np.int64]


def _read(subject: Subject, alike: Sequence[_Piece], costs: Costs) -> None:
    """Reads pieces of one length, and notes what their tokens that count cost."""
    read, targets = np.stack([piece.read for piece in alike]), np.stack([piece.targets for piece in alike])
    if not read.size:
        return
    logprobs = subject.read(read, targets).logprobs
    costs.read += read.size
    for piece, row in zip(alike, logprobs, strict=True):
        counted = row[piece.targets >= 0]
        costs.nats[piece.at][piece.end - len(counted) : piece.end] = -counted


def streamed(subject: Subject, documents: Sequence[Document], how: Streaming) -> Costs:
    """The documents from beginning to end, the state kept from piece to piece.

    Raises:
        Lacking: a cost is not finite.
    """
    begin, subject = begin_of(subject.tokenizer), _bare(subject)
    costs = _unread(subject, documents, begin)
    for members in _alike(documents, how.rows):
        whole = [Window(0, len(documents[at].tokens), len(documents[at].tokens), True) for at in members]
        pairs = [inputs(documents[at].tokens, window, begin) for at, window in zip(members, whole, strict=True)]
        read, targets = (np.stack(column) for column in zip(*pairs, strict=True))
        known: Prefilled | None = None
        for low in range(0, read.shape[1], how.piece):
            if how.shuffle is not None and known is not None:
                known = subject.shuffled(known, how.shuffle + low)
            piece = slice(low, low + how.piece)
            reading = subject.read(read[:, piece], targets[:, piece], known)
            known = reading.known
            costs.read += reading.logprobs.size
            # Without an id before it, the first token of a document is not among the targets.
            at = low + (0 if begin is not None else 1)
            for member, row in zip(members, reading.logprobs, strict=True):
                costs.nats[member][at : at + len(row)] = -row
    return _finite(costs, documents)


def _alike(documents: Sequence[Document], rows: int) -> Iterator[list[int]]:
    """The indices of documents of one length, at most `rows` together."""
    lengths: dict[int, list[int]] = {}
    for at, document in enumerate(documents):
        lengths.setdefault(len(document.tokens), []).append(at)
    for members in lengths.values():
        for low in range(0, len(members), rows):
            yield members[low : low + rows]


def _unread(subject: Subject, documents: Sequence[Document], begin: int | None) -> Costs:
    """Costs that are not known yet, but for those of first tokens that nothing stands before."""
    nats = [np.full(len(document.tokens), np.nan) for document in documents]
    if begin is None:
        for row in nats:
            row[0] = math.log(subject.tokenizer.vocabulary)
    return Costs(nats)


def _finite(costs: Costs, documents: Sequence[Document]) -> Costs:
    for document, row in zip(documents, costs.nats, strict=True):
        if not np.isfinite(row).all():
            place = int(np.flatnonzero(~np.isfinite(row))[0])
            raise Lacking(
                f"token {place} of {document.name} costs {row[place]} nats: the model's numbers are not finite"
            )
    return costs
