"""The database of neighbours: what is found is what a plain search finds, and what is on disk is whole."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farfield.config import IndexingError
from farfield.retrieval import neighbours
from farfield.retrieval.exact import Exact
from farfield.retrieval.neighbours import Database, NeighbourSettings, Texts, Wanted, build, open_database
from farfield.retrieval.overlap import longest_runs
from farfield.retrieval.settings import HashedConfig

WORDS = ["ferry", "harbour", "clock", "letter", "garden", "winter", "stone", "river", "lamp", "bread", "horse", "moon"]
SETTINGS = NeighbourSettings(chunk=6, embedder=HashedConfig(dimension=64))
END = len(WORDS)


def decode(ids: Sequence[int]) -> str:
    """A word an id; the end of a document is none."""
    return " ".join(WORDS[one] for one in ids if one != END)


def texts_of(documents: Sequence[Sequence[int]]) -> Texts:
    """Documents with something between them, as in a store of which a part is held out; keys are numbers + 2^63."""
    tokens, starts, stops = [3, 3], [], []
    for document in documents:
        starts.append(len(tokens))
        tokens += document
        stops.append(len(tokens))
        tokens += [5]
    keys = np.arange(len(documents), dtype=np.uint64) + np.uint64(1 << 63)
    return Texts(np.array(tokens, np.uint16), np.array(starts), np.array(stops), keys)


def drawn(seed: int, count: int) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [generator.integers(0, END, generator.integers(1, 40)).tolist() for _ in range(count)]


def built(folder: Path, documents: Sequence[Sequence[int]], settings: NeighbourSettings = SETTINGS) -> Database:
    return build(folder, texts_of(documents), decode, settings, "words", "made up")


def wanted(ids: Sequence[int], behind: Sequence[int] = (), document: int | None = None) -> Wanted:
    key = None if document is None else (1 << 63) + document
    return Wanted(np.array(ids, np.int64), np.array(behind, np.int64), key)


VECTORS = st.integers(1, 12).flatmap(
    lambda n: st.lists(st.lists(st.integers(-2, 2), min_size=3, max_size=3), min_size=n, max_size=n)
)


@settings(max_examples=50)
@given(VECTORS, VECTORS, st.integers(1, 15), st.integers(1, 5))
def test_exact_search_is_the_sorted_products(
    vectors: list[list[int]], questions: list[list[int]], k: int, block: int
) -> None:
    """Of equal scores the lowest id, wherever blocks end; without an end, nothing."""
    rows, asked = np.array(vectors, np.float32), np.array(questions, np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("farfield.retrieval.exact.BLOCK", block)
        scores, ids = Exact(rows).search(asked, k)
    for row, question in enumerate(asked):
        products = rows @ question
        order = sorted(range(len(rows)), key=lambda one: (-products[one], one))[:k]
        expected = [*(float(products[one]) for one in order), *[-np.inf] * (k - len(order))]
        assert scores[row].tolist() == expected
        if k >= len(rows) or block >= len(rows):  # else a tie may be cut where a block ends
            found = {one: products[one] for one in ids[row].tolist() if one >= 0}
            assert len(found) == len(order)
            assert sorted(found.values()) == sorted(products[one] for one in order)
        for a, b in itertools.pairwise(order):
            places = [ids[row].tolist().index(one) for one in (a, b) if one in ids[row]]
            assert places == sorted(places)


@settings(max_examples=50)
@given(st.lists(st.tuples(*[st.lists(st.integers(0, 2), min_size=n, max_size=n) for n in (7, 9)]), min_size=1))
def test_longest_runs_are_those_of_all_pairs_of_places(pairs: list[tuple[list[int], list[int]]]) -> None:
    found = longest_runs(np.array([one for one, _ in pairs]), np.array([other for _, other in pairs]))
    for run, (one, other) in zip(found, pairs, strict=True):
        longest = max(
            (n for a in range(7) for b in range(9) for n in range(1, 8 - a) if one[a : a + n] == other[b : b + n]),
            default=0,
        )
        assert run == longest


def plainly(
    database: Database, documents: Sequence[Sequence[int]], one: Wanted, k: int, overlap: float | None
) -> list[int]:
    """Every chunk of every document in the order of its score, by definition."""
    size = database.manifest.chunk
    cut = [
        (d, ids[at : at + size], ids[at : at + 2 * size])
        for d, ids in enumerate(documents)
        for at in range(0, len(ids), size)
    ]
    vectors = database._vectors([decode(ids) for _, ids, _ in cut])
    question = database._vectors([decode(one.ids.tolist())])[0]
    known = [*one.ids.tolist(), *one.behind.tolist()][: 2 * size]
    found = []
    scores = np.round(vectors @ question, 5)
    for number in sorted(range(len(cut)), key=lambda n: (-scores[n], n)):
        document, _, passage = cut[number]
        if scores[number] <= 0 or (one.document is not None and document == one.document - (1 << 63)):
            continue
        run = int(longest_runs(np.array([known]), np.array([passage]))[0])
        if overlap is None or run <= overlap * size:
            found.append(number)
    return (found + [-1] * k)[:k]


@pytest.mark.parametrize("overlap", [None, 0.5, 0.2])
@pytest.mark.parametrize("k", [1, 3])
def test_it_finds_what_a_plain_search_finds(k: int, overlap: float | None, tmp_path: Path) -> None:
    """Queries of a document of the collection, and of none; asked alone or together."""
    documents = drawn(0, 40)
    database = built(tmp_path / "database", documents)
    asked = [wanted(ids[:6], ids[6:12], document) for document, ids in enumerate(documents[:20])]
    asked += [wanted(ids[:6], ids[6:12]) for ids in drawn(1, 5)]
    found = database.search(asked, k, overlap)
    for row, one in enumerate(asked):
        expected = plainly(database, documents, one, k, overlap)
        if found[row].tolist() != expected:  # of chunks that are alike to the last bits any may be the better one
            texts = [decode(ids[ids >= 0].tolist()) for ids in database.passages(np.array([*found[row], *expected]), 6)]
            products = database._vectors(texts) @ database._vectors([decode(one.ids.tolist())])[0]
            np.testing.assert_allclose(products[:k], products[k:], atol=2e-5)
        assert np.array_equal(database.search([one], k, overlap)[0], found[row])


def test_a_document_finds_nothing_of_itself_however_much_it_fills(tmp_path: Path) -> None:
    """Of a thousand chunks that are alike all but two are its own: they are looked through to the end."""
    own, other = [0, 1, 2, 3, 4, 5] * 1000, [0, 1, 2, 3, 4, 6] * 2
    database = built(tmp_path / "database", [own, other])
    (found,) = database.search([wanted(own[:6], document=0)], 3)
    assert found.tolist() == [1000, 1001, -1]
    (found,) = database.search([wanted(own[:6], document=1)], 3)
    assert found.tolist() == [0, 1, 2]


def test_passages_end_with_their_document(tmp_path: Path) -> None:
    database = built(tmp_path / "database", [list(range(8)), [9, 9, 9], [1] * 13])
    assert database.manifest.chunks == 6
    found = database.passages(np.array([[0, 1], [2, -1], [5, 3]]), 12).tolist()
    assert found == [
        [[*range(8), *[-1] * 4], [6, 7, *[-1] * 10]],
        [[9, 9, 9, *[-1] * 9], [-1] * 12],
        [[1, *[-1] * 11], [1] * 12],
    ]


def test_what_has_no_word_in_common_is_not_found(tmp_path: Path) -> None:
    database = built(tmp_path / "database", [[0, 1, 2], [END, END]])
    found = database.search([wanted([END] * 6), wanted([7, 8]), wanted([0, 9])], 2)
    assert found.tolist() == [[-1, -1], [-1, -1], [0, -1]]


def test_opened_again_it_answers_the_same(tmp_path: Path) -> None:
    documents = drawn(2, 12)
    database = built(tmp_path / "a", documents)
    again = open_database(tmp_path / "a", decode, "words")
    twin = built(tmp_path / "b", documents)
    asked = [wanted(ids[:6], document=n) for n, ids in enumerate(documents)]
    assert np.array_equal(database.search(asked, 2), again.search(asked, 2))
    assert database.fingerprint == again.fingerprint == twin.fingerprint
    assert built(tmp_path / "c", drawn(3, 12)).fingerprint != twin.fingerprint


def test_what_is_interrupted_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(file: Path) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(neighbours, "_checksum", interrupted)
    with pytest.raises(KeyboardInterrupt):
        built(tmp_path / "database", drawn(0, 3))
    assert list(tmp_path.iterdir()) == []


def message(folder: Path, tokenizer: str = "words") -> str:
    with pytest.raises(IndexingError) as mistake:
        open_database(folder, decode, tokenizer)
    return str(mistake.value)


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "database"
    assert message(folder) == f"'{folder}' is no database of neighbours: it has no manifest.json."
    built(folder, drawn(0, 3))
    assert message(folder, "other") == (
        f"'{folder}' holds the tokens of another tokenizer than the model's. Name another folder."
    )
    manifest = folder / "manifest.json"
    told = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**told, "version": 0}))
    assert message(folder) == f"'{folder}' is of version 0, not 1. Remove it to build it anew."
    manifest.write_text("{}")
    assert message(folder) == f"'{folder}' is damaged or of another version: remove it, and it is built anew."
    with pytest.raises(IndexingError) as mistake:
        built(tmp_path / "empty", [[], []])
    assert str(mistake.value) == (
        f"'{tmp_path / 'empty'}' cannot be built: there are no documents to find neighbours in."
    )


@pytest.mark.parametrize("name", ["tokens.bin", "documents.npz", "words.npz", "vectors.npy"])
def test_a_flipped_bit_or_a_missing_file_is_noticed(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "database"
    built(folder, drawn(0, 3))
    content = bytearray((folder / name).read_bytes())
    content[-5] ^= 1
    (folder / name).write_bytes(content)
    text = f"'{folder}' is damaged: {name} is missing or changed. Remove it to build it anew."
    assert message(folder) == text
    (folder / name).unlink()
    assert message(folder) == text
