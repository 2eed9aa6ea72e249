"""The short convolution against its loop, in values, gradients and in what it leaves for the next call."""

from __future__ import annotations

import pytest
import torch
from contract.runs import assert_close, cut, positions_of
from torch import Tensor

from farfield.architectures import Rows
from farfield.architectures.ops.short_convolution import (
    ConvolutionState,
    short_convolution,
    short_convolution_definition,
)

LAYOUTS = {
    "one": ("12", "12"),
    "packed": ("1 2 3 6", "7 5"),
    "padded": ("-2 4 -1 5", "3 -9"),
    "nothing": ("-12", "12"),
}


@pytest.mark.parametrize("taps", [1, 2, 4])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_agrees_with_the_loop(layout: str, taps: int) -> None:
    rows = Rows.at(positions_of(*LAYOUTS[layout]))
    check(rows, taps)


@pytest.mark.parametrize("taps", [2, 4])
@pytest.mark.parametrize("time", [1, 2, 3, 9])
def test_goes_on_from_a_state(time: int, taps: int) -> None:
    check(Rows.at(torch.arange(5, 5 + time).expand(2, -1)), taps)


@pytest.mark.parametrize("taps", [2, 4])
def test_goes_on_and_begins_anew_in_one_call(taps: int) -> None:
    check(Rows.at(torch.tensor([[5, 6, 0, 1, 2, -1, 0], [0, 1, 2, 3, 4, 5, -1]])), taps)


def check(rows: Rows, taps: int) -> None:
    x = torch.randn(2, rows.time, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, taps, dtype=torch.float64, requires_grad=True)
    inputs = torch.randn(2, taps - 1, 3, dtype=torch.float64, requires_grad=True)
    found, _ = short_convolution(x, weight, rows, ConvolutionState(inputs))
    expected = short_convolution_definition(x, weight, rows, ConvolutionState(inputs))
    assert_close(found.detach(), expected.detach(), 1e-12)
    above = torch.randn_like(found)
    ours, theirs = (
        torch.autograd.grad((y * above).sum(), (x, weight, inputs), allow_unused=True, materialize_grads=True)
        for y in (found, expected)
    )
    for pair in zip(ours, theirs, strict=True):
        assert_close(*pair, 1e-12)


@pytest.mark.parametrize("sizes", [[1], [2], [5, 1, 7]], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_split_is_the_whole(layout: str, sizes: list[int]) -> None:
    positions = positions_of(*LAYOUTS[layout])
    x, weight = torch.randn(2, 12, 3, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    whole, last = short_convolution(x, weight, Rows.at(positions), start(x))
    state, outputs, at = start(x), [], 0
    for call in cut(positions, sizes):
        y, state = short_convolution(x[:, at : at + call.shape[1]], weight, Rows.at(call), state)
        outputs.append(y)
        at += call.shape[1]
    assert_close(torch.cat(outputs, 1), whole, 1e-12)
    real = (positions >= 0).any(1)
    assert torch.equal(state.inputs[real], last.inputs[real])


def start(like: Tensor) -> ConvolutionState:
    return ConvolutionState.empty(2, 4, 3, like)


def test_padding_is_not_read() -> None:
    positions = positions_of("-2 4 -1 5", "3 -9")
    x, weight = torch.randn(2, 12, 3), torch.randn(3, 4)
    expected = short_convolution(x, weight, Rows.at(positions), start(x))
    x[positions < 0] = torch.nan
    found = short_convolution(x, weight, Rows.at(positions), start(x))
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1].inputs, expected[1].inputs)


@pytest.mark.parametrize("time", [1, 1000])
def test_the_state_keeps_only_its_own_memory(time: int) -> None:
    x, weight = torch.randn(2, time, 3), torch.randn(3, 4)
    _, state = short_convolution(x, weight, Rows.fresh_documents(2, time), start(x))
    assert state.inputs.untyped_storage().nbytes() == state.bytes == 2 * 3 * 3 * 4
