"""Attention to a few learned rows as one function, in Linformer's encoder, against the same by PyTorch's operators."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contract.runs import assert_close, positions_of
from torch import Tensor

from farfield.architectures import Rows
from farfield.architectures.encoders import build_encoder, linformer
from farfield.architectures.ops import rows_attention as op

WIDTH = 12
ROWS = {"whole": ("90", "90"), "one": ("90",), "padded": ("90", "41 -49"), "packed": ("30 60", "-3 87")}
SETTINGS: dict[str, dict[str, Any]] = {
    "nope": {"position": "none"},
    "rope": {"position": "rope"},
    "grouped": {"kv_heads": 1, "position": "none"},
    "apart": {"share": False, "position": "none"},
    "longest": {"length": 90, "position": "none"},
}


@pytest.fixture(autouse=True)
def _pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a few tokens, so that documents go through several, the last a short one."""
    monkeypatch.setattr(op, "PIECE", 17)
    monkeypatch.setattr(linformer, "PIECE", 17)


def encoder(dtype: torch.dtype, **settings: Any) -> Any:
    given = {"kind": "linformer", "heads": 2, "head_width": 6, "length": 100, "rows": 5, **settings}
    return build_encoder(given, WIDTH).to(dtype)


def answers(of: Any, x: Tensor, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Tensor], list[Tensor]]:
    """The output and all gradients, as one function and by operators."""
    above, found, called = torch.randn_like(x), [], []
    one = linformer.rows_attention
    monkeypatch.setattr(linformer, "rows_attention", lambda *given: called.append(len(given[0])) or one(*given))
    for backend in ("auto", "fused"):
        of.backend = backend
        y = of.encode(x, rows)
        leaves = [leaf for leaf in (x, *of.parameters()) if leaf.requires_grad]
        found.append([y.detach(), *torch.autograd.grad(y, leaves, above)])
    assert called
    return found[0], found[1]


@pytest.mark.parametrize("layout", ROWS)
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str)
def test_agrees_with_operators(
    settings: str, layout: str, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = Rows.at(positions_of(*ROWS[layout]))
    x = torch.randn(*rows.positions.shape, WIDTH, dtype=dtype, requires_grad=True)
    for ours, theirs in zip(*answers(encoder(dtype, **SETTINGS[settings]), x, rows, monkeypatch), strict=True):
        assert_close(ours, theirs, tolerance)


@pytest.mark.parametrize("frozen", ["qkv", "out", "rows", "x"])
def test_what_is_frozen_changes_no_other_gradient(frozen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    of, rows = encoder(torch.float64, position="none"), Rows.fresh_documents(1, 80)
    x = torch.randn(1, 80, WIDTH, dtype=torch.float64, requires_grad=frozen != "x")
    if frozen == "rows":
        of.key_rows.requires_grad_(False)
    elif frozen != "x":
        getattr(of.projection, frozen).weight.requires_grad_(False)
    for ours, theirs in zip(*answers(of, x, rows, monkeypatch), strict=True):
        assert_close(ours, theirs, 1e-12)


def test_no_weights_of_attention_are_kept() -> None:
    of = encoder(torch.float64, rows=40, position="none")
    x = torch.randn(1, 90, WIDTH, dtype=torch.float64, requires_grad=True)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda part: kept.append(part.numel()) or part, lambda part: part):
        of.encode(x, Rows.fresh_documents(1, 90))
    assert max(kept) < 2 * 90 * 40
    assert sum(kept) < 90 * 8 * WIDTH + 4 * sum(leaf.numel() for leaf in of.parameters())
