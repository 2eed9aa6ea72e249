from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filling import Ingest

from farfield.config import ConfigError, IndexingError
from farfield.retrieval import FunctionEmbedder, Hit, Index, RetrievalConfig, open_index
from farfield.retrieval.writing import lock


@pytest.fixture
def index(documents: Path, fill: Ingest, root: str) -> Iterator[Index]:
    fill(documents)
    with open_index("test", root) as opened:
        yield opened


def test_a_hit_tells_where_it_stands(index: Index, documents: Path) -> None:
    hit = index.search("Who signs the leave?", k=1)[0]
    assert hit.path == (documents / "handbook.md").as_posix()
    assert (hit.key, hit.title, hit.heading) == ("", "Handbook", "Handbook > Leave")
    assert (hit.dense, hit.lexical) == (1, 1)
    assert hit.score == pytest.approx(0.25 / 61 + 1 / 61)
    assert (documents / "handbook.md").read_text()[hit.start : hit.end] == hit.text
    assert hit.source == hit.path


def test_a_hit_in_a_line_of_a_file(index: Index, documents: Path) -> None:
    hit = index.search("How long do lions sleep?")[0]
    assert (hit.key, hit.title) == ("lion", "Lions")
    assert hit.source == f"{(documents / 'animals.jsonl').as_posix()}#lion"
    assert hit.text == "Lions sleep for twenty hours a day."


def test_words_that_are_nowhere_find_nothing(index: Index) -> None:
    assert index.search("xylophone quark") == []


def test_k_bounds_the_hits(index: Index) -> None:
    hits = index.search("the leave, the trips, the coffee and lions", k=6)
    assert len(hits) > 2
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert index.search("the leave, the trips, the coffee and lions", k=2) == hits[:2]


@pytest.mark.parametrize("k", [0, -1])
def test_k_must_be_positive(k: int, index: Index) -> None:
    with pytest.raises(ConfigError) as error:
        index.search("leave", k)
    assert str(error.value) == f"k: {k} given. It should be at least 1."


def test_an_answer_tells_what_each_stage_took(index: Index) -> None:
    answer = index.answer("Who signs the leave?")
    assert list(answer.seconds) == ["load", "embed", "dense", "lexical", "fuse", "fetch"]
    assert all(seconds >= 0 for seconds in answer.seconds.values())
    assert answer.generation == index.stats().generation == 1


@pytest.mark.parametrize(("search", "silent"), [("dense", "lexical"), ("lexical", "dense")])
def test_either_list_alone(search: str, silent: str, index: Index) -> None:
    with open_index(index.folder, settings=RetrievalConfig.model_validate({"search": search})) as alone:
        hits = alone.search("Who signs the leave?")
    assert hits[0].heading == "Handbook > Leave"
    assert all(getattr(hit, silent) is None and getattr(hit, search) for hit in hits)


def test_stats(index: Index) -> None:
    stats = index.stats()
    assert (stats.name, stats.files, stats.documents, stats.chunks) == ("test", 3, 4, 7)
    assert stats.dimension == 2048
    assert stats.vector_bytes == (index.folder / "vectors.faiss").stat().st_size


def test_a_missing_index_names_the_nearest(index: Index, root: str) -> None:
    with pytest.raises(IndexingError) as error:
        open_index("tset", root)
    assert str(error.value) == (
        f"index: there is no index 'tset'. Did you mean 'test'? Known: test. Looked in {root}."
        " Make it with: farfield ingest path=... index=tset"
    )


def test_a_missing_folder_of_indexes_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(IndexingError, match=r"^index: there is no index 'x'\. Known: none\. Looked in .*index=x$"):
        open_index("x", tmp_path / "nowhere")


def test_an_index_is_found_by_its_path(index: Index) -> None:
    for path in (index.folder, str(index.folder)):
        with open_index(path) as other:
            assert other.search("leave") == index.search("leave")


def without_chunk(hits: list[Hit]) -> list[tuple[object, ...]]:
    return [(h.path, h.key, h.start, h.end, h.heading, h.text, h.score, h.dense, h.lexical) for h in hits]


def test_an_index_that_grew_answers_as_one_that_was_filled_at_once(documents: Path, fill: Ingest, root: str) -> None:
    """Frequencies change with every file, ids with every order; equal passages (twins) must not show it either."""
    twins = [documents / f"twin{number}.txt" for number in range(12)]
    for order in (twins[6:], twins[:6]):
        for file in order:
            file.write_text("Lions and zebras share the coffee machine.")
            fill(documents, index="grown")
    (documents / "handbook.md").write_text("# Draft\n\nNothing is signed yet.\n")
    fill(documents, index="grown")
    (documents / "handbook.md").write_text("# Handbook\n\nLeave is signed by the head.\n")
    twins[3].write_text("Gone soon.")
    fill(documents, index="grown")
    twins[3].unlink()
    fill(documents, index="grown", prune=True)
    fill(documents, index="fresh")
    with open_index("grown", root) as grown, open_index("fresh", root) as fresh:
        assert grown.stats().chunks == fresh.stats().chunks
        for question in ("Who signs the leave?", "lions", "the coffee machine", "zebras stand on fridays"):
            for k in (1, 3, 20):
                assert without_chunk(grown.search(question, k)) == without_chunk(fresh.search(question, k)) != []


