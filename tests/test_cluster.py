"""Work on a local Ray cluster of two workers: the results of one process, in its order."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from farfield import cli
from farfield.cluster import Cluster
from farfield.config import ClusterError, ConfigError, DataError

TINY = ("architecture.width=32", "architecture.depth=1", "training.threads=1", "data.length=64", "data.validation=1")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster("local", workers=2) as made:
        yield made


def where(number: int) -> tuple[int, str, int]:
    if number == 13:
        raise DataError("13 is unlucky")
    return number * number, str(Path.cwd()), os.getpid()


def lost(number: int) -> int:
    os._exit(1)


def dying(file: str) -> str:
    """Dies the first time."""
    path = Path(file)
    if not path.exists():
        path.write_text("once")
        os._exit(1)
    return path.read_text()


def test_results_come_in_order_from_two_workers(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = cluster.map(where, range(12))
    assert [square for square, _, _ in found] == [number * number for number in range(12)]
    assert {folder for _, folder, _ in found} == {str(tmp_path)}
    assert os.getpid() not in {process for _, _, process in found}


def test_an_error_is_the_caller_s(cluster: Cluster) -> None:
    with pytest.raises(DataError, match=r"^13 is unlucky$"):
        cluster.map(where, [1, 13, 2])
    assert [square for square, _, _ in cluster.map(where, [3])] == [9]


def test_a_call_whose_worker_dies_is_made_again(cluster: Cluster, tmp_path: Path) -> None:
    assert cluster.map(dying, [str(tmp_path / "mark")]) == ["once"]


def test_a_call_whose_workers_die_is_one_line(cluster: Cluster) -> None:
    with pytest.raises(ClusterError, match=r"^--ray local: a worker was lost twice \("):
        cluster.map(lost, [1])


def test_no_cluster_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def refused(**given: object) -> None:
        raise ConnectionError(f"nobody at {given['address']}")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refused)
    with pytest.raises(ConfigError, match=r"^--ray 10.0.0.1:6379: no Ray cluster could be joined there \(nobody at"):
        Cluster("10.0.0.1:6379").__enter__()


def numbers(folder: Path, name: str) -> list[dict[str, object]]:
    """The measured cells of a result file, without what tells of time."""
    lines = map(json.loads, (folder / "results" / name / "needle.jsonl").read_text(encoding="utf-8").splitlines())
    told = ("grid_length", "grid_depth", "samples", "outputs", "answers", "scores", "prefilled")
    return [{key: line[key] for key in told} for line in lines if line["record"] == "cell"]


def test_a_sweep_of_evaluations_equals_one_process(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "evaluate",
        "-m",
        "model=runs/a,runs/b,runs/none",
        "suite.lengths=[64]",
        "suite.depths=2",
        "suite.samples=2",
        "suite.controls=[]",
        "--json",
    ]
    monkeypatch.chdir(tmp_path)
    for name, seed in (("a", 0), ("b", 1)):
        train = ["train", "architecture=retnet", *TINY, "data=needle", "data.vocabulary=256", f"name={name}"]
        assert cli.main([*train, f"seed={seed}", "training.steps=2", "training.batch=2"]) == 0
    found = []
    for more in ([], ["--ray", "local"]):
        capsys.readouterr()
        assert cli.main([*words, *more]) == 2
        out, _ = capsys.readouterr()
        jobs = json.loads(out)["jobs"]
        assert [("error" in job) for job in jobs] == [False, False, True]
        cells = [numbers(tmp_path, name) for name in ("a", "b")]
        found.append(([job.get("error") for job in jobs], cells))
        (tmp_path / "results").rename(tmp_path / f"results-{len(found)}")
    assert found[0] == found[1]
    assert len(found[0][1][0]) == 2


def kept(index: Path) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(index / "documents.sqlite")) as connection:
        return connection.execute("SELECT start, text, extra FROM chunks ORDER BY id").fetchall()


def test_bulk_embedding_equals_one_process(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps({"id": str(number), "text": f"note {number} on {number * 7919} " * 3}) for number in range(300)]
    (tmp_path / "notes.jsonl").write_text("\n".join(lines))
    steps = ["training.steps=1", "training.batch=2", "training.threads=1", "data.length=64", "data.cache=cache"]
    tiny = ["architecture.width=32", "architecture.depth=2", "name=run"]
    assert cli.main(["train", "architecture=retnet", *tiny, "data=text", "data.path=notes.jsonl", *steps]) == 0
    words = ["ingest", "path=notes.jsonl", "root=.", "embedder.kind=hidden", "embedder.model=runs/run"]
    for index, more in (("one", []), ("spread", ["ray=local"])):
        assert cli.main([*words, f"index={index}", *more]) == 0
    capsys.readouterr()
    assert kept(tmp_path / "one") == kept(tmp_path / "spread")
    assert len({extra for _, _, extra in kept(tmp_path / "one")}) == 300


def test_ray_goes_with_a_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", "model=runs/a", "--ray", "local"]) == 2
    assert capsys.readouterr().err == "farfield: --ray: runs the jobs of a sweep, and goes with -m.\n"
