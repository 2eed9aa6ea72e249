"""How much of a question a passage holds, and which sentence says it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from farfield.retrieval.evidence import coverage, quoted, rarities, stems
from farfield.retrieval.words import Frequencies, term

KNOWN = {"sign": 1, "the": 9, "leave": 2}


def frequencies() -> Frequencies:
    ordered = sorted((term(word), count) for word, count in KNOWN.items())
    return Frequencies(10, np.array([one[0] for one in ordered]), np.array([one[1] for one in ordered]))


def idf(count: int) -> float:
    return math.log(1 + (10 - count + 0.5) / (count + 0.5))


def test_rarities_are_their_formula() -> None:
    found = rarities(["the", "leave", "the", "quark"], frequencies())
    assert found == pytest.approx({"the": idf(9), "leave": idf(2), "quark": idf(0)})


def test_stems_are_those_of_lexical_search() -> None:
    assert stems(["Signing the leaves", "", "… !", "signs leave"]) == [
        {"sign", "the", "leav"},
        set(),
        set(),
        {"sign", "leav"},
    ]


def test_coverage_is_the_share_of_the_weight() -> None:
    rarity = rarities(["leave", "quark"], frequencies())
    found = coverage(rarity, ["He leaves.", "A quark on leave", "", "Nothing of it"])
    assert found == pytest.approx([idf(2) / (idf(2) + idf(0)), 1.0, 0.0, 0.0])
    assert coverage({}, ["anything"]) == [0.0]


TEXT = "## Leave\n\nAsk early. Leave is signed by Dr. Velamo in person!\n\nTrips are booked."


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["signs", "leave"], "Leave is signed by Dr. Velamo in person!"),
        (["trips"], "Trips are booked."),
        (["leave"], "## Leave"),
    ],
)
def test_a_quote_stands_where_it_says(asked: list[str], said: str) -> None:
    found = quoted(TEXT, 100, rarities(asked, frequencies()))
    assert found is not None
    assert found.text == said == (100 * " " + TEXT)[found.start : found.end]


def test_a_passage_without_any_word_of_it_is_not_quoted() -> None:
    assert quoted(TEXT, 0, rarities(["quark"], frequencies())) is None
    assert quoted("", 0, rarities(["leave"], frequencies())) is None
