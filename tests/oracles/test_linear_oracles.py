"""Parity of the linear attention kinds with other people's implementations, where they are installed.

    pip install -e '.[oracles]'
    pip install --no-deps performer-pytorch local-attention axial-positional-embedding hyper-connections
    pip install --no-deps flash-linear-attention fla-core triton      of which only a formula is used; apart from the
                                                                      others, where it gets in the way of transformers

Each is run in float64 as far as it goes, with the weights of ours; what differs by convention is said where it is
undone.
"""

from __future__ import annotations

import importlib
import types
import warnings
from typing import Any

import pytest
import torch
from contract.runs import assert_close
from torch import Tensor

from farfield.architectures import Mixer, Rows, build_mixer
from farfield.architectures.lightning import slopes

WIDTH = 32
FLOAT32 = 1e-5
"""Where theirs, run in float64, computes some steps in float32: norms, decays."""


def installed(name: str) -> types.ModuleType:
    """The module, or a skipped test. Its own warnings are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ImportError as error:
            pytest.skip(f"{name.partition('.')[0]} is not installed: {error}")


def mixer(settings: dict[str, Any], layer: int = 0, depth: int = 1) -> Mixer:
    """With weights at no special value."""
    torch.manual_seed(0)
    built = build_mixer(settings, WIDTH, layer, depth)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    return built.double()


def check(ours: Mixer, theirs: Any, time: int = 63) -> None:
    """Values and the gradient of the input of one document; `theirs` takes x (B, T, D)."""
    x = torch.randn(2, time, WIDTH, dtype=torch.float64, requires_grad=True)
    found, _ = ours(x, Rows.fresh_documents(2, time), ours.start(2))
    expected = theirs(x)
    assert_close(found.detach(), expected.detach(), FLOAT32)
    above = torch.randn_like(found)
    mine, other = (torch.autograd.grad((y * above).sum(), x)[0] for y in (found, expected))
    assert_close(mine, other, FLOAT32)


def interleaved(weight: Tensor, heads: int) -> Tensor:
    """Ours holds all queries, all keys, all values; theirs holds q, k, v of each head in turn."""
    return weight.unflatten(0, (3, heads, -1)).transpose(0, 1).flatten(0, 2)


@pytest.mark.parametrize("layer", [0, 1, 3])
def test_lightning_is_minimaxs(layer: int) -> None:
    """Its share of the slopes has another 1e-5, in the denominator; slopes are set to theirs, and are as good as."""
    minimax = installed("transformers.models.minimax.modeling_minimax")
    heads, depth = 4, 4
    ours = mixer({"kind": "lightning", "heads": heads}, layer, depth)
    config = minimax.MiniMaxConfig(
        hidden_size=WIDTH,
        num_attention_heads=heads,
        head_dim=WIDTH // heads,
        num_hidden_layers=depth,
        block_size=16,
        layer_types=["linear_attention"] * depth,
    )
    theirs = minimax.MiniMaxLightningAttention(config, layer).double()
    theirs.query_decay, theirs.key_decay, theirs.diagonal_decay = theirs.decay_factors(theirs.slope_rate)
    assert_close(slopes(heads, layer, depth), theirs.slope_rate[:, 0, 0], 3e-6 if layer < depth - 1 else 0.5)
    ours.slopes = theirs.slope_rate[:, 0, 0]
    theirs.norm.load_state_dict(ours.norm.state_dict())
    theirs.norm.variance_epsilon = 1e-6
    theirs.qkv_proj.weight.data = interleaved(ours.projection.qkv.weight, heads)
    theirs.output_gate.weight.data = ours.gate.weight
    theirs.out_proj.weight.data = ours.projection.out.weight
    check(ours, lambda x: theirs(x, None, None)[0])


@pytest.mark.parametrize("groups", [1, 2])
def test_mamba2_is_transformers(groups: int) -> None:
    """The whole layer, chunked; theirs computes the scan and the norm in float32."""
    transformers = installed("transformers.models.mamba2.modeling_mamba2")
    ours = mixer({"kind": "mamba2", "heads": 4, "groups": groups, "state": 8, "chunk": 16})
    config = transformers.Mamba2Config(
        hidden_size=WIDTH,
        num_heads=4,
        head_dim=16,
        state_size=8,
        n_groups=groups,
        chunk_size=16,
        num_hidden_layers=1,
        vocab_size=7,
        use_cache=False,
    )
    theirs = transformers.Mamba2Mixer(config, 0).double().eval()
    names = {
        "in_proj.weight": ours.into.weight,
        "conv1d.weight": ours.taps.flip(1)[:, None],  # theirs begin with the oldest token
        "conv1d.bias": ours.taps_bias,
        "dt_bias": ours.dt_bias,
        "A_log": ours.A_log,
        "D": ours.D,
        "norm.weight": ours.gain,
        "out_proj.weight": ours.out.weight,
    }
    theirs.load_state_dict(names)
    check(ours, theirs)


@pytest.mark.parametrize("features", ["favor", "relu"])
def test_features_are_performer_pytorchs(features: str) -> None:
    """Ratios of a row's products, which alone count; without the epsilon that theirs adds behind the maximum."""
    theirs = installed("performer_pytorch.performer_pytorch")
    ours = mixer({"kind": "performer", "heads": 4, "features": features, "position": "none"})
    x = torch.randn(1, 40, WIDTH, dtype=torch.float64)
    found, _ = ours(x, Rows.fresh_documents(1, 40), ours.start(1))
    q, k, v = (part.unflatten(-1, (4, -1)).transpose(1, 2) for part in ours.projection.qkv(x).split(WIDTH, -1))
    if features == "favor":
        q = theirs.softmax_kernel(q, projection_matrix=ours.random.matrix, is_query=True, eps=0.0)
        k = theirs.softmax_kernel(k, projection_matrix=ours.random.matrix, is_query=False, eps=0.0)
    else:
        q, k = (theirs.generalized_kernel(part, projection_matrix=ours.random.matrix) for part in (q, k))
    pairs = (q @ k.transpose(2, 3)).tril()
    out = pairs / pairs.sum(-1, keepdim=True) @ v
    expected = ours.projection.out(out.transpose(1, 2).flatten(2))
    assert_close(found.detach(), expected.detach(), 1e-9)


