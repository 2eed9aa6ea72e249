"""FAVOR+ of a whole document as one function against the same by PyTorch's operators."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contract.runs import assert_close, positions_of
from torch import Tensor

from farfield.architectures import Rows
from farfield.architectures.encoders import build_encoder, performer
from farfield.architectures.ops import favor as op

WIDTH = 12
ROWS = {"whole": ("90", "90"), "padded": ("90", "41 -49"), "short": ("35", "35"), "packed": ("30 60", "-3 87")}


@pytest.fixture(autouse=True)
def _pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a few tokens, so that documents go through several, the last a short one."""
    monkeypatch.setattr(op, "PIECE", 17)
    monkeypatch.setattr(performer, "PIECE", 17)


def encoder(position: str, dtype: torch.dtype) -> Any:
    return build_encoder({"kind": "performer", "heads": 3, "count": 7, "position": position}, WIDTH).to(dtype)


def answers(of: Any, x: Tensor, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Tensor], list[Tensor]]:
    """The output and all gradients, as one function and by operators."""
    above, found = torch.randn_like(x), []
    called: list[int] = []
    one = op.favor
    monkeypatch.setattr(performer, "favor", lambda *given: called.append(len(given[0])) or one(*given))
    for fits in (performer.worth_pieces, lambda *_: False):
        monkeypatch.setattr(performer, "worth_pieces", fits)
        y = of.encode(x, rows)
        leaves = [leaf for leaf in (x, *of.parameters()) if leaf.requires_grad]
        found.append([y.detach(), *torch.autograd.grad(y, leaves, above)])
    assert called
    return found[0], found[1]


@pytest.mark.parametrize("layout", ROWS)
@pytest.mark.parametrize("position", ["none", "rope"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str)
def test_agrees_with_operators(
    position: str, layout: str, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = Rows.at(positions_of(*ROWS[layout]))
    x = torch.randn(*rows.positions.shape, WIDTH, dtype=dtype, requires_grad=True)
    for ours, theirs in zip(*answers(encoder(position, dtype), x, rows, monkeypatch), strict=True):
        assert_close(ours, theirs, tolerance)


@pytest.mark.parametrize("frozen", ["qkv", "out", "x"])
def test_what_is_frozen_changes_no_other_gradient(frozen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    of, rows = encoder("none", torch.float64), Rows.fresh_documents(1, 40)
    x = torch.randn(1, 40, WIDTH, dtype=torch.float64, requires_grad=frozen != "x")
    if frozen != "x":
        getattr(of.projection, frozen).weight.requires_grad_(False)
    for ours, theirs in zip(*answers(of, x, rows, monkeypatch), strict=True):
        assert_close(ours, theirs, 1e-12)


def test_keys_that_grow_without_end_scale_what_was_summed_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece's exponents are hundreds above those of the piece before it."""
    of, rows = encoder("none", torch.float64), Rows.fresh_documents(1, 90)
    x = (torch.linspace(0, 60, 90)[:, None] * torch.randn(WIDTH)).double()[None].requires_grad_()
    for ours, theirs in zip(*answers(of, x, rows, monkeypatch), strict=True):
        assert_close(ours, theirs, 1e-10)


def test_no_features_are_kept() -> None:
    of, x = encoder("none", torch.float64), torch.randn(1, 90, WIDTH, dtype=torch.float64, requires_grad=True)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda part: kept.append(part.numel()) or part, lambda part: part):
        of.encode(x, Rows.fresh_documents(1, 90))
    weights = sum(leaf.numel() for leaf in of.parameters())
    assert sum(kept) < 90 * (6 * WIDTH + 3 * 4) + 2 * weights
