from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from farfield.benchmarks.running.excerpt import BESIDE, CLOSE, END, LONGEST, OPEN, excerpt


def numbers(ids: list[int]) -> str:
    return "".join(f"{one} " for one in ids)


def prompt(length: int) -> np.ndarray:
    return np.arange(length, dtype=np.int32)


def test_the_gold_is_marked_in_its_surroundings_and_the_end_follows() -> None:
    text = excerpt(prompt(1000), [(300, 302)], numbers)
    near, end = text.split(" [...] ")
    assert near == f"{numbers(list(range(252, 300)))}{OPEN}300 301 {CLOSE}{numbers(list(range(302, 350)))}"
    assert end == numbers(list(range(1000 - END, 1000)))


def test_stretches_that_touch_are_one_and_no_token_stands_twice() -> None:
    text = excerpt(prompt(1000), [(950, 951), (300, 302), (310, 312)], numbers)
    assert text.count("[...]") == 1
    assert text.count(OPEN) == text.count(CLOSE) == 3
    plain = text.replace(OPEN, "").replace(CLOSE, "").replace("[...]", "")
    assert plain.split() == numbers([*range(300 - BESIDE, 312 + BESIDE), *range(950 - BESIDE, 1000)]).split()


def test_a_short_prompt_is_shown_whole() -> None:
    assert excerpt(prompt(5), [(0, 2)], numbers) == f"{OPEN}0 1 {CLOSE}2 3 4 "
    assert excerpt(prompt(5), [], numbers) == "0 1 2 3 4 "


@given(
    length=st.integers(1, 600),
    places=st.lists(st.tuples(st.integers(0, 590), st.integers(0, 10)), max_size=6),
)
def test_every_gold_is_shown_in_order_and_marks_are_closed(length: int, places: list[tuple[int, int]]) -> None:
    gold = [(low, low + size) for low, size in places if low + size <= length]
    text = excerpt(prompt(length), gold, numbers)
    shown = [int(word) for word in text.replace(OPEN, " ").replace(CLOSE, " ").replace("[...]", "").split()]
    assert shown == sorted(set(shown))
    assert {at for low, high in gold for at in range(low, high)} <= set(shown)
    assert text.count(OPEN) == text.count(CLOSE)


def test_of_a_long_gold_both_ends_are_shown() -> None:
    text = excerpt(prompt(100_000), [(1000, 90_000)], numbers)
    first, second, _end = text.split(" [...] ")
    assert first.startswith(f"{1000 - BESIDE} ")
    assert f"{OPEN}1000 " in first
    assert f"{1000 + LONGEST - 1} {CLOSE}" in first
    assert f"{OPEN}{90_000 - LONGEST} " in second
    assert f"89999 {CLOSE}90000 " in second
    assert len(text.split()) < 4 * LONGEST
