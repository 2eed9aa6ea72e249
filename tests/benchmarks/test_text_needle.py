from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Bytes

from farfield.benchmarks.tasks.haystack import load_haystack, sentences
from farfield.benchmarks.tasks.layout import behind
from farfield.benchmarks.tasks.needle import spread
from farfield.benchmarks.tasks.sample import Sample, Split, generator
from farfield.benchmarks.tasks.stories import Keyed, whole_numbers
from farfield.benchmarks.tasks.text_needle import TextNeedle
from farfield.benchmarks.tasks.wording import ADJECTIVES, KEYED, NOUNS, draw_keys, draw_values, noise_sentences
from farfield.config import ConfigError, DataError

BYTES = Bytes()
NOISE = load_haystack("noise", BYTES)
REPEAT = load_haystack("repeat", BYTES)
NEEDLE = re.compile(r" The secret number of (\w+ \w+) is (\d{7})\.")


def parsed(sample: Sample) -> tuple[dict[str, str], str, str]:
    """The needles of a prompt, the key that it asks for, and its haystack without the needles."""
    text = BYTES.decode(sample.prompt.tolist())
    assert text.startswith(KEYED["introduction"])
    body, _, asked = text[len(KEYED["introduction"]) :].rpartition("\nWhat is ")
    key = re.fullmatch(r"the secret number of (\w+ \w+)\? The secret number of \1 is", asked)
    assert key is not None
    found = NEEDLE.findall(body)
    assert len(dict(found)) == len(found)
    return dict(found), key[1], NEEDLE.sub("", body.rstrip("\n"))


@given(
    seed=st.integers(0, 2**40),
    length=st.integers(256, 3000),
    depth=st.floats(0, 1),
    repeated=st.booleans(),
    split=st.sampled_from(["train", "test"]),
)
@settings(deadline=None, max_examples=60)
def test_a_sample_fills_its_length_and_holds_its_gold(
    seed: int, length: int, depth: float, repeated: bool, split: Split
) -> None:
    task = TextNeedle(BYTES, REPEAT if repeated else NOISE)
    (sample,) = task.generate(seed, length, 1, split, depth=depth)
    found, key, haystack = parsed(sample)
    assert len(sample.prompt) + sample.budget == sample.length == length
    assert (found[key],) == sample.text_answers
    assert BYTES.decode(sample.answer.tolist()) == KEYED["reply"].format(value=found[key])
    assert len(sample.answer) <= sample.budget
    # Without a cut sentence the haystack ends with one, and the needle stands between two.
    place = BYTES.decode(sample.prompt.tolist()).index(KEYED["needle"].format(key=key, value=found[key])) - len(
        KEYED["introduction"]
    )
    assert sample.depths == (place / len(haystack),)
    assert place == 0 or haystack[place - 1] == "."
    assert haystack.endswith(".")
    longest = max(map(len, noise_sentences(1024)))
    assert abs(sample.depths[0] - depth) * len(haystack) <= longest / 2 + 1


@pytest.mark.parametrize("length", [256, 512, 1024, 4096, 16384, 65536])
def test_every_length_is_filled(length: int) -> None:
    task = TextNeedle(BYTES, NOISE)
    samples = [task.generate(1, length, 3, "test", depth=depth) for depth in (0.0, 0.5, 1.0)]
    for at, row in zip((0.0, 0.5, 1.0), samples, strict=True):
        for sample in row:
            assert 0.98 * length <= len(sample.prompt) + len(sample.answer) <= length
            assert abs(sample.depths[0] - at) < max(0.5 * 60 / (length - 200), 0.001) + 1e-9
    for low, middle, high in zip(*samples, strict=True):
        assert low.text_answers == middle.text_answers == high.text_answers
        assert sorted(low.prompt.tolist()) == sorted(middle.prompt.tolist()) == sorted(high.prompt.tolist())
        border = round(middle.depths[0] * (length - 200)) // 2
        assert middle.prompt[:border].tolist() == high.prompt[:border].tolist()


def test_a_million_tokens_are_filled_to_the_last() -> None:
    (sample,) = TextNeedle(BYTES, NOISE).generate(0, 1 << 20, 1, "test", depth=0.7)
    assert len(sample.prompt) + sample.budget == 1 << 20
    assert sample.depths[0] == pytest.approx(0.7, abs=1e-4)


