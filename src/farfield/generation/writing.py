"""Text of tokens as they come: whole characters, and never a part of a stop text."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Literal

from farfield.generation.decoding import Continues
from farfield.tokenizers import Decoder, Tokenizer

__all__ = ["Generated", "Piece", "decode", "written"]


@dataclass(frozen=True)
class Piece:
    """More text of one row; pieces hold whole characters and never a part of a stop text."""

    row: int
    text: str


@dataclass(frozen=True)
class Generated:
    """A finished answer: its ids (an end token and the ids of a stop text included), its text and why it ended."""

    ids: list[int]
    text: str
    reason: Literal["end", "stop", "length"]


class _Writer:
    """The text of one row: whole characters, and nothing that may still turn out to be a stop text."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str]) -> None:
        self.decoder, self.stop, self.ends = Decoder(tokenizer, after=prompt), stop, tokenizer.ends
        self.ids: list[int] = []
        self.text, self.said = "", 0
        self.reason: Literal["end", "stop", "length"] | None = None

    def push(self, token: int) -> str:
        """The text that is certain once `token` has come."""
        self.ids.append(token)
        if token in self.ends:
            self.reason = "end"
            return self.close()
        return self._add(self.decoder.push(token))

    def close(self) -> str:
        """What was held back."""
        if self.reason != "stop":
            self._add(self.decoder.finish())
        new, self.said = self.text[self.said :], len(self.text)
        return new

    def _add(self, text: str) -> str:
        begin = max(0, len(self.text) - max(map(len, self.stop), default=0))
        self.text += text
        found = [at for at in (self.text.find(stop, begin) for stop in self.stop) if at >= 0]
        if found:
            self.text, self.reason = self.text[: min(found)], "stop"
        held = 0 if found else _held(self.text, self.stop)
        new = self.text[self.said : len(self.text) - held]
        self.said += len(new)
        return new


def _held(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end of `text` may be the beginning of a stop text."""
    return max((n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)


def decode(
    decoding: Continues, tokenizer: Tokenizer, prompts: Sequence[Sequence[int]]
) -> Generator[Piece, None, list[Generated]]:
    """Pieces of text as they come, from prompts that have been prefilled; as `stream` otherwise.

    The last token of the rows that were written last has not been read: `decoding.advance(set())` does.
    """
    config = decoding.config
    writers = [_Writer(tokenizer, prompt, config.stop) for prompt in prompts]
    for _ in range(config.tokens):
        chosen = decoding.ids()
        for row, token in chosen.items():
            text = writers[row].push(token)
            if text:
                yield Piece(row, text)
        ended = {row for row in chosen if writers[row].reason}
        if len(ended) == len(chosen) or len(writers[decoding.rows[0]].ids) == config.tokens:
            break
        decoding.advance(ended)
    for row, writer in enumerate(writers):
        if writer.reason is None:
            writer.reason = "length"
            text = writer.close()
            if text:
                yield Piece(row, text)
    return [Generated(writer.ids, writer.text, writer.reason or "length") for writer in writers]


def written(
    pieces: Generator[Piece, None, list[Generated]], told: Callable[[str], object] | None = None
) -> list[Generated]:
    """The answers at the end of a stream; `told` is called with each piece as it comes."""
    while True:
        try:
            piece = next(pieces)
        except StopIteration as end:
            answers: list[Generated] = end.value
            return answers
        if told is not None:
            told(piece.text)
