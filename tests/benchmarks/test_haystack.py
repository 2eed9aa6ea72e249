"""Haystacks of text: exactly as many tokens as there is room for, which begin with a word and end with a sentence."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from oracle import Bytes

from farfield.benchmarks.tasks.haystack import POOL, Haystack, load_haystack, needle_haystack, sentences
from farfield.benchmarks.tasks.sample import Tokenizer
from farfield.benchmarks.tasks.wording import noise_sentences
from farfield.tokenizers import train_bpe

WORDS = "the baker walked past the old market while my neighbour paid for Größenwahn and a last train".split()


def text(count: int) -> str:
    rng = np.random.default_rng(4)
    said = (" ".join(rng.choice(WORDS, int(rng.integers(3, 14)))) for _ in range(count))
    return "".join(f"{one[0].upper()}{one[1:]}.{' ' if number % 9 else chr(10) * 2}" for number, one in enumerate(said))


TEXT = text(400)
TOKENIZERS: dict[str, Tokenizer] = {"bytes": Bytes(), "bpe": train_bpe([TEXT], 330)}


def made(order: str, tokenizer: Tokenizer, folder: Path) -> Haystack:
    path = folder / "book.txt"
    path.write_text(TEXT)
    match order:
        case "noise":
            return load_haystack("noise", tokenizer)
        case "needles":
            return needle_haystack([(sentence, str(at)) for at, sentence in enumerate(sentences(TEXT))], tokenizer)
        case _:
            return load_haystack(str(path), tokenizer, repeat=order == "cyclic")


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("order", ["noise", "needles", "cyclic", "once"])
def test_a_passage_begins_with_a_word_ends_with_a_sentence_and_is_as_long_as_asked(
    order: str, kind: str, tmp_path: Path
) -> None:
    tokenizer = TOKENIZERS[kind]
    haystack = made(order, tokenizer, tmp_path)
    known = sentences(TEXT) if order != "noise" else noise_sentences(POOL)
    whole = {"once": TEXT, "cyclic": TEXT * 3}.get(order)
    begins, rng = set(), np.random.default_rng(7)
    for room in (40, 63, 130, 977, 4096):
        for _ in range(12):
            tokens, borders = haystack.take(rng, room)
            assert (len(tokens), borders[0], borders[-1]) == (room, 0, room)
            first, *others = (tokenizer.decode(tokens[low:high].tolist()) for low, high in pairwise(borders))
            assert set(known).issuperset(others)
            assert any(one.endswith(first) and starts_a_word(one, len(one) - len(first)) for one in known)
            assert whole is None or first + "".join(others) in whole
            begins.add(first)
    assert len(begins) > 30


def starts_a_word(sentence: str, place: int) -> bool:
    return place == 0 or sentence[place].isspace() or sentence[place - 1].isspace()


def test_what_is_left_out_does_not_come_in_as_the_first_sentence(tmp_path: Path) -> None:
    haystack = made("needles", TOKENIZERS["bytes"], tmp_path)
    without = frozenset(about for at, about in enumerate(haystack.about) if at % 3)
    kept = [sentence for at, sentence in enumerate(sentences(TEXT)) if at % 3 == 0]
    rng = np.random.default_rng(0)
    for room in range(40, 240):
        tokens, borders = haystack.take(rng, room, without)
        first = bytes(tokens[: borders[1]].tolist()).decode()
        assert any(one.endswith(first) for one in kept)


@pytest.mark.parametrize("repeat", [False, True])
def test_a_text_without_spaces_is_cut_where_it_has_to_be(repeat: bool, tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("".join(f"{'abcdefgh' * (3 + at)}。" for at in range(5)))
    haystack = load_haystack(str(path), Bytes(), repeat=repeat)
    tokens, borders = haystack.take(np.random.default_rng(0), 50)
    assert (len(tokens), borders[0], borders[-1]) == (50, 0, 50)
