from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import Lookup, Numbers

from farfield.benchmarks.running.prefixes import BLOCK, LEAST, Walk
from farfield.benchmarks.subjects.subject import Prefilled
from farfield.benchmarks.tasks.sample import Ids

Known = dict[tuple[int, int], Ids]


def walked(
    prompts: Sequence[Sequence[Ids]], abreast: int = 100, subject: Lookup | None = None
) -> tuple[Known, Lookup, list[int], list[int]]:
    """What the subject knew at each prompt's end, the subject, the order of the members, and their fresh tokens."""
    subject = subject or Lookup(Numbers())
    known: Known = {}
    order, fresh, told = [], [], []

    def leaf(rows: Sequence[int], member: int, prefilled: Prefilled, new: int) -> None:
        assert isinstance(prefilled, np.ndarray)
        assert len(rows) <= abreast
        for row, seen in zip(rows, prefilled, strict=True):
            assert (row, member) not in known
            known[row, member] = seen
        order.append(member)
        fresh.append(new)

    Walk(subject, leaf, abreast, told.append)(prompts)
    assert sum(told) == sum(fresh) == subject.prefilled
    return known, subject, order, fresh


def ids(*values: Sequence[int] | np.ndarray) -> Ids:
    return np.concatenate([np.asarray(value, dtype=np.int32) for value in values])


@st.composite
def batches(draw: st.DrawFn) -> list[list[Ids]]:
    """Rows of prompts made of few pieces, so that they share much; each row and member with its own length."""
    rows, members = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    pieces = [ids(range(LEAST)), ids(range(50, 53)), ids([7]), ids(range(LEAST + 5))]
    piece = st.lists(st.sampled_from(pieces), min_size=1, max_size=4)
    return [[ids(*draw(piece)) for _ in range(members)] for _ in range(rows)]


@given(batches(), st.integers(1, 3))
def test_each_prompt_is_read_whole(prompts: list[list[Ids]], abreast: int) -> None:
    known, subject, *_ = walked(prompts, abreast)
    for row, several in enumerate(prompts):
        for member, prompt in enumerate(several):
            assert known[row, member].tolist() == prompt.tolist()
    assert len(known) == len(prompts) * len(prompts[0])
    assert subject.prefilled <= sum(prompt.size for several in prompts for prompt in several)


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=9), min_size=1, max_size=7))
def test_the_members_of_a_row_share_each_common_beginning(members: list[list[int]]) -> None:
    prompts = [ids(member) for member in members]
    known, subject, order, _ = walked([prompts])
    prefixes = {prompt[: end + 1].tobytes() for prompt in prompts for end in range(len(prompt))}
    assert subject.prefilled == len(prefixes)
    assert sorted(order) == list(range(len(prompts)))
    assert len(known) == len(prompts)


def test_a_row_of_the_grid() -> None:
    prompts = [ids([9, 1, 1, 1, 1, 5]), ids([1, 1, 9, 1, 1, 5]), ids([1, 1, 1, 1, 9, 5])]
    _, subject, order, fresh = walked([prompts])
    assert order == [0, 1, 2]
    assert fresh == [6, 2 + 4, 4]
    assert subject.calls == 4


def test_a_text_is_read_once_for_all_that_is_asked_about_it() -> None:
    one, other = ids(np.arange(200) % 97), ids(np.arange(300) % 89 + 1)
    prompts = [[ids(one, [5] * n)] for n in (3, 4, 4)] + [[ids(other, [6, n])] for n in (1, 2)]
    known, subject, *_ = walked(prompts)
    assert all(known[row, 0].tolist() == prompt.tolist() for row, (prompt,) in enumerate(prompts))
    # Three questions about the first text begin with three tokens in common, and two of them go on by one.
    assert subject.prefilled == 203 + 2 * 1 + 301 + 2 * 1
    assert sum(prompt.size for (prompt,) in prompts) == 203 + 204 + 204 + 302 + 302


def test_what_all_rows_begin_with_is_read_once_and_the_rest_side_by_side() -> None:
    rows = [[ids(range(LEAST), [row], np.random.default_rng(row).integers(40, 90, 99))] for row in range(6)]
    _, subject, *_ = walked(rows)
    assert subject.prefilled == LEAST + 6 * 100
    assert subject.calls == 2
    # A shorter beginning is not worth a call of its own.
    _, subject, *_ = walked([[row[0][1:]] for row in rows])
    assert (subject.prefilled, subject.calls) == (6 * (LEAST - 1 + 100), 1)


def test_rows_that_share_little_stay_beside_the_others() -> None:
    draw = [np.random.default_rng(row).integers(60, 90, 200) for row in range(4)]
    rows = [[ids(np.full(LEAST, row // 2), draw[row])] for row in range(4)]
    _, subject, *_ = walked(rows)
    assert (subject.prefilled, subject.calls) == (4 * (LEAST + 200), 1)


def test_a_subject_without_a_state_reads_whole_prompts() -> None:
    subject = Lookup(Numbers(), capabilities=frozenset({"generate"}))
    prompts = [[ids(range(60), [n]), ids(range(60), [n, n])] for n in range(3)]
    known, subject, *_ = walked(prompts, abreast=2, subject=subject)
    assert len(known) == 6
    assert (subject.prefilled, subject.calls) == (3 * 61 + 3 * 62, 4)


@pytest.mark.parametrize("place", [BLOCK - 1, BLOCK, 2 * BLOCK + 3])
def test_prompts_longer_than_a_block_part_where_they_differ(place: int) -> None:
    base = np.ones(2 * BLOCK + 10, dtype=np.int32)
    other = base.copy()
    other[place] = 2
    known, subject, *_ = walked([[base, other]])
    assert known[0, 0].tolist() == base.tolist()
    assert known[0, 1].tolist() == other.tolist()
    assert subject.prefilled == base.size + base.size - place
