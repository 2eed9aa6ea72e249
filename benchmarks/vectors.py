"""python -m farfield.benchmarks.vectors: what is found, how fast, and at what size, against exact search and raw FAISS.

For each source and number of vectors: the store that the settings choose is built and tuned as an index does it; then
questions that had no part in that are asked of it, of exact search, and of the FAISS index within the store, called
with the same settings and for as many vectors. The last two are timed in turns, in one process, on one thread, by the
processor's time, which leaves out what others do on the machine meanwhile.

    clustered   1,000 centres of the normal distribution, and points about them at 0.3 of its deviation; 64 numbers each
    passages    300 characters of books, hashed TF-IDF; where the books are too short for so many, they overlap. Of a
                million a random projection to --project numbers, which keeps inner products up to noise

Questions of clusters are new points; those of passages are eight words in a row of a passage, which then does not count
as found. A thousand questions are asked at once; one at a time gives the latencies.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from farfield.benchmarks.provenance import provenance
from farfield.config import ConfigError, DataError, FarfieldError
from farfield.progress import Bar
from farfield.retrieval.embedders import HashedTfIdf, Kept, Matrix, unit
from farfield.retrieval.faiss_library import library
from farfield.retrieval.flat import Flat
from farfield.retrieval.inverted import BEST, Inverted
from farfield.retrieval.settings import VectorConfig
from farfield.retrieval.tuning import RECALL, Exam, build, recalls, sample_size, shape_for, tune, without
from farfield.retrieval.vector_store import Found, Ids
from farfield.retrieval.words import BAG, Frequencies, bag, words

__all__ = ["Measured", "main", "measure"]

SOURCES = ("clustered", "passages")
CENTRES, SPREAD, DIMENSION = 1000, 0.3, 64
PASSAGE, WORDS = 300, 8
TUNED, ASKED, ALONE = 128, 1000, 200
BLOCK = 1024


@dataclass(frozen=True)
class Measured:
    """A store of `count` vectors: the setting chosen, what it finds, what it takes.

    Attributes:
        recall: of the ten best, with questions that were not used for the choice; `tuned` with those that were.
        bytes: of the file; `exact_bytes` of the vectors as float32.
        queries, raw, exact: questions answered in a second, in batches: by the store, by its FAISS index, exactly.
        p50, p95: milliseconds of a single question.
    """

    source: str
    count: int
    dimension: int
    kind: str
    lists: int | None
    probe: int | None
    factor: int | None
    tuned: float | None
    recall: float
    seconds: float
    bytes: int
    exact_bytes: int
    queries: float
    raw: float
    exact: float
    p50: float
    p95: float

    @property
    def ratio(self) -> float:
        """Our questions a second over those of the FAISS index within."""
        return self.queries / self.raw


@dataclass(frozen=True)
class Vectors:
    """Vectors (n, d), and two sets of questions (q, d) with the id that does not count for each (-1: none)."""

    rows: Matrix
    tuning: Matrix
    tuning_own: Ids
    asked: Matrix
    asked_own: Ids


def clustered(count: int) -> Vectors:
    """Points about centres, and new points as questions."""
    drawn = np.random.default_rng(0)
    centres = drawn.normal(size=(CENTRES, DIMENSION))

    def points(some: int) -> Matrix:
        out = centres[drawn.integers(CENTRES, size=some)] + SPREAD * drawn.normal(size=(some, DIMENSION))
        return unit(out)

    rows, tuning, asked = np.empty((count, DIMENSION), np.float32), points(TUNED), points(ASKED)
    for first in range(0, count, BLOCK):
        rows[first : first + BLOCK] = points(min(BLOCK, count - first))
    return Vectors(rows, tuning, np.full(TUNED, -1), asked, np.full(ASKED, -1))


def passages(count: int, dimension: int, project: int | None, books: Path) -> Vectors:
    """Hashed TF-IDF of passages, and eight words of some of them as questions."""
    texts = _texts(count, books)
    bags = [bag(words(text)) for text in texts]
    terms, counts = np.unique(np.concatenate([np.frombuffer(one, BAG)["term"] for one in bags]), return_counts=True)
    frequencies, embedder = Frequencies(count, terms, counts), HashedTfIdf(dimension)
    drawn = np.random.default_rng(0)
    matrix = None if project is None else drawn.normal(size=(dimension, project)).astype(np.float32)

    def embedded(some: Sequence[bytes]) -> Matrix:
        out = embedder.vectors([Kept(one, None) for one in some], frequencies)
        if matrix is None:
            return out
        return unit((out @ matrix).astype(np.float64))

    rows = np.empty((count, project or dimension), np.float32)
    for first in range(0, count, BLOCK):
        rows[first : first + BLOCK] = embedded(bags[first : first + BLOCK])
    own = drawn.choice(count, TUNED + ASKED, replace=False)
    questions = embedded([bag(words(_some_words(texts[one], drawn))) for one in own])
    return Vectors(rows, questions[:TUNED], own[:TUNED], questions[TUNED:], own[TUNED:])


def _texts(count: int, books: Path) -> list[str]:
    """`count` passages of the books in a folder, in order, evenly spaced."""
    read = [file.read_text(encoding="utf-8", errors="replace") for file in sorted(books.glob("*.txt"))]
    room = sum(max(0, len(text) - PASSAGE) for text in read)
    if room < count:
        raise DataError(f"--books: {books} holds {room} characters to begin a passage at; {count} are needed.")
    step, found = min(float(PASSAGE), room / (count + len(read))), list[str]()
    for text in read:
        found += [text[int(place) : int(place) + PASSAGE] for place in np.arange(0, max(0, len(text) - PASSAGE), step)]
    return found[:count]


def _some_words(text: str, drawn: np.random.Generator) -> str:
    spoken = text.split()[1:-1]
    first = int(drawn.integers(max(1, len(spoken) - WORDS + 1)))
    return " ".join(spoken[first : first + WORDS])


def measure(source: str, vectors: Vectors, settings: VectorConfig, repeats: int) -> Measured:
    """Builds the store that `settings` choose, and asks it."""
    count, dimension = vectors.rows.shape
    began = time.perf_counter()
    store, tuned = _built(vectors, settings)
    seconds = time.perf_counter() - began
    if isinstance(store, Inverted):
        truth, exact = _exact(vectors)
    else:
        truth, exact = store.search(vectors.asked, BEST + 1), 0.0
    found = store.search(vectors.asked, BEST + 1)
    queries, raw = _rates(vectors.asked, _calls(store), repeats)
    alone = _alone(store, vectors.asked)
    size = 0

    def measured(block: bytes) -> None:
        nonlocal size
        size += len(block)

    store.write(measured)
    listed = isinstance(store, Inverted)
    return Measured(
        source=source,
        count=count,
        dimension=dimension,
        kind=store.shape.kind if isinstance(store, Inverted) else "flat",
        lists=store.shape.lists if isinstance(store, Inverted) else None,
        probe=store.probe if isinstance(store, Inverted) else None,
        factor=store.factor if isinstance(store, Inverted) else None,
        tuned=tuned,
        recall=float(recalls(without(found, vectors.asked_own), without(truth, vectors.asked_own)).mean()),
        seconds=seconds,
        bytes=size,
        exact_bytes=vectors.rows.nbytes,
        queries=queries,
        raw=raw,
        exact=exact if listed else raw,
        p50=1e3 * float(np.percentile(alone, 50)),
        p95=1e3 * float(np.percentile(alone, 95)),
    )


def _built(vectors: Vectors, settings: VectorConfig) -> tuple[Flat | Inverted, float | None]:
    """The store, and the recall that was measured for its setting."""
    rows = vectors.rows
    count = len(rows)
    shape = shape_for(settings, count)
    blocks = ((np.arange(at, min(at + BLOCK, count)), rows[at : at + BLOCK]) for at in range(0, count, BLOCK))
    if shape is None:
        flat = Flat(rows.shape[1])
        for ids, some in blocks:
            flat.add(ids, some)
        return flat, None
    places = np.sort(np.random.default_rng(1).choice(count, sample_size(shape, count), replace=False))
    exam = Exam(vectors.tuning, vectors.tuning_own)
    store = build(shape, rows[places], blocks, exam, False)
    return store, tune(store, exam, settings.recall or RECALL).recall


def _exact(vectors: Vectors) -> tuple[Found, float]:
    """What there is to be found, and how many questions a second an exact index answers; blocks bound its memory."""
    faiss = library()
    heap = faiss.ResultHeap(len(vectors.asked), BEST + 1, keep_max=True)
    began = time.process_time()
    for first in range(0, len(vectors.rows), 1 << 16):
        some = vectors.rows[first : first + (1 << 16)]
        scores, places = faiss.knn(vectors.asked, some, BEST + 1, metric=faiss.METRIC_INNER_PRODUCT)
        heap.add_result(scores, places + first)
    heap.finalize()
    return Found(heap.D, heap.I), len(vectors.asked) / (time.process_time() - began)


Call = Callable[[Matrix], object]


def _calls(store: Flat | Inverted) -> tuple[Call, Call]:
    """A search for the ten best: ours, and the same of FAISS alone."""
    if isinstance(store, Flat):
        return (lambda asked: store.search(asked, BEST)), (lambda asked: store._index.search(asked, BEST))
    parameters = store._parameters(store.probe, BEST, BEST, {})
    return (
        lambda asked: store.search(asked, BEST),
        lambda asked: store._index.search(asked, BEST, params=parameters),
    )


def _rates(asked: Matrix, calls: Sequence[Call], repeats: int) -> list[float]:
    """Questions in a second of the processor's time of each call, in turns; the best of the repeats."""
    least = [math.inf] * len(calls)
    for _ in range(repeats):
        for place, call in enumerate(calls):
            began = time.process_time()
            call(asked)
            least[place] = min(least[place], time.process_time() - began)
    return [len(asked) / seconds for seconds in least]


