"""Peers whose kernels are for GPUs: what they are built of, and what they compute as far as a CPU can.

FlexAttention runs by its definition on a CPU; of flash-attn and fla there are stand-ins that write down what they are
given.
"""

from __future__ import annotations

import sys
import warnings
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from farfield.benchmarks.peers import MODULES, Layer, LayerPeer, Sizes
from farfield.benchmarks.speed.cases import CASES, layer

GPU = [peer for module in MODULES for peer in module.PEERS if peer.gpu]
SIZES = Sizes(width=32, heads=2, length=384)


def named(name: str, of: str) -> LayerPeer:
    (found,) = [peer for peer in GPU if peer.name == name and peer.of == of]
    return found


def stand_in(monkeypatch: pytest.MonkeyPatch, **modules: dict[str, Any]) -> None:
    """Modules, their dots written as two underscores, with these attributes."""
    for name, inside in modules.items():
        module = ModuleType(name.replace("__", "."))
        for key, value in inside.items():
            setattr(module, key, value)
        monkeypatch.setitem(sys.modules, module.__name__, module)


def with_our_weights(theirs: Layer, case: str) -> Layer:
    """Ours, whose weights the peer's are made to be: maps of queries, keys and values first, then of the output."""
    mine = layer(CASES[case], SIZES)
    given = {tuple(weight.shape): [] for weight in mine.module.parameters()}  # type: ignore[var-annotated]
    for weight in mine.module.parameters():
        given[tuple(weight.shape)].append(weight)
    with torch.no_grad():
        for weight in theirs.module.parameters():
            weight.copy_(given[tuple(weight.shape)].pop(0))
    return mine


def test_they_are_those_of_three_libraries_and_need_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {peer.package for peer in GPU} == {"flash-attn", "flash-linear-attention", "torch"}
    assert {peer.of for peer in GPU} <= set(CASES)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert {peer.missing() for peer in GPU} == {"needs a GPU"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in ("fla", "flash_attn") else object())
    reasons = {"flash-attn": "flash_attn is not installed", "flash-linear-attention": "fla is not installed"}
    assert all(peer.missing() == reasons.get(peer.package) for peer in GPU)


@pytest.mark.parametrize("case", ["window", "longformer"])
def test_flex_attention_is_ours(case: str) -> None:
    theirs = named("FlexAttention", case).build(SIZES)
    mine = with_our_weights(theirs, case)
    x = torch.randn(1, SIZES.length, SIZES.width)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is not compiled
        torch.testing.assert_close(theirs.forward(x), mine.forward(x), rtol=0, atol=1e-5)


def test_flex_attention_of_random_blocks_sees_what_the_case_says() -> None:
    made = named("FlexAttention", "bigbird").build(SIZES)
    sees: Any = made.module.mask_of(torch.device("cpu"))  # type: ignore[operator]
    column = torch.arange(SIZES.length)
    for head in range(SIZES.heads):
        seen = sees(0, head, torch.tensor(370), column)
        assert seen.equal(seen & (column <= 370))
        assert bool(seen[306:371].all() & seen[:64].all())
        assert sorted(seen[64:256].view(3, 64).sum(1).tolist()) == [64, 64, 64]  # all blocks that there are to draw
        assert int(sees(0, head, torch.tensor(200), column)[64:128].sum()) == 64
    assert not sees(0, 0, torch.tensor(130), column)[64:66].any()  # the block before its own is no earlier one


