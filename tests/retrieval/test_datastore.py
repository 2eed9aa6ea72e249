"""Datastores and their automaton: whole or not there, nearest by the keys, nothing of a barred document."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from farfield.config import IndexingError
from farfield.retrieval.automaton import Automaton, Clusters, Steps, cluster
from farfield.retrieval.datastore import Datastore, DatastoreWriter, Floats, Ints, open_datastore, unit

DOCUMENTS = ((40, 3), (1, 1), (25, 2), (60, 4))
"""(entries, pieces) of each document."""


def exact(folder: Path, dimension: int = 8):
    keys = np.fromfile(folder / "keys.f16", np.float16).reshape(-1, dimension).astype(np.float32)

    def find(questions: Floats, k: int) -> Ints:
        order = np.argsort(-(questions @ keys.T), axis=1, kind="stable")[:, :k].astype(np.int64)
        return np.pad(order, ((0, 0), (0, max(0, k - order.shape[1]))), constant_values=-1)

    return find


def rows(count: int, seed: int) -> tuple[Floats, Ints]:
    source = np.random.default_rng(seed)
    return source.normal(size=(count, 8)).astype(np.float32), source.integers(0, 5, count)


def write(folder: Path, documents=DOCUMENTS, stop: int | None = None, source: str = "text") -> None:
    with DatastoreWriter(folder, "model", source, 8) as writer:
        for number, (count, pieces) in enumerate(documents):
            if number < writer.documents:
                continue
            if number == stop:
                writer.add(*rows(3, 99))
                raise KeyboardInterrupt
            keys, values = rows(count, number)
            for part in np.array_split(np.arange(count), pieces):
                writer.add(keys[part], values[part])
            writer.end()
        writer.finish(lambda place, keys: None)


@pytest.fixture
def store(tmp_path: Path) -> Datastore:
    write(tmp_path / "store")
    return open_datastore(tmp_path / "store", "model", exact)


def test_it_holds_what_was_written(store: Datastore) -> None:
    assert len(store) == 126
    assert store.bounds.tolist() == [0, 40, 41, 66, 126]
    keys, values = rows(25, 2)
    assert np.array_equal(store.keys[41:66], unit(keys).astype(np.float16))
    assert store.values[41:66].tolist() == values.tolist()
    assert store.documents(np.array([0, 39, 40, 41, 125])).tolist() == [0, 0, 1, 2, 3]


def test_a_build_that_was_stopped_goes_on(store: Datastore, tmp_path: Path) -> None:
    for stop in (0, 2, 3):
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "again", stop=stop)
        assert not (tmp_path / "again").exists()
    write(tmp_path / "again")
    again = open_datastore(tmp_path / "again", "model", exact)
    assert np.array_equal(again.keys, store.keys)
    assert again.facts == store.facts


def test_a_build_of_another_text_begins_anew(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "store", stop=2)
    write(tmp_path / "store", documents=((7, 1),), source="other")
    assert len(open_datastore(tmp_path / "store", "model", exact)) == 7


def test_the_nearest_by_definition(store: Datastore) -> None:
    questions, _ = rows(9, 50)
    found = store.search(questions, 12)
    keys = store.keys.astype(np.float64)
    asked = questions / np.linalg.norm(questions, axis=1, keepdims=True)
    distances = 2 - 2 * (asked @ keys.T)  # keys are rounded to half precision, and taken as unit vectors all the same
    order = np.argsort(distances, axis=1)[:, :12]
    assert np.array_equal(found.entries, order)
    assert np.abs(found.distances - np.take_along_axis(distances, order, 1)).max() < 1e-5
    differences = ((asked[:, None] - keys[None]) ** 2).sum(-1)
    assert np.abs(found.distances - np.take_along_axis(differences, order, 1)).max() < 2e-3
    assert np.array_equal(found.values, store.values[order])


def test_more_than_there_are(store: Datastore) -> None:
    found = store.search(rows(2, 51)[0], 130)
    assert found.entries.shape == (2, 126)
    assert np.array_equal(np.sort(found.entries), np.tile(np.arange(126), (2, 1)))
    found = store.search(rows(2, 51)[0], 120, np.array([3, -1]))
    assert (found.entries[0] >= 0).sum() == 66
    assert (found.values[0, 66:] == -1).all()
    assert np.isinf(found.distances[0, 66:]).all()


@pytest.mark.parametrize("k", [1, 10, 100])
def test_a_barred_document_is_not_seen(store: Datastore, k: int) -> None:
    questions, _ = rows(5, 52)
    without = np.array([0, 1, 2, 3, -1])
    found = store.search(questions, k, without)
    every = store.search(questions, 126)
    for row in range(5):
        allowed = every.entries[row][store.documents(every.entries[row]) != without[row]][:k]
        there = found.entries[row][found.entries[row] >= 0]
        assert there.tolist() == allowed.tolist()


@pytest.mark.parametrize("name", ["values.u32", "bounds.npy", "keys.f16"])
def test_a_flipped_bit_is_found(store: Datastore, tmp_path: Path, name: str) -> None:
    content = bytearray((tmp_path / "store" / name).read_bytes())
    content[-3] ^= 4
    (tmp_path / "store" / name).write_bytes(bytes(content))
    with pytest.raises(IndexingError, match=rf"^datastore: {name} in '.*' is missing or damaged"):
        open_datastore(tmp_path / "store", "model", exact, verify=True)


def test_keys_cut_short_are_found_at_once(store: Datastore, tmp_path: Path) -> None:
    with (tmp_path / "store" / "keys.f16").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(IndexingError, match="damaged"):
        open_datastore(tmp_path / "store", "model", exact)


@pytest.mark.parametrize("name", ["values.u32", "bounds.npy", "keys.f16"])
def test_a_file_that_is_gone_is_told(store: Datastore, tmp_path: Path, name: str) -> None:
    (tmp_path / "store" / name).unlink()
    with pytest.raises(IndexingError, match=rf"^datastore: {name} in '.*' is missing or damaged"):
        open_datastore(tmp_path / "store", "model", exact)


def test_an_index_that_knows_of_few_ends_the_search(store: Datastore, tmp_path: Path) -> None:
    def few(folder: Path):
        whole = exact(folder)
        return lambda questions, k: np.where(np.arange(k) < 3, whole(questions, k), -1)

    approximate = open_datastore(tmp_path / "store", "model", few)
    found = approximate.search(rows(2, 55)[0], 10, np.array([3, -1]))
    assert ((found.entries >= 0).sum(1) <= 3).all()
    assert (approximate.documents(found.entries[0][found.entries[0] >= 0]) != 3).all()


def test_what_another_build_left_is_swept_away(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "store", stop=2)
    (tmp_path / ".store.building" / "keys.flat").write_text("of other keys")
    write(tmp_path / "store", documents=((7, 1),), source="other")
    assert not (tmp_path / "store" / "keys.flat").exists()


def test_another_model_and_none(store: Datastore, tmp_path: Path) -> None:
    with pytest.raises(IndexingError, match="is of another model"):
        open_datastore(tmp_path / "store", "other", exact)
    with pytest.raises(IndexingError, match="there is none at"):
        open_datastore(tmp_path / "nowhere", "model", exact)


def test_what_cannot_be_kept(tmp_path: Path) -> None:
    with DatastoreWriter(tmp_path / "store", "model", "text", 8) as writer:
        with pytest.raises(IndexingError, match="not finite"):
            writer.add(np.full((2, 8), np.nan, np.float32), np.array([1, 2]))
        with pytest.raises(IndexingError, match="keys of"):
            writer.add(np.zeros((2, 7), np.float32), np.array([1, 2]))
        with pytest.raises(IndexingError, match="no token"):
            writer.finish(lambda place, keys: None)


def test_what_follows_stays_in_the_document(store: Datastore) -> None:
    assert store.following(np.array([5, 39, 40, 64, 65, 125, 0])).tolist() == [6, 65, 1]


def test_clusters_join_what_lies_together() -> None:
    source = np.random.default_rng(0)
    centres = unit(source.normal(size=(30, 16)).astype(np.float32))
    truth = source.integers(0, 30, 3000)
    keys = unit(centres[truth] + 0.02 * source.normal(size=(3000, 16)).astype(np.float32)).astype(np.float16)
    found = cluster(keys, 100)
    clusters = Clusters.made(found)
    sizes = np.diff(clusters.starts)
    assert sizes.sum() == 3000
    assert (sizes > 0).all()
    pure = sum(np.bincount(truth[clusters.members(one)]).max() for one in range(len(sizes)))
    print(pure)
    assert pure / 3000 > 0.6
    assert np.array_equal(found, cluster(keys, 100))


def automaton(store: Datastore, least: int = 1, most: int = 1024) -> Automaton:
    return Automaton(store, Clusters.made(cluster(store.keys, 10)), least, most)


def by_hand(one: Automaton, entries: list[int], values: list[int], token: int) -> list[int]:
    """The rule in plain words."""
    ends = set((one.store.bounds[1:] - 1).tolist())
    direct = [e + 1 for e, v in zip(entries, values, strict=True) if v == token and e >= 0 and e not in ends]
    direct = direct[: one.most]
    counts: dict[int, int] = {}
    for entry in direct:
        counts[int(one.clusters.of[entry])] = counts.get(int(one.clusters.of[entry]), 0) + 1
    found = list(direct)
    for which in sorted(counts, key=lambda c: (-counts[c], c)):
        found += [e for e in range(len(one.store)) if one.clusters.of[e] == which and e not in direct]
    return found[: one.most]


@pytest.mark.parametrize("most", [1, 7, 1024])
def test_pointers_by_hand(store: Datastore, most: int) -> None:
    one = automaton(store, most=most)
    found = store.search(rows(6, 53)[0], 20)
    for row in range(6):
        for token in range(5):
            pointers = one.pointers(found.entries[row], found.values[row], token)
            assert pointers.tolist() == by_hand(one, found.entries[row].tolist(), found.values[row].tolist(), token)


def test_searches_are_saved_and_counted(store: Datastore) -> None:
    keys, tokens = rows(20, 54)
    steps = Steps(automaton(store), rows=2, k=8)
    searched = 0
    pointers: list[list[int]] = [[], []]
    for step in range(10):
        asked = keys[2 * step : 2 * step + 2]
        found = steps.read(asked)
        every = store.search(asked, len(store))
        for row in range(2):
            expected = set(pointers[row])
            if not pointers[row]:
                searched += 1
                expected |= set(every.entries[row][:8].tolist())
            there = found.entries[row] >= 0
            assert set(found.entries[row][there].tolist()) == expected
            nearest = [e for e in every.entries[row].tolist() if e in expected]
            assert found.entries[row][there].tolist() == nearest
            given = found.entries[row].tolist(), found.values[row].tolist(), int(tokens[2 * step + row])
            pointers[row] = by_hand(steps.automaton, *given)
        steps.came(tokens[2 * step : 2 * step + 2].tolist())
    assert (steps.steps, steps.searches) == (20, searched)
    assert 0 < steps.saved == 1 - searched / 20


def test_without_saving_it_is_the_search_and_pointers(store: Datastore) -> None:
    steps = Steps(automaton(store, least=10**9), rows=1, k=8)
    for step in range(5):
        key, token = rows(1, 60 + step)
        found = steps.read(key)
        assert set(store.search(key, 8).entries[0].tolist()) <= set(found.entries[0].tolist())
        steps.came(token.tolist())
    assert steps.saved == 0


def test_rows_that_end_leave(store: Datastore) -> None:
    keys = rows(3, 70)[0]
    every, some = (Steps(automaton(store), rows=3, k=8) for _ in range(2))
    for steps in (every, some):
        found = steps.read(keys)
        steps.came(found.values[:, 0].tolist())
    some.select([0, 2])
    more = rows(3, 71)[0]
    whole, part = every.read(more), some.read(more[[0, 2]])
    for place, row in enumerate((0, 2)):
        kept = part.entries[place] >= 0
        assert part.entries[place][kept].tolist() == whole.entries[row][whole.entries[row] >= 0].tolist()
