"""Haystacks of text mode: sentences, tokenised once, from which any number of tokens is cut by arithmetic.

    take(rng, room):    ...ce two.| Sentence three.| Sentence four.|
                        ^ the first sentence loses its beginning, so that `room` tokens are filled exactly
    borders                       ^                ^               ^    and 0: where a needle may stand

Three orders: `shuffled` draws sentences for ever, `cyclic` repeats the text for ever, `once` takes a passage that the
text really has.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from farfield.benchmarks.tasks.sample import Ids, Tokenizer
from farfield.benchmarks.tasks.wording import REPEATED, noise_sentences
from farfield.config import ConfigError, DataError

__all__ = ["Haystack", "load_haystack", "needle_haystack", "sentences"]

Order = Literal["shuffled", "cyclic", "once"]
POOL = 1024  # different sentences of noise
LONGEST = 400  # characters of a piece without a sentence's end, after which it is cut at a space
ENDING = re.compile(r"[.!?][\"'”’)\]]*(?=\s)|[。！？]|\n(?=\s*\n)")
SUFFIXES = (".txt", ".md")


@dataclass(frozen=True, eq=False)
class Haystack:
    """Sentence i is `tokens[starts[i]:starts[i + 1]]`; `source` names it in messages, `about` says what it tells of."""

    tokens: Ids
    starts: NDArray[np.int64]
    order: Order
    source: str
    about: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        return f"{self.order} {hashlib.sha256(self.tokens.tobytes()).hexdigest()[:16]}"

    def check(self, room: int, length: int) -> None:
        """Raises ConfigError if there are not `room` tokens for a sample of `length`."""
        if self.order == "once" and room > len(self.tokens):
            raise ConfigError(
                f"needle: a length of {length} tokens needs {room} tokens of haystack, and {self.source} has "
                f"{len(self.tokens)}. Give more text or shorter lengths, or set repeat=true."
            )

    def take(
        self, rng: np.random.Generator, room: int, without: frozenset[str] = frozenset()
    ) -> tuple[Ids, NDArray[np.int64]]:
        """(room,) tokens that end with a sentence, and the borders of sentences in them, 0 and `room` included.

        Sentences about anything in `without` are left out.
        """
        picks = self._picks(rng, room, without)
        ends = np.cumsum(np.diff(self.starts)[picks])
        used = int(np.searchsorted(ends, room)) + 1
        cut = int(ends[used - 1]) - room
        tokens = np.concatenate([self.tokens[self.starts[pick] : self.starts[pick + 1]] for pick in picks[:used]])
        return tokens[cut:], np.unique(np.clip(np.concatenate([[0], ends[:used] - cut]), 0, None))

    def _picks(self, rng: np.random.Generator, room: int, without: frozenset[str]) -> NDArray[np.int64]:
        """Sentences in the order in which they are read, `room` tokens of them or more."""
        count = len(self.starts) - 1
        if self.order == "once":
            last = int(np.searchsorted(self.starts, len(self.tokens) - room, side="right")) - 1
            return np.arange(rng.integers(0, last + 1), count)
        # Each round of the whole text has at least its tokens; a shuffled sentence at least those of the shortest.
        if self.order == "cyclic":
            picks: NDArray[np.int64] = rng.integers(0, count) + np.arange((room // len(self.tokens) + 2) * count)
            return picks % count
        allowed = np.array([at for at in range(count) if not self.about or self.about[at] not in without])
        return allowed[rng.integers(0, len(allowed), room // int(np.diff(self.starts).min()) + 1)]


def load_haystack(
    haystack: str, tokenizer: Tokenizer, repeat: bool = False, known: Sequence[str] = ("noise", "repeat")
) -> Haystack:
    """The haystack `noise`, `repeat`, or of the text files at a path; with `repeat` they begin anew at their end.

    known: the names that the caller takes, which messages tell

    Raises:
        DataError: there is no such file, no text in it, or it is not UTF-8.
    """
    match haystack:
        case "noise":
            return _tokenised(noise_sentences(POOL), tokenizer, "shuffled", "the noise")
        case "repeat":
            return _tokenised(sentences(REPEATED), tokenizer, "cyclic", "the repeated text")
        case _:
            text = "\n\n".join(_read(file) for file in _files(haystack, known))
            if not text.strip():
                raise DataError(f"haystack: {haystack} has no text.")
            return _tokenised(sentences(text), tokenizer, "cyclic" if repeat else "once", haystack)


def needle_haystack(sentences: Sequence[tuple[str, str]], tokenizer: Tokenizer) -> Haystack:
    """A haystack of sentences and what each is about, in any order."""
    texts, about = zip(*sentences, strict=True)
    return replace(_tokenised(texts, tokenizer, "shuffled", "other needles"), about=about)


def sentences(text: str) -> list[str]:
    """`text` cut after the ends of sentences and before empty lines; the pieces joined are `text` again."""
    cuts = [0, *(match.end() for match in ENDING.finditer(text)), len(text)]
    pieces = (text[low:high] for low, high in pairwise(cuts))
    return [part for piece in pieces if piece for part in _parts(piece)]


def _parts(piece: str) -> list[str]:
    """`piece` in parts of at most LONGEST characters, cut before a space where there is one."""
    parts = []
    while len(piece) > LONGEST:
        space = piece.rfind(" ", 1, LONGEST + 1)
        cut = space if space > 0 else LONGEST
        parts.append(piece[:cut])
        piece = piece[cut:]
    return [*parts, piece]


def _tokenised(pieces: Sequence[str], tokenizer: Tokenizer, order: Order, source: str) -> Haystack:
    encoded = [np.array(tokenizer.encode(piece), dtype=np.int32) for piece in pieces]
    encoded = [ids for ids in encoded if len(ids)]
    starts = np.concatenate([[0], np.cumsum([len(ids) for ids in encoded])]).astype(np.int64)
    return Haystack(np.concatenate(encoded), starts, order, source)


def _files(haystack: str, known: Sequence[str]) -> list[Path]:
    path = Path(haystack)
    if path.is_file():
        return [path]
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        if found:
            return found
        raise DataError(f"haystack: the folder {haystack} has no file that ends in {' or '.join(SUFFIXES)}.")
    near = difflib.get_close_matches(haystack, known, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise DataError(f"haystack: '{haystack}' is no file and no folder.{hint} Known: {', '.join(known)}, or a path.")


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"haystack: {file} is not UTF-8 text: {error.reason} at byte {error.start}.") from None
    except OSError as error:
        raise DataError(f"haystack: {file} cannot be read: {error.strerror}.") from None
