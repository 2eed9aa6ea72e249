"""`farfield speed`: layers, models and tokens in turn; what cannot be measured is a row with its reason."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from farfield.benchmarks.measuring import held
from farfield.benchmarks.peers import Layer, LayerPeer, Peer, Sizes
from farfield.benchmarks.peers.models import Shape
from farfield.benchmarks.speed import _measured, decoding, device_name, layers, speed, step
from farfield.benchmarks.speed.cases import CASES, layer
from farfield.benchmarks.speed.held import state_bytes
from farfield.benchmarks.speed.models import captured, ours
from farfield.benchmarks.speed.picture import picture
from farfield.benchmarks.speed.projections import products, projections
from farfield.benchmarks.speed.tables import markdown, text
from farfield.benchmarks.speed.turns import Measured, allocated, in_turn
from farfield.benchmarks.speed.worker import DeathError, Worker
from farfield.config import ConfigError, FarfieldError, read
from farfield.settings import SpeedSettings

MEBIBYTE = 2**20


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def settings(**given: Any) -> SpeedSettings:
    base = {"lengths": [32], "width": 16, "heads": 2, "repeats": 1, "threads": [1], "what": ["mixers"]}
    return read(SpeedSettings, base | given)


def peer(name: str, build: Any, **given: Any) -> LayerPeer:
    return Peer(name, "torch", "torch", "window", build, **given)


def linear(sizes: Sizes) -> Layer:
    module = nn.Linear(sizes.width, sizes.width)
    return Layer(module, module)


def too_large(sizes: Sizes) -> Layer:
    def forward(x: Tensor) -> Tensor:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:137] DefaultCPUAllocator: can't allocate memory: you tried")

    return Layer(nn.Linear(2, 2), forward)


def test_seconds_are_medians_in_turn_and_bytes_those_of_the_peak() -> None:
    order: list[str] = []

    def work(name: str, size: int) -> None:
        order.append(name)
        torch.empty(size, dtype=torch.uint8)

    works = {"a": lambda: work("a", MEBIBYTE), "b": lambda: work("b", 3 * MEBIBYTE)}
    turns = in_turn(works, repeats=2, threads=1)
    assert order == ["a", "b", "a", "b", "a", "b"]  # once for the bytes, then in turn
    for name, size in (("a", MEBIBYTE), ("b", 3 * MEBIBYTE)):
        found = turns.measured[name]
        assert isinstance(found, Measured)
        assert found.peak_bytes == size
        assert 0 < found.shortest <= found.seconds <= found.longest
    assert all(speed > 0 for speed in turns.yardstick)


def test_bytes_within_a_kernel_count_and_what_was_there_does_not() -> None:
    q = torch.randn(1, 4, 512, 64)

    def attend() -> Tensor:
        return nn.functional.scaled_dot_product_attention(q, q, q)

    assert allocated(lambda: q.neg_()) == 0
    assert allocated(attend) > held(attend).peak >= 4 * q.numel()  # the fused kernel has buffers of its own


def test_a_layer_is_measured_beside_its_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "peers", lambda of: [peer("linear", linear, differs="no window")])
    for block in layers.blocks(settings(mixers=["window"]), "cpu", 1):
        rows = layers.measure(block)
        alone = [] if block.measure == "decode" else ["Farfield, its projections alone"]
        assert [row["who"] for row in rows] == ["Farfield", *alone, "linear"]
        assert json.loads(json.dumps(rows)) == [{**row, "yardstick": list(row["yardstick"])} for row in rows]
        first, second = rows[0], rows[-1]
        assert all(row["ratio"] == pytest.approx(second["seconds"] / row["seconds"]) for row in rows[1:-1])
        assert first["state_bytes" if block.measure == "decode" else "peak_bytes"] > 0
        if block.measure == "decode":
            assert second["reason"] == "does not decode"
            assert first["ratio"] is None
        else:
            assert first["ratio"] == pytest.approx(second["seconds"] / first["seconds"])
            assert second["ratio"] == pytest.approx(1 / first["ratio"])
            assert (second["package"], second["differs"]) == ("torch", "no window")
            assert second["parameters"] == 16 * 17


def test_what_cannot_be_measured_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = peer("absent", linear, needs=("no_such_library",))
    monkeypatch.setattr(layers, "peers", lambda of: [absent, peer("large", too_large), peer("linear", linear)])
    block = next(block for block in layers.blocks(settings(mixers=["window"]), "cpu", 1) if block.measure == "train")
    rows = {row["who"]: row for row in layers.measure(block)}
    assert rows["absent"]["reason"] == "no_such_library is not installed"
    assert rows["large"]["reason"] == "needs more memory than it may take"
    assert rows["linear"]["seconds"] > 0
    alone = dataclasses.replace(block, under=dataclasses.replace(block.under, with_peers=False))
    assert [row["who"] for row in layers.measure(alone)] == ["Farfield", "Farfield, its projections alone"]


@pytest.mark.parametrize(
    ("case", "maps"), [("window", [(16, 48), (16, 16)]), ("mamba", [(16, 64), (32, 33), (1, 32), (32, 16)])]
)
def test_projections_alone_are_the_products_of_the_layer(case: str, maps: list[tuple[int, int]]) -> None:
    """Of every linear map once a token, also of one that is no call of a module; thrice as much with the backward."""
    found = products(layer(CASES[case], Sizes(16, 2, 32)), torch.randn(3, 32, 16))
    assert [(one.tokens, one.inputs, one.outputs) for one in found] == [(96, *sizes) for sizes in maps]
    for backward, times in ((False, 1), (True, 3)):
        work = projections(found, torch.empty(0), backward)
        with FlopCounterMode(display=False) as counted:
            work()
        assert counted.get_total_flops() == times * sum(2 * 96 * inner * outer for inner, outer in maps)
        assert allocated(work) == 0


def test_projections_of_an_op_in_pieces_and_of_parts_of_a_weight_are_seen() -> None:
    """Which turns a copy of the weights, and maps a few rows by a part of them."""
    found = products(layer(CASES["gss"], Sizes(16, 2, 150)), torch.randn(1, 150, 16))
    assert found == [(150, 16, 64), (150, 16, 4), (150, 4, 64), (150, 64, 16)]
    found = products(layer(CASES["linformer_encoder"], Sizes(16, 2, 600)), torch.randn(1, 600, 16))
    assert found == [(600 + 2 * 256, 16, 16), (600, 16, 16)]


def test_a_process_that_dies_leaves_rows_with_its_reason_and_memory_is_bound() -> None:
    block = layers.blocks(settings(mixers=["window"], peers=False), "cpu", 1)[0]
    with Worker(memory=0.5) as worker:
        with pytest.raises(MemoryError):
            worker.run(bytearray, 3 * 2**30)
        with pytest.raises(DeathError, match="ended"):
            worker.run(os._exit, 1)

        class Dead(Worker):
            def run(self, *_: object) -> Any:
                raise DeathError("the process that measured it ended")

        job: Any = type("Job", (), {"block": block, "measure": layers.measure, "unmeasured": layers.unmeasured})
        rows = _measured(job, Dead(1))
    assert [row["reason"] for row in rows] == ["the process that measured it ended"]


def test_every_case_is_measured_unless_some_are_named() -> None:
    every = layers.blocks(settings(lengths=[32, 64]), "cpu", None)
    assert {block.case for block in every} == set(layers.CASES)
    assert not any(block.measure == "decode" for block in every if layers.CASES[block.case].encoder)
    with pytest.raises(
        ConfigError, match=r"^mixers: unknown case 'windw'\. Did you mean 'window'\? Known: attention, "
    ):
        speed(settings(mixers=["windw"]))


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("retnt", r"^architecture: .*'retnt'.* Did you mean 'retnet'\?"),
        ("longformer_encoder", r"^architecture\.bidirectional: true given"),
    ],
)
def test_an_architecture_that_cannot_be_measured_is_said_before_anything_is(
    name: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("farfield.benchmarks.speed.Worker", lambda memory: pytest.fail("a process was started"))
    with pytest.raises(FarfieldError, match=line):
        speed(settings(what=["decoder"], width=32, architectures=["retnet", name], root=str(tmp_path / "here")))
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"what": ["mixer"]}, "what"),
        ({"heads": 3}, r"heads: 3 given, and the width 16 is not so many heads of even width\."),
        ({"step": {"heads": 5}}, r"step\.heads: 5 given"),
        ({"device": {"threads": 2}}, r"threads: given, and device\.threads too\. Give one of them\."),
        ({"limit": 0}, "limit"),
    ],
)
def test_mistakes_are_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as mistake:
        settings(**given)
    assert "\n" not in str(mistake.value)


SHAPE = {"depth": 1, "width": 16, "inner": 16, "heads": 2, "vocabulary": 64, "length": 16}


def test_a_step_is_measured_with_the_losses_of_equal_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    twin: Peer[Shape, Any] = Peer("twin", "torch", "torch", "model", ours)
    monkeypatch.setattr(step, "MODELS", (twin,))
    (block,) = step.blocks(settings(step={**SHAPE, "batch": 8, "curve": 60, "curve_length": 32}), "cpu", 1)
    mine, theirs = step.measure(block)
    assert mine["losses"] == theirs["losses"]  # the same seed, batches and model
    assert mine["losses"][-1] < mine["losses"][0] - 0.2
    assert mine["ratio"] == pytest.approx(theirs["seconds"] / mine["seconds"])
    assert mine["tokens_per_second"] == pytest.approx(8 * 16 / mine["seconds"])
    first, second = (next(step.batches(block, 32)) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[0][:, 1:], first[1][:, :-1])
    assert first[0].shape == (8, 32)


def test_a_step_in_bf16_has_wide_weights_under_the_autocast_of_all_models(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[torch.dtype, bool]] = []

    def watched(shape: Shape) -> Any:
        made = ours(shape)

        def loss(tokens: Tensor, targets: Tensor) -> Tensor:
            seen.append((next(made.module.parameters()).dtype, torch.is_autocast_enabled("cpu")))
            return made.loss(tokens, targets)

        return made._replace(loss=loss)

    monkeypatch.setattr(step, "MODELS", (Peer[Shape, Any]("twin", "torch", "torch", "model", watched),))
    losses = {}
    for precision in ("fp32", "bf16"):
        given = settings(step={**SHAPE, "curve": 2}, device={"precision": precision})
        (block,) = step.blocks(given, "cpu", 1)
        mine, theirs = step.measure(block)
        assert mine["losses"] == theirs["losses"]
        losses[precision] = mine["losses"]
        assert set(seen) == {(torch.float32, precision == "bf16")}
        seen.clear()
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], abs=0.05)


def test_a_token_is_measured_beside_reading_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    twin: Peer[Shape, Any] = Peer("twin", "torch", "torch", "model", ours)
    monkeypatch.setattr(decoding, "MODELS", (twin,))
    (block,) = decoding.blocks(settings(decoding=SHAPE), "cpu", 1)
    rows = decoding.measure(block)
    assert [row["who"] for row in rows] == ["Farfield", "twin"]
    for row in rows:
        assert row["over_reading"] == pytest.approx(row["seconds"] / row["reading_seconds"])
        assert row["state_bytes"] > 0
    assert "twin, reading" not in {row["who"] for row in rows}


def test_on_a_gpu_a_token_is_measured_as_a_graph_too(monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = decoding.blocks(settings(decoding=SHAPE, peers=False), "cpu", 1)
    assert list(decoding._builds(block)) == ["Farfield"]
    block = dataclasses.replace(block, under=dataclasses.replace(block.under, device="cuda"))
    assert list(decoding._builds(block)) == ["Farfield", "Farfield, captured"]

    class Eager:
        def __init__(self, step: Any, device: torch.device) -> None:
            self.replay = step

        def reset(self) -> None: ...

    shape = Shape(depth=2, width=16, inner=16, heads=2, vocabulary=64, length=12)
    plain, graph = ours(shape), captured(shape, Eager)
    graph.module.load_state_dict(plain.module.state_dict())
    tokens = torch.randint(64, (2, 12))
    assert plain.decoder is not None
    assert graph.decoder is not None
    with torch.no_grad():
        state, going = plain.decoder.read(tokens), graph.decoder.read(tokens)
        assert state_bytes(going) == 2 * 8 + 2 * (2 * 2 * 2 * 320 * 8 * 4 + 2 * 2 * 8)  # 12 tokens, room for 256 more
        token = plain.module(tokens)[0][:, -1:].argmax(-1)
        expected, state = plain.decoder.step(token, state)  # which the graph has read already
        for _ in range(3):
            expected, state = plain.decoder.step(expected.argmax(-1), state)
            found, going = graph.decoder.step(token, going)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_the_head_of_results_names_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Here(Worker):
        def run(self, work: Any, *arguments: object) -> Any:
            return work(*arguments)

    monkeypatch.setattr("farfield.benchmarks.speed.Worker", Here)
    given = settings(mixers=["window"], measures=["prefill"], peers=False, root=str(tmp_path))
    speed(given)
    head, *rows = [json.loads(line) for line in (tmp_path / "speed" / "speed.jsonl").read_text().splitlines()]
    assert (head["record"], head["device"]) == ("head", "cpu")
    assert {row["record"] for row in rows} == {"row"}
    assert set(head) >= {"commit", "machine", "packages", "settings"}
    assert head["packages"]["torch"] == torch.__version__
    monkeypatch.setattr("farfield.benchmarks.speed.place", lambda device: "cuda")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    assert device_name(given.device) == "NVIDIA H200"


def test_bytes_of_a_state_are_those_of_its_memory_once() -> None:
    tensor = torch.ones(10)
    state = {"a": [tensor, tensor[2:]], "b": type("Cache", (), {})()}
    state["b"].kept = (torch.ones(3), None, 4)  # type: ignore[attr-defined]
    assert state_bytes(state) == 40 + 12


ROW = {"threads": 1, "yardstick": (90.0, 80.0, 95.0), "peak_bytes": 3 * MEBIBYTE}
ROWS: list[dict[str, Any]] = [
    {"what": "mixers", "case": "window", "measure": "train", "length": 64, "who": "Farfield", "seconds": 0.02, **ROW}
    | {"ratio": 2.0},
    {"what": "mixers", "case": "window", "measure": "train", "length": 64, "who": "other", "seconds": 0.04, **ROW}
    | {"ratio": 0.5, "differs": "a dense mask"},
    {"what": "mixers", "case": "window", "measure": "train", "length": 64, "who": "none", "reason": "not here", **ROW},
    {
        "what": "step",
        "measure": "step",
        "length": 64,
        "batch": 2,
        "who": "Farfield",
        "seconds": 0.5,
        "ratio": None,
        **ROW,
    }
    | {"losses": [4.0, 3.0]},
    {"what": "decoding", "measure": "decode", "length": 64, "batch": 1, "who": "Farfield", "seconds": 0.0005, **ROW}
    | {"ratio": None, "reading_seconds": 0.0004, "over_reading": 1.25, "state_bytes": 512},
]


def test_tables_name_who_how_fast_and_why_not(tmp_path: Path) -> None:
    told = markdown(ROWS)
    assert "| layer | who | forward + backward, ms (MiB) | ratio |" in told
    assert "| window | Farfield | 20.0 (3) | 2.00 |" in told
    assert "| window | other | 40.0 (3) | 0.50 |" in told
    assert "| window | none | - |  |" in told
    assert "- window, other: a dense mask" in told
    assert "- window, none: not here" in told
    assert "one thread; yardstick 80 to 95 GFLOP/s" in told
    assert "| step | Farfield | 500 (3) |  | 4.00 to 3.00 |  |" in told
    assert "| token | Farfield | 0.50 | 0.40 | 1.25 | 0.00049 |" in told
    for line in ("20.0 (3)", "window, none: not here", "1.25"):
        assert line in text(ROWS)
    assert picture(ROWS, tmp_path / "speed.png").stat().st_size > 0