@given(seed=st.integers(0, 1000), needles=st.integers(1, 6), depth=st.sampled_from(spread(5)))
@settings(deadline=None, max_examples=30)
def test_several_needles_and_questions_share_one_haystack(seed: int, needles: int, depth: float) -> None:
    samples = TextNeedle(BYTES, NOISE, Keyed(needles, needles)).generate(seed, 2048, 2, "test", depth=depth)
    assert len(samples) == 2 * needles
    assert {len(sample.prompt) for sample in samples} == {2048 - 9}
    for index in (0, 1):
        mine = samples[index * needles : (index + 1) * needles]
        seen = [parsed(sample) for sample in mine]
        assert len({haystack for _, _, haystack in seen}) == 1
        assert len({key for _, key, _ in seen}) == needles
        for sample, (found, key, haystack), wanted in zip(mine, seen, behind(depth, needles), strict=True):
            assert len(found) == needles
            assert (found[key],) == sample.text_answers
            assert abs(sample.depths[0] - wanted) * len(haystack) <= 40


def test_train_and_test_share_no_key_and_no_value() -> None:
    rng = generator("sample", 0)
    keys = {split: set(draw_keys(rng, 900, split)) for split in ("train", "test")}
    values = {split: set(draw_values(rng, 5000, split)) for split in ("train", "test")}
    assert {len(part) for part in keys.values()} == {900}
    assert not keys["train"] & keys["test"]
    assert not values["train"] & values["test"]
    assert all(re.fullmatch(r"[1-9]\d{6}", value) for part in values.values() for value in part)
    for part in values.values():
        assert {value[-1] for value in part} == set("0123456789")


def test_words_of_keys_are_not_in_the_noise() -> None:
    lists = ADJECTIVES + NOUNS
    assert (len(ADJECTIVES), len(NOUNS), len(set(lists))) == (64, 64, 128)
    words = set(
        re.findall(
            r"\w+", "".join(noise_sentences(1024)).lower() + KEYED["question"].format(key="") + KEYED["introduction"]
        )
    )
    assert not words & set(lists)
    assert len(set(noise_sentences(1024))) > 900
    assert all(re.fullmatch(r" [A-Z][^.]*\.", sentence) for sentence in noise_sentences(1024))


@pytest.mark.parametrize(
    ("text", "held"),
    [
        (" 1234567.", True),
        ("It is 1234567", True),
        ("1234567, I think", True),
        ("12345678", False),
        ("01234567", False),
        ("n1234567", False),
        (" 1111111 or 1234567", False),
        (" 1234567 or 1111111", True),
        ("123456", False),
        ("", False),
    ],
)
def test_only_the_first_number_counts_and_only_whole(text: str, held: bool) -> None:
    assert whole_numbers(text, ["1234567"]) == held


def test_outputs_are_judged_by_the_value_in_them() -> None:
    task = TextNeedle(BYTES, NOISE)
    samples = task.generate(0, 256, 3, "test", depth=0.5)
    gold = [sample.text_answers[0] for sample in samples]
    outputs = [BYTES.encode(text) for text in (f" {gold[0]}.", f" {gold[1]}0", f" {gold[0]}.")]
    assert task.score(samples, outputs) == [1.0, 0.0, 0.0]
    assert task.score(samples, [sample.answer.tolist() for sample in samples]) == [1.0, 1.0, 1.0]


PROSE = 'One. "Two!" he said.\n\nA heading\n\n- three, Mr. X (four?) 五。六。 e.g. ' + "word " * 200 + "x" * 900


@given(st.one_of(st.text(max_size=100), st.just(PROSE)))
@settings(deadline=None, max_examples=40)
def test_sentences_join_to_their_text(text: str) -> None:
    pieces = sentences(text)
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= 400 for piece in pieces)


def test_sentences_end_where_a_reader_ends_them() -> None:
    assert sentences('One. "Two!" he said.\n\nA heading\n\nThree 3.5 (four?) 五。六') == [
        "One.",
        ' "Two!"',
        " he said.",
        "\n",
        "\nA heading\n",
        "\nThree 3.5 (four?)",
        " 五。",
        "六",
    ]


def book(folder: Path, name: str = "book.txt", count: int = 300) -> Path:
    path = folder / name
    path.write_text("".join(f"Sentence {number} of {name} has ünïcode. " for number in range(count)), encoding="utf-8")
    return path


