"""Parity of delta rules and state spaces with other people's, where they are installed (the extra `oracles`).

    pip install -e '.[oracles]'
    pip install --no-deps gated-state-spaces-pytorch

Each is run with the weights of ours; what differs by convention is said where it is undone.
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
from farfield.architectures.ops.gated_delta_rule import gated_delta_rule

WIDTH, TIME = 32, 130
FLOAT32 = 1e-5
"""Where theirs, run in float64, computes some steps in float32: the recurrence, norms, decays."""


def installed(name: str) -> types.ModuleType:
    """The module, or a skipped test. Its own warnings are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ImportError as error:
            pytest.skip(f"{name.partition('.')[0]} is not installed: {error}")


def mixer(**settings: Any) -> Mixer:
    """A mixer in float64, none of its weights at a special value."""
    torch.manual_seed(0)
    ours = build_mixer(settings, WIDTH)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return ours.double()


def check(ours: Mixer, theirs: Any, tolerance: float) -> None:
    """Output and the gradient of the input, over two rows; prints the largest difference."""
    x = torch.randn(2, TIME, WIDTH, dtype=torch.float64, requires_grad=True)
    found, _ = ours(x, Rows.fresh_documents(2, TIME), ours.start(2))
    expected = theirs(x)
    above = torch.randn_like(found)
    mine, other = (torch.autograd.grad((y * above).sum(), x)[0] for y in (found, expected))
    print(f"output {(found - expected).abs().max():.1e}, gradient {(mine - other).abs().max():.1e}")
    assert_close(found.detach(), expected.detach(), tolerance)
    assert_close(mine, other, 10 * tolerance)


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


@pytest.mark.parametrize(("heads", "value_heads", "ratio"), [(4, 4, 2), (2, 6, 1), (1, 2, 3)])
def test_gated_deltanet_is_qwen3_nexts(heads: int, value_heads: int, ratio: int) -> None:
    """Theirs keeps what belongs to a head of keys together: q, k, its values and gates, in this order."""
    key = WIDTH // heads
    theirs = qwen3_next(heads, value_heads, key, key * ratio)
    ours: Any = mixer(kind="gated_deltanet", heads=heads, value_heads=value_heads, value_ratio=ratio)
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
    check(ours, theirs, FLOAT32)


@pytest.mark.parametrize("form", ["torch_recurrent_gated_delta_rule", "torch_chunk_gated_delta_rule"])
def test_the_gated_delta_rule_is_qwen3_nexts(form: str) -> None:
    """From a carried state, and the state behind it; theirs scales the queries itself and runs in float32."""
    theirs = getattr(installed("transformers.models.qwen3_next.modeling_qwen3_next"), form)
    q, k, v = (torch.randn(2, 3, TIME, width) for width in (8, 8, 12))
    k, decay, beta = torch.nn.functional.normalize(k, dim=-1), -torch.rand(2, 3, TIME), torch.rand(2, 3, TIME)
    state = torch.randn(2, 3, 8, 12)
    rows = Rows.at(torch.arange(5, 5 + TIME).expand(2, -1))
    found, last = gated_delta_rule(q * 8**-0.5, k, v, decay, beta, rows, state)
    first = [part.transpose(1, 2) for part in (q, k, v, decay, beta)]
    expected, after = theirs(*first, initial_state=state.clone(), output_final_state=True)
    assert_close(found, expected.transpose(1, 2), FLOAT32)
    assert_close(last, after, FLOAT32)


def mamba_weights(ours: Any, norms: str = "bc") -> dict[str, Tensor]:
    """Ours by the names that Mamba, Jamba and mambapy share but for those of two norms."""
    names = {"in_proj": ours.input, "x_proj": ours.select, "dt_proj": ours.step, "out_proj": ours.out}
    found = {f"{name}.weight": module.weight for name, module in names.items()}
    found |= {"dt_proj.bias": ours.step.bias, "A_log": ours.A_log, "D": ours.D}
    found |= {"conv1d.weight": swapped(ours.taps), "conv1d.bias": ours.conv_bias}
    if ours.gain is not None:
        found |= dict(zip((f"{n}_layernorm.weight" for n in ("dt", *norms)), ours.gain.split(ours.inner), strict=True))
    return found


@pytest.mark.parametrize(("states", "taps"), [(16, 4), (5, 3)])
def test_mamba_is_transformers(states: int, taps: int) -> None:
    """Their layer; it runs the recurrence in float32."""
    module, transformers = installed("transformers.models.mamba.modeling_mamba"), installed("transformers")
    config = transformers.MambaConfig(hidden_size=WIDTH, num_hidden_layers=1, state_size=states, conv_kernel=taps)
    theirs = module.MambaMixer(config, 0).double()
    ours = mixer(kind="mamba", state=states, conv=taps)
    theirs.load_state_dict(mamba_weights(ours))
    check(ours, theirs, FLOAT32)


def test_mamba_with_inner_norms_is_jambas() -> None:
    module, transformers = installed("transformers.models.jamba.modeling_jamba"), installed("transformers")
    config = transformers.JambaConfig(
        hidden_size=WIDTH, num_hidden_layers=1, mamba_dt_rank=3, use_mamba_kernels=False, rms_norm_eps=1e-6
    )
    theirs = module.JambaMambaMixer(config, 0).double()
    ours = mixer(kind="mamba", rank=3, inner_norm=True)
    theirs.load_state_dict(mamba_weights(ours))
    check(ours, theirs, FLOAT32)


@pytest.mark.parametrize("inner_norm", [False, True])
@pytest.mark.parametrize("parallel", [False, True])
def test_mamba_is_mambapys(parallel: bool, inner_norm: bool) -> None:
    """By its loop and by its parallel scan; rates are float32 there."""
    module = installed("mambapy.mamba")
    config = module.MambaConfig(
        d_model=WIDTH, n_layers=1, pscan=parallel, inner_layernorms=inner_norm, rms_norm_eps=1e-6
    )
    theirs = module.MambaBlock(config).double()
    ours = mixer(kind="mamba", inner_norm=inner_norm)
    theirs.load_state_dict(mamba_weights(ours, "BC"))
    check(ours, theirs, FLOAT32)


def test_gss_is_lucidrains() -> None:
    """Their layer within its norm and around its residual, which are the decoder's here; kernels are float32 there."""
    gss = installed("gated_state_spaces_pytorch").GSS
    theirs = gss(dim=WIDTH, dim_expansion_factor=3, dss_kernel_N=7, dss_kernel_H=5).double()
    theirs.norm = torch.nn.Identity()
    ours: Any = mixer(kind="gss", expand=3, channels=5, state=7)
    names = {"to_u.0": ours.gate, "to_v.0": ours.input, "to_gate": ours.spread, "to_out": ours.out}
    weights = {f"{name}.weight": module.weight for name, module in names.items()} | {"to_out.bias": ours.out.bias}
    weights |= {f"dss.norm.{name}": weight for name, weight in ours.norm.named_parameters()}
    weights |= {"dss.Lambda_real": ours.log_decay, "dss.Lambda_imag": ours.log_frequency, "dss.param_D": ours.skip}
    weights |= dict(zip(("dss.C_real", "dss.C_imag"), ours.read.unbind(-1), strict=True))
    theirs.load_state_dict(weights)
    check(ours, lambda x: theirs(x) - x, FLOAT32)


def swapped(taps: Tensor) -> Tensor:
    """Taps (C, K) as the weights of torch's convolution, oldest first."""
    return taps.flip(1)[:, None]
