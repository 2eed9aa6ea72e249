"""The benchmark of stores of vectors, at sizes that take a second."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from farfield.benchmarks import vectors
from farfield.benchmarks.vectors import clustered, main, measure, passages
from farfield.retrieval.settings import VectorConfig

RESULTS = Path(vectors.__file__).parent / "results" / "vectors.json"


@pytest.fixture
def books(tmp_path: Path) -> Path:
    """Two texts of words that are drawn, enough for some thousand passages that overlap."""
    drawn = np.random.default_rng(0)
    for name in ("a", "b"):
        words = drawn.choice([f"word{n}" for n in range(3000)], 6000)
        (tmp_path / f"{name}.txt").write_text(" ".join(words), encoding="utf-8")
    return tmp_path


def test_passages_are_as_many_as_asked_for_and_questions_do_not_count_their_own(books: Path) -> None:
    whole = passages(1500, 64, None, books)
    small = passages(1500, 64, 16, books)
    assert (whole.rows.shape, small.rows.shape) == ((1500, 64), (1500, 16))
    assert np.allclose(np.linalg.norm(small.rows, axis=1), 1, atol=1e-5)
    assert not set(whole.tuning_own.tolist()) & set(whole.asked_own.tolist())
    own = (whole.asked[:100] * whole.rows[whole.asked_own[:100]]).sum(axis=1)
    other = whole.asked[:100] @ whole.rows[:100].T
    assert np.median(own) > np.quantile(other, 0.99)


@pytest.mark.parametrize("kind", ["flat", "ivf", "pq"])
def test_a_row_tells_what_was_built(kind: str) -> None:
    row = measure("clustered", clustered(1500), VectorConfig(kind=kind), 1)
    assert (row.kind, row.count, row.dimension) == (kind, 1500, 64)
    assert row.recall >= 0.9
    assert 0 < row.p50 <= row.p95
    assert row.exact_bytes == 4 * 64 * 1500
    assert (row.lists is None) == (kind == "flat")


def test_the_command_writes_a_table_figures_and_a_picture(
    books: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures, picture = tmp_path / "figures.json", tmp_path / "figures.png"
    words = ["--counts", "1200", "--books", str(books), "--dimension", "64", "--repeats", "1"]
    assert main([*words, "--json", str(figures), "--picture", str(picture)]) == 0
    told = json.loads(figures.read_text())
    assert [row["source"] for row in told["rows"]] == ["clustered", "passages"]
    assert {"commit", "machine", "packages", "task"} <= set(told)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "clustered 1,200" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--counts", "100", "--sources", "clustered"], "farfield: --counts: 100 given. At least 1129."),
        (["--counts", "2000"], "farfield: --books: a folder of texts is needed for passages, or --sources clustered."),
    ],
)
def test_what_cannot_be_measured_is_one_line(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err.splitlines()[-1] == line


def test_a_run_in_which_too_little_is_found_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    row = measure("clustered", clustered(1500), VectorConfig(kind="flat"), 1)
    monkeypatch.setattr(vectors, "measure", lambda *given: replace(row, recall=0.94))
    assert main(["--counts", "1500", "--sources", "clustered"]) == 1


def test_the_figures_kept_hold_what_is_promised() -> None:
    """At the setting that is chosen 0.95 of the ten best are found, at nine tenths of raw FAISS's rate or more."""
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]
    assert {row["source"] for row in rows} == {"clustered", "passages"}
    assert all(row["recall"] >= 0.95 for row in rows)
    assert all(row["ratio"] >= 0.9 for row in rows)
