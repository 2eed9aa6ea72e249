"""Parity of the bidirectional mixers with other people's implementations: see theirs.py for their installation.

Each is run in float64 with the weights of ours; what differs by convention is said where it is undone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from contract.runs import positions_of
from parity import WIDTH, Parity
from theirs import installed
from torch import Tensor

from farfield.architectures import Rows
from farfield.architectures.encoders import Encoder, build_encoder

HEADS = 4


def encoder(kind: str, **settings: Any) -> Any:
    """With weights at no special value."""
    torch.manual_seed(0)
    built = build_encoder({"kind": kind, "heads": HEADS, "position": "none", **settings}, WIDTH)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    return built.double()


def check(parity: Parity, ours: Encoder, theirs: Callable[[Tensor], Tensor], rows: Rows, tolerance: float) -> None:
    """Values and the gradient of the input; `theirs` takes x (B, T, D)."""
    x = torch.randn(rows.batch, rows.time, WIDTH, dtype=torch.float64, requires_grad=True)
    parity.outputs(ours.encode(x, rows), theirs(x), tolerance, x)


@pytest.mark.parity("encoder attention", "torch's SDPA, unfused")
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_attention_is_pytorchs(kv_heads: int, parity: Parity) -> None:
    ours = encoder("attention", kv_heads=kv_heads)
    real = positions_of("40", "23 -17") >= 0

    def theirs(x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (-1, WIDTH // HEADS)).transpose(1, 2)
            for part in ours.projection.qkv(x).split(ours.projection.sizes, -1)
        )
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v, real[:, None, None], enable_gqa=True)
        return ours.projection.out(out.transpose(1, 2).flatten(2)) * real[..., None]

    check(parity, ours, theirs, Rows.at(positions_of("40", "23 -17")), 1e-12)


@pytest.mark.parity("encoder longformer", "transformers' LongformerSelfAttention")
@pytest.mark.parametrize("globals_", ["none", "first", "marked"])
@pytest.mark.parametrize("window", [2, 8])
def test_longformer_is_transformers(
    window: int, globals_: str, parity: Parity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their window is that of both sides together. They take softmax in float32: here it is one in float64."""
    longformer = installed("transformers.models.longformer.modeling_longformer")
    softmax = torch.nn.functional.softmax
    monkeypatch.setattr(torch.nn.functional, "softmax", lambda x, dim, dtype=None: softmax(x, dim))
    config = longformer.LongformerConfig(
        hidden_size=WIDTH, num_attention_heads=HEADS, attention_window=[2 * window], attention_probs_dropout_prob=0.0
    )
    ours = encoder("longformer", window=window, globals=2)
    layer = longformer.LongformerSelfAttention(config, 0).double()
    weights = (*ours.projection.qkv.weight.split(WIDTH), *ours.global_qkv.weight.split(WIDTH))
    names = ("query", "key", "value", "query_global", "key_global", "value_global")
    layer.load_state_dict(
        {f"{name}.weight": weight for name, weight in zip(names, weights, strict=True)}
        | {f"{name}.bias": torch.zeros(WIDTH) for name in names}
    )
    positions = positions_of("48", "37 -11")  # whole windows, as they ask
    marked = torch.zeros_like(positions, dtype=torch.bool)
    if globals_ == "marked":
        marked[0, [0, 5, 30]] = marked[1, 17] = True
    elif globals_ == "first":
        marked[:, :2] = True

    def theirs(x: Tensor) -> Tensor:
        mask = 10000.0 * marked.double() - 10000.0 * (positions < 0).double()
        (out,) = layer(x, mask, positions < 0, marked, bool(marked.any()))
        return ours.projection.out(out)

    rows = Rows(positions, positions, marked=None if globals_ == "first" else marked)
    check(parity, ours, theirs, rows, 1e-12)


@pytest.mark.parity("encoder linformer", "linformer")
@pytest.mark.parametrize("time", [40, 23])
def test_linformer_is_linformers(time: int, parity: Parity) -> None:
    """Of their layer, which has a bias behind it, shared projections of all heads, and slices them as ours."""
    linformer = installed("linformer.linformer")
    ours = encoder("linformer", length=40, rows=6)
    theirs = linformer.LinformerSelfAttention(WIDTH, 40, k=6, heads=HEADS).double()
    weights = dict(zip(("to_q", "to_k", "to_v"), ours.projection.qkv.weight.split(WIDTH), strict=True))
    weights |= {"to_out": ours.projection.out.weight}
    theirs.load_state_dict(
        {f"{name}.weight": weight for name, weight in weights.items()}
        | {"to_out.bias": torch.zeros(WIDTH), "proj_k": ours.key_rows[0], "proj_v": ours.value_rows[0]}
    )
    check(parity, ours, theirs, Rows.fresh_documents(2, time), 1e-12)


@pytest.mark.parity("encoder performer", "performer-pytorch")
@pytest.mark.parametrize("features", ["favor", "relu"])
def test_performer_is_performer_pytorchs(features: str, parity: Parity) -> None:
    """Its features without the epsilon that it adds behind the maximum, and its bidirectional linear attention."""
    performer = installed("performer_pytorch.performer_pytorch")
    ours = encoder("performer", features=features)

    def kernel(part: Tensor, is_query: bool) -> Tensor:
        matrix = ours.random.matrix
        if features == "relu":
            return performer.generalized_kernel(part, projection_matrix=matrix)
        return performer.softmax_kernel(part, projection_matrix=matrix, is_query=is_query, eps=0.0)

    def theirs(x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in ours.projection.qkv(x).split(WIDTH, -1))
        out = performer.linear_attention(kernel(q, True), kernel(k, False), v)
        return ours.projection.out(out.transpose(1, 2).flatten(2))

    check(parity, ours, theirs, Rows.fresh_documents(2, 40), 1e-9)