@pytest.mark.parametrize("heads", [1, 3, 4])
def test_linspace_decays_are_yet_another_retnets(heads: int) -> None:
    theirs = installed("yet_another_retnet.retention")
    ours = build_mixer({"kind": "retnet", "decay": "linspace", "heads": heads}, 8 * heads)
    found = ours.log_decay(torch.zeros((), dtype=torch.float64)).exp()[0, :, 0]
    assert_close(found, theirs._build_decay_gammas(heads, dtype=torch.float64), 1e-6)


@pytest.mark.parametrize("rotation", ["halves", "interleaved"])
def test_retention_is_flash_linear_attentions(rotation: str) -> None:
    """The layer but for its last projection, with fla's own formula of retention, which scales the queries."""
    theirs = installed("fla.ops.retention.naive")
    heads, time = 4, 63
    ours = mixer({"kind": "retnet", "heads": heads, "rotation": rotation, "chunk": 16})
    x = torch.randn(2, time, WIDTH, dtype=torch.float64)
    rows = Rows.fresh_documents(2, time)
    found, _ = ours(x, rows, ours.start(2))
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in ours.qkv(x).split(ours.sizes, -1))
    out = ours.norm(theirs.naive_retention(ours._turn(q, rows), ours._turn(k, rows), v).double())
    gate = torch.nn.functional.silu(ours.gate(x))
    assert_close(found.detach(), ours.out(gate * out.transpose(1, 2).flatten(2)).detach(), FLOAT32)
