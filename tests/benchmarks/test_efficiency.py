"""What reading and writing cost: by a clock that the subject moves itself, and by the tensors of real models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from oracle import Bytes, Lookup

import farfield
from farfield.benchmarks import measuring
from farfield.benchmarks.measuring import held
from farfield.benchmarks.running.results import Cell, Measured, read_result
from farfield.benchmarks.running.runner import evaluate
from farfield.benchmarks.subjects.model_subject import ModelSubject
from farfield.benchmarks.subjects.subject import Prefilled, Subject, Written
from farfield.benchmarks.suites.efficiency import EfficiencySuite
from farfield.config import ConfigError, read


@dataclass
class Clock:
    now: float = 0.0

    def perf_counter(self) -> float:
        return self.now


@dataclass
class Slow(Lookup):
    """Reads a token in a millisecond, and writes one behind c tokens in 10 + c microseconds; it ends after `writes`.

    thoughts: tokens that it writes before those that were asked for, as an endpoint does; None: it counts none
    """

    clock: Clock = field(default_factory=Clock)
    writes: int = 1000
    once: float = 1.0
    thoughts: int | None = 0

    def prefill(self, tokens: NDArray[np.int64], after: Prefilled | None = None) -> Prefilled:
        known = super().prefill(tokens, after)
        self.clock.now += 1e-3 * tokens.shape[1] * self.once
        self.once = 1.0  # the first call takes longer
        return known

    def generate(self, prefilled: Prefilled, budget: int, stop: tuple[str, ...] = ()) -> Written:
        assert isinstance(prefilled, np.ndarray)
        length = prefilled.shape[1]
        if "state" not in self.capabilities:  # an endpoint reads its prompt when it is asked to write
            self.clock.now += 1e-3 * length
        count = min(budget + (self.thoughts or 0), self.writes)
        self.clock.now += sum(1e-6 * (10 + length + step) for step in range(count - 1))
        made = {0: (), None: (None,)}.get(self.thoughts, (count,)) * len(prefilled)
        return Written([[7] * min(budget, count) for _ in prefilled], [0] * len(prefilled), made=made)


def measured(subject: Subject, folder: Path, **changes: Any) -> dict[int, Measured]:
    suite = read(EfficiencySuite, {"lengths": [100, 1000], **changes}, "suite")
    cells = read_result(evaluate(suite, subject, folder).path).measured
    assert {cell.task for cell in cells} == {"cost"}
    return {cell.length: got for cell, got in cells.items()}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(measuring, "time", clock)
    return clock


def test_numbers_are_those_of_one_context(clock: Clock, tmp_path: Path) -> None:
    found = measured(Slow(Bytes(), clock=clock, once=3.0), tmp_path, rows=2)
    for length, got in found.items():
        assert got.values["prefill"] == pytest.approx(2 * 1000)
        assert got.values["first_token"] == pytest.approx(1e-3 * length)
        # Sixteen tokens behind the prompt and one more, which made room.
        assert got.values["decode"] == pytest.approx(1e-3 * (10 + length + 1 + 7.5))
        assert got.half == pytest.approx({"prefill": 0, "first_token": 0, "decode": 0}, abs=1e-9)
        assert got.each == pytest.approx([2000] * 5)
        assert got.values["state"] == 2 * 8 * length
    assert found[100].values["warm_up"] == pytest.approx(0.3)  # three times as slow, and in no other number
    assert found[1000].values["warm_up"] == pytest.approx(1.0)
    assert list(found[100].values) == ["prefill", "first_token", "decode", "state", "warm_up"]
    assert found[100].units == {
        "prefill": "tokens/s", "first_token": "s", "decode": "ms/token", "state": "bytes", "warm_up": "s"
    }  # fmt: skip
    assert found[100].notes[-1] == "The model's tensors are not in this process: no memory is counted."


def test_an_endpoint_has_no_prefill_of_its_own(clock: Clock, tmp_path: Path) -> None:
    subject = Slow(Bytes(), clock=clock, capabilities=frozenset({"generate"}))
    got = measured(subject, tmp_path)[1000]
    assert "prefill" not in got.values
    assert got.each == pytest.approx([got.values["first_token"]] * 5)
    assert got.values["first_token"] == pytest.approx(1.0 + 1.0)  # what this stand-in takes twice
    assert got.values["decode"] == pytest.approx(1e-3 * (10 + 1000 + 7.5))


def test_thoughts_of_an_endpoint_are_tokens_too(clock: Clock, tmp_path: Path) -> None:
    endpoint = frozenset({"generate"})
    got = measured(Slow(Bytes(), clock=clock, capabilities=endpoint, thoughts=40), tmp_path, lengths=[1000])[1000]
    # Of 57 tokens the first 41 come with what is asked first, and the time of sixteen is that of the sixteen behind.
    assert got.values["decode"] == pytest.approx(1e-3 * (10 + 1000 + 40 + 7.5))
    assert got.each == pytest.approx([got.values["decode"]] * 5)
    assert "first_token" not in got.values
    assert "In 5 of 5 repeats thoughts came with the first token: its time is left out." in got.notes


def test_what_nobody_counted_has_no_time_a_token(clock: Clock, tmp_path: Path) -> None:
    subject = Slow(Bytes(), clock=clock, capabilities=frozenset({"generate"}), thoughts=None)
    got = measured(subject, tmp_path, lengths=[1000])[1000]
    assert (list(got.values), got.each) == (["state", "warm_up"], [])
    assert [note for note in got.notes if "repeats" in note] == [
        "In 5 of 5 repeats nobody counted the tokens that were written: no time of one."
    ]


def test_a_model_that_ends_its_text_at_once_has_no_time_of_decoding(clock: Clock, tmp_path: Path) -> None:
    got = measured(Slow(Bytes(), clock=clock, writes=1), tmp_path, repeats=6)[100]
    assert "decode" not in got.values
    assert "In 6 of 6 repeats the model ended its text at once." in got.notes
    few = measured(Slow(Bytes(), clock=clock, writes=3), tmp_path / "few")[100]
    assert few.values["decode"] == pytest.approx(1e-3 * (10 + 101 + 0.5))


def test_timings_end_when_their_time_is_over(clock: Clock, tmp_path: Path) -> None:
    got = measured(Slow(Bytes(), clock=clock), tmp_path, cell_seconds=1e-9)[1000]
    assert (got.capped, len(got.each), got.half) == (True, 1, {})  # nothing is said of how far one timing may be off
    assert got.notes[:2] == ["Closed early, its time was over: 1 of 5 repeats were timed.", "Medians of 1."]
    assert got.prefilled == 3 * 1000
    whole = measured(Slow(Bytes(), clock=clock), tmp_path, cell_seconds=99)[1000]
    assert (whole.capped, len(whole.each), whole.prefilled) == (False, 5, 7 * 1000)


def test_a_model_that_cannot_write_is_skipped(tmp_path: Path) -> None:
    suite = read(EfficiencySuite, {"lengths": [50]})
    result = read_result(evaluate(suite, Lookup(Bytes(), capabilities=frozenset({"read"})), tmp_path).path)
    assert result.skipped == {Cell("cost", 50): "needs a model that writes"}


def test_fewer_than_five_repeats_have_no_spread() -> None:
    with pytest.raises(ConfigError, match=r"^suite\.repeats: 4 given\. Input should be greater than or equal to 5\.$"):
        read(EfficiencySuite, {"repeats": 4}, "suite")


@pytest.mark.parametrize("architecture", ["attention", "retnet"])
def test_memory_is_counted_from_tensors(architecture: str, tmp_path: Path) -> None:
    """What stays of a prompt is the state, slack included, and the last logits; the weights are not in it."""
    subject = ModelSubject(farfield.build(architecture, ["width=32", "depth=2"]), architecture)
    values = {length: got.values for length, got in measured(subject, tmp_path, lengths=[64, 300]).items()}
    for length, got in values.items():
        state = subject.prefill(np.zeros((1, length), np.int64)).state  # type: ignore[attr-defined]
        assert state.allocated <= got["kept"] - 4 * subject.tokenizer.vocabulary <= state.allocated + 64
        assert got["state"] == subject.state_bytes(length) == state.bytes
        assert got["peak"] > got["kept"]
        assert {"prefill", "first_token", "decode"} < set(got)
    grows = values[300]["kept"] > values[64]["kept"]
    assert grows == (architecture == "attention")


def test_bytes_of_tensors() -> None:
    weight = torch.zeros(1000)

    def work() -> Mapping[str, torch.Tensor]:
        twice = weight * 2  # 4,000 bytes, and of the weight and its views none
        return {"kept": torch.cat([twice, weight.view(10, 100).sum(0)]), "view": weight[:10]}

    assert held(work) == (4000 + 400 + 4400, 4400)
