"""Haystacks of text mode: sentences, tokenised once, from which any number of tokens is cut by arithmetic.

    take(rng, room):    the first one ends.| Sentence two.| Sentence three.|
                        ^ the first sentence loses its beginning, so that `room` tokens are filled exactly
    borders                                ^              ^               ^    and 0: where a needle may stand

Three orders: `shuffled` draws sentences for ever, `cyclic` repeats the text for ever, `once` takes a passage that the
text really has. What is drawn is drawn among what begins with a word, so that no word loses its beginning: of a text,
the passages of `room` tokens that end with a sentence; of shuffled sentences, the first one. Only where nothing fits
so (a text without spaces, or hardly longer than the room) is a word cut.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from farfield.benchmarks.tasks.sample import Ids, Tokenizer
from farfield.benchmarks.tasks.wording import REPEATED, noise_sentences
from farfield.config import ConfigError, DataError

__all__ = ["Haystack", "load_haystack", "needle_haystack", "sentences", "words"]

VERSION = 2
TRIES = 64  # of a second sentence, before a word is cut after all
Order = Literal["shuffled", "cyclic", "once"]
POOL = 1024  # different sentences of noise
LONGEST = 400  # characters of a piece without a sentence's end, after which it is cut at a space
ENDING = re.compile(r"[.!?][\"'”’)\]]*(?=\s)|[。！？]|\n(?=\s*\n)")
SUFFIXES = (".txt", ".md")


@dataclass(frozen=True, eq=False)
class Haystack:
    """Sentence i is `tokens[starts[i]:starts[i + 1]]`.

    words:  (tokens,) whether a word, or the space before it, begins with the token
    source: names it in messages. about: what each sentence tells of
    """

    tokens: Ids
    starts: NDArray[np.int64]
    words: NDArray[np.bool_]
    order: Order
    source: str
    about: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        return f"{self.order} {VERSION} {hashlib.sha256(self.tokens.tobytes()).hexdigest()[:16]}"

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
        picks = self._shuffled(rng, room, without) if self.order == "shuffled" else self._passage(rng, room)
        ends = np.cumsum(self._sizes[picks])
        cut = int(ends[-1]) - room
        tokens = np.concatenate([self.tokens[self.starts[pick] : self.starts[pick + 1]] for pick in picks])
        return tokens[cut:], np.unique(np.clip(np.concatenate([[0], ends - cut]), 0, None))

    @cached_property
    def _sizes(self) -> NDArray[np.int64]:
        """(sentences,) tokens of each."""
        return np.diff(self.starts)

    def _passage(self, rng: np.random.Generator, room: int) -> NDArray[np.int64]:
        """Sentences of the text, no more than `room` tokens need; a cyclic text goes on at its beginning."""
        count, whole = len(self._sizes), len(self.tokens)
        ends = self.starts[1:]
        there = np.arange(count) if self.order == "cyclic" else np.flatnonzero(ends >= room)
        good = there[self.words[(ends[there] - room) % whole]]
        last = int(_one_of(rng, good if len(good) else there))
        # Backwards from the last one; each round of the whole text has its tokens.
        back = (last - np.arange((room // whole + 2) * count)) % count
        used = int(np.searchsorted(np.cumsum(self._sizes[back]), room)) + 1
        return back[:used][::-1]

    def _shuffled(self, rng: np.random.Generator, room: int, without: frozenset[str]) -> NDArray[np.int64]:
        """Sentences, no more than `room` tokens need, the first of them one that can lose so much at a word."""
        count = len(self._sizes)
        allowed = np.array([at for at in range(count) if not self.about or self.about[at] not in without])
        picks = allowed[rng.integers(0, len(allowed), room // int(self._sizes.min()) + 1)]
        ends = np.cumsum(self._sizes[picks])
        used = int(np.searchsorted(ends, room)) + 1
        gone = int(np.searchsorted(ends, ends[used - 1] - room, side="right"))  # sentences that nothing is left of
        picks, kept = picks[gone:used], int(ends[gone] - ends[used - 1]) + room  # tokens of the first one
        if self.words[self.starts[picks[0] + 1] - kept]:
            return picks
        return self._opened(rng, picks, kept, allowed)

    def _opened(
        self, rng: np.random.Generator, picks: NDArray[np.int64], kept: int, allowed: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """`picks` with another first sentence, whose last `kept` tokens begin with a word.

        Where there is none (no word is a letter and a full stop), another second one makes it longer or shorter.
        """
        tried: NDArray[np.int64] = picks.copy()
        for _ in range(TRIES):
            there = allowed[self._sizes[allowed] >= kept]
            good = there[self.words[self.starts[there + 1] - max(kept, 1)]]
            if kept > 0 and len(good):
                tried[0] = _one_of(rng, good)
                return tried
            if len(tried) == 1:
                return picks
            other = _one_of(rng, allowed)
            kept += int(self._sizes[tried[1]] - self._sizes[other])
            tried[1] = other
        return picks


def words(tokens: Ids, starts: NDArray[np.int64], tokenizer: Tokenizer) -> NDArray[np.bool_]:
    """(tokens,) whether a word, or the space before it, begins with the token; where sentences start one does."""
    ids, places = np.unique(tokens, return_inverse=True)
    before = tokenizer.encode("a")  # behind which a token keeps a space that it begins with
    held = len(tokenizer.decode(before))
    texts = [tokenizer.decode([*before, one])[held:] for one in ids.tolist()]
    opens = np.array([text[:1].isspace() for text in texts])[places]
    closes = np.array([text[-1:].isspace() for text in texts])[places]
    opens[1:] |= closes[:-1]
    opens[starts[:-1]] = True
    return opens


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
    tokens = np.concatenate(encoded)
    return Haystack(tokens, starts, words(tokens, starts, tokenizer), order, source)


def _one_of(rng: np.random.Generator, numbers: NDArray[np.int64]) -> np.int64:
    drawn: np.int64 = numbers[rng.integers(len(numbers))]
    return drawn


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
