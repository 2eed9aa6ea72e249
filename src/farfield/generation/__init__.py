"""Text from a model, token by token: prompts of different lengths in one batch, greedy or sampled, streamed.

    for piece in stream(model, tokenizer, ["Once upon", "The"], GenerationConfig(tokens=64)):
        print(piece.row, piece.text)

Prompts are prefilled in pieces with padding on the right; then every row goes on by itself. What a row says does not
depend on the rows beside it: padding is neither read nor written, and each row draws from a generator of its own.
A model that reads neighbours is given those of each chunk when its last token has come, if a database is named.

Shapes: B batch, T time, D width, V vocabulary.
"""

from __future__ import annotations

from farfield.generation.decoding import Continues, Decoding, continuing
from farfield.generation.reading import prefill
from farfield.generation.streaming import begun, clock, generate, opened, stream
from farfield.generation.text_model import TextModel
from farfield.generation.writing import Generated, Piece, decode, written
from farfield.sampling import GenerationConfig, choose, drawing

__all__ = [
    "Continues",
    "Decoding",
    "Generated",
    "GenerationConfig",
    "Piece",
    "TextModel",
    "begun",
    "choose",
    "clock",
    "continuing",
    "decode",
    "drawing",
    "generate",
    "opened",
    "prefill",
    "stream",
    "written",
]
