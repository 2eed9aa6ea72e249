"""Ingests that are killed, and what is found afterwards."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from farfield.benchmarks.retrieval_crash import crash


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_killed_ingests_lose_nothing(tmp_path: Path) -> None:
    """When a kill comes is up to the machine: another round, where none came after something was stored."""
    for number in range(8):
        counts = crash(3, number, tmp_path / str(number))
        assert counts.kills == 3
        assert (counts.lost, counts.halves, counts.wrong) == (0, 0, 0)
        if counts.answers > 0:
            return
    pytest.fail("no kill in eight rounds came after something was stored")
