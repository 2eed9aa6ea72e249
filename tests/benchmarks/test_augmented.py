"""The comparison of neighbours: buckets by hand, a run from end to end, mistakes in one line."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

from farfield.benchmarks.augmented.__main__ import main
from farfield.benchmarks.augmented.neighbours import EDGES, Read, overlaps, shares_of, split_books
from farfield.benchmarks.augmented.pictures import table_neighbours


def test_a_token_counts_where_its_chunk_and_the_passages_before_it_agree() -> None:
    """Chunks of 4: the passages of chunk 0 are read while chunk 1 is predicted, from its first token on."""
    tokens = torch.tensor([[9, 9, 9, 9, 1, 2, 3, 4, 5, 6, 7, 8, 0]])
    found = torch.full((1, 3, 2, 6), -1)
    found[0, 0, 1] = torch.tensor([0, 2, 3, 4, 0, 0])  # three of chunk 1 in a run
    found[0, 1, 0] = torch.tensor([5, 6, 7, 8, 9, 9])  # all of chunk 2
    found[0, 2, 0] = torch.tensor([5, 6, 7, 8, 9, 9])  # nothing of what is left
    assert shares_of(tokens, found, 4).tolist() == [[0] * 3 + [0.75] * 4 + [1.0] * 4 + [0.0]]


def test_buckets_begin_at_their_edges() -> None:
    shares = torch.tensor([[0.0, 1 / 64, 1 / 32, 0.05, 1 / 16, 1 / 8, 0.25, 2.0]])
    assert overlaps(shares).tolist() == [[0, 0, 1, 1, 2, 3, 4, 4]]
    assert len(EDGES) == 6


def test_gains_are_against_the_same_model_off() -> None:
    buckets = ((3, 4.0), (0, None), (1, 2.0), (0, None), (0, None))
    off = Read("a, off", "a", False, None, (4.0, 2.0), 0.0, buckets)
    on = Read("a, on", "a", True, None, (3.0, 1.5), 1.0, ((3, 3.5), (0, None), (1, 1.0), (0, None), (0, None)))
    assert on.gain(off) == (pytest.approx(0.75), pytest.approx(0.25))
    cells = [list(column.cells) for column in table_neighbours([off, on]).columns]
    assert [column[1] for column in cells] == [
        "a, on", "100%", "2.2500", "+0.7500 ± 0.2500", "+0.5000", "-", "+1.0000", "-", "-",
    ]  # fmt: skip


def write_books(folder: Path, copied: str) -> Path:
    """Books of made up words; the one to be read holds what one of the others does."""
    draw, folder_books = random.Random(0), []
    folder.mkdir()
    for number in range(4):
        words = [f"{draw.choice('BCDFGKLM')}{draw.choice('aeiou')}{draw.choice('nrstl')}" for _ in range(250)]
        (folder / f"{number}.txt").write_text(" ".join(words) + (copied if number == 0 else ""))
        folder_books.append({"file": f"{number}.txt", "split": "train" if number < 3 else "test"})
    (folder / "3.txt").write_text(copied * 3)
    (folder / "index.json").write_text(json.dumps({"books": folder_books}))
    return folder


def test_a_comparison_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Small models; a copy is found, and left out where it is not allowed."""
    books = write_books(tmp_path / "books", " the ferry leaves the harbour at seven and comes back at nine in winter")
    words = ["neighbours", "--books", str(books), "--out", str(tmp_path / "out"), "--overlaps", "0.25", "0.5"]
    for name, value in {
        "length": 60, "steps": 2, "more": 1, "width": 32, "depth": 2, "vocabulary": 300, "row": 32, "batch": 2,
        "chunk": 8, "dimension": 64, "threads": 1,
    }.items():  # fmt: skip
        words += [f"--{name}", str(value)]
    assert main(words) == 0
    assert "Bits a token of 1 documents" in capsys.readouterr().out
    told = json.loads((tmp_path / "out" / "neighbours.json").read_text())
    assert told["task"]["seed"] == 0
    rows = told["rows"]
    assert [row["label"] for row in rows] == [
        "without, off",
        *(
            f"{name}, {how}"
            for name in ("neighbours", "retrofitted")
            for how in ("off", "on", "overlap up to 0.5", "overlap up to 0.25")
        ),
    ]
    by_label = {row["label"]: row for row in rows}
    assert by_label["without, off"]["bits"] == pytest.approx(by_label["retrofitted, off"]["bits"], abs=1e-2)
    assert by_label["neighbours, on"]["bits"] != by_label["neighbours, overlap up to 0.25"]["bits"]
    assert sum(count for count, _ in rows[0]["buckets"]) == 60
    assert sum(count for count, _ in rows[0]["buckets"][3:]) > 0
    assert (tmp_path / "out" / "neighbours.png").stat().st_size > 1000


def test_books_are_linked_by_their_split(tmp_path: Path) -> None:
    books = write_books(tmp_path / "books", " word")
    train, test = split_books(books, "test", tmp_path / "out")
    assert sorted(file.name for file in train.iterdir()) == ["0.txt", "1.txt", "2.txt"]
    assert [file.name for file in test.iterdir()] == ["3.txt"]


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    books = write_books(tmp_path / "books", " word")
    start = ["neighbours", "--books", str(books), "--out", str(tmp_path / "out")]
    for words, text in (
        ([*start, "--steps", "0"], "--steps: 0 given. At least 1."),
        ([*start, "--architecture", "retne"], "--architecture: unknown architecture 'retne'. Did you mean 'retnet'?"),
        ([*start, "--split", "validation"], f"{books}: no book of split 'validation' in its index.json."),
        (["neighbours", "--books", str(tmp_path)], f"{tmp_path}: no index.json that says of each book its file and"),
        ([*start, "--documents", str(tmp_path / "no")], f"data.path: '{tmp_path}/no' does not exist."),
    ):
        assert main(words) == 2
        assert capsys.readouterr().err.startswith(f"farfield: {text}")
