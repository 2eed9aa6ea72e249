from __future__ import annotations

import hashlib

import faiss
import numpy as np
import pytest

from farfield.retrieval.flat import Flat
from farfield.retrieval.inverted import Inverted, Shape, sub_quantisers
from farfield.retrieval.settings import VectorConfig
from farfield.retrieval.tuning import Exam, build, least, recalls, sample_size, shape_for, steps, tune, without
from farfield.retrieval.vector_store import Found

COUNT, DIMENSION = 4000, 32


def clustered(count: int, seed: int) -> np.ndarray:
    """Unit vectors (count, DIMENSION) about 40 centres, the same for every seed."""
    centres = np.random.default_rng(0).normal(size=(40, DIMENSION))
    drawn = np.random.default_rng(seed)
    rows = centres[drawn.integers(40, size=count)] + 0.5 * drawn.normal(size=(count, DIMENSION))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


ROWS = clustered(COUNT, 1)
IDS = np.random.default_rng(2).permutation(3 * COUNT)[:COUNT].astype(np.int64)


def built(shape: Shape, exam: Exam) -> Inverted:
    blocks = ((IDS[first : first + 700], ROWS[first : first + 700]) for first in range(0, COUNT, 700))
    return build(shape, ROWS[: sample_size(shape, COUNT)], blocks, exam, False)


def exam_of_rows() -> Exam:
    """Stored vectors as questions, which do not count as found by themselves."""
    own = np.arange(0, COUNT, 40)
    return Exam(ROWS[own], IDS[own])


@pytest.mark.parametrize("kind", ["ivf", "pq"])
@pytest.mark.parametrize("target", [0.5, 0.8, 0.95])
def test_the_target_is_reached_by_questions_that_were_not_asked_before(kind: str, target: float) -> None:
    store = built(Shape(kind, 64), exam := exam_of_rows())
    tuned = tune(store, exam, target)
    assert (store.probe, store.factor) == (tuned.probe, tuned.factor)
    assert tuned.recall >= target
    questions, flat = clustered(300, 3), Flat(DIMENSION)
    flat.add(IDS, ROWS)
    found = recalls(store.search(questions, 10), flat.search(questions, 10))
    assert found.mean() >= target - 0.01
    if target < 0.95:
        assert tuned.probe < 64


@pytest.mark.parametrize("kind", ["ivf", "pq"])
def test_a_question_that_finds_itself_would_have_been_too_easy(kind: str) -> None:
    own = np.arange(0, COUNT, 40)
    counted = tune(built(Shape(kind, 64), exam := exam_of_rows()), exam, 0.8)
    easy = Exam(ROWS[own], np.full(own.size, -1))
    assert tune(built(Shape(kind, 64), easy), easy, 0.8).probe <= counted.probe


@pytest.mark.parametrize("kind", ["ivf", "pq"])
def test_two_builds_are_equal_to_the_last_bit(kind: str) -> None:
    marks = []
    for _ in range(2):
        store, checksum = built(Shape(kind, 64), exam := exam_of_rows()), hashlib.sha256()
        tune(store, exam, 0.9)
        store.write(checksum.update)
        marks.append(checksum.hexdigest())
    assert marks[0] == marks[1]


def test_the_exam_knows_what_exact_search_finds() -> None:
    exam, flat = exam_of_rows(), Flat(DIMENSION)
    flat.add(IDS, ROWS)
    for first in range(0, COUNT, 300):
        exam.see(IDS[first : first + 300], ROWS[first : first + 300])
    truth = exam.truth()
    np.testing.assert_array_equal(truth.ids, without(flat.search(exam.questions, 11), exam.own).ids)
    assert not (truth.ids == exam.own[:, None]).any()


def test_questions_of_zeros_are_left_out_and_none_at_all_means_everything_is_looked_at() -> None:
    exam = Exam(np.zeros((3, DIMENSION), np.float32), np.arange(3))
    store = built(Shape("pq", 64), exam)
    tuned = tune(store, exam, 0.9)
    assert (tuned.probe, tuned.questions) == (64, 0)


def test_recall_counts_what_ties_and_no_padding() -> None:
    truth = Found(np.array([[3.0, 2.0]], np.float32), np.array([[5, 6]]))

    def share(scores: list[float], ids: list[int]) -> float:
        return float(recalls(Found(np.array([scores], np.float32), np.array([ids])), truth)[0])

    assert share([3.0, 2.0], [5, 6]) == 1
    assert share([3.0, 2.0], [5, 9]) == 1
    assert share([3.0, 1.0], [5, 9]) == 0.5
    assert share([3.0, -np.inf], [5, -1]) == 0.5
    assert share([-np.inf, -np.inf], [-1, -1]) == 0
    truth = Found(np.array([[3.0, -np.inf]], np.float32), np.array([[5, -1]]))
    assert share([3.0, -np.inf], [5, -1]) == 1


