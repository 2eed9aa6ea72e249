"""Parity of the linear attention kinds with other people's implementations: see theirs.py for their installation.

Each is run in float64 as far as it goes, with the weights of ours; what differs by convention is said where it is
undone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from contract.runs import assert_close
from parity import FLOAT32, FLOAT64, WIDTH, Parity, mixer, named
from theirs import apart, installed
from torch import Tensor
from torch.nn.functional import rms_norm, silu, softplus

from farfield.architectures import Rows, build_mixer
from farfield.architectures.lightning import slopes
from farfield.architectures.ops.linear_attention import linear_attention
from farfield.huggingface.mambas import mamba2_pieces


def interleaved(weight: Tensor, heads: int) -> Tensor:
    """Ours holds all queries, all keys, all values; theirs holds q, k, v of each head in turn."""
    return weight.unflatten(0, (3, heads, -1)).transpose(0, 1).flatten(0, 2)


@pytest.mark.parity("lightning", "transformers' MiniMax")
@pytest.mark.parametrize("layer", [0, 1, 3])
def test_lightning_is_minimaxs(layer: int, parity: Parity) -> None:
    """Its share of the slopes has another 1e-5, in the denominator; slopes are set to theirs, and are as good as."""
    minimax = installed("transformers.models.minimax.modeling_minimax")
    heads, depth = 4, 4
    ours = mixer("lightning", layer, depth, heads=heads)
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
    ours.retention = replace(ours.retention, log_decay=-theirs.slope_rate[:, 0, 0].double())
    theirs.norm.load_state_dict(ours.norm.state_dict())
    theirs.norm.variance_epsilon = 1e-6
    theirs.qkv_proj.weight.data = interleaved(ours.projection.qkv.weight, heads)
    theirs.output_gate.weight.data = ours.gate.weight
    theirs.out_proj.weight.data = ours.projection.out.weight
    parity.layer(ours, lambda x: theirs(x, None, None)[0], FLOAT32)


@pytest.mark.parity("mamba2", "transformers' Mamba2")
@pytest.mark.parametrize(("groups", "bias"), [(1, False), (2, True)])
def test_mamba2_is_transformers(groups: int, bias: bool, parity: Parity) -> None:
    """The whole layer, chunked; theirs computes the scan and the norm in float32."""
    transformers = installed("transformers.models.mamba2.modeling_mamba2")
    settings = {"heads": 4, "groups": groups, "state": 8, "chunk": 16, "bias": bias, "conv_bias": not bias}
    settings |= {"epsilon": 1e-3, "step_low": 0.03, "step_high": 0.07}
    ours = mixer("mamba2", **settings)
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
        use_bias=bias,
        use_conv_bias=not bias,
        layer_norm_epsilon=1e-3,
        time_step_limit=(0.03, 0.07),
    )
    theirs = transformers.Mamba2Mixer(config, 0).double().eval()
    theirs.load_state_dict(named(mamba2_pieces, ours, "mamba2", **settings))
    parity.layer(ours, theirs, FLOAT32)


@pytest.mark.parity("mamba2", "mamba_ssm's ssd_chunk_scan_combined_ref")
@pytest.mark.parametrize("groups", [1, 2])
def test_mamba2_is_mamba_ssms(groups: int, parity: Parity) -> None:
    """The layer around their reference functions, as their own reference of the layer puts it together."""
    scan = apart("mamba_ssm.ops.triton.ssd_combined").ssd_chunk_scan_combined_ref
    norm = apart("mamba_ssm.ops.triton.layernorm_gated").rms_norm_ref
    ours = mixer("mamba2", heads=4, groups=groups, state=8, chunk=16)
    inner, states = ours.inner, groups * 8

    def theirs(x: Tensor) -> Tensor:
        z, mixed, dt = ours.into(x).split([inner, inner + 2 * states, 4], -1)
        weight, padded = ours.taps.flip(1)[:, None], torch.nn.functional.pad(mixed.mT, (3, 0))
        mixed = silu(torch.conv1d(padded, weight, ours.taps_bias, groups=len(weight))).mT
        u, b, c = mixed.split([inner, states, states], -1)
        b, c = (part.unflatten(-1, (groups, -1)) for part in (b, c))
        rates = {"D": ours.D, "dt_bias": ours.dt_bias, "dt_softplus": True}
        out = scan(u.unflatten(-1, (4, -1)), dt, -ours.A_log.exp(), b, c, 16, **rates).flatten(2)
        gate = {"z": z, "eps": 1e-5, "group_size": inner // groups, "norm_before_gate": False}
        return ours.out(norm(out, ours.gain, None, **gate))

    parity.layer(ours, theirs, FLOAT32, time=128)


@pytest.mark.parity("mamba2", "mamba_ssm's ssd_minimal_discrete")
@pytest.mark.parametrize("time", [16, 128])
def test_state_space_duality_is_the_papers_listing(time: int, parity: Parity) -> None:
    """From a carried state; theirs has time before heads, and a state of values by keys."""
    theirs = apart("mamba_ssm.modules.ssd_minimal").ssd_minimal_discrete
    q, k, u = (torch.randn(2, 3, time, width, dtype=torch.float64) for width in (8, 8, 12))
    u.requires_grad_()
    decay, state = -softplus(torch.randn(2, 3, time).double()), torch.randn(2, 3, 8, 12, dtype=torch.float64)
    rows = Rows.at(torch.arange(5, 5 + time).expand(2, -1))
    found, last = linear_attention(q, k, u, decay, rows, state, 32)
    first = (part.transpose(1, 2) for part in (u, decay, k, q))
    expected, after = theirs(*first, block_len=16, initial_states=state.mT[:, None])
    parity.outputs(found, expected.transpose(1, 2), FLOAT64, u)
    parity.close(last, after.mT, FLOAT64)


@pytest.mark.parity("performer", "performer-pytorch's features")
@pytest.mark.parametrize("features", ["favor", "relu"])
def test_features_are_performer_pytorchs(features: str, parity: Parity) -> None:
    """Ratios of a row's products, which alone count; without the epsilon that theirs adds behind the maximum."""
    package = installed("performer_pytorch.performer_pytorch")
    ours = mixer("performer", heads=4, features=features, position="none")

    def phi(part: Tensor, query: bool) -> Tensor:
        if features == "relu":
            return package.generalized_kernel(part, projection_matrix=ours.random.matrix)
        return package.softmax_kernel(part, projection_matrix=ours.random.matrix, is_query=query, eps=0.0)

    def theirs(x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (4, -1)).transpose(1, 2) for part in ours.projection.qkv(x).split(WIDTH, -1))
        pairs = (phi(q, True) @ phi(k, False).mT).tril()
        out = pairs / pairs.sum(-1, keepdim=True) @ v
        return ours.projection.out(out.transpose(1, 2).flatten(2))

    parity.layer(ours, theirs, 1e-9, time=40)


