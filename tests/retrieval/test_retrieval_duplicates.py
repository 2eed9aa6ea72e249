from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farfield.retrieval.chunks import Chunk
from farfield.retrieval.digests import content
from farfield.retrieval.embedders import HashedTfIdf
from farfield.retrieval.store import Passage
from farfield.retrieval.writing import Finish, Put, Writer

Searched = tuple[list[Passage], list[str], dict[int, int], int]


def put(path: str, text: str) -> Put:
    chunks = [Chunk(0, len(text), "", text)]
    return Put(path, "", path, text.encode(), chunks, metadata={"name": path}, content=content(text))


def searched(writer: Writer) -> Searched:
    """All that can be found: passages in their order, duplicates, word frequencies, rows of the full-text index."""
    with writer.reading() as snapshot:
        frequencies = snapshot.frequencies()
        return (
            snapshot.passages(snapshot.order("").tolist()),
            list(map(str, snapshot.duplicates())),
            dict(zip(frequencies.terms.tolist(), frequencies.counts.tolist(), strict=True)),
            snapshot.count("lexicon"),
        )


def filled(folder: str, groups: list[list[Put | Finish]]) -> Searched:
    with Writer(Path(folder), "i", HashedTfIdf(16), None) as writer:
        for group in groups:
            writer.apply(group)
        with writer.reading() as snapshot:
            assert snapshot.state.documents == snapshot.count("documents")
            assert snapshot.state.chunks == snapshot.count("chunks")
        return searched(writer)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("a b", " a\r\n\tb\n", True),
        ("é", "e\u0301", True),
        ("a b", "A b", False),
        ("a b", "ab", False),
        ("a b", "a b.", False),
    ],
)
def test_what_counts_as_the_same_content(one: str, other: str, same: bool) -> None:
    assert (content(one) == content(other)) == same


def test_a_duplicate_takes_the_place_of_an_original_that_is_gone(tmp_path: Path) -> None:
    with Writer(tmp_path / "i", "i", HashedTfIdf(16), None) as writer:
        writer.apply([put("/a", "lions sleep"), put("/b", "lions  sleep"), put("/c", "zebras")])
        passages, duplicates, _, _ = searched(writer)
        assert [(one.path, one.text) for one in passages] == [("/a", "lions sleep"), ("/c", "zebras")]
        assert duplicates == ["/b is the same as /a"]
        with writer.reading() as snapshot:
            assert snapshot.matching({"name": "/b"}).tolist() == snapshot.matching({"name": "/a"}).tolist() == [1]
        writer.apply([put("/a", "other")])
        passages, duplicates, _, _ = searched(writer)
        assert [(one.path, one.text) for one in passages] == [("/a", "other"), ("/b", "lions  sleep"), ("/c", "zebras")]
        assert duplicates == []


@settings(max_examples=40, deadline=None)
@given(
    groups=st.lists(
        st.dictionaries(st.sampled_from("abcd"), st.sampled_from(["", "one", "two", "one two"]), max_size=4),
        max_size=5,
    )
)
def test_an_index_that_grew_is_the_one_that_was_filled_at_once(groups: list[dict[str, str]]) -> None:
    """Texts by path, "" for a file that is gone: only the last state may matter."""
    last: dict[str, str] = {}
    changes: list[list[Put | Finish]] = []
    for group in groups:
        last |= group
        changes.append([put(path, text) if text else Finish(path, None, frozenset()) for path, text in group.items()])
    with TemporaryDirectory() as grown, TemporaryDirectory() as fresh:
        at_once: list[Put | Finish] = [put(path, text) for path, text in last.items() if text]
        assert filled(grown, changes) == filled(fresh, [at_once])
