"""The words of text mode: keys, values, names, needle sentences, questions and noise.

A key is an adjective and a noun, a value has seven digits, a passkey five, a name is made of syllables, all by
arithmetic on an index. A quarter of each is for testing only and does not come up in training; no word of a key comes
up in the noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from farfield.benchmarks.tasks.sample import Split, generator, hashed

__all__ = [
    "KEYED",
    "MANY_KEYS",
    "ONE_KEY",
    "PASSKEY",
    "REPEATED",
    "draw_keys",
    "draw_names",
    "draw_passkeys",
    "draw_values",
    "listed",
    "noise_sentences",
]

# The texts of each kind of needle. A reply is what follows the question; {values} are listed as in "1, 2, and 3".
KEYED = {
    "introduction": "Remember every secret number.\n",
    "needle": " The secret number of {key} is {value}.",
    "question": "\nWhat is the secret number of {key}? The secret number of {key} is",
    "reply": " {value}.",
}
ONE_KEY = {
    "introduction": KEYED["introduction"],
    "needle": " One of the secret numbers of {key} is {value}.",
    "question": "\nWhat are all the secret numbers of {key}? The secret numbers of {key} are",
    "reply": " {values}.",
}
MANY_KEYS = {
    "introduction": KEYED["introduction"],
    "needle": KEYED["needle"],
    "question": "\nWhat are the secret numbers of {keys}? The secret numbers of {keys} are",
    "reply": " {values}.",
}
PASSKEY = {
    "introduction": "Somewhere in a long text that does not matter a password is told. Keep it in mind.\n",
    "needle": " The password of the day is {value}. Keep it in mind: {value} is the password of the day.",
    "question": "\nWhat is the password of the day? The password of the day is",
    "reply": " {value}.",
}
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
PASSKEYS = 10_000, 90_000  # five digits
KEYS = len(ADJECTIVES) * len(NOUNS)
STARTS = [consonant + vowel for consonant in "BDFGKLMNPRSTVZ" for vowel in "aeiou"]
MIDDLES = [consonant + vowel for consonant in "bdklmnrvz" for vowel in "aeiou"]
ENDS = _words("dek gix kun lem mov nuk rix sov tek vun zam lix")
NAMES = len(STARTS) * len(MIDDLES) * len(ENDS)


def draw_keys(rng: np.random.Generator, count: int, split: Split) -> list[str]:
    """Different keys of `split`."""
    return [
        f"{ADJECTIVES[index // len(NOUNS)]} {NOUNS[index % len(NOUNS)]}" for index in _draw(rng, KEYS, count, split)
    ]


def draw_values(rng: np.random.Generator, count: int, split: Split) -> list[str]:
    """Different values of `split`."""
    return [str(LOWEST + index) for index in _draw(rng, VALUES, count, split)]


def draw_passkeys(rng: np.random.Generator, count: int, split: Split) -> list[str]:
    """Different passkeys of `split`."""
    low, size = PASSKEYS
    return [str(low + index) for index in _draw(rng, size, count, split)]


def draw_names(rng: np.random.Generator, count: int, split: Split) -> list[str]:
    """Different names of people of `split`."""
    parts = (
        np.unravel_index(index, (len(STARTS), len(MIDDLES), len(ENDS))) for index in _draw(rng, NAMES, count, split)
    )
    return [STARTS[start] + MIDDLES[middle] + ENDS[end] for start, middle, end in parts]


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b, and c`."""
    if len(words) < 3:
        return " and ".join(words)
    return f"{', '.join(words[:-1])}, and {words[-1]}"


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