@pytest.mark.parity("retnet", "yet-another-retnet's decays")
@pytest.mark.parametrize("heads", [1, 3, 4])
def test_linspace_decays_are_yet_another_retnets(heads: int, parity: Parity) -> None:
    theirs = installed("yet_another_retnet.retention")
    ours: Any = build_mixer({"kind": "retnet", "decay": "linspace", "heads": heads}, 8 * heads)
    found = ours.retention.log_decay.exp()
    parity.close(found, theirs._build_decay_gammas(heads, dtype=torch.float64), 1e-6)


@pytest.mark.parity("retnet", "fla's naive_retention")
@pytest.mark.parametrize("rotation", ["halves", "interleaved"])
def test_retention_is_flash_linear_attentions(rotation: str, parity: Parity) -> None:
    """The layer around fla's own formula of retention, which scales the queries and runs in float32."""
    naive = apart("fla.ops.retention.naive").naive_retention
    ours = mixer("retnet", heads=4, rotation=rotation, chunk=16)

    def theirs(x: Tensor) -> Tensor:
        rows = Rows.fresh_documents(*x.shape[:2])
        q, k, v = (part.unflatten(-1, (4, -1)).transpose(1, 2) for part in ours.qkv(x).split(ours.sizes, -1))
        q, k = (ours.retention.turned(part, rows) for part in (q, k))
        out = rms_norm(naive(q, k, v).double(), v.shape[-1:], eps=1e-6)
        return ours.out(silu(ours.gate(x)) * out.transpose(1, 2).flatten(2))

    parity.layer(ours, theirs, FLOAT32, time=63)
