"""Runs side by side: what stands in the table is what the runs have logged."""

from __future__ import annotations

from pathlib import Path

import pytest

from farfield import cli
from farfield.benchmarks.commands import report_command
from farfield.benchmarks.training_curves import find_runs, read_run
from farfield.config import DataError
from farfield.settings import ReportSettings

WORDS = ["data=needle", "data.length=16", "data.pairs=2", "data.vocabulary=32", "training.batch=2"]
SMALL = ["architecture.width=16", "architecture.depth=1", "training.steps=12", "training.log=1", "training.threads=1"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs."""
    root = tmp_path_factory.mktemp("runs")
    for kind in ("retnet", "attention"):
        heads = f"architecture.layers.{kind}.mixer.head_width=8"
        given = ["train", f"architecture={kind}", *WORDS, *SMALL, heads, f"root={root}", f"name={kind}"]
        assert cli.main([*given, "training.validation.every=6", "data.validation=1"]) == 0
    return root


def test_runs_are_found_by_themselves_and_by_their_folder(root: Path) -> None:
    assert find_runs(root) == [root / "attention", root / "retnet"]
    assert find_runs(root / "retnet") == [root / "retnet"]
    assert find_runs(root / "retnet" / "checkpoints") == []


def test_a_report_of_runs(root: Path, tmp_path: Path) -> None:
    found = report_command(ReportSettings(results=(str(root),), out=str(tmp_path)))
    assert [one["name"] for one in found["runs"]] == ["attention", "retnet"]
    for one in found["runs"]:
        run = read_run(root / one["name"])
        assert one["step"] == 12
        assert one["loss"] == run.rows[-1]["loss"]
        assert one["validation_loss"] == run.rows[-1]["validation_loss"]
        assert f"{one['validation_loss']:.3f}" in found["text"]
    assert found["written"] == [str(tmp_path / "training.png")]
    assert (tmp_path / "training.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_without_a_line(root: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes((root / "retnet" / "config.yaml").read_bytes())
    (tmp_path / "metrics.csv").write_text("step,loss\n")
    with pytest.raises(DataError, match="no step has been logged there yet"):
        report_command(ReportSettings(results=(str(tmp_path),)))