def test_many_threads_find_the_same(index: Index) -> None:
    questions = ["Who signs the leave?", "lions", "coffee", "trips by train"] * 25
    alone = [index.search(question) for question in questions]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(index.search, questions)) == alone


def test_an_open_index_sees_what_is_ingested_later(index: Index, documents: Path, fill: Ingest) -> None:
    assert index.search("giraffes") == []
    (documents / "giraffe.txt").write_text("Giraffes eat leaves.")
    fill(documents)
    hit = index.search("giraffes")[0]
    assert (hit.dense, hit.lexical) == (1, 1)
    assert index.notices == ()


def test_while_somebody_writes_the_old_vectors_serve(index: Index, documents: Path, fill: Ingest) -> None:
    (documents / "handbook.md").write_text("# Handbook\n\nLeave needs no signature.\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("farfield.retrieval.removal.renew", lambda *given: pytest.fail("stopped before the vectors"))
        with pytest.raises(pytest.fail.Exception):
            fill(documents)
    with lock(index.folder, "test"):
        hits = index.search("Who signs the leave? lions")
        assert [hit.text for hit in hits if hit.heading] == ["# Handbook\n\nLeave needs no signature.\n"]
        assert [hit.dense for hit in hits if hit.heading] == [None]
        assert next(hit for hit in hits if hit.key == "lion").dense == 1
    assert index.notices == ()
    hits = index.search("Who signs the leave? lions")
    assert [hit.dense is None for hit in hits if hit.heading] == [False]
    assert len(index.notices) == 1


def test_readers_see_whole_passages_while_an_ingest_runs(tmp_path: Path, fill: Ingest, root: str) -> None:
    """Each file is replaced by a longer version; a reader finds one version or the other, exact at its span."""
    folder = tmp_path / "changing"
    folder.mkdir()
    versions = [[f"Item {number} of lions. " * (1 + turn) for number in range(40)] for turn in range(4)]
    for number, text in enumerate(versions[0]):
        (folder / f"{number:03}.txt").write_text(text)
    fill(folder)
    stop, seen, failures = threading.Event(), itertools.count(), []

    def read() -> None:
        with open_index("test", root) as index:
            while not stop.is_set():
                for hit in index.search("item 7 of lions", k=20):
                    texts = [version[int(Path(hit.path).stem)] for version in versions]
                    if not any(text[hit.start : hit.end] == hit.text for text in texts):
                        failures.append(hit)
                next(seen)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for version in versions[1:]:
            for number, text in enumerate(version):
                (folder / f"{number:03}.txt").write_text(text)
            assert fill(folder).replaced == 40
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert failures == []
    assert next(seen) > 2


FORKED = """
import os, sys
from farfield.retrieval import open_index
index = open_index("test", sys.argv[1])
before = index.search("Who signs the leave?")
child = os.fork()
if child == 0:
    os._exit(0 if index.search("Who signs the leave?") == before else 1)
_, status = os.waitpid(child, 0)
assert index.search("Who signs the leave?") == before
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_process_can_search(index: Index, root: str) -> None:
    run = subprocess.run([sys.executable, "-c", FORKED, root], capture_output=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr.decode()


def letters(texts: Sequence[str]) -> list[list[float]]:
    """How often each of four letters occurs."""
    return [[float(text.lower().count(letter)) for letter in "lzct"] for text in texts]


def test_an_embedder_of_ones_own(documents: Path, fill: Ingest, root: str) -> None:
    embedder = FunctionEmbedder("letters 1", 4, letters)
    fill(documents, embedder=embedder)
    settings = RetrievalConfig(search="dense")
    with open_index("test", root, settings, embedder) as index:
        assert index.search("zzz")[0].key == "line 2"
        (index.folder / "vectors.faiss").unlink()
    with open_index("test", root, settings, embedder) as index:
        assert index.search("zzz")[0].key == "line 2"
    with pytest.raises(IndexingError, match=r"^index 'test' was made by embedder 'letters 1', which must be given"):
        open_index("test", root)
    with pytest.raises(IndexingError, match=r"^index 'test' was made by embedder 'letters 1'; 'letters 2' given\."):
        open_index("test", root, settings, FunctionEmbedder("letters 2", 4, letters))


def test_an_index_without_passages_is_empty_not_broken(documents: Path, fill: Ingest, root: str) -> None:
    fill(documents / "notes" / "kitchen.txt")
    (documents / "notes" / "kitchen.txt").rename(documents / "notes" / "other.txt")
    (documents / "notes" / "other.txt").write_text("… !")
    fill(documents / "notes", prune=True)
    with open_index("test", root) as index:
        assert index.search("coffee") == []
