"""Which token stands where: the arithmetic of packing, apart from the tokens themselves.

The parts of a split are laid end to end as a stream of tokens to read; a layout says which stretches of the stream
make the rows of a step. It is a pure function of its settings and the step.

    stream      |a0 a1 a2 a3 a4|b0 b1|c0 c1 c2|
    windows     |a0 a1 a2 a3|a4 b0 b1 c0|c1 c2 # #|     length 4
    positions    0  1  2  3  0  0  1  0  0  1  -1 -1

A window that begins inside a document is read with an empty state, so its positions begin at 0: a position that went on
would claim a past that nobody has read. Streams do carry their state, and there positions go on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from farfield.data.batch import PADDING, Ids
from farfield.data.split import Parts

__all__ = ["InOrder", "Layout", "Rows", "Shuffled", "Stream", "Streams", "StreamsOnce"]


class Rows(NamedTuple):
    """Places in the store and positions in the document, (batch, time) each; -1 as a position is padding."""

    places: Ids
    positions: Ids


class Layout(Protocol):
    """How a stream is read."""

    @property
    def steps(self) -> int:
        """Steps until the whole stream has been read once; the last one is rounded up."""
        ...

    def rows(self, step: int) -> Rows: ...


class Stream:
    """The tokens to read of all parts, one after another."""

    def __init__(self, parts: Parts) -> None:
        used = parts.take(parts.inputs > 0)
        self.starts = used.starts
        self.bounds = np.concatenate([[0], np.cumsum(used.inputs)])  # (parts + 1,) where each begins in the stream
        self.total = int(self.bounds[-1])

    def rows(self, at: Ids, fresh: Ids, used: NDArray[np.bool_]) -> Rows:
        """The rows that read the stream at `at`, all arguments (batch, time).

        `fresh` counts the tokens since the state was last empty: no position is beyond it. What is not `used` is
        padding.
        """
        part = np.searchsorted(self.bounds, at, side="right") - 1
        within = at - self.bounds[part]
        places = np.where(used, self.starts[part] + within, 0)
        return Rows(places, np.where(used, np.minimum(within, fresh), PADDING))


@dataclass(frozen=True)
class InOrder:
    """Windows of the stream as they come, once."""

    stream: Stream
    batch: int
    length: int

    @property
    def windows(self) -> int:
        return -(-self.stream.total // self.length)

    @property
    def steps(self) -> int:
        return -(-self.windows // self.batch)

    def rows(self, step: int) -> Rows:
        window = step * self.batch + np.arange(self.batch)[:, None]
        fresh = np.arange(self.length)[None, :]
        at = window * self.length + fresh
        used = at < self.stream.total
        return self.stream.rows(np.where(used, at, 0), fresh, used)


@dataclass(frozen=True)
class Shuffled:
    """Windows of the stream in an order of their own for each epoch, without end.

    Each epoch reads each token once. It also cuts elsewhere: the stream, taken as a circle, is turned by a random
    number of tokens. Epochs follow each other without a gap, within a batch if need be.
    """

    stream: Stream
    batch: int
    length: int
    seed: int
    drawn: dict[int, tuple[int, NDArray[np.int64]]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def windows(self) -> int:
        return -(-self.stream.total // self.length)

    @property
    def steps(self) -> int:
        return -(-self.windows // self.batch)

    def rows(self, step: int) -> Rows:
        picked = [self._window(step * self.batch + row) for row in range(self.batch)]
        turn, window = np.array(picked, np.int64).T[:, :, None]
        fresh = np.arange(self.length)[None, :]
        at = window * self.length + fresh
        return self.stream.rows((at + turn) % self.stream.total, fresh, at < self.stream.total)

    def _window(self, number: int) -> tuple[int, int]:
        """How far the stream is turned, and which window of it comes as the `number`-th since the start."""
        epoch, slot = divmod(number, self.windows)
        turn, order = self._epoch(epoch)
        return turn, int(order[slot])

    def _epoch(self, epoch: int) -> tuple[int, NDArray[np.int64]]:
        """The turn and the order of an epoch: a function of (seed, epoch), kept while it is in use."""
        known = self.drawn.get(epoch)
        if known is not None:
            return known
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, epoch])))
        made = int(generator.integers(self.stream.total)), generator.permutation(self.windows)
        for old in [number for number in list(self.drawn) if abs(number - epoch) > 1]:
            self.drawn.pop(old, None)
        self.drawn[epoch] = made
        return made


class _Shares:
    """The stream cut into `batch` stretches, equal to one token."""

    def __init__(self, stream: Stream, batch: int, length: int) -> None:
        self.stream, self.length = stream, length
        bounds = np.arange(batch + 1) * stream.total // batch
        self.firsts, self.sizes = bounds[:-1, None], np.diff(bounds)[:, None]  # (batch, 1)

    @property
    def steps(self) -> int:
        return -(-int(self.sizes.max()) // self.length)

    def ahead(self, step: int) -> Ids:
        """(batch, time) how many tokens a row has read before each place, had it no end."""
        return np.broadcast_to(step * self.length + np.arange(self.length), (len(self.sizes), self.length))


class Streams:
    """Row b reads the b-th stretch of the stream, step after step, so that a state can be carried, without end.

    Positions go on from step to step within a document. They are 0 where a document starts, where the stretch begins,
    and where it begins anew after its last token: there the row's state starts empty.
    """

    def __init__(self, stream: Stream, batch: int, length: int) -> None:
        self.shares = _Shares(stream, batch, length)

    @property
    def steps(self) -> int:
        return self.shares.steps

    def rows(self, step: int) -> Rows:
        fresh = self.shares.ahead(step) % self.shares.sizes
        return self.shares.stream.rows(self.shares.firsts + fresh, fresh, np.ones_like(fresh, np.bool_))


class StreamsOnce:
    """The same, once: a row that has read its stretch is padded."""

    def __init__(self, stream: Stream, batch: int, length: int) -> None:
        self.shares = _Shares(stream, batch, length)

    @property
    def steps(self) -> int:
        return self.shares.steps

    def rows(self, step: int) -> Rows:
        fresh = self.shares.ahead(step)
        used = fresh < self.shares.sizes
        return self.shares.stream.rows(np.where(used, self.shares.firsts + fresh, 0), fresh, used)
