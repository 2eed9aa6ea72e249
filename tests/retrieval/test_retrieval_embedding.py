from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farfield.config import IndexingError
from farfield.retrieval.embedders import FunctionEmbedder, HashedTfIdf, Kept
from farfield.retrieval.words import BAG, Frequencies, bag, term, words

TEXTS = ["the lion sleeps", "the lion and the zebra", "a zebra stands", "", "Ärger über Ärger"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Don't STOP_me now: 3.5 %", ["don", "t", "stop", "me", "now", "3", "5"]),
        ("Der Ärger, ÄRGER", ["der", "ärger", "ärger"]),
        ("cafe\u0301 café", ["café", "café"]),
        ("ﬁnd ＡＢＣ STRASSE straße", ["find", "abc", "strasse", "strasse"]),
        ("東京都に", ["東京", "京都", "都に"]),
        ("日 iPhone15を", ["日", "iphone15", "を"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("Ελλάδα Россия עִבְרִית", ["ελλάδα", "россия", "עִבְרִית"]),
        ("🦁 — … \x00 \n", []),
    ],
)
def test_words(text: str, found: list[str]) -> None:
    assert words(text) == found


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=60))
def test_words_hold_no_sign_that_a_query_could_trip_over(text: str) -> None:
    assert not set("".join(words(text))) & set("\"'()*:^+-_ \n\t\x00")


def test_the_hash_of_a_word_is_the_same_everywhere() -> None:
    assert [term("lion"), term("ärger"), term("東京")] == [
        -2363842920162707885,
        -6654875056653494548,
        -1140702830356262418,
    ]


def test_a_bag_counts_words_in_the_order_of_their_terms() -> None:
    records = np.frombuffer(bag(["b", "a", "b"]), BAG)
    assert dict(zip(records["term"].tolist(), records["count"].tolist(), strict=True)) == {term("a"): 1, term("b"): 2}
    assert sorted(records["term"].tolist()) == records["term"].tolist()
    assert np.frombuffer(bag(["x"] * 70_000), BAG)["count"].tolist() == [65535]


def frequencies(texts: Sequence[str]) -> Frequencies:
    counts = Counter(term(word) for text in texts for word in set(words(text)))
    ordered = sorted(counts)
    return Frequencies(len(texts), np.array(ordered, np.int64), np.array([counts[one] for one in ordered], np.int64))


def test_frequencies_of_known_and_unknown_terms() -> None:
    known = frequencies(TEXTS)
    assert known.of(np.array([term("lion"), term("giraffe"), term("the")])).tolist() == [2, 0, 2]
    assert frequencies([]).of(np.array([1, 2])).tolist() == [0, 0]


def definition(text: str, texts: Sequence[str], dimension: int) -> list[float]:
    """Hashed TF-IDF word by word."""
    out = [0.0] * dimension
    for word, count in Counter(words(text)).items():
        known = sum(word in words(other) for other in texts)
        if known:
            weight = (1 + math.log(count)) * (1 + math.log((1 + len(texts)) / (1 + known)))
            out[term(word) % 2**64 % dimension] += weight if term(word) >= 0 else -weight
    length = math.sqrt(sum(value * value for value in out))
    return [value / length if length else 0.0 for value in out]


@pytest.mark.parametrize("dimension", [16, 63, 2048])
def test_hashed_tfidf_is_its_definition(dimension: int) -> None:
    embedder = HashedTfIdf(dimension)
    rows = embedder.vectors([Kept(bag(words(text)), None) for text in TEXTS], frequencies(TEXTS))
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, [definition(text, TEXTS, dimension) for text in TEXTS], atol=1e-6)
    for text in ("lion", "a giraffe", "giraffe"):
        asked = embedder.questions([text], [bag(words(text))], frequencies(TEXTS))
        np.testing.assert_allclose(asked, [definition(text, TEXTS, dimension)], atol=1e-6)


def test_a_vector_does_not_depend_on_its_neighbours() -> None:
    embedder, known = HashedTfIdf(32), frequencies(TEXTS)
    kept = [Kept(bag(words(text)), None) for text in TEXTS]
    alone = np.concatenate([embedder.vectors([one], known) for one in kept])
    assert np.array_equal(embedder.vectors(kept, known), alone)


def test_any_function_is_an_embedder() -> None:
    embedder = FunctionEmbedder("lengths 1", 2, lambda texts: [[len(text), 0] for text in texts], lambda _: [[0, 2]])
    kept = [Kept(b"", one) for one in embedder.keep(["abc", ""])]
    assert embedder.vectors(kept, frequencies([])).tolist() == [[1, 0], [0, 0]]
    assert embedder.questions(["x"], [b""], frequencies([])).tolist() == [[0, 1]]


@pytest.mark.parametrize("rows", [[[1.0, 2.0, 3.0]], [[1.0, math.nan]], [1.0, 2.0], [[1.0, 2.0]] * 2])
def test_what_a_function_gives_is_checked(rows: list[list[float]]) -> None:
    with pytest.raises(IndexingError, match=r"^embedder 'bad' gave an array \S.* for 1 texts; it should be \(1, 2\)"):
        FunctionEmbedder("bad", 2, lambda _: rows).keep(["text"])
