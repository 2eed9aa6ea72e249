"""Stores as files: what is written is what is read, and no file, however it was made, ends the process."""

from __future__ import annotations

import subprocess
import sys
from io import BytesIO
from pathlib import Path

import faiss
import numpy as np
import pytest

from farfield.retrieval.flat import Flat
from farfield.retrieval.inverted import Inverted, Shape

KINDS = ["flat", "ivf", "pq"]
Store = Flat | Inverted


def store_of(kind: str, count: int = 900) -> Store:
    rows = np.random.default_rng(0).normal(size=(count, 16)).astype(np.float32)
    store: Store = Flat(16) if kind == "flat" else Inverted(Shape(kind, 8), rows)
    store.add(np.random.default_rng(1).permutation(9 * count)[:count], rows)
    store.remove(store.ids[::7])
    store.add(np.arange(9 * count, 9 * count + 40), rows[:40] + 1)
    if isinstance(store, Inverted):
        store.probe, store.factor = 3, 8 if kind == "pq" else 1
    return store


def data_of(store: Store) -> bytes:
    parts: list[bytes] = []
    store.write(parts.append)
    return b"".join(parts)


def read(kind: str, data: bytes) -> Store:
    return (Flat if kind == "flat" else Inverted).read(BytesIO(data).read, len(data))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read_and_goes_on(kind: str) -> None:
    store = store_of(kind)
    again = read(kind, data_of(store))
    questions = np.random.default_rng(2).normal(size=(30, 16)).astype(np.float32)
    among = np.sort(store.ids[::3])
    for change in (False, True):
        if change:
            gone = np.sort(store.ids)[:50]
            for one in (store, again):
                one.remove(gone)
                one.add(np.arange(20_000, 20_060), np.tile(questions, (2, 1)))
        assert again.count == store.count
        for allowed in (None, among):
            first, second = store.search(questions, 20, allowed), again.search(questions, 20, allowed)
            np.testing.assert_array_equal(first.ids, second.ids)
            np.testing.assert_array_equal(first.scores, second.scores)
    if isinstance(store, Inverted) and isinstance(again, Inverted):
        assert (store.probe, store.factor, store.shape) == (again.probe, again.factor, again.shape)
    assert data_of(again) == data_of(store)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_store_is_written_too(kind: str) -> None:
    store = store_of(kind)
    store.remove(store.ids)
    again = read(kind, data_of(store))
    assert again.count == 0
    assert (again.search(np.ones((2, 16), np.float32), 3).ids == -1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_ends_early_is_refused(kind: str) -> None:
    data = data_of(store_of(kind))
    for share in (0.0, 0.001, 0.1, 0.5, 0.9, 0.999):
        with pytest.raises(ValueError, match=r"FAISS cannot read it|bytes of ids|rows that are not there"):
            read(kind, data[: int(share * len(data))])
    with pytest.raises(ValueError, match="bytes of ids"):
        read(kind, data[:-1])
    with pytest.raises(ValueError, match=r"bytes of ids|do not hold the rows"):
        read(kind, data + b"\0" * 8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", KINDS)
def test_a_file_of_another_kind_is_refused(kind: str, other: str) -> None:
    if "flat" in (kind, other) and kind != other:
        with pytest.raises(ValueError, match="not a"):
            read(kind, data_of(store_of(other)))


def test_foreign_lists_are_refused() -> None:
    rows = np.random.default_rng(0).normal(size=(900, 16)).astype(np.float32)
    flat, inner = faiss.IndexFlatIP(16), faiss.METRIC_INNER_PRODUCT
    half, whole = faiss.ScalarQuantizer.QT_fp16, faiss.ScalarQuantizer.QT_8bit
    for index, line in (
        (faiss.IndexIVFFlat(flat, 16, 8, inner), "not an inner-product index of lists"),
        (faiss.IndexIVFScalarQuantizer(flat, 16, 8, half, faiss.METRIC_L2), "not an inner-product index of lists"),
        (faiss.IndexIVFScalarQuantizer(flat, 16, 8, whole, inner), "its codes are not those"),
        (faiss.IndexRefineFlat(faiss.IndexIVFPQFastScan(flat, 16, 8, 8, 4, inner)), "not an inner-product index"),
        (faiss.IndexFlatIP(16), "not an inner-product index of lists"),
        (faiss.IndexLSH(16, 32), "not an inner-product index of lists"),
    ):
        flat.reset()
        index.train(rows)
        with pytest.raises(ValueError, match=line):
            read("ivf", faiss.serialize_index(index).tobytes())


@pytest.mark.parametrize("kind", ["ivf", "pq"])
def test_rows_and_ids_must_fit_each_other(kind: str) -> None:
    data, rows = data_of(store_of(kind)), 940
    with pytest.raises(ValueError, match="do not hold the rows that have ids"):
        read(kind, data[: -8 * rows] + b"\xff" * 8 * rows)
    with pytest.raises(ValueError, match="an id comes twice"):
        read(kind, data[:-8] + data[-16:-8])


CRAFTED = """
import sys
import numpy as np
from io import BytesIO
from test_vector_files import data_of, read, store_of
kind, seed = sys.argv[1], int(sys.argv[2])
data, drawn, refused = data_of(store_of(kind)), np.random.default_rng(seed), 0
question = np.ones((3, 16), np.float32)
for turn in range(600):
    bad = bytearray(data)
    for _ in range(drawn.integers(1, 4)):
        place = drawn.integers(min(400, len(bad)) if turn % 2 else len(bad))
        if drawn.random() < 0.5:
            bad[place] ^= 1 << drawn.integers(8)
        else:
            bad[place : place + 8] = int(drawn.integers(-(2**40), 2**40)).to_bytes(8, "little", signed=True)
    if drawn.random() < 0.2:
        bad = bad[: drawn.integers(len(bad))]
    try:
        store = read(kind, bytes(bad))
        store.search(question, 50)
        store.remove(store.ids[:10])
        store.add(np.arange(90_000, 90_010), np.ones((10, store.dimension), np.float32))
    except Exception as error:
        known = type(error).__name__ in ("ValueError", "IndexingError")
        assert known, repr(error)
        refused += 1
print("refused", refused)
"""


@pytest.mark.parametrize("kind", KINDS)
def test_no_crafted_file_ends_the_process(kind: str) -> None:
    here = Path(__file__).parent
    run = subprocess.run(
        [sys.executable, "-c", CRAFTED, kind, "0"], capture_output=True, text=True, check=False, cwd=here, timeout=120
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert int(run.stdout.split()[-1]) > 100


def test_the_limits_of_faiss_are_those_of_the_file() -> None:
    data = data_of(store_of("flat"))
    read("flat", data)
    assert faiss.get_deserialization_vector_byte_limit() == 4 * len(data) + 2**26
    assert faiss.get_deserialization_loop_limit() == len(data)
