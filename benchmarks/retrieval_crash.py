"""Kills ingests at random moments, and counts what is lost: it must be nothing.

    python -m farfield.benchmarks.retrieval_crash --kills=100 --json=crash.json

A collection is ingested by a process of its own, with workers, which writes the name of each document to a file of its
own once the document's group is committed. At a random moment it is killed (SIGKILL), with its workers or without; then
the index is opened and compared with what was reported and with the files themselves:

    lost        documents that were reported and are not there, or not with all of their text
    halves      documents that are there in part: chunks that do not cover the text, or do not fit it
    wrong       answers, by words or by vectors, that are not those of an exact computation from the database

The next ingest goes on from there, and is killed as well; one that reaches its end is compared with an index that was
filled at once. An index that holds everything is thrown away. No moment is spared: making the index, committing,
writing the vectors.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from farfield.config import FarfieldError
from farfield.progress import Bar
from farfield.retrieval import (
    ChunkConfig,
    HashedConfig,
    HashedTfIdf,
    IngestConfig,
    RetrievalConfig,
    ingest,
    ingestion,
    open_index,
)
from farfield.retrieval.store import DATABASE, Snapshot, Store
from farfield.retrieval.words import bag, words
from farfield.retrieval.writing import Changes, Finish, Put, Writer

__all__ = ["Counts", "crash"]

FILES, LINES = 120, 240
SYLLABLES = ("lo", "ka", "mi", "tu", "re", "dil", "mok", "sef")
VOCABULARY = [f"{first}{second}{third}" for first in SYLLABLES for second in SYLLABLES for third in SYLLABLES[:5]]
QUESTIONS = ("lokami", "mitukami redillo", "sefmoklo remiti kakalo lololo", "number 17")
BEST, NOTHING = 5, 1e-4
"""How many passages are compared, and what a score may differ by: words of most chunks weigh a millionth."""
DIMENSION = 256
VERSION = HashedTfIdf(DIMENSION).version
CHUNK = ChunkConfig(size=160, overlap=30)
WORKER_KILLED = 2
START = "import sys; from farfield.benchmarks.retrieval_crash import _child; _child(*sys.argv[1:])"


@dataclass
class Counts:
    """What came of the kills. `stages` counts what the killed were doing: making the index, storing, or the vectors."""

    kills: int = 0
    finished: int = 0
    reported: int = 0
    lost: int = 0
    halves: int = 0
    wrong: int = 0
    answers: int = 0
    stages: dict[str, int] = field(default_factory=lambda: {"before": 0, "storing": 0, "after": 0})


def crash(kills: int, seed: int, place: Path) -> Counts:
    """Kills `kills` ingests below `place`; what was found behind each."""
    draw, counts = random.Random(seed), Counts()
    documents = _collection(place / "documents", random.Random(seed + 1))
    whole = _settings(place, "whole")
    begun = time.monotonic()
    ingest(whole)
    longest = 1.1 * (time.monotonic() - begun)
    expected = _answers(place, "whole")
    with Bar("crash", total=kills, unit="kills") as bar:
        while counts.kills < kills:
            if _killed(place, draw, longest):
                counts.kills += 1
                bar.step(note=f"{counts.lost + counts.halves + counts.wrong} losses")
                if _inspect(place, documents, counts) != "after":
                    continue
            else:
                counts.finished += 1
                _inspect(place, documents, counts)
                counts.answers += len(expected)
                counts.wrong += sum(one != other for one, other in zip(_answers(place, "index"), expected, strict=True))
            shutil.rmtree(place / "indexes" / "index")
            (place / "reported").unlink()
    return counts


def _settings(place: Path, index: str) -> IngestConfig:
    return IngestConfig(
        path=str(place / "documents"),
        index=index,
        root=str(place / "indexes"),
        workers=2,
        chunk=CHUNK,
        embedder=HashedConfig(dimension=DIMENSION),
    )


def _collection(folder: Path, draw: random.Random) -> dict[tuple[str, str], str]:
    """Files and lines, some of the same content; their texts by path and key."""
    folder.mkdir(parents=True)
    texts: dict[tuple[str, str], str] = {}
    for number in range(FILES):
        file = folder / f"{number:04}.txt"
        text = _text(draw, number % (FILES - 9))
        file.write_text(text, encoding="utf-8")
        texts[file.resolve().as_posix(), ""] = text
    file = folder / "lines.jsonl"
    lines = [{"id": str(number), "text": _text(draw, 1000 + number)} for number in range(LINES)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return texts | {(file.resolve().as_posix(), line["id"]): line["text"] for line in lines}


def _text(draw: random.Random, number: int) -> str:
    if number % 7 == 3:
        draw = random.Random(number)
    sentences = (" ".join(draw.choices(VOCABULARY, k=9)).capitalize() + "." for _ in range(draw.randint(1, 12)))
    return f"This is number {number}. " + " ".join(sentences)


def _killed(place: Path, draw: random.Random, longest: float) -> bool:
    """Starts an ingest and kills it, or its workers, or all, at a random moment; False if it came to its end."""
    command = [sys.executable, "-c", START, str(place)]
    with (place / "said").open("w") as said, subprocess.Popen(command, stderr=said, start_new_session=True) as process:
        while not (place / "began").exists() and process.poll() is None:
            time.sleep(0.002)
        with suppress(subprocess.TimeoutExpired):
            process.wait(draw.uniform(0, longest))
        if process.returncode is None:
            _kill(process.pid, draw.choice(("all", "main", "worker")))
        process.wait()
    (place / "began").unlink(missing_ok=True)
    if process.returncode not in (0, WORKER_KILLED, -signal.SIGKILL):
        raise RuntimeError(f"an ingest ended with status {process.returncode}: {(place / 'said').read_text()}")
    return process.returncode != 0


def _kill(process: int, whom: str) -> None:
    """Kills an ingest with its workers, without them, or one of its workers, if it has any."""
    listed = Path(f"/proc/{process}/task/{process}/children")
    workers = listed.read_text().split() if listed.exists() else []
    if whom == "worker" and workers:
        with suppress(ProcessLookupError):
            os.kill(int(workers[0]), signal.SIGKILL)
    elif whom == "main":
        os.kill(process, signal.SIGKILL)
    else:
        os.killpg(process, signal.SIGKILL)


def _child(place: str) -> None:
    """An ingest that writes down each document once it is committed."""
    report = os.open(Path(place, "reported"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    class Reporting(Writer):
        def apply(self, operations: Sequence[Put | Finish]) -> Changes:
            changes = super().apply(operations)
            stored = (json.dumps([one.path, one.key]) + "\n" for one in operations if isinstance(one, Put))
            os.write(report, "".join(stored).encode())
            return changes

    setattr(ingestion, "Writer", Reporting)  # noqa: B010  # a module's own import, which nobody else may take
    ingestion.GROUP_DOCUMENTS = 8
    Path(place, "began").touch()
    try:
        ingest(_settings(Path(place), "index"))
    except FarfieldError:
        sys.exit(WORKER_KILLED)


def _inspect(place: Path, documents: dict[tuple[str, str], str], counts: Counts) -> str:
    """Compares what an index holds with what was reported, with the files, and with an exact computation; its stage."""
    report, folder = place / "reported", place / "indexes" / "index"
    lines = report.read_text(encoding="utf-8").splitlines() if report.exists() else []
    reported = {tuple(json.loads(line)) for line in lines}
    counts.reported += len(reported)
    if not _has_tables(folder):
        counts.stages["before"] += 1
        counts.lost += len(reported)
        return "before"
    store = Store(folder, "index")
    with closing(store), store.reading() as snapshot:
        there = _documents(snapshot)
        counts.lost += len(reported - set(there))
        counts.halves += sum(not _fits(spans, documents[name]) for name, spans in there.items())
        counts.wrong += _miscounted(snapshot)
        stage = "after" if len(there) == len(documents) else "storing"
        counts.stages[stage] += 1
        if there:
            for search, score in (("dense", _dense), ("lexical", _lexical)):
                counts.wrong += _disagreeing(place, search, partial(score, snapshot))
                counts.answers += len(QUESTIONS)
    return stage


def _has_tables(folder: Path) -> bool:
    """Whether the killed came as far as to make the tables."""
    if not (folder / DATABASE).exists():
        return False
    with closing(sqlite3.connect(folder / DATABASE)) as connection:
        return bool(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])


Spans = list[tuple[int, int, str]]


def _documents(snapshot: Snapshot) -> dict[tuple[str, str], Spans]:
    """The spans of every document; those of a duplicate are its original's."""
    found = {name: Spans() for name in snapshot.meant({})}
    for passage in snapshot.passages(snapshot.order(VERSION).tolist()):
        found[passage.path, passage.key].append((passage.start, passage.end, passage.text))
    for one in snapshot.duplicates():
        found[one.path, one.key] = found[one.original_path, one.original_key]
    return found