def test_without_leaves_out_its_own_id_or_the_last() -> None:
    found = Found(np.array([[3.0, 2.0, 1.0], [6.0, 5.0, 4.0]], np.float32), np.array([[7, 8, 9], [1, 2, 3]]))
    left = without(found, np.array([8, 4]))
    assert left.ids.tolist() == [[7, 9], [1, 2]]
    assert left.scores.tolist() == [[3, 1], [6, 5]]


@pytest.mark.parametrize("lists", [1, 2, 7, 64, 500])
def test_steps_end_at_all_lists_and_least_finds_the_first(lists: int) -> None:
    values = steps(lists)
    assert (values[0], values[-1]) == (1, lists)
    assert values == sorted(set(values))
    for bound in range(1, lists + 2):
        expected = next((value for value in values if value >= bound), lists)

        def holds(value: int, bound: int = bound) -> bool:
            return value >= bound

        assert least(values, holds) == expected


@pytest.mark.parametrize(
    ("kind", "count", "gpu", "shape"),
    [
        (None, 49_999, False, None),
        (None, 50_000, False, Shape("pq", 512)),
        ("auto", 1_000_000, False, Shape("pq", 2048)),
        ("auto", 1_000_000, True, Shape("ivf", 2048)),
        ("auto", 100_000_000, False, Shape("pq", 4096)),
        ("flat", 1_000_000, False, None),
        ("ivf", 1_000, False, Shape("ivf", 25)),
        ("pq", 999, False, None),
        ("ivf", 0, False, None),
    ],
)
def test_the_kind_follows_the_size(kind: str | None, count: int, gpu: bool, shape: Shape | None) -> None:
    assert shape_for(VectorConfig(kind=kind), count, gpu) == shape
    if shape:
        assert 39 * shape.lists <= sample_size(shape, count) <= min(count, 256 * shape.lists)


@pytest.mark.parametrize(
    ("dimension", "parts"), [(2048, 1024), (384, 192), (64, 32), (17, 17), (21, 7), (1, 1), (2, 1), (100, 50)]
)
def test_parts_of_a_code_divide_every_dimension(dimension: int, parts: int) -> None:
    assert sub_quantisers(dimension) == parts
    assert dimension % parts == 0


@pytest.mark.parametrize("dimension", [17, 21, 64])
def test_odd_dimensions_have_codes_too(dimension: int) -> None:
    rows = np.random.default_rng(0).normal(size=(700, dimension)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    store = Inverted(Shape("pq", 4), rows)
    store.add(np.arange(700), rows)
    store.probe, store.factor = 4, 100
    assert store.search(rows[:50], 1).ids[:, 0].tolist() == list(range(50))


def test_training_prints_no_warning(capfd: pytest.CaptureFixture[str]) -> None:
    for count in (1_000, 1_500, 3_000):
        shape = shape_for(VectorConfig(kind="pq"), count)
        assert shape is not None
        Inverted(shape, ROWS[: sample_size(shape, count)])
    assert capfd.readouterr() == ("", "")


def codes(store: Inverted) -> dict[int, bytes]:
    """The 4-bit code of each id, as it is stored."""
    inside = faiss.downcast_InvertedLists(store._lists.invlists)
    found = {}
    for one in range(store.shape.lists):
        size = inside.list_size(one)
        rows = faiss.rev_swig_ptr(inside.get_ids(one), size)
        blocks = -(-size // inside.n_per_block)
        packed = faiss.rev_swig_ptr(inside.get_codes(one), blocks * inside.block_size).reshape(blocks, -1)
        for place, row in enumerate(rows):
            block, offset = divmod(place, inside.n_per_block)
            code = inside.packer.unpack_1(packed[block : block + 1], offset)
            found[int(store._rows.ids[row])] = code.tobytes()
    return found


def test_codes_are_whole_after_vectors_were_removed_and_others_added() -> None:
    """FAISS adds new codes to what removed ones have left in their places."""
    fresh, changed = (built(Shape("pq", 16), exam_of_rows()) for _ in range(2))
    drawn = np.random.default_rng(8)
    for share in (0.5, 0.1, 0.9, 1.0):
        gone = np.flatnonzero(drawn.random(COUNT) < share)
        changed.remove(IDS[gone])
        for part in np.array_split(gone, 2):
            changed.add(IDS[part], ROWS[part])
        assert codes(changed) == codes(fresh)


@pytest.mark.parametrize("kind", ["ivf", "pq"])
@pytest.mark.parametrize("share", [0.001, 0.01, 0.3])
def test_a_filter_widens_the_search(kind: str, share: float) -> None:
    """With hardly anything allowed, all lists are looked at: few lists would find next to none of it."""
    store = built(Shape(kind, 64), exam_of_rows())
    store.probe, store.factor = 4, 16
    flat = Flat(DIMENSION)
    flat.add(IDS, ROWS)
    among = np.sort(IDS[np.random.default_rng(5).random(COUNT) < share])
    questions = clustered(100, 6)
    found, truth = store.search(questions, 5, among), flat.search(questions, 5, among)
    assert np.isin(found.ids, np.append(among, -1)).all()
    assert recalls(found, truth).mean() >= (0.99 if share < 0.02 else 0.8)
