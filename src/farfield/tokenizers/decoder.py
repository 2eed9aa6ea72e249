"""Token ids to text while they come."""

from __future__ import annotations

from collections.abc import Sequence

from farfield.tokenizers.protocol import Tokenizer

__all__ = ["Decoder"]

CONTEXT = 8  # tokens; a character has at most four bytes, so its tokens are among the last four
BROKEN = "\ufffd"  # what tokenizers write for bytes that are no character, or not yet


class Decoder:
    """Ids to text, one at a time; what is returned is final and holds whole characters only.

        decoder = Decoder(tokenizer, after=prompt)
        decoder.push(0xC3) == ""; decoder.push(0xBC) == "ü"

    `after` is what stands before (a prompt): some tokenizers drop a space at the very start of a text. The pieces
    joined are what `decode` makes of all ids at once (with byte fallback, as in Llama's tokenizer, where the bytes are
    valid). A token costs the same however long the text is: only a few tokens are decoded again.
    """

    def __init__(self, tokenizer: Tokenizer, after: Sequence[int] = ()) -> None:
        self.tokenizer = tokenizer
        self.ids = [token for token in after if token not in tokenizer.ends][-CONTEXT:]
        self.said = _certain(tokenizer.decode(self.ids))  # characters of the text of `ids` that are out already
        self.held = 0  # tokens since the text last ended in a whole character

    def push(self, token: int) -> str:
        """The text that is certain now that `token` has come; nothing where a character is still open."""
        if token in self.tokenizer.ends:
            return ""
        self.ids.append(token)
        text = self.tokenizer.decode(self.ids)
        self.held = self.held + 1 if text.endswith(BROKEN) else 0
        if 0 < self.held < 4:
            return ""
        certain = _certain(text)
        new, self.said = text[self.said : certain], max(self.said, certain)
        if len(self.ids) >= 2 * CONTEXT:
            self.ids = self.ids[-CONTEXT:]
            self.said = _certain(self.tokenizer.decode(self.ids))
        return new

    def finish(self) -> str:
        """The rest: U+FFFD for a character that was never completed, else nothing."""
        text = self.tokenizer.decode(self.ids)
        new, self.said, self.held = text[self.said :], len(text), 0
        return new


def _certain(text: str) -> int:
    """How many characters of `text` no later token changes: all, but for a broken one at the end."""
    return len(text) - text.endswith(BROKEN)
