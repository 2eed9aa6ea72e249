"""Passages in batches: for every chunk what its own text finds elsewhere, by position, in windows and in streams."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from writing import Write

from farfield.augmentation import NeighboursTraining, PromptTraining
from farfield.config import ConfigError, read
from farfield.data import PADDING, UNSCORED, Batch, TextData
from farfield.data.found import NeighbourSource, PromptSource
from farfield.data.text import TextSource
from farfield.retrieval.neighbours import Wanted

CHUNK, BEHIND = 8, 4
NOTHING = np.array([], np.int64)
OWN = set(map(chr, range(0x4E00, 0x4E1E)))
"""The letters of which each text has one to itself."""


def numbered(count: int) -> list[str]:
    """Texts that share words, each with letters of its own: what a passage is of shows in it."""
    return [
        " ".join(
            [chr(0x4E00 + number), "stone river lamp north".split()[n % 4], f"{(number * n) % 7}"][n % 3]
            for n in range(9 + number)
        )
        for number in range(count)
    ]


def text_of(write: Write, tmp_path: Path, order: str = "shuffled", length: int = 32) -> TextSource:
    path = write({"lines.jsonl": numbered(30)})
    given = {"path": str(path), "cache": str(tmp_path / "cache"), "length": length, "validation": 0.2, "order": order}
    return read(TextData, given).open(seed=0, batch=4)


def neighbours(source: TextSource, tmp_path: Path, **changes: object) -> NeighbourSource:
    given = {"database": str(tmp_path / "database"), "chunk": CHUNK, "continuation": BEHIND, "dimension": 128}
    return read(NeighboursTraining, {**given, **changes}).source(source)


def prompted(source: TextSource, tmp_path: Path, **changes: object) -> PromptSource:
    given = {"kind": "prompt", "database": str(tmp_path / "database"), "chunk": CHUNK, "continuation": BEHIND}
    return read(PromptTraining, {**given, "dimension": 128, **changes}).source(source)


def document_of(source: TextSource, key: int) -> list[int]:
    """The tokens of the document of this key."""
    (number,) = np.flatnonzero(np.asarray(source.store.keys) == np.uint64(key))
    return [int(one) for one in source.store.document(int(number))]


def test_batches_know_the_documents_of_their_tokens(write: Write, tmp_path: Path) -> None:
    source = text_of(write, tmp_path)
    for step in range(3):
        batch = source.batch(step)
        assert batch.documents is not None
        for row, column in np.argwhere(batch.positions != PADDING):
            document = document_of(source, batch.documents[row, column])
            pair = [int(batch.tokens[row, column]), int(batch.targets[row, column])]
            assert any(document[n : n + 2] == pair for n in range(len(document)))


@pytest.mark.parametrize(("order", "length"), [("shuffled", 32), ("streams", 32), ("streams", 5)])
def test_every_chunk_has_what_its_text_finds_elsewhere(write: Write, tmp_path: Path, order: str, length: int) -> None:
    """Chunks are followed along rows, and in streams from step to step, token by token."""
    inner = text_of(write, tmp_path, order, length)
    source = neighbours(inner, tmp_path)
    database, read_so_far, chunks = source.search.database, [[] for _ in range(4)], 0  # type: ignore[var-annotated]
    for step in range(12):
        batch = source.batch(step)
        assert batch.passages is not None
        number = [0] * 4
        for row, column in np.argwhere(batch.positions != PADDING):
            position = batch.positions[row, column]
            own = read_so_far[row] = [*read_so_far[row][: position if position else 0], int(batch.tokens[row, column])]
            if (position + 1) % CHUNK:
                continue
            found, chunks = batch.passages[row, number[row]], chunks + 1
            number[row] += 1
            assert len(own) == position + 1
            document = int(batch.documents[row, column])  # type: ignore[index]
            expected = database.search([Wanted(np.array(own[-CHUNK:]), NOTHING, document)], 2)
            assert np.array_equal(found, database.passages(expected, CHUNK + BEHIND)[0])
            text = inner.tokenizer.decode([one for one in found.flatten().tolist() if one >= 0])
            (unlike,) = set(inner.tokenizer.decode(document_of(inner, document))) & OWN
            assert unlike not in text
        assert [int((batch.passages[row] >= 0).any((1, 2)).sum()) <= number[row] for row in range(4)] == [True] * 4
        assert batch.passages.shape[1] == max(number)
    assert chunks > (100 if length == 32 else 5)


def test_nothing_held_out_is_in_the_database(write: Write, tmp_path: Path) -> None:
    inner = text_of(write, tmp_path)
    database = neighbours(inner, tmp_path).search.database
    everything = inner.tokenizer.decode(database.tokens.tolist())
    held = [
        inner.store.tokens[a:b].tolist()
        for a, b in zip(inner.split.validation.starts, inner.split.validation.stops, strict=True)
    ]
    assert len(held) > 2
    assert database.manifest.documents == 30 - len(held)
    for ids in held:
        assert not set(inner.tokenizer.decode(ids)) & OWN & set(everything)


def test_a_step_is_the_same_each_time_and_in_another_process(write: Write, tmp_path: Path) -> None:
    """Also where it is looked at out of order, and where the database is there already."""
    inner = text_of(write, tmp_path, "streams")
    one, other = neighbours(inner, tmp_path), neighbours(inner, tmp_path)
    again = pickle.loads(pickle.dumps(other))
    for step in (5, 2, 5, 0):
        for source in (other, again):
            assert np.array_equal(one.batch(step).passages, source.batch(step).passages)  # type: ignore[arg-type]
    for index in range(one.validation_batches):
        first = one.validation(index).passages
        assert np.array_equal(first, one.validation(index).passages)  # type: ignore[arg-type]
        assert np.array_equal(first, again.validation(index).passages)  # type: ignore[arg-type]
    assert one.describe() == again.describe()


def test_what_tells_too_much_is_left_out(write: Write, tmp_path: Path) -> None:
    inner = text_of(write, tmp_path)
    every, few = neighbours(inner, tmp_path), neighbours(inner, tmp_path, overlap=0.25)
    counts = [
        sum(int((source.batch(step).passages >= 0).any(-1).sum()) for step in range(4)) for source in (every, few)
    ]  # type: ignore[operator]
    assert 0 < counts[1] < counts[0]


def test_a_row_stands_behind_the_passages_that_its_beginning_finds(write: Write, tmp_path: Path) -> None:
    inner = text_of(write, tmp_path)
    source = prompted(inner, tmp_path, tokens=20)
    assert source.tokens_per_batch == inner.tokens_per_batch + 4 * 20
    short = 0
    for make in (*((inner.batch, source.batch, n) for n in range(4)), (inner.validation, source.validation, 0)):
        plain, batch = (one(make[2]) for one in make[:2])
        for row in range(4):
            check_row(source, plain, batch, row)
            short += int((batch.positions[row, :20] == PADDING).sum())
    assert short > 0


def check_row(source: PromptSource, plain: Batch, batch: Batch, row: int) -> None:
    first = int((plain.positions[row] == np.arange(32)).sum())
    asking = min(first, CHUNK)
    database = source.search.database
    expected: list[int] = []
    if asking:
        wanted = Wanted(plain.tokens[row, :asking], NOTHING, int(plain.documents[row, 0]))  # type: ignore[index]
        for number in database.search([wanted], 2)[0][::-1]:
            expected += [one for one in database.passages(np.array(number), CHUNK + BEHIND).tolist() if one >= 0]
    expected = expected[-20:]
    real = batch.positions[row] != PADDING
    assert batch.tokens[row, :20][real[:20]].tolist() == expected
    assert batch.positions[row, :20][real[:20]].tolist() == list(range(len(expected)))
    assert np.array_equal(batch.tokens[row, 20:], plain.tokens[row])
    assert (batch.targets[row, : 20 + max(asking - 1, 0)] == UNSCORED).all()
    assert np.array_equal(batch.targets[row, 20 + max(asking - 1, 0) :], plain.targets[row, max(asking - 1, 0) :])
    assert np.array_equal(batch.positions[row, 20 : 20 + first], plain.positions[row, :first] + len(expected))
    assert np.array_equal(batch.positions[row, 20 + first :], plain.positions[row, first:])


def test_a_database_of_other_chunks_or_tokens_is_one_line(write: Write, tmp_path: Path) -> None:
    inner = text_of(write, tmp_path)
    neighbours(inner, tmp_path)
    folder = tmp_path / "database"
    with pytest.raises(ConfigError) as mistake:
        neighbours(inner, tmp_path, chunk=16)
    assert str(mistake.value) == (
        f"augmentation.database: '{folder}' has chunks of 8 tokens, and 16 are needed. Name another folder."
    )
    (folder / "tokens.bin").write_bytes(b"")
    with pytest.raises(ConfigError) as mistake:
        neighbours(inner, tmp_path)
    assert str(mistake.value) == (
        f"augmentation.database: '{folder}' is damaged: tokens.bin is missing or changed. Remove it to build it anew."
    )