def _alone(store: Flat | Inverted, asked: Matrix) -> list[float]:
    """Seconds of single questions."""
    found = []
    for one in asked[:ALONE]:
        began = time.perf_counter()
        store.search(one[None], BEST)
        found.append(time.perf_counter() - began)
    return found


def _compared(given: argparse.Namespace) -> Iterator[Measured]:
    for source in given.sources:
        for count in given.counts:
            project = given.project if count > 500_000 else None
            vectors = (
                clustered(count) if source == "clustered" else passages(count, given.dimension, project, given.books)
            )
            yield measure(source, vectors, VectorConfig(kind=given.kind), given.repeats)


def main(given_words: Sequence[str] | None = None) -> int:
    """The table; 0, 1 where less is found than should be, or 2 after one line on what cannot be used."""
    given = _parser().parse_args(given_words)
    library().omp_set_num_threads(1)
    rows: list[Measured] = []
    try:
        _check(given)
        with Bar("vectors", total=len(given.sources) * len(given.counts), unit="stores") as bar:
            for row in _compared(given):
                rows.append(row)
                _write(given, rows)  # as they come: a stopped run has told what it has measured
                bar.step(note=f"{row.source} {row.count:,}")
    except FarfieldError as error:
        sys.stderr.write(f"farfield: {error}\n")
        return 2
    Console(width=170, highlight=False).print(_table(rows))
    if given.picture:
        _draw(rows, given.picture)
    return 0 if all(row.recall >= RECALL for row in rows) else 1


