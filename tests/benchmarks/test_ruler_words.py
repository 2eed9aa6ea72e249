"""RULER's words: told apart, split, and counted as published."""

from __future__ import annotations

import re
import uuid
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from ruler_cases import BYTES, LINE, made, own_bpe, read

from farfield.benchmarks.tasks.ruler.catalogue import Sources, text_tasks
from farfield.benchmarks.tasks.ruler.common_words import LONG, SHORT, SHORTEST
from farfield.benchmarks.tasks.ruler.frequent_words import ZETA, counted, vocabulary
from farfield.benchmarks.tasks.ruler.task import RulerTask
from farfield.benchmarks.tasks.ruler.words import ADJECTIVES, FIRST, NOUNS, UUIDS, WordList, draw, held, uuids
from farfield.benchmarks.tasks.sample import LackingError
from farfield.benchmarks.tasks.wording import noise_sentences
from farfield.tokenizers.bpe import BpeTokenizer

Tasks = dict[tuple[str, str], RulerTask]


@pytest.fixture(scope="module")
def bpe() -> BpeTokenizer:
    return own_bpe()


@pytest.fixture(scope="module")
def tasks(bpe: BpeTokenizer) -> Tasks:
    (common,), (frequent,) = text_tasks(["cwe"], bpe, Sources()), text_tasks(["fwe"], BYTES, Sources())
    return {("bpe", "cwe"): common, ("bytes", "fwe"): frequent}


def test_no_word_belongs_to_both_splits() -> None:
    rng = np.random.default_rng(0)
    for words in (WordList(), WordList(tuple(map(str, range(1003))))):
        trained, tested = (words.draw(rng, 1 << 20, split) for split in ("train", "test"))
        assert not set(trained) & set(tested)
        assert len({*trained, *tested}) == len(trained) + len(tested) == (len(words.own) or len(FIRST) * len(NOUNS))
        assert (len(tested) > len(trained)) == bool(words.own)
        few = words.draw(np.random.default_rng(1), 5, "test")
        assert words.draw(np.random.default_rng(1), 50, "test")[:5] == few
    train, test = (draw(rng, 4000, 1000, split) for split in ("train", "test"))
    assert not set(train.tolist()) & set(test.tolist())
    assert len(set(train.tolist())) == len(set(test.tolist())) == 1000
    held_out = {
        split: held(np.array([uuid.UUID(one).int & (UUIDS - 1) for one in uuids(rng, 500, split)]))
        for split in ("train", "test")
    }
    assert held_out["test"].all()
    assert not held_out["train"].any()


def words_of(text: str) -> list[str]:
    found = re.findall(r"(\d+)\. (\w+)", text)
    assert [int(number) for number, _ in found] == list(range(1, len(found) + 1))
    return [word for _, word in found]


@pytest.mark.parametrize(
    ("length", "counts"), [(1100, SHORTEST), (2000, SHORT), (4000, SHORT), (9000, LONG), (16384, LONG)]
)
def test_common_words_come_as_often_as_published(length: int, counts: object, tasks: Tasks, bpe: BpeTokenizer) -> None:
    assert counts in (SHORTEST, SHORT, LONG)
    own = next(one for one in (SHORTEST, SHORT, LONG) if one == counts)
    for sample in tasks["bpe", "cwe"].generate(0, length, 3, "test"):
        text = bpe.decode(sample.prompt.tolist())
        _, example, main = text.split("Here is a numbered list of words.")
        shown, _, answer = example.partition("\nQuestion:")
        found = Counter(words_of(shown))
        assert sorted(found.values()) == [own.example_seldom] * own.others + [own.example_often] * 10
        assert set(words_of(answer[answer.index("list are:") :])) == {
            word for word in found if found[word] == own.example_often
        }
        listed = Counter(words_of(main))
        assert {word for word in listed if listed[word] == own.often} == set(sample.text_answers)
        assert set(listed.values()) == {own.often, own.seldom}
        assert len(sample.text_answers) == 10
        assert not set(found) & set(listed)
        assert (len(sample.choices), sample.right) == (30, tuple(range(10)))
        # Nothing but blank lines could be left out: another word does not fit.
        assert text.count("\n\n") == 0 or len(re.search(r"\n\n*\nHere", text)[0]) - 4 < 40 * own.seldom  # type: ignore[index]


@pytest.mark.parametrize("length", [512, 1024, 4096, 131072])
def test_coded_words_come_as_often_as_the_zeta_law_says(length: int, tasks: Tasks) -> None:
    for sample in tasks["bytes", "fwe"].generate(1, length, 3, "test"):
        text = read(sample)
        body = text[text.index("most often.") + 11 : text.rindex("\nQuestion:")]
        found = Counter(body.split())
        dots = found.pop("...")
        ranked = [count for _, count in found.most_common()]
        assert all(re.fullmatch(r"[a-z]{6}", word) for word in found)
        assert tuple(word for word, _ in found.most_common(3)) == sample.text_answers
        assert ranked[2] > ranked[3] if len(ranked) > 3 else len(ranked) == 3
        words = vocabulary(length)
        near = range(int(ranked[0] * 4 * ZETA), int((ranked[0] + 1) * 4 * ZETA) + 1)
        laws = [n for n in near if counted(n, words)[1:].tolist() == ranked and counted(n, words)[0] <= dots]
        assert laws
        # The dots take the rest, which is less than what one more word of the law would need.
        assert dots - counted(laws[-1], words)[0] < 0.02 * length
        assert len(found) <= words - 1


def test_ranks_that_are_asked_for_are_never_tied(tasks: Tasks) -> None:
    for length in range(460, 900, 7):
        for sample in made(tasks["bytes", "fwe"], length, 1):
            text = read(sample)
            body = text[text.index("most often.") + 11 : text.rindex("\nQuestion:")]
            counts = [count for word, count in Counter(body.split()).most_common() if word != "..."]
            assert len(counts) == 3 or counts[2] > counts[3]


def test_a_list_that_needs_more_words_than_a_file_has_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("\n".join(f"word{number}" for number in range(500)))
    (task,) = text_tasks(["cwe"], BYTES, Sources(words=str(path)))
    (sample,) = task.generate(0, 4096, 1, "test")
    assert set(sample.text_answers) <= {f"word{number}" for number in range(500)}
    with pytest.raises(
        LackingError, match=rf"^cwe: a length of 65536 tokens needs more different words than {path} has"
    ):
        task.check(0, 65536, 1, "test")


def test_own_words_are_told_apart() -> None:
    assert len({first + second for first in FIRST for second in NOUNS}) == len(FIRST) * len(NOUNS)
    assert len(set(FIRST)) == len(FIRST)
    noise = set(re.findall(r"\w+", "".join(noise_sentences(1024)).lower() + LINE.lower()))
    assert not noise & set(FIRST)
    assert all(re.fullmatch(r"[a-z]+", word) for word in FIRST)
    assert (len(ADJECTIVES) * len(NOUNS)) // 4 > 30_000
