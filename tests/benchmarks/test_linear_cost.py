"""The growth of cost with length: what is linear passes, what is not is caught, and memory is counted exactly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from farfield.architectures import mixer_kinds
from farfield.benchmarks import linear_cost
from farfield.benchmarks.linear_cost import Subject, growth, main, subjects
from farfield.benchmarks.measuring import Peak

BYTES = 4 * 1000


def test_growth_is_one_where_cost_is_linear_and_the_ratio_of_lengths_where_it_is_quadratic() -> None:
    assert growth([(8, 80.0), (2, 20.0), (4, 40.0)]) == 1
    assert growth([(2, 4.0), (4, 16.0), (16, 256.0)]) == 8
    assert growth([(2, 100.0), (4, 101.0), (8, 404.0)]) == 2  # of any two lengths: a short text's fixed cost hides it


def test_the_kinds_that_claim_it() -> None:
    claimed = {name for name, subject in subjects(64).items() if subject.claims}
    assert {"encoder.performer", "longformer", "mamba", "retnet"} <= claimed
    assert {name for name in claimed if "." not in name} < set(mixer_kinds())
    assert "attention" not in claimed


def test_memory_is_that_of_live_storages() -> None:
    """A view holds no memory of its own, what is freed makes room, and what was there before is not counted."""
    before = torch.ones(1000)
    with Peak([before]) as peak:
        kept = before * 2
        view = kept[10:].view(2, -1)
        before.neg_()
        assert (peak.held, peak.most) == (BYTES, BYTES)
        for _ in range(3):
            passing = kept + 1
            del passing
        assert (peak.held, peak.most) == (BYTES, 2 * BYTES)
        del kept
        assert peak.held == BYTES
        del view
        assert (peak.held, peak.most) == (0, 2 * BYTES)


def test_memory_is_counted_through_the_backward() -> None:
    """Of x x: the product, the gradient of either factor, and their sum."""
    x = torch.ones(1000, requires_grad=True)
    above = torch.ones(1000)
    with Peak([x, above]) as peak:
        (x * x).backward(above)
    assert (peak.held, peak.most) == (BYTES, 4 * BYTES)  # the gradient of x stays


def test_two_kinds_hold_and_their_figures_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "cost.json"
    words = ["--kinds", "retnet", "encoder.linformer", "--lengths", "64", "256", "--repeats", "3", "--json", str(file)]
    assert main(words) == 0
    assert capsys.readouterr().out.count("holds") == 2
    told = json.loads(file.read_text(encoding="utf-8"))
    assert {"commit", "machine", "packages", "repeats"} <= set(told)
    for row in told["rows"]:
        assert [cost["length"] for cost in row["costs"]] == [64, 256]
        assert all(cost["seconds"] > 0 and cost["peak_bytes"] > 64 * 64 * 4 for cost in row["costs"])
        assert 0.3 < row["growth_memory"] < 1.1  # weights, and the rows of Linformer, do not grow


def test_a_kind_that_is_quadratic_is_caught(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Retention in its dense form."""
    made_up = Subject("dense", "mixer", {"kind": "retnet", "chunk": 0}, claims=True)
    monkeypatch.setattr(linear_cost, "subjects", lambda _: {"dense": made_up})
    assert main(["--kinds", "dense", "--lengths", "128", "1024", "--repeats", "1"]) == 1
    assert "broken" in capsys.readouterr().out


def test_what_is_not_claimed_does_not_fail(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    grown = ("growth_time", "growth_memory")
    quadratic = {"name": "attention", "claims": False, "costs": [], "holds": False}
    monkeypatch.setattr(linear_cost, "_rows", lambda *_: [quadratic | dict.fromkeys(grown, 4.0)])
    assert main(["--kinds", "attention", "--lengths", "64", "256"]) == 0
    assert "not claimed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [(["--lengths", "64", "64"], "two lengths"), (["--kinds", "retnett"], "invalid choice: 'retnett'")],
)
def test_mistakes_are_told(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err