def test_own_files_give_passages_in_their_order(tmp_path: Path) -> None:
    book(tmp_path, "b.md")
    book(tmp_path, "a.txt")
    (tmp_path / "c.pdf").write_bytes(b"\xff")
    task = TextNeedle(BYTES, load_haystack(str(tmp_path), BYTES))
    samples = task.generate(0, 1000, 40, "test", depth=0.5)
    whole = (tmp_path / "a.txt").read_text("utf-8") + "\n\n" + (tmp_path / "b.md").read_text("utf-8")
    begins = set()
    for sample in samples:
        _, _, haystack = parsed(sample)
        assert haystack.lstrip("�") in whole
        assert sample.length == len(sample.prompt) + sample.budget == 1000
        begins.add(whole.index(haystack.lstrip("�")) // 5000)
    assert len(begins) > 3


def test_own_files_that_are_too_short_are_refused_or_repeated(tmp_path: Path) -> None:
    path = book(tmp_path, count=20)
    size = len(path.read_bytes())
    once = TextNeedle(BYTES, load_haystack(str(path), BYTES))
    once.check(0, 800, 3, "test")
    with pytest.raises(ConfigError) as error:
        once.check(0, 4096, 1, "test")
    said = re.fullmatch(
        rf"needle: a length of 4096 tokens needs (\d+) tokens of haystack, and {re.escape(str(path))} has {size}. "
        r"Give more text or shorter lengths, or set repeat=true.",
        str(error.value),
    )
    assert said is not None
    assert 3800 < int(said[1]) < 4000
    with pytest.raises(ConfigError, match="tokens of haystack"):
        once.generate(0, 4096, 1, "test", depth=0.0)
    again = TextNeedle(BYTES, load_haystack(str(path), BYTES, repeat=True))
    again.check(0, 4096, 3, "test")
    assert again.generate(0, 4096, 1, "test", depth=1.0)[0].depths == (1.0,)


def test_a_passage_may_be_the_whole_text(tmp_path: Path) -> None:
    path = book(tmp_path, count=20)
    haystack = load_haystack(str(path), BYTES)
    rng = np.random.default_rng(0)
    for room in (1, 17, len(haystack.tokens) - 1, len(haystack.tokens)):
        for _ in range(20):
            tokens, borders = haystack.take(rng, room)
            assert len(tokens) == room
            assert bytes(tokens.tolist()) in path.read_bytes()
            assert (borders[0], borders[-1]) == (0, room)
            assert (np.diff(borders) > 0).all()


def test_a_length_that_is_too_short_names_the_least() -> None:
    task = TextNeedle(BYTES, NOISE, Keyed(4))
    with pytest.raises(ConfigError) as error:
        task.check(0, 256, 5, "test")
    said = re.fullmatch(
        r"needle: a length of 256 tokens is too short for 4 needles, the question and the answer: (\d+) is the least. "
        r"Give longer lengths or fewer needles.",
        str(error.value),
    )
    assert said is not None
    with pytest.raises(ConfigError, match="too short"):
        task.generate(0, 256, 5, "test", depth=0.0)
    task.check(0, int(said[1]), 5, "test")
    with pytest.raises(ConfigError, match="too short"):
        task.check(0, int(said[1]) - 1, 5, "test")


def test_files_that_cannot_be_used_are_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 au lait")
    (tmp_path / "none").mkdir()
    for haystack, line in [
        ("nosie", "haystack: 'nosie' is no file and no folder. Did you mean 'noise'? Known: noise, repeat, or a path."),
        ("/nowhere/at/all", "haystack: '/nowhere/at/all' is no file and no folder. Known: noise, repeat, or a path."),
        (str(tmp_path / "empty.txt"), f"haystack: {tmp_path / 'empty.txt'} has no text."),
        (str(tmp_path / "none"), f"haystack: the folder {tmp_path / 'none'} has no file that ends in .txt or .md."),
        (
            str(tmp_path / "latin.txt"),
            f"haystack: {tmp_path / 'latin.txt'} is not UTF-8 text: invalid continuation byte at byte 3.",
        ),
    ]:
        with pytest.raises(DataError) as error:
            load_haystack(haystack, BYTES)
        assert str(error.value) == line


def test_a_changed_text_changes_the_fingerprint(tmp_path: Path) -> None:
    path = book(tmp_path)
    before = TextNeedle(BYTES, load_haystack(str(path), BYTES)).fingerprint
    assert TextNeedle(BYTES, load_haystack(str(path), BYTES)).fingerprint == before
    path.write_text(path.read_text("utf-8") + "And one more.", encoding="utf-8")
    assert TextNeedle(BYTES, load_haystack(str(path), BYTES)).fingerprint != before
