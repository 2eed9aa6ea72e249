"""Long documents, tokenised once, and the windows through which they are read: arithmetic, no model.

Every token of a document is predicted once, whatever the protocol; protocols differ in what stands before it. Windows
of 4 over ten tokens, each drawn with what is scored of it, and ahead of it what its first token is predicted from:

    block         b 0 1 2 3          b 4 5 6 7              b 8 9         b: the beginning of a text
    sliding 2     b 0 1 2 3    b . . 4 5    b . . 6 7    b . . 8 9        .: read, and not scored again
    rolling       b 0 1 2 3    3 4 5 6 7    5 . . 8 9                     lm-evaluation-harness's
    streaming     b 0 1 2 3 4 5 6 7 8 9                                   the state is kept

A model whose tokenizer has an id for the beginning of a text was trained with it, and gets it in each window (in
`rolling` in the first one only, as published). Another one was trained on rows that begin anywhere: there the token
before a window is its beginning. Before a document's first token there is none, so it costs as any of the vocabulary;
in `rolling` it stands behind the id that ends a text, as published.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from farfield.benchmarks.tasks.sample import IGNORED, Ids, Tokenizer

__all__ = ["Document", "Window", "blocks", "edges", "inputs", "middles", "rolling", "sliding", "tokenised"]

CHARACTERS = 12  # more than this many a token no text has on average
FIRST_EDGE = 32  # tokens of the first bucket of positions
BROKEN = "\ufffd"


@dataclass(frozen=True, eq=False)
class Document:
    """A text as it is read.

    tokens:  (n,) its ids, n at least 1
    bytes:   of the text that they spell, in UTF-8
    words:   of that text, by the white space between them
    whole:   whether that is all of it
    """

    name: str
    tokens: Ids
    bytes: int
    words: int
    whole: bool


class Window(NamedTuple):
    """Tokens `start` to `end - 1` of a document are predicted, and the last `scored` of them count.

    fresh: whether it begins as a text does; else its first token is predicted from the token before it
    """

    start: int
    end: int
    scored: int
    fresh: bool


def tokenised(texts: Iterable[tuple[str, str]], tokenizer: Tokenizer, most: int | None) -> list[Document]:
    """The documents of (name, text), each cut behind its first `most` tokens; those without a token are left out."""
    found = []
    for name, text in texts:
        cut = text if most is None else text[: CHARACTERS * most]
        ids = tokenizer.encode(cut)
        if most is not None and len(ids) < most and len(cut) < len(text):
            cut, ids = text, tokenizer.encode(text)
        kept = np.array(ids[:most], dtype=np.int32)
        if len(kept):
            whole = len(kept) == len(ids) and len(cut) == len(text)
            part = text if whole else _spelled(text, ids, len(kept), tokenizer)
            found.append(Document(name, kept, len(part.encode("utf-8", "replace")), len(part.split()), whole))
    return found


def _spelled(text: str, ids: Sequence[int], count: int, tokenizer: Tokenizer) -> str:
    """What the first `count` of the ids of a beginning of `text` spell of it.

    A tokenizer that does not give back the text that it was given (it normalizes, or adds a space) is told apart by
    that: then it is as much of what all of the ids spell as the ids are of them.
    """
    decoded = tokenizer.decode(ids[:count]).rstrip(BROKEN)
    if text.startswith(decoded):
        return decoded
    spelled = len(tokenizer.decode(ids))
    return text[: round(spelled * count / len(ids))]


def blocks(count: int, length: int) -> Iterator[Window]:
    """Disjoint windows of `length` of a document of `count` tokens; the last one is what is left."""
    for start in range(0, count, length):
        end = min(start + length, count)
        yield Window(start, end, end - start, True)


def sliding(count: int, length: int, stride: int) -> Iterator[Window]:
    """Windows of `length` that move by `stride`: the first one counts whole, of the others the last `stride` tokens.

    The last window moves by what is left. With a stride of 1 each token has all the context that the window allows.
    """
    end = min(length, count)
    yield Window(0, end, end, True)
    while end < count:
        step = min(stride, count - end)
        end += step
        yield Window(end - length, end, step, True)


def rolling(count: int, length: int) -> Iterator[Window]:
    """The windows of lm-evaluation-harness's loglikelihood_rolling, with one token of context.

    Disjoint, each predicted from the token before it, and the last one reaches back to fill its length.
    """
    for start in range(0, count, length):
        end = min(start + length, count)
        yield Window(max(0, end - length), end, end - start, start == 0)


def inputs(tokens: Ids, window: Window, begin: int | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What is read of a window, and what comes next at each place, IGNORED where it does not count: (time,) each.

    Nothing where a document of one token has nothing before it.
    """
    targets: NDArray[np.int64] = tokens[window.start : window.end].astype(np.int64)
    targets[: len(targets) - window.scored] = IGNORED
    read: NDArray[np.int64] = tokens[max(0, window.start - 1) : window.end - 1].astype(np.int64)
    if begin is not None and window.fresh:
        read = np.concatenate([[begin], tokens[window.start : window.end - 1]])
    return (read, targets) if len(read) == len(targets) else (read, targets[1:])


def edges(reach: int) -> list[int]:
    """Where buckets of positions begin, and the end of the last one: 0, 32 and doubling from there, up to `reach`."""
    found = [0]
    while (edge := FIRST_EDGE << (len(found) - 1)) < reach:
        found.append(edge)
    return [*found, reach]


def middles(reach: int) -> list[float]:
    """The middle of each bucket on a logarithmic scale, of the first one on a plain one."""
    return [float(np.sqrt(low * high)) if low else high / 2 for low, high in pairwise(edges(reach))]
