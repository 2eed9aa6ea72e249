from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from oracle import Lookup, Numbers

from farfield.benchmarks.prefixes import BLOCK, walk
from farfield.benchmarks.subjects import Prefilled
from farfield.benchmarks.tasks.sample import Ids


def walked(prompts: list[Ids]) -> tuple[list[Ids], Lookup, list[int], list[int]]:
    """What the subject knew at each prompt's end, the subject, the order of the leaves, and their fresh tokens."""
    subject, known, order, fresh = Lookup(Numbers()), {}, [], []

    def leaf(index: int, prefilled: Prefilled, new: int) -> None:
        assert isinstance(prefilled, np.ndarray)
        assert index not in known
        known[index] = prefilled
        order.append(index)
        fresh.append(new)

    walk(subject, prompts, leaf)
    return [known[index] for index in range(len(prompts))], subject, order, fresh


@st.composite
def batches(draw: st.DrawFn) -> list[Ids]:
    """Prompts of few different ids, so that they share much; each (batch, time) with its own time."""
    rows = draw(st.integers(1, 3))
    times = draw(st.lists(st.integers(1, 9), min_size=1, max_size=7))
    ids = st.integers(0, 1)
    return [np.array([[draw(ids) for _ in range(time)] for _ in range(rows)], dtype=np.int32) for time in times]


@given(batches())
def test_each_prompt_is_read_whole_and_each_common_prefix_once(prompts: list[Ids]) -> None:
    known, subject, order, fresh = walked(prompts)
    for prompt, seen in zip(prompts, known, strict=True):
        assert seen.tolist() == prompt.tolist()
    prefixes = {prompt[:, : end + 1].tobytes() for prompt in prompts for end in range(prompt.shape[1])}
    assert subject.prefilled == len(prefixes) * len(prompts[0])
    assert sum(fresh) == subject.prefilled
    assert sorted(order) == list(range(len(prompts)))


def test_a_row_of_the_grid() -> None:
    prompts = [np.array([[9] * 0 + [9, 1, 1, 1, 1, 5]]), np.array([[1, 1, 9, 1, 1, 5]]), np.array([[1, 1, 1, 1, 9, 5]])]
    _, subject, order, fresh = walked([prompt.astype(np.int32) for prompt in prompts])
    assert order == [0, 1, 2]
    assert fresh == [6, 2 + 4, 4]
    assert subject.calls == 4


def test_prompts_longer_than_a_block_part_where_they_differ() -> None:
    base = np.ones((2, 2 * BLOCK + 10), dtype=np.int32)
    prompts = [base.copy() for _ in range(4)]
    places = [BLOCK - 1, BLOCK, 2 * BLOCK + 3]
    for prompt, place in zip(prompts, places, strict=False):
        prompt[1, place] = 2
    known, subject, _, _ = walked(prompts)
    assert all((seen == prompt).all() for seen, prompt in zip(known, prompts, strict=True))
    assert subject.prefilled == 2 * (base.shape[1] + sum(base.shape[1] - place for place in places))