def _fits(spans: Spans, text: str) -> bool:
    """Whether spans are those of a text, and leave none of it out."""
    ends = [0, *(end for _, end, _ in spans)]
    covered = all(start <= end for (start, _, _), end in zip(spans, ends, strict=False))
    return covered and ends[-1] == len(text) and all(text[start:end] == part for start, end, part in spans)


def _miscounted(snapshot: Snapshot) -> int:
    """Totals that are not those of the rows."""
    state = snapshot.state
    rows = [snapshot.count(table) for table in ("documents", "chunks", "lexicon")]
    return sum(one != other for one, other in zip(rows, (state.documents, state.chunks, state.chunks), strict=True))


def _disagreeing(place: Path, search: str, score: Callable[[str], dict[int, float]]) -> int:
    """How many answers are not the best passages by `score`, computed for all of them. Equal scores are as good."""
    settings = RetrievalConfig.model_validate({"search": search, "k": BEST})
    wrong = 0
    with open_index("index", place / "indexes", settings) as index:
        for question in QUESTIONS:
            exact = score(question)
            found = [exact.get(hit.chunk, 0.0) for hit in index.search(question)]
            best = sorted((value for value in exact.values() if value > NOTHING), reverse=True)[:BEST]
            wrong += len(found) != len(best) or not np.allclose(found, best, rtol=0, atol=NOTHING)
    return wrong


