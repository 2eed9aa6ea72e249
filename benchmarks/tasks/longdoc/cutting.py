"""What is left of a document that is too long, and where its parts are then.

middle    | head ........ |mark| ........ tail |      the middle is left out
end       | head ........................ |mark|
start     |mark| ........................ tail |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from farfield.benchmarks.tasks.longdoc.data_set import Cut
from farfield.benchmarks.tasks.sample import Ids, Tokenizer

__all__ = ["Cutting", "cut", "located", "passage_ids", "placed"]

REACH = 8  # tokens by which a place that was counted in another way may be off


@dataclass(frozen=True)
class Cutting:
    """The first `head` and the last `tail` of `size` tokens; all of them where nothing is cut away."""

    size: int
    head: int
    tail: int

    @property
    def whole(self) -> bool:
        return self.head + self.tail >= self.size

    def apply(self, document: Ids, mark: Ids) -> Ids:
        if self.whole:
            return document
        return np.concatenate([document[: self.head], mark, document[self.size - self.tail :]])


def cut(size: int, room: int, rule: Cut, half: int, mark: int) -> Cutting:
    """How `size` tokens are brought to `room`, of which `mark` say that something is missing.

    half: tokens before the cut where the middle is left out
    """
    if size <= room:
        return Cutting(size, size, 0)
    kept = max(0, room - mark)
    head = {"middle": min(max(half, 0), kept), "end": kept, "start": 0}[rule]
    return Cutting(size, head, kept - head)


def placed(span: tuple[int, int], cutting: Cutting, before: int, mark: int) -> tuple[int, int] | None:
    """Where tokens of the document are in the prompt that has `before` tokens in front; None if any is cut away."""
    low, high = span
    if cutting.whole or high <= cutting.head:
        return before + low, before + high
    left_out = cutting.size - cutting.tail
    if low >= left_out:
        shift = before + cutting.head + mark - left_out
        return shift + low, shift + high
    return None


def located(document: str, part: str, ids: Ids, tokenizer: Tokenizer) -> tuple[int, int] | None:
    """The tokens of the document in which `part` is written, its first place; None where it is not found.

    Tokens are counted by encoding what stands before, which may merge in another way at its end: the span is widened
    until it holds the part, by a few tokens at most.
    """
    at = document.find(part)
    if at < 0 or not part:
        return None
    low = len(tokenizer.encode(document[:at]))
    high = len(tokenizer.encode(document[: at + len(part)]))
    for reach in range(REACH):
        span = max(0, low - reach), min(len(ids), high + reach)
        if part in tokenizer.decode(ids[span[0] : span[1]].tolist()):
            return span
    return None


def passage_ids(passages: Sequence[tuple[int, str]], encode: Callable[[str], Ids], room: int) -> Ids:
    """As many of the first passages as have room, in the order in which the document has them, an empty line between.

    The best passage alone is cut if it has no room.
    """
    line = encode("\n\n")
    kept: list[tuple[int, Ids]] = []
    left = room
    for start, text in passages:
        ids = encode(text)
        size = len(ids) + (len(line) if kept else 0)
        if size > left:
            break
        kept.append((start, ids))
        left -= size
    if not kept:
        return encode(passages[0][1])[:room] if passages else encode("")
    parts = [ids for _, ids in sorted(kept, key=lambda one: one[0])]
    return np.concatenate([piece for ids in parts for piece in (line, ids)][1:])
