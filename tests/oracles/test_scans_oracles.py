"""Parity of delta rules and state spaces with other people's implementations: see theirs.py for their installation.

Each is run with the weights of ours; what differs by convention is said where it is undone.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from parity import FLOAT32, WIDTH, Parity, mixer, named
from theirs import apart, installed
from torch import Tensor
from torch.nn.functional import normalize, pad

from farfield.architectures import Rows
from farfield.architectures.ops.gated_delta_rule import gated_delta_rule
from farfield.huggingface.mambas import mamba_pieces

TIME = 130


def qwen3_next(heads: int, value_heads: int, key: int, value: int) -> Any:
    """Their layer with random weights, in float64."""
    qwen = installed("transformers.models.qwen3_next.modeling_qwen3_next")
    transformers = installed("transformers")
    config = transformers.Qwen3NextConfig(
        hidden_size=WIDTH,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
        linear_num_key_heads=heads,
        linear_num_value_heads=value_heads,
        linear_key_head_dim=key,
        linear_value_head_dim=value,
        rms_norm_eps=1e-6,
    )
    return qwen.Qwen3NextGatedDeltaNet(config, 0).double()


@pytest.mark.parity("gated_deltanet", "transformers' Qwen3-Next")
@pytest.mark.parametrize(("heads", "value_heads", "ratio"), [(4, 4, 2), (2, 6, 1), (1, 2, 3)])
def test_gated_deltanet_is_qwen3_nexts(heads: int, value_heads: int, ratio: int, parity: Parity) -> None:
    """Theirs keeps what belongs to a head of keys together: q, k, its values and gates, in this order."""
    key = WIDTH // heads
    theirs = qwen3_next(heads, value_heads, key, key * ratio)
    ours = mixer("gated_deltanet", heads=heads, value_heads=value_heads, value_ratio=ratio)
    q, k, v = (part.unflatten(0, (heads, -1)) for part in ours.qkv.weight.split(ours.sizes))
    gate = ours.gate.weight.unflatten(0, (heads, -1))
    steps, strengths = (part.unflatten(0, (heads, -1)) for part in ours.rates.weight.chunk(2))
    weights = {
        "in_proj_qkvz.weight": torch.cat((q, k, v, gate), 1).flatten(0, 1),
        "in_proj_ba.weight": torch.cat((strengths, steps), 1).flatten(0, 1),
        "conv1d.weight": swapped(ours.taps),
        "dt_bias": ours.step_bias,
        "A_log": ours.log_rate,
        "norm.weight": ours.gain,
        "out_proj.weight": ours.out.weight,
    }
    theirs.load_state_dict(weights)
    parity.layer(ours, theirs, FLOAT32)


def delta_rule(parity: Parity, theirs: Any) -> None:
    """The op from a carried state, and the state behind it; `theirs` has time before heads, scales, and is float32."""
    q, k, v = (torch.randn(2, 3, TIME, width) for width in (8, 8, 12))
    v.requires_grad_()
    k, decay, beta = normalize(k, dim=-1), -torch.rand(2, 3, TIME), torch.rand(2, 3, TIME)
    state = torch.randn(2, 3, 8, 12)
    rows = Rows.at(torch.arange(5, 5 + TIME).expand(2, -1))
    found, last = gated_delta_rule(q * 8**-0.5, k, v, decay, beta, rows, state)
    names = dict(zip(("q", "k", "v", "g", "beta"), (x.transpose(1, 2) for x in (q, k, v, decay, beta)), strict=True))
    expected, after = theirs(**names, initial_state=state.clone(), output_final_state=True)
    parity.close(last, after, FLOAT32)
    parity.outputs(found, expected.transpose(1, 2), FLOAT32, v)


@pytest.mark.parity("gated_deltanet", "transformers' delta rule")
@pytest.mark.parametrize("form", ["torch_recurrent_gated_delta_rule", "torch_chunk_gated_delta_rule"])
def test_the_gated_delta_rule_is_qwen3_nexts(form: str, parity: Parity) -> None:
    module = installed("transformers.models.qwen3_next.modeling_qwen3_next")
    names = {"q": "query", "k": "key", "v": "value"}
    delta_rule(parity, lambda **given: getattr(module, form)(**{names.get(n, n): x for n, x in given.items()}))


@pytest.mark.parity("gated_deltanet", "fla's naive delta rule")
@pytest.mark.parametrize("form", ["naive_recurrent_gated_delta_rule", "naive_chunk_gated_delta_rule"])
def test_the_gated_delta_rule_is_flash_linear_attentions(form: str, parity: Parity) -> None:
    delta_rule(parity, getattr(apart("fla.ops.gated_delta_rule.naive"), form))


@pytest.mark.parity("mamba", "transformers' Mamba")
@pytest.mark.parametrize(("states", "taps", "bias"), [(16, 4, False), (5, 3, True)])
def test_mamba_is_transformers(states: int, taps: int, bias: bool, parity: Parity) -> None:
    """Their layer; it runs the recurrence in float32."""
    module, transformers = installed("transformers.models.mamba.modeling_mamba"), installed("transformers")
    settings = {"state": states, "conv": taps, "bias": bias, "conv_bias": not bias}
    config = transformers.MambaConfig(
        hidden_size=WIDTH,
        num_hidden_layers=1,
        state_size=states,
        conv_kernel=taps,
        use_bias=bias,
        use_conv_bias=not bias,
    )
    theirs = module.MambaMixer(config, 0).double()
    ours = mixer("mamba", **settings)
    theirs.load_state_dict(named(mamba_pieces, ours, "mamba", **settings))
    parity.layer(ours, theirs, FLOAT32)


@pytest.mark.parity("mamba", "transformers' Jamba")
@pytest.mark.parametrize("bias", [False, True])
def test_mamba_with_inner_norms_is_jambas(bias: bool, parity: Parity) -> None:
    module, transformers = installed("transformers.models.jamba.modeling_jamba"), installed("transformers")
    settings = {"rank": 3, "inner_norm": True, "inner_epsilon": 1e-3, "bias": bias, "conv_bias": not bias}
    config = transformers.JambaConfig(
        hidden_size=WIDTH,
        num_hidden_layers=1,
        mamba_dt_rank=3,
        rms_norm_eps=1e-3,
        mamba_proj_bias=bias,
        mamba_conv_bias=not bias,
    )
    theirs = module.JambaMambaMixer(config, 0).double()
    ours = mixer("mamba", **settings)
    theirs.load_state_dict(named(mamba_pieces, ours, "mamba", **settings))
    parity.layer(ours, theirs, FLOAT32)


@pytest.mark.parity("mamba", "mambapy")
@pytest.mark.parametrize("inner_norm", [False, True])
@pytest.mark.parametrize("parallel", [False, True])
def test_mamba_is_mambapys(parallel: bool, inner_norm: bool, parity: Parity) -> None:
    """By its loop and by its parallel scan; rates are float32 there, and two norms have names of their own."""
    module = installed("mambapy.mamba")
    config = module.MambaConfig(
        d_model=WIDTH, n_layers=1, pscan=parallel, inner_layernorms=inner_norm, rms_norm_eps=1e-6
    )
    theirs = module.MambaBlock(config).double()
    ours = mixer("mamba", inner_norm=inner_norm)
    weights = named(mamba_pieces, ours, "mamba", inner_norm=inner_norm)
    others = {"b_layernorm.weight": "B_layernorm.weight", "c_layernorm.weight": "C_layernorm.weight"}
    theirs.load_state_dict({others.get(name, name): weight for name, weight in weights.items()})
    parity.layer(ours, theirs, FLOAT32)


@pytest.mark.parity("mamba", "mamba_ssm's mamba_inner_ref")
@pytest.mark.parametrize("states", [16, 5])
def test_mamba_is_mamba_ssms(states: int, parity: Parity, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their reference of the whole layer, on their reference of the scan, which is float32, and torch's convolution."""

    def convolution(x: Tensor, weight: Tensor, bias: Tensor, activation: str) -> Tensor:
        return getattr(torch.nn.functional, activation)(
            torch.conv1d(pad(x, (weight.shape[1] - 1, 0)), weight[:, None], bias, groups=len(bias))
        )

    module = apart("mamba_ssm.ops.selective_scan_interface")
    monkeypatch.setattr(module, "causal_conv1d_fn", convolution)
    monkeypatch.setattr(module, "selective_scan_fn", module.selective_scan_ref)
    ours = mixer("mamba", state=states)
    w = named(mamba_pieces, ours, "mamba", state=states)
    names = [f"{name}.weight" for name in ("x_proj", "dt_proj", "out_proj")]

    def theirs(x: Tensor) -> Tensor:
        first = ours.input(x).mT, w["conv1d.weight"], w["conv1d.bias"], *(w[name] for name in names), None
        return module.mamba_inner_ref(*first, -w["A_log"].exp().float(), D=w["D"], delta_bias=w["dt_proj.bias"])

    parity.layer(ours, theirs, FLOAT32)