def _check(given: argparse.Namespace) -> None:
    """Raises a FarfieldError where nothing can be measured so."""
    least = TUNED + ASKED + 1
    if min(given.counts) < least:
        raise ConfigError(f"--counts: {min(given.counts)} given. At least {least}.")
    if "passages" in given.sources and given.books is None:
        raise ConfigError("--books: a folder of texts is needed for passages, or --sources clustered.")


def _write(given: argparse.Namespace, rows: Sequence[Measured]) -> None:
    if given.json:
        task = {name: str(value) if isinstance(value, Path) else value for name, value in vars(given).items()}
        found = [{**asdict(row), "ratio": row.ratio} for row in rows]
        content = {**provenance(), "threads": 1, "task": task, "rows": found}
        given.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _table(rows: Sequence[Measured]) -> Table:
    table = Table("vectors", title="Ten best of the stores that are chosen by size; questions a second on one thread")
    heads = (
        "numbers",
        "kind",
        "lists",
        "looked at",
        "factor",
        "recall",
        "build, s",
        "MB",
        "questions/s",
        "FAISS",
        "ratio",
    )
    for head in (*heads, "exact", "p50, ms", "p95, ms"):
        table.add_column(head, justify="right")
    for row in rows:
        chosen = ("-" if value is None else f"{value:,}" for value in (row.lists, row.probe, row.factor))
        rates = (f"{row.queries:,.0f}", f"{row.raw:,.0f}", f"{row.ratio:.2f}", f"{row.exact:,.0f}")
        cost = (f"{row.recall:.3f}", f"{row.seconds:,.1f}", f"{row.bytes / 1e6:,.0f}")
        times = (f"{row.p50:.2f}", f"{row.p95:.2f}")
        table.add_row(f"{row.source} {row.count:,}", f"{row.dimension:,}", row.kind, *chosen, *cost, *rates, *times)
    return table


def _draw(rows: Sequence[Measured], path: Path) -> None:
    """Questions a second and seconds of building against the number of vectors, a line for each source."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 4.0), layout="constrained")
    rates, builds = figure.subplots(1, 2)
    for place, source in enumerate(dict.fromkeys(row.source for row in rows)):
        mine = [row for row in rows if row.source == source]
        counts = [row.count for row in mine]
        rates.plot(counts, [row.queries for row in mine], color=f"C{place}", marker="o", label=source)
        rates.plot(counts, [row.exact for row in mine], color=f"C{place}", linestyle=":", label=f"{source}, exact")
        builds.plot(counts, [row.seconds for row in mine], color=f"C{place}", marker="o", label=source)
        for row in mine:
            rates.annotate(f"{row.recall:.3f}", (row.count, row.queries), textcoords="offset points", xytext=(4, 6))
    rates.set(
        xscale="log", yscale="log", xlabel="vectors", ylabel="questions a second", title="recall@10 at each point"
    )
    builds.set(xscale="log", yscale="log", xlabel="vectors", ylabel="seconds", title="building, the choice included")
    for panel in (rates, builds):
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=150)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m farfield.benchmarks.vectors", description="Recall, speed and size of stores of vectors."
    )
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], metavar="N")
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=list(SOURCES), metavar="NAME")
    parser.add_argument("--kind", choices=("auto", "flat", "ivf", "pq"), default="auto", help="of the stores")
    parser.add_argument("--books", type=Path, help="a folder of texts; needed for passages")
    parser.add_argument("--dimension", type=int, default=2048, help="of the hashed vectors")
    parser.add_argument("--project", type=int, default=256, help="numbers of a vector of more than 500,000 passages")
    parser.add_argument("--repeats", type=int, default=5, help="timings of each, of which the least counts")
    parser.add_argument("--json", type=Path, help="where to write the figures, with the versions")
    parser.add_argument("--picture", type=Path, help="where to draw them")
    return parser


if __name__ == "__main__":
    sys.exit(main())
