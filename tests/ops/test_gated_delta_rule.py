"""The gated delta rule: chunked against its loop, with documents, padding and a carried state."""

from __future__ import annotations

import pytest
import torch
from contract.runs import assert_close, cut, error, positions_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from farfield.architectures import Rows
from farfield.architectures.ops.gated_delta_rule import gated_delta_rule, gated_delta_rule_definition

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
HEADS, KEY, VALUE = 3, 4, 5
DECAYS = {"none": 0.0, "slow": 0.1, "fast": 30.0}
LAYOUTS = {
    "one": ("130", "130", "130"),
    "packed": ("90 1 2 37", "64 66", "1 129"),
    "padded": ("-7 90 -3 30", "123 -7", "-130"),
}
NAMES = ("q", "k", "v", "decay", "beta", "state")


def inputs(batch: int, time: int, fastest: float, dtype: torch.dtype, alike: float = 0.0) -> list[Tensor]:
    """q, k, v, g, b and a state; `alike` draws the keys together, which is where systems are ill-conditioned."""
    q, k, v = (torch.randn(batch, HEADS, time, width, dtype=torch.float64) for width in (KEY, KEY, VALUE))
    k = torch.nn.functional.normalize(k + alike, dim=-1)
    decay, beta = -fastest * torch.rand(batch, HEADS, time).double(), torch.rand(batch, HEADS, time).double()
    state = torch.randn(batch, HEADS, KEY, VALUE, dtype=torch.float64)
    return [x.to(dtype).requires_grad_() for x in (q, k, v, decay, beta, state)]


def check(rows: Rows, leaves: list[Tensor], chunk: int, tolerance: float) -> None:
    found = gated_delta_rule(*leaves[:5], rows, leaves[5], chunk)
    expected = gated_delta_rule_definition(*leaves[:5], rows, leaves[5])
    above = [torch.randn_like(x) for x in found]
    ours, theirs = (
        torch.autograd.grad(
            sum((x * g).sum() for x, g in zip(pair, above, strict=True)), leaves, materialize_grads=True
        )
        for pair in (found, expected)
    )
    for name, mine, true in zip(("output", "state"), found, expected, strict=True):
        assert_close(mine.detach(), true.detach(), tolerance, name)
    for name, mine, true in zip(NAMES, ours, theirs, strict=True):
        assert_close(mine, true, 3 * tolerance, f"gradient of {name}")


@pytest.mark.parametrize("chunk", [1, 16, 64, 200])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("decay", DECAYS)
def test_chunks_agree_with_the_loop(decay: str, layout: str, chunk: int) -> None:
    rows = Rows.at(positions_of(*LAYOUTS[layout]))
    check(rows, inputs(3, 130, DECAYS[decay], torch.float64), chunk, 1e-10)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("decay", ["none", "slow"])
def test_float32(decay: str, layout: str) -> None:
    check(Rows.at(positions_of(*LAYOUTS[layout])), inputs(3, 130, DECAYS[decay], torch.float32), 64, 1e-5)


@pytest.mark.parametrize("alike", [1.0, 10.0, 1000.0])
def test_keys_that_are_nearly_the_same(alike: float) -> None:
    """The system's inverse stays small, though its powers grow like binomials."""
    check(Rows.fresh_documents(2, 130), inputs(2, 130, 0.01, torch.float64, alike), 64, 1e-9)
    check(Rows.fresh_documents(2, 130), inputs(2, 130, 0.01, torch.float32, alike), 64, 1e-4)


@pytest.mark.parametrize("time", [1, 63, 64, 65, 130])
@pytest.mark.parametrize("begins", [0, 7])
def test_lengths_about_the_chunk(time: int, begins: int) -> None:
    rows = Rows.at(torch.arange(begins, begins + time).expand(2, -1))
    check(rows, inputs(2, time, 0.5, torch.float64), 64, 1e-10)


@pytest.mark.parametrize("begins", [0, 5])
@pytest.mark.parametrize("sizes", [[1], [5, 1, 7]], ids=str)
def test_any_split_is_the_whole(begins: int, sizes: list[int]) -> None:
    positions = torch.arange(begins, begins + 20).expand(2, -1)
    *parts, state = (x.detach() for x in inputs(2, 20, 0.5, torch.float64))
    expected, last = gated_delta_rule(*parts, Rows.at(positions), state)
    outputs, at = [], 0
    for call in cut(positions, sizes):
        now = [x[:, :, at : at + call.shape[1]] for x in parts]
        out, state = gated_delta_rule(*now, Rows.at(call), state)
        outputs.append(out)
        at += call.shape[1]
    assert_close(torch.cat(outputs, 2), expected, 1e-12)
    assert_close(state, last, 1e-12)


def test_the_state_is_not_looked_at_where_every_row_begins_a_document() -> None:
    *parts, state = inputs(2, 9, 0.5, torch.float64)
    nothing = torch.full_like(state, torch.nan)
    out, state = gated_delta_rule(*parts, Rows.fresh_documents(2, 9), nothing)
    assert out.isfinite().all()
    assert state.isfinite().all()


def test_half_precision_keeps_a_float32_state() -> None:
    *parts, state = (x.detach() for x in inputs(1, 1000, 0.01, torch.bfloat16))
    rows = Rows.fresh_documents(1, 1000)
    out, last = gated_delta_rule(*parts, rows, state.float())
    assert out.dtype == torch.bfloat16
    assert last.dtype == torch.float32
    exact, true = gated_delta_rule_definition(*(x.double() for x in parts), rows, state.double())
    assert error(last, true) < 1e-4
    assert error(out, exact) < 1e-2


@settings(max_examples=40)
@given(
    runs=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), min_size=1, max_size=5),
    chunk=st.integers(1, 12),
    begins=st.integers(0, 3),
    seed=st.integers(0, 1000),
)
def test_random_documents(runs: list[tuple[int, int]], chunk: int, begins: int, seed: int) -> None:
    """The first document may go on from the state."""
    torch.manual_seed(seed)
    positions: list[int] = []
    for place, (padding, length) in enumerate(runs):
        first = begins if place == 0 and padding == 0 else 0
        positions += [-1] * padding + list(range(first, first + length))
    rows = Rows.at(torch.tensor([positions, list(range(4, 4 + len(positions)))]))
    check(rows, inputs(2, len(positions), 1.0, torch.float64), chunk, 1e-10)
