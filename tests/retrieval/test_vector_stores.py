"""What every store of vectors does, against exact search. Whole numbers keep every inner product exact, ties too."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from exact_vectors import Exact
from hypothesis import given, settings
from hypothesis import strategies as st

from farfield.config import IndexingError
from farfield.retrieval.flat import Flat
from farfield.retrieval.inverted import Inverted, Shape
from farfield.retrieval.qdrant import QdrantStore
from farfield.retrieval.vector_store import VectorStore

DIMENSION = 8

Make = Callable[[], VectorStore]


def lists(kind: str) -> Inverted:
    """A store that looks at all of its lists, and orders all that it finds there by its vectors: it is exact."""
    store = Inverted(Shape(kind, 4), whole(39 * 16, 20))
    store.probe, store.factor = 4, 1000
    return store


def collection() -> QdrantStore:
    """A collection in this process: what the client does where there is no server."""
    store = QdrantStore(pytest.importorskip("qdrant_client").QdrantClient(":memory:"), "vectors", DIMENSION)
    store.create({})
    return store


STORES: dict[str, Make] = {
    "flat": lambda: Flat(DIMENSION),
    "ivf": lambda: lists("ivf"),
    "pq": lambda: lists("pq"),
    "qdrant": lambda: collection(),
}


@pytest.fixture(params=list(STORES))
def make(request: pytest.FixtureRequest) -> Make:
    return STORES[request.param]


def whole(count: int, seed: int = 0, dimension: int = DIMENSION) -> np.ndarray:
    """(count, dimension) of whole numbers from -3 to 3, many of which tie in a product."""
    return np.random.default_rng(seed).integers(-3, 4, (count, dimension)).astype(np.float32)


def check(store: VectorStore, exact: Exact, questions: np.ndarray, k: int, among: np.ndarray | None = None) -> None:
    scores, ids = store.search(questions, k, among)
    expected_scores, expected_ids = exact.search(questions, k, among)
    assert ids.dtype == np.int64
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores, expected_scores)
    np.testing.assert_array_equal(ids, expected_ids)


def filled(make: Make, count: int = 60) -> tuple[VectorStore, Exact]:
    store, exact = make(), Exact(DIMENSION)
    ids = np.random.default_rng(1).permutation(10 * count)[:count].astype(np.int64)
    for one in (store, exact):
        one.add(ids, whole(count))
    return store, exact


@pytest.mark.parametrize("questions", [1, 3, 40])
@pytest.mark.parametrize("k", [1, 7, 59, 60, 61, 200])
def test_finds_what_exact_search_finds(make: Make, questions: int, k: int) -> None:
    check(*filled(make), whole(questions, 2), k)


def test_equal_vectors_come_in_the_order_of_their_ids(make: Make) -> None:
    store, exact = make(), Exact(DIMENSION)
    ids = np.array([9, 3, 7, 1, 5, 2, 8])
    for one in (store, exact):
        one.add(ids, np.ones((7, DIMENSION), np.float32))
    for k in (1, 3, 7, 9):
        check(store, exact, whole(2, 3), k)
        check(store, exact, np.zeros((30, DIMENSION), np.float32), k)


def test_an_empty_store_and_no_questions(make: Make) -> None:
    store, exact = make(), Exact(DIMENSION)
    check(store, exact, whole(2), 5)
    check(store, exact, whole(2), 5, np.array([3]))
    check(store, exact, whole(0), 5)
    check(store, exact, whole(2), 0)
    assert store.count == store.remove(np.array([4])) == 0
    store.add(np.zeros(0, np.int64), whole(0))
    store, exact = filled(make)
    check(store, exact, whole(0), 5)
    check(store, exact, whole(2), 0)
    assert (store.count, store.dimension) == (60, DIMENSION)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_a_filter_lets_nothing_else_through(make: Make, share: float) -> None:
    store, exact = filled(make)
    known = np.array(sorted(exact.rows))
    among = known[np.random.default_rng(4).random(known.size) < share]
    among = np.union1d(among, [601, 777])  # ids that are not there are no mistake
    for k in (1, 5, 100):
        check(store, exact, whole(3, 5), k, among)


def test_remove_and_add_again(make: Make) -> None:
    store, exact = filled(make)
    known = np.array(sorted(exact.rows))
    gone = np.append(known[::2], [9999])
    assert store.remove(gone) == exact.remove(gone) == 30
    check(store, exact, whole(3, 6), 40)
    assert store.remove(gone) == 0
    for one in (store, exact):
        one.add(known[::4], whole(15, 7))
    check(store, exact, whole(3, 6), 50)
    check(store, exact, whole(3, 6), 50, known[::4])
    replaced = known[1::2]
    for one in (store, exact):
        one.remove(replaced)
        one.add(replaced, whole(replaced.size, 8))
    check(store, exact, whole(25, 6), 50)
    assert store.count == len(exact.rows)


def test_everything_can_be_removed(make: Make) -> None:
    store, exact = filled(make)
    known = np.array(sorted(exact.rows))
    assert store.remove(known) == 60
    exact.remove(known)
    check(store, exact, whole(2), 3)
    for one in (store, exact):
        one.add(known, whole(60, 9))
    check(store, exact, whole(2), 3)


BAD_ROWS = {
    "another dimension": (np.zeros((1, 3), np.float32), r"vectors of shape \(1, 3\) given to an index of \(n, 8\)"),
    "no matrix": (np.zeros(8, np.float32), r"vectors of shape \(8,\) given to an index of \(n, 8\)"),
    "nan": (np.full((1, 8), np.nan, np.float32), "a vector holds a number that is not finite"),
    "inf": (np.full((1, 8), -np.inf, np.float32), "a vector holds a number that is not finite"),
    "too large for float32": (np.full((1, 8), 1e300), "a vector holds a number that is not finite"),
}


@pytest.mark.parametrize("rows", list(BAD_ROWS))
def test_vectors_that_cannot_be(make: Make, rows: str) -> None:
    store, exact = filled(make)
    given_rows, line = BAD_ROWS[rows]
    with pytest.raises(IndexingError, match=line):
        store.search(given_rows, 1)
    with pytest.raises(IndexingError, match=line):
        store.add(np.array([9999]), given_rows)
    check(store, exact, whole(2), 70)


BAD_IDS = {
    "too few": (np.array([7000]), "1 ids for 2 vectors"),
    "twice": (np.array([7000, 7000]), "an id comes twice among those to be added"),
    "negative": (np.array([7000, -1]), "id -1 given. Ids are 0 or more"),
    "no integers": (np.array([7000.0, 7001.0]), "ids of type float64 given"),
}


@pytest.mark.parametrize("ids", list(BAD_IDS))
def test_ids_that_cannot_be(make: Make, ids: str) -> None:
    store, exact = filled(make)
    given_ids, line = BAD_IDS[ids]
    with pytest.raises(IndexingError, match=line):
        store.add(given_ids, whole(2))
    check(store, exact, whole(2), 70)


def test_an_id_that_is_there_is_refused(make: Make) -> None:
    store, exact = filled(make)
    known = next(iter(exact.rows))
    with pytest.raises(IndexingError, match=f"id {known} is in the index already"):
        store.add(np.array([8000, known]), whole(2))
    check(store, exact, whole(2), 70)


def test_a_count_below_zero_is_refused(make: Make) -> None:
    with pytest.raises(IndexingError, match="-1 vectors asked for"):
        filled(make)[0].search(whole(1), -1)


def test_arrays_of_other_types_and_layouts(make: Make) -> None:
    store, exact = filled(make)
    rows, ids = whole(20, 10), np.arange(7000, 7020)
    store.add(ids[::2], rows.astype(np.float64)[::2])
    store.add(ids[1::2].astype(np.int32), np.asfortranarray(rows[1::2]))
    exact.add(ids, rows)
    check(store, exact, np.asfortranarray(whole(4, 11)), 90)
    check(store, exact, whole(4, 11).astype(np.float64), 90)
    check(store, exact, whole(8, 11)[::2].astype(np.float16), 90)


def test_large_ids(make: Make) -> None:
    store, exact = make(), Exact(DIMENSION)
    ids = np.array([2**62, 0, 2**33, 2**63 - 1])
    for one in (store, exact):
        one.add(ids, whole(4))
    check(store, exact, whole(2, 1), 4)
    check(store, exact, whole(2, 1), 4, np.sort(ids)[2:])


def test_up_to_19_questions_are_answered_as_each_alone() -> None:
    drawn = np.random.default_rng(12)
    store = Flat(48)
    store.add(np.arange(3000), drawn.normal(size=(3000, 48)).astype(np.float32))
    questions = drawn.normal(size=(19, 48)).astype(np.float32)
    together = store.search(questions, 50)
    for row, question in enumerate(questions):
        alone = store.search(question[None], 50)
        np.testing.assert_array_equal(alone.ids[0], together.ids[row])
        np.testing.assert_array_equal(alone.scores[0], together.scores[row])


@pytest.mark.parametrize("kind", ["ivf", "pq"])
def test_numbers_that_float16_has_not_are_refused(kind: str) -> None:
    store = lists(kind)
    store.add(np.array([1]), np.full((1, DIMENSION), 65504.0))
    with pytest.raises(IndexingError, match=r"a vector holds 70000; kept as float16, numbers go up to 65504"):
        store.add(np.array([2]), np.full((1, DIMENSION), -70000.0))
    assert store.search(np.ones((1, DIMENSION)), 2).ids.tolist() == [[1, -1]]


Step = tuple[str, list[int], int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "remove", "search", "among"]),
        st.lists(st.integers(0, 40), unique=True, max_size=30),
        st.integers(0, 45),
    ),
    max_size=12,
)


def run(store: VectorStore, steps: list[Step]) -> None:
    """Carries out `steps` on the store and on the definition, and compares what they find."""
    exact = Exact(DIMENSION)
    for place, (what, numbers, k) in enumerate(steps):
        ids = np.array(numbers, np.int64)
        if what == "add":
            ids = np.array([one for one in numbers if one not in exact.rows], np.int64)
            for one in (store, exact):
                one.add(ids, whole(ids.size, place))
        elif what == "remove":
            assert store.remove(ids) == exact.remove(ids)
        else:
            check(store, exact, whole(1 + k % 3, 100 + place), k, np.sort(ids) if what == "among" else None)
        assert store.count == len(exact.rows)
    check(store, exact, whole(3, 99), 50)


@given(steps=STEPS)
@settings(max_examples=40, deadline=None)
@pytest.mark.parametrize("name", list(STORES))
def test_any_sequence_of_changes(name: str, steps: list[Step]) -> None:
    run(STORES[name](), steps)
