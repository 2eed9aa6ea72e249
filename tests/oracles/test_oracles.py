"""Parity of attention and retention with other people's implementations: see theirs.py for their installation.

Each is run in float64 as far as it goes, with the weights of ours; what differs by convention is said where it is
undone.
"""

from __future__ import annotations

import types
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from parity import FLOAT32, WIDTH, Parity, mixer
from theirs import installed
from torch import Tensor

from farfield.architectures import Rows
from farfield.architectures.ops.attention import Part, attention
from farfield.architectures.ops.layouts import Causal
from farfield.architectures.ops.linear_attention import linear_attention
from farfield.architectures.ops.rotary import angles, frequencies, rotate
from farfield.config import read
from farfield.huggingface.families import FAMILIES
from farfield.huggingface.weights import theirs as theirs_of
from farfield.model import LanguageModel, ModelConfig

VOCABULARY = 37


def language_model(mixer: dict[str, Any]) -> LanguageModel:
    torch.manual_seed(0)
    layers = {"layer": {"mixer": mixer, "feedforward": {"kind": "swiglu", "ratio": 1.5}}}
    architecture = {"width": WIDTH, "depth": 2, "pattern": ["layer"], "layers": layers}
    model = LanguageModel(read(ModelConfig, {"architecture": architecture, "vocabulary": VOCABULARY}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    return model.double()


def transplanted(ours: LanguageModel, family: str) -> dict[str, Tensor]:
    """Our weights by the names of a family's, as they are written for it."""
    found = theirs_of(FAMILIES[family].pieces(ours.config), ours.state_dict())
    return {**found, "lm_head.weight": ours.embedding.weight}


def check_against(theirs: Any, ours: LanguageModel, parity: Parity) -> None:
    """Logits and the gradient of the embedding over a whole row, over left padding, and a token at a time."""
    tokens = torch.randint(0, VOCABULARY, (2, 63))
    found, _ = ours(tokens)
    expected = theirs(input_ids=tokens).logits
    parity.close(found, expected, FLOAT32)
    above = torch.randn_like(found)
    (mine,) = torch.autograd.grad((found * above).sum(), ours.embedding.weight)
    (other,) = torch.autograd.grad((expected * above).sum(), theirs.get_input_embeddings().weight)
    parity.close(mine, other, FLOAT32)
    real = torch.arange(63) >= torch.tensor([[0], [9]])
    positions = torch.where(real, torch.arange(63) - torch.tensor([[0], [9]]), -1)
    with torch.no_grad():
        padded, _ = ours(tokens, positions=positions)
        expected = theirs(input_ids=tokens, attention_mask=real.long(), position_ids=positions.clamp(min=0)).logits
        parity.close(padded[real], expected[real], FLOAT32)
        state, cache = None, None
        for time in range(20):
            step, state = ours(tokens[:, time : time + 1], state)
            answer = theirs(input_ids=tokens[:, time : time + 1], past_key_values=cache, use_cache=True)
            cache = answer.past_key_values
            parity.close(step, answer.logits, FLOAT32)


def shared_settings(kv_heads: int, inner: int) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": inner,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "attn_implementation": "sdpa",
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }


@pytest.mark.parity("attention", "transformers' Llama")
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_attention_is_llama(kv_heads: int, parity: Parity) -> None:
    transformers = installed("transformers")
    ours = language_model({"kind": "attention", "heads": 4, "kv_heads": kv_heads})
    theirs = built("llama", transformers.LlamaConfig, transformers.LlamaForCausalLM, ours, kv_heads)
    check_against(theirs, ours, parity)


@pytest.mark.parity("longformer", "transformers' Mistral")
@pytest.mark.parametrize("window", [1, 7, 40])
def test_a_window_is_mistral(window: int, parity: Parity) -> None:
    """Mistral counts the token itself: its window is one more than ours."""
    transformers = installed("transformers")
    ours = language_model({"kind": "longformer", "heads": 4, "kv_heads": 2, "window": window})
    kinds = transformers.MistralConfig, transformers.MistralForCausalLM
    theirs = built("mistral", *kinds, ours, 2, sliding_window=window + 1)
    check_against(theirs, ours, parity)


def built(family: str, config: Any, kind: Any, ours: LanguageModel, kv_heads: int, **more: Any) -> Any:
    inner = ours.decoder.layers[0].feedforward.down.weight.shape[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = kind(config(**shared_settings(kv_heads, inner), **more)).double().eval()
    theirs.load_state_dict(transplanted(ours, family))
    return theirs


def cos_sin(positions: Tensor, frequency: Tensor) -> tuple[Tensor, Tensor]:
    """Llama's cosines and sines, in float64."""
    turn = positions[..., None].double() * frequency
    both = torch.cat((turn, turn), -1)
    return both.cos(), both.sin()


@pytest.mark.parity("rotation", "transformers' Llama")
def test_rotation_is_llamas(parity: Parity) -> None:
    llama = installed("transformers.models.llama.modeling_llama")
    q, phase = torch.randn(2, 3, 9, 16, dtype=torch.float64), torch.randint(0, 5000, (2, 9))
    cos, sin = cos_sin(phase, frequencies(16, "halves"))
    expected, _ = llama.apply_rotary_pos_emb(q, q, cos, sin)
    found = rotate(q, *angles(phase, frequencies(16, "halves"), torch.float64), "halves")
    parity.close(found, expected, 1e-12)


@pytest.mark.parity("attention", "torch's SDPA, unfused")
def test_attention_is_pytorchs(parity: Parity) -> None:
    """With groups of heads."""
    q = torch.randn(2, 6, 63, 8, dtype=torch.float64, requires_grad=True)
    k, v = (torch.randn(2, 3, 63, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    found, _ = attention([Part(q, k, v, Causal())], 8**-0.5)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    parity.outputs(found, expected, 1e-12, q, k, v)


@pytest.mark.parity("retnet", "yet-another-retnet")
@pytest.mark.parametrize("form", ["parallel", "recurrent", "chunkwise"])
def test_retention_is_yet_another_retnets(form: str, parity: Parity) -> None:
    """Its decays are its own, 1 - exp(linspace(log 1/32, log 1/512)), and it divides by the root of the key's width."""
    theirs = installed("yet_another_retnet.retention")
    heads, time = 4, 64
    q, k, v = (torch.randn(2, heads, time, width, dtype=torch.float64) for width in (8, 8, 16))
    v.requires_grad_()
    first, last = (torch.tensor(1 / n, dtype=torch.float64).log() for n in (32, 512))
    gamma = 1 - torch.linspace(first, last, heads, dtype=torch.float64).exp()
    state = torch.zeros(2, heads, 8, 16, dtype=torch.float64)
    rows = Rows.fresh_documents(2, time)
    found, after = linear_attention(q, k * 8**-0.5, v, gamma.log()[None, :, None], rows, state, 16)
    if form == "parallel":
        expected, _ = theirs.retention_parallel(q, k, v)
    elif form == "chunkwise":
        expected, _ = theirs.retention_chunkwise(q, k, v, prev_state=None)
    else:
        outputs, carried = [], None
        for n in range(time):
            out, carried = theirs.retention_recurrent(q[:, :, n], k[:, :, n], v[:, :, n], prev_state=carried)
            outputs.append(out)
        expected = torch.stack(outputs, 2)
        parity.close(after, carried, FLOAT32)
    parity.outputs(found, expected, FLOAT32, v)


@pytest.mark.parity("retnet", "torchscale's layer")
def test_retention_layer_is_torchscales(parity: Parity) -> None:
    """The whole layer against the form with normalisers, which cancel without an epsilon."""
    torchscale = installed("torchscale.component.multiscale_retention")
    heads, time, key = 4, 63, WIDTH // 4
    ours = mixer("retnet", heads=heads)
    ours.retention = replace(ours.retention, epsilon=0.0)
    args = types.SimpleNamespace(multiway=False, layernorm_eps=0.0)
    theirs = torchscale.MultiScaleRetention(args, WIDTH, 2 * WIDTH, heads).double()
    names = dict(zip(("q_proj", "k_proj", "v_proj"), ours.qkv.weight.split(ours.sizes), strict=True))
    names |= {"g_proj": ours.gate.weight, "out_proj": ours.out.weight}
    theirs.load_state_dict({f"{name}.weight": weight for name, weight in names.items()})
    frequency = 10000.0 ** -torch.linspace(0, 1, key // 2, dtype=torch.float64)
    turn = torch.arange(time, dtype=torch.float64)[:, None] * frequency.repeat_interleave(2)
    gamma = 1 - 2.0 ** (-5 - torch.arange(heads, dtype=torch.float64))
    distance = torch.arange(time)[:, None] - torch.arange(time)
    mask = torch.where(distance >= 0, gamma[:, None, None] ** distance.clamp(min=0), 0.0)
    parity.layer(ours, lambda x: theirs(x, ((turn.sin(), turn.cos()), mask)), FLOAT32, time)