@pytest.mark.parity("gss", "gated-state-spaces-pytorch")
def test_gss_is_lucidrains(parity: Parity) -> None:
    """Their layer within its norm and around its residual, which are the decoder's here; kernels are float32 there.

    Its other layers ask scipy for lengths of Fourier transforms.
    """
    gss = installed("gated_state_spaces_pytorch", "scipy", "scipy.fftpack").GSS
    theirs = gss(dim=WIDTH, dim_expansion_factor=3, dss_kernel_N=7, dss_kernel_H=5).double()
    theirs.norm = torch.nn.Identity()
    ours = mixer("gss", expand=3, channels=5, state=7)
    names = {"to_u.0": ours.gate, "to_v.0": ours.input, "to_gate": ours.spread, "to_out": ours.out}
    weights = {f"{name}.weight": module.weight for name, module in names.items()} | {"to_out.bias": ours.out.bias}
    weights |= {f"dss.norm.{name}": weight for name, weight in ours.norm.named_parameters()}
    weights |= {"dss.Lambda_real": ours.log_decay, "dss.Lambda_imag": ours.log_frequency, "dss.param_D": ours.skip}
    weights |= dict(zip(("dss.C_real", "dss.C_imag"), ours.read.unbind(-1), strict=True))
    theirs.load_state_dict(weights)
    parity.layer(ours, lambda x: theirs(x) - x, FLOAT32)


def swapped(taps: Tensor) -> Tensor:
    """Taps (C, K) as the weights of torch's convolution, oldest first."""
    return taps.flip(1)[:, None]
