from __future__ import annotations

import os
from pathlib import Path

import pytest

from farfield.benchmarks.retrieval_crash import crash


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_killed_ingests_lose_nothing(tmp_path: Path) -> None:
    counts = crash(3, 1, tmp_path)
    assert counts.kills == 3
    assert counts.answers > 0
    assert (counts.lost, counts.halves, counts.wrong) == (0, 0, 0)