def _dense(snapshot: Snapshot, question: str) -> dict[int, float]:
    """The similarity of each chunk, by vectors that are made of the database."""
    embedder, order, frequencies = HashedTfIdf(DIMENSION), snapshot.order(VERSION), snapshot.frequencies()
    vectors = embedder.vectors(snapshot.kept(order.tolist()), frequencies)
    asked = embedder.questions([question], [bag(words(question))], frequencies)[0]
    return dict(zip(order.tolist(), (vectors @ asked).tolist(), strict=True))


def _lexical(snapshot: Snapshot, question: str) -> dict[int, float]:
    """The BM25 of each chunk, by a full-text index that is made of the database."""
    ids = snapshot.order(VERSION).tolist()
    rows = [
        (chunk, " ".join(words(f"{one.heading or one.title}\n{one.text}")))
        for chunk, one in zip(ids, snapshot.passages(ids), strict=True)
    ]
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(
            "CREATE VIRTUAL TABLE lexicon USING fts5 (words, tokenize = 'porter unicode61 remove_diacritics 0')"
        )
        connection.executemany("INSERT INTO lexicon (rowid, words) VALUES (?, ?)", rows)
        asked = " OR ".join(f'"{word}"' for word in sorted(set(words(question))))
        return dict(connection.execute("SELECT rowid, -rank FROM lexicon WHERE lexicon MATCH ?", (asked,)).fetchall())


def _answers(place: Path, name: str) -> list[list[tuple[str, int, float]]]:
    """What an index answers, with scores."""
    with open_index(name, place / "indexes") as index:
        return [[(hit.source, hit.start, hit.score) for hit in index.search(one)] for one in QUESTIONS]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where the counts go; standard output if not given")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        counts = crash(given.kills, given.seed, Path(place))
    text = json.dumps(asdict(counts) | {"seed": given.seed}, indent=2) + "\n"
    given.json.write_text(text, encoding="utf-8") if given.json else sys.stdout.write(text)
    sys.exit(bool(counts.lost or counts.halves or counts.wrong))


if __name__ == "__main__":
    main()