def test_flash_attention_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what its documentation says of its arguments."""
    asked = []

    def flash_attn_func(q: Tensor, k: Tensor, v: Tensor, causal: bool, window_size: tuple[int, int]) -> Tensor:
        asked.append((causal, window_size))
        behind = torch.arange(q.shape[1])[:, None] - torch.arange(k.shape[1])
        mask = torch.ones_like(behind, dtype=torch.bool) if window_size[0] < 0 else behind <= window_size[0]
        mask = mask & (behind >= 0) if causal else mask
        heads = (x.transpose(1, 2) for x in (q, k, v))
        return scaled_dot_product_attention(*heads, attn_mask=mask).transpose(1, 2)

    stand_in(monkeypatch, flash_attn={"flash_attn_func": flash_attn_func})
    x = torch.randn(2, 300, SIZES.width)
    for case in ("attention", "window", "attention_encoder"):
        theirs = named("flash-attn", case).build(SIZES)
        mine = with_our_weights(theirs, case)
        with torch.no_grad():
            torch.testing.assert_close(theirs.forward(x), mine.forward(x), rtol=0, atol=1e-5)
    assert asked == [(True, (-1, -1)), (True, (256, 0)), (False, (-1, -1))]


class _Given(nn.Module):
    """A layer of fla that keeps what it was built with, and answers as they do."""

    def __init__(self, **given: Any) -> None:
        super().__init__()
        self.given = given

    def forward(self, x: Tensor, past_key_values: Any = None, use_cache: bool = False) -> tuple[Tensor, None, Any]:
        if past_key_values is not None:
            assert use_cache
            past_key_values.append(x.shape[1])
        return x, None, past_key_values


def test_layers_of_fla_are_built_as_large_as_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("MultiScaleRetention", "GatedDeltaNet", "Mamba2")
    stand_in(
        monkeypatch,
        fla={},
        fla__layers=dict.fromkeys(names, _Given),
        fla__models={},
        fla__models__utils={"Cache": list},
    )
    x = torch.randn(1, 5, SIZES.width)
    given: dict[str, Any] = {}
    for case, name in {
        "retnet": "fla, retention",
        "retnet_narrow": "fla, retention",
        "gated_deltanet": "fla, gated delta rule",
        "mamba2": "fla, Mamba-2",
    }.items():
        made = named(name, case).build(SIZES)
        assert made.forward(x) is x
        given[case] = made.module.given
        if made.decoder is not None:
            state = made.decoder.read(x)
            assert made.decoder.step(x[:, :1], state)[1] == [5, 1]
    assert given["retnet"]["expand_v"] == 2 * given["retnet_narrow"]["expand_v"] == 2.0
    assert (given["retnet"]["hidden_size"], given["retnet"]["num_heads"]) == (32, 2)
    assert (given["gated_deltanet"]["head_dim"], given["gated_deltanet"]["expand_v"]) == (16, 2.0)
    assert (given["mamba2"]["num_heads"], given["mamba2"]["head_dim"], given["mamba2"]["state_size"]) == (4, 16, 128)


def test_lightning_by_fla_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the decay, which is that of the first of two layers."""

    def lightning(q: Tensor, k: Tensor, v: Tensor, **given: Any) -> tuple[Tensor, Tensor]:
        assert (given["layer_idx"], given["num_layers"], given["scale"]) == (0, 2, 1.0)
        slopes = torch.tensor([2.0**-4, 2.0**-8]) * (1 + 1e-5)
        state = given["initial_state"]
        state = torch.zeros(*q.shape[::2][:1], 2, 16, 16) if state is None else state
        out = []
        for t in range(q.shape[1]):
            state = (-slopes).exp()[:, None, None] * state + torch.einsum("bhk,bhv->bhkv", k[:, t], v[:, t])
            out.append(torch.einsum("bhk,bhkv->bhv", q[:, t], state))
        return torch.stack(out, 1), state

    functions = {"chunk_lightning_attn": lightning, "fused_recurrent_lightning_attn": lightning}
    stand_in(monkeypatch, fla={}, fla__ops={}, fla__ops__lightning_attn=functions)
    theirs = named("fla, Lightning", "lightning").build(SIZES)
    mine = with_our_weights(theirs, "lightning")
    x = torch.randn(1, 12, SIZES.width)
    assert theirs.decoder is not None
    with torch.no_grad():
        whole = theirs.forward(x)
        torch.testing.assert_close(whole, mine.forward(x), rtol=0, atol=1e-5)
        last, _ = theirs.decoder.step(x[:, 11:], theirs.decoder.read(x[:, :11]))
        torch.testing.assert_close(last, whole[:, 11:], rtol=0, atol=1e-6)
