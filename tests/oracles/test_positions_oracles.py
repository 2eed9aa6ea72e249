"""Parity of ALiBi and xPos with other people's implementations, where they are installed (the extra `oracles`).

Bloom's and MPT's layers take the softmax in float32, whatever the weights.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from parity import FLOAT32, Parity
from theirs import installed
from torch import Tensor

from farfield.architectures import Mixer, Rows, build_mixer
from farfield.architectures.ops.alibi import slopes_of
from farfield.architectures.ops.rotary import angles, frequencies, powers, rotate, scales

TIME, HEAD_WIDTH = 40, 4
FUTURE = torch.ones(TIME, TIME, dtype=torch.bool).triu(1)


def ours(heads: int) -> tuple[Mixer, Tensor, Tensor]:
    """A layer of ours, its projections (D, 3 D) and an input."""
    torch.manual_seed(0)
    mixer = build_mixer({"kind": "attention", "heads": heads, "position": "alibi"}, heads * HEAD_WIDTH).double()
    x = torch.randn(2, TIME, heads * HEAD_WIDTH, dtype=torch.float64, requires_grad=True)
    return mixer, mixer.projection.qkv.weight, x  # type: ignore[return-value, union-attr]


def check(parity: Parity, mixer: Mixer, x: Tensor, expected: Tensor) -> None:
    """Values and the gradient of the input."""
    found, _ = mixer(x, Rows.fresh_documents(2, TIME), mixer.start(2))
    parity.outputs(found, expected, FLOAT32, x)


@pytest.mark.parity("ALiBi's slopes", "transformers' Bloom")
@pytest.mark.parametrize("heads", [1, 2, 3, 6, 8, 12, 25])
def test_slopes_are_blooms(parity: Parity, heads: int) -> None:
    bloom = installed("transformers.models.bloom.modeling_bloom")
    theirs = bloom.build_alibi_tensor(torch.ones(1, 9, dtype=torch.int64), heads, torch.float32)
    parity.close(slopes_of(heads)[:, None] * torch.arange(9), theirs[:, 0].double(), 1e-6)


@pytest.mark.parity("attention, ALiBi", "transformers' Bloom")
@pytest.mark.parametrize("heads", [2, 6])
def test_attention_is_blooms(parity: Parity, heads: int) -> None:
    """Their projections go by heads, each with its query, key and value; biases are zero."""
    bloom = installed("transformers.models.bloom.modeling_bloom")
    mixer, weight, x = ours(heads)
    settings: Any = bloom.BloomConfig(hidden_size=weight.shape[1], n_head=heads, hidden_dropout=0, attention_dropout=0)
    theirs = bloom.BloomAttention(settings, layer_idx=0).double()
    with torch.no_grad():
        by_heads = weight.unflatten(0, (3, heads, HEAD_WIDTH)).transpose(0, 1).flatten(0, 2)
        theirs.query_key_value.weight.copy_(by_heads)
        theirs.dense.weight.copy_(mixer.projection.out.weight)  # type: ignore[union-attr, arg-type]
        theirs.query_key_value.bias.zero_()
        theirs.dense.bias.zero_()
    alibi = bloom.build_alibi_tensor(torch.ones(2, TIME, dtype=torch.int64), heads, torch.float64)
    unseen = torch.zeros(TIME, TIME, dtype=torch.float64).masked_fill(FUTURE, -torch.inf)
    check(parity, mixer, x, theirs(x, torch.zeros_like(x), alibi, unseen)[0])


@pytest.mark.parity("attention, ALiBi", "transformers' MPT")
@pytest.mark.parametrize("heads", [1, 4])
def test_attention_is_mpts(parity: Parity, heads: int) -> None:
    """Of powers of two; their slopes of other numbers of heads are the published ones in another order."""
    mpt = installed("transformers.models.mpt.modeling_mpt")
    mixer, weight, x = ours(heads)
    theirs = mpt.MptAttention(mpt.MptConfig(d_model=weight.shape[1], n_heads=heads), layer_idx=0).double()
    theirs.load_state_dict({"Wqkv.weight": weight, "out_proj.weight": mixer.projection.out.weight})  # type: ignore[union-attr]
    check(parity, mixer, x, theirs(x, mpt.build_mpt_alibi_tensor(heads, TIME), attention_mask=FUTURE)[0])


@pytest.mark.parity("xPos", "torchscale's XPOS")
def test_products_are_torchscales_xpos(parity: Parity) -> None:
    """Their pairs are neighbours, ours halves; their powers are counted from the middle, ours from anywhere."""
    torchscale = installed("torchscale.component.xpos_relative_position")
    theirs, width = torchscale.XPOS(16).double(), 16
    q, k = torch.randn(2, 2, TIME, width, dtype=torch.float64)
    halves = torch.arange(width).view(2, -1).T.flatten()  # theirs[2 i], theirs[2 i + 1] are ours[i], ours[i + W / 2]
    phase = torch.arange(TIME)[None] + 70
    cos, sin = angles(phase, frequencies(width, "halves"), torch.float64)
    up, down = (powers(sign * (phase - 77), scales(width), torch.float64) for sign in (1, -1))
    query, key = rotate(q[:, None], cos * up, sin * up, "halves"), rotate(k[:, None], cos * down, sin * down, "halves")
    expected = theirs(q[..., halves]) @ theirs(k[..., halves], downscale=True).transpose(1, 2)
    parity.close((query @ key.transpose(-1, -2))[:, 0], expected, FLOAT32)
