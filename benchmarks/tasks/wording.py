"""The words of text mode: keys, values, needle sentences, questions and noise, all by arithmetic on an index.

A key is an adjective and a noun, a value has seven digits. A quarter of the keys and a quarter of the values is for
testing only; neither comes up in training, and no word of a key comes up in the noise.
"""

from __future__ import annotations

import numpy as np

from farfield.benchmarks.tasks.sample import Split, generator, hashed

__all__ = ["INTRODUCTION", "REPEATED", "draw_keys", "draw_values", "needle", "noise_sentences", "question", "reply"]

INTRODUCTION = "Remember every secret number.\n"
REPEATED = " The road is long. The hill is steep. The wind is cold. We go on. We come home again."


def _words(text: str) -> list[str]:
    return text.split()


ADJECTIVES = _words("""
amber azure brisk calm clever copper coral crimson dusty eager early faded fancy fluffy frosty gentle giant golden grand
hasty heavy hidden hollow humble icy ivory jolly keen lively lonely lucky lunar marble mellow misty mossy narrow nimble
noble olive pale patient pearly plain polar proud purple rapid royal rustic sandy scarlet shiny silent silver sleepy
smooth solar spicy stormy sunny velvet violet witty
""")
NOUNS = _words("""
acorn anchor arrow badger balloon basket beacon bottle bridge bucket button candle canyon carpet castle cedar cherry
comet compass cottage cricket dolphin dragon engine falcon feather forest fountain garden glacier hammer harbour hazel
island jacket kettle ladder lantern lemon lizard magnet maple meadow mirror mitten monkey orchid otter paddle parrot
pebble pepper pigeon pillow planet puzzle rabbit ribbon saddle salmon spider teapot tiger tunnel
""")

WHO = """
the baker|a young teacher|the town clerk|my neighbour|an old sailor|the night guard|our cousin|the tall doctor
a quiet student|the postman|every visitor|the choir|their uncle|a travelling cook|the librarian|some hikers
"""
DID = """
walked past|talked about|looked after|wrote about|waited near|dreamed of|drove to|came back from
asked about|took a picture of|sat beside|was fond of|had heard of|made a drawing of|was late for|paid for
"""
WHAT = """
the market|the railway station|the new roof|a long letter|the school play|the winter fair|the river boat|an empty house
the village square|a bowl of soup|the wooden fence|the evening news|a pair of shoes|the last train|the wall|a cup of tea
"""
WHEN = """
 in the morning| before lunch| after the rain| on Monday| late at night| at the weekend| in spring| for an hour
||||||||
"""

LOWEST, VALUES = 1_000_000, 9_000_000  # seven digits, never a leading zero
KEYS = len(ADJECTIVES) * len(NOUNS)


def draw_keys(rng: np.random.Generator, count: int, split: Split) -> list[str]:
    """Different keys of `split`."""
    return [
        f"{ADJECTIVES[index // len(NOUNS)]} {NOUNS[index % len(NOUNS)]}" for index in _draw(rng, KEYS, count, split)
    ]


def draw_values(rng: np.random.Generator, count: int, split: Split) -> list[str]:
    """Different values of `split`."""
    return [str(LOWEST + index) for index in _draw(rng, VALUES, count, split)]


def needle(key: str, value: str) -> str:
    """The sentence that is hidden."""
    return f" The secret number of {key} is{reply(value)}"


def question(key: str) -> str:
    """The end of a prompt: what `reply` answers."""
    return f"\nWhat is the secret number of {key}? The secret number of {key} is"


def reply(value: str) -> str:
    """What follows the question, and what ends the needle."""
    return f" {value}."


def noise_sentences(count: int) -> list[str]:
    """`count` sentences of noise, the same each time."""
    parts = [np.array(text.strip("\n").replace("\n", "|").split("|")) for text in (WHO, DID, WHAT, WHEN)]
    picks = generator("noise").integers(0, 1 << 30, (count, len(parts)))
    lines = ((part[pick % len(part)] for part, pick in zip(parts, row, strict=True)) for row in picks)
    return [f" {who[0].upper()}{who[1:]} {did} {what}{when}." for who, did, what, when in lines]


def _draw(rng: np.random.Generator, size: int, count: int, split: Split) -> list[int]:
    """Different indices below `size`. They come in blocks of four; one of each, by the block's hash, is for testing."""
    blocks = rng.choice(size // 4, count, replace=False)
    other = rng.integers(1, 4, count) if split == "train" else 0
    chosen: list[int] = (4 * blocks + (hashed(blocks) + other) % 4).tolist()
    return chosen
