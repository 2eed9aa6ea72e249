from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from oracle import Lookup, Numbers

from farfield.benchmarks.running.results import Answers, Cell, read_result
from farfield.benchmarks.running.runner import evaluate
from farfield.benchmarks.suites.needle import NeedleSuite
from farfield.config import ConfigError, read

IDS = Numbers(128)


def suite(**changes: Any) -> NeedleSuite:
    return read(NeedleSuite, {"lengths": [32, 64, 96], "depths": 3, "samples": 5, "batch": 2, **changes})


def told(path: Path) -> Mapping[Cell, dict[str, Any]]:
    """All that a result file says of its cells but how long they took."""
    found = read_result(path).cells
    return {
        cell: {name: getattr(got, name) for name in Answers.__dataclass_fields__ if name != "seconds"}
        for cell, got in found.items()
    }


@dataclass(frozen=True)
class Dying:
    """What opens a subject that kills its process at a length, as often as there are files left to remove."""

    folder: Path
    length: int

    def __call__(self) -> Lookup:
        return Lookup(IDS, 40, before=self._die, extra={"dies": True})

    def _die(self, subject: Lookup) -> None:
        left = sorted(self.folder.glob("life*"))
        if left and subject.prefilled > self.length:
            left[0].unlink()
            os.kill(os.getpid(), signal.SIGKILL)


def refusing() -> Lookup:
    raise ConfigError("device.accelerator: gpu given, but PyTorch sees none. Take cpu or auto.")


def test_answers_are_those_of_one_process(tmp_path: Path) -> None:
    processes = 3
    opened = partial(Lookup, IDS, 40)
    one = evaluate(suite(), opened(), tmp_path / "a")
    several = evaluate(suite(), opened(), tmp_path / "b", processes=processes, opened=opened)
    assert told(several.path) == told(one.path)
    assert (several.prefilled, several.naive, several.skipped) == (one.prefilled, one.naive, one.skipped)
    assert several.skipped == 6  # memory controls
    again = evaluate(suite(), opened(), tmp_path / "b", processes=processes, opened=opened)
    assert again == several


def test_a_stopped_run_goes_on_in_several_processes(tmp_path: Path) -> None:
    def stop(subject: Lookup) -> None:
        if subject.calls == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(suite(), Lookup(IDS, 40, before=stop), tmp_path / "a")
    opened = partial(Lookup, IDS, 40)
    outcome = evaluate(suite(), opened(), tmp_path / "a", processes=2, opened=opened)
    assert {cell: got["scores"] for cell, got in told(outcome.path).items()} == {
        cell: got["scores"] for cell, got in told(evaluate(suite(), opened(), tmp_path / "b").path).items()
    }


@pytest.mark.parametrize("lives", [1, 2])
def test_the_work_of_a_process_that_dies_is_done_once_more(
    lives: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for life in range(lives):
        (tmp_path / f"life{life}").touch()
    wanted, opened = suite(lengths=[64], controls=[]), Dying(tmp_path, 300)
    outcome = evaluate(wanted, opened(), tmp_path, processes=2, opened=opened)
    said = capsys.readouterr().err
    where = "an evaluating process ended with status -9 at needle_tokens, 64 tokens, full"
    assert f"{where}: its work is done once more." in said
    if lives == 2:
        assert f"{where}: its cells are skipped for now." in said
        assert (outcome.cells, outcome.failed) == (0, 3)
        assert set(read_result(outcome.path).skipped.values()) == {f"{where}."}
        outcome = evaluate(wanted, opened(), tmp_path, processes=2, opened=opened)
    assert (outcome.cells, outcome.failed) == (3, 0)
    alone = evaluate(wanted, opened(), tmp_path / "b")
    assert {cell: got["outputs"] for cell, got in told(outcome.path).items()} == {
        cell: got["outputs"] for cell, got in told(alone.path).items()
    }


def test_what_a_process_cannot_open_ends_the_evaluation(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gpu given, but PyTorch sees none"):
        evaluate(suite(), Lookup(IDS), tmp_path, processes=2, opened=refusing)


INTERRUPTED = """
import signal, sys, time
from functools import partial
from pathlib import Path
from oracle import Lookup, Numbers
from farfield.benchmarks.running.runner import evaluate
from farfield.benchmarks.suites.needle import NeedleSuite

def slow(subject):
    print(__import__("os").getpid(), flush=True)
    time.sleep(0.5)

def opened():
    return Lookup(Numbers(128), before=slow)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs this test may ignore it
    suite = NeedleSuite(lengths=(32, 64), depths=11, samples=4, controls=())
    try:
        evaluate(suite, opened(), Path(sys.argv[1]), processes=2, opened=opened)
    except KeyboardInterrupt:
        sys.exit(130)
"""


def test_ctrl_c_ends_all_processes_cleanly(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(INTERRUPTED)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    with subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "results")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    ) as running:
        assert running.stdout is not None
        workers = {int(running.stdout.readline())}
        os.killpg(running.pid, signal.SIGINT)  # as a terminal sends it: to all processes
        out, err = running.communicate(timeout=60)
    workers |= {int(line) for line in out.split()}
    assert running.returncode == 130
    assert "The same command goes on from there." in err
    assert "Traceback" not in err
    for _ in range(100):
        left = [pid for pid in workers if Path(f"/proc/{pid}").exists()]
        if not left:
            break
        time.sleep(0.05)
    assert not left
    assert json.loads((tmp_path / "results" / "needle.jsonl").read_text().splitlines()[0])["record"] == "head"
