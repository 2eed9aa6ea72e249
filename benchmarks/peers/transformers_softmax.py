"""transformers: the softmax layers of its models, without the models around them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from farfield.benchmarks.peers.peer import Decoder, Layer, LayerPeer, Peer, Sizes

__all__ = ["PEERS"]

WINDOW, GLOBALS, BLOCK, RANDOM = 256, 16, 64, 3


class _Keyed(nn.Module):
    """One layer of Llama or Mistral with its rotation, and its cache."""

    mask: Tensor | None

    def __init__(self, layer: nn.Module, rotary: nn.Module, config: Any, mask: Tensor | None) -> None:
        super().__init__()
        self.layer, self.rotary, self.config = layer, rotary, config
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor, cache: Any = None, begin: int = 0) -> Tensor:
        positions = torch.arange(begin, begin + x.shape[1], device=x.device)[None]
        mask = None if self.mask is None or x.shape[1] == 1 else self.mask[None, None, : x.shape[1], : x.shape[1]]
        out: Tensor = self.layer(x, self.rotary(x, positions), mask, past_key_values=cache)[0]
        return out

    def read(self, x: Tensor) -> Any:
        from transformers import DynamicCache

        cache = DynamicCache(config=self.config)
        self(x, cache)
        return cache, x.shape[1]

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        cache, begin = state
        return self(x, cache, begin), (cache, begin + 1)


def _llama(sizes: Sizes) -> Layer:
    llama: Any = import_module("transformers.models.llama.modeling_llama")

    config = llama.LlamaConfig(
        hidden_size=sizes.width, num_attention_heads=sizes.heads, num_hidden_layers=1, attn_implementation="sdpa"
    )
    module = _Keyed(llama.LlamaAttention(config, 0), llama.LlamaRotaryEmbedding(config), config, None)
    return Layer(module, module, Decoder(module.read, module.step))


def _mistral(sizes: Sizes) -> Layer:
    mistral: Any = import_module("transformers.models.mistral.modeling_mistral")

    config = mistral.MistralConfig(
        hidden_size=sizes.width,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.heads,
        num_hidden_layers=1,
        sliding_window=WINDOW + 1,  # its own token counts
        attn_implementation="sdpa",
    )
    every = torch.arange(sizes.length)
    behind = every[:, None] - every
    mask = (behind >= 0) & (behind <= WINDOW)  # what the model makes once for all layers
    module = _Keyed(mistral.MistralAttention(config, 0), mistral.MistralRotaryEmbedding(config), config, mask)
    return Layer(module, module, Decoder(module.read, module.step))


def _longformer(sizes: Sizes) -> Layer:
    longformer: Any = import_module("transformers.models.longformer.modeling_longformer")

    config = longformer.LongformerConfig(
        hidden_size=sizes.width,
        num_attention_heads=sizes.heads,
        num_hidden_layers=1,
        attention_window=[2 * WINDOW],  # both sides of a token
        attention_probs_dropout_prob=0.0,
    )
    attention = longformer.LongformerSelfAttention(config, 0)
    last = nn.Linear(sizes.width, sizes.width, bias=False)  # its own stands in the layer around it
    marks = torch.zeros(1, sizes.length)
    marks[:, :GLOBALS] = 10000.0

    def forward(x: Tensor) -> Tensor:
        tokens = x.shape[1]
        mask = nn.functional.pad(marks[:, :tokens].to(x.device), (0, -tokens % (2 * WINDOW)), value=-10000.0)
        padded = nn.functional.pad(x, (0, 0, 0, mask.shape[1] - tokens))
        mask = mask.expand(x.shape[0], -1)
        out: Tensor = last(attention(padded, mask, mask < 0, mask > 0, True)[0][:, :tokens])
        return out

    return Layer(nn.ModuleList([attention, last]), forward)


def _reformer(sizes: Sizes, causal: bool) -> Layer:
    reformer: Any = import_module("transformers.models.reformer.modeling_reformer")

    config = reformer.ReformerConfig(
        hidden_size=sizes.width,
        num_attention_heads=sizes.heads,
        attention_head_size=sizes.head,
        attn_layers=["lsh"],
        num_buckets=16,
        num_hashes=2,
        is_decoder=causal,
        lsh_num_chunks_after=0,
        use_cache=False,
    )
    attention = reformer.LSHSelfAttention(config, 0)
    out = nn.Linear(sizes.width, sizes.width, bias=False)  # its own stands in the layer around it

    def forward(x: Tensor) -> Tensor:
        mixed: Tensor = out(attention(x).hidden_states)
        return mixed

    return Layer(nn.ModuleList([attention, out]), forward)


def _bigbird(sizes: Sizes) -> Layer:
    bigbird: Any = import_module("transformers.models.big_bird.modeling_big_bird")

    config = bigbird.BigBirdConfig(
        hidden_size=sizes.width,
        num_attention_heads=sizes.heads,
        block_size=BLOCK,
        num_random_blocks=RANDOM,
        max_position_embeddings=sizes.length,
        use_bias=False,
    )
    attention = bigbird.BigBirdBlockSparseAttention(config, seed=0)
    out = nn.Linear(sizes.width, sizes.width, bias=False)

    def forward(x: Tensor) -> Tensor:
        seen = torch.ones(x.shape[:2], device=x.device)
        blocks, band, rows, columns = bigbird.BigBirdModel.create_masks_for_block_sparse_attn(seen, BLOCK)
        mixed: Tensor = out(attention(x, band, rows, columns, blocks, blocks)[0])
        return mixed

    return Layer(nn.ModuleList([attention, out]), forward)


def _peer(name: str, of: str, build: Any, differs: str = "") -> LayerPeer:
    return Peer(f"transformers, {name}", "transformers", "transformers", of, build, differs)


PEERS: tuple[LayerPeer, ...] = (
    _peer("Llama", "attention", _llama),
    _peer("Mistral", "window", _mistral, "a dense mask"),
    _peer("Longformer", "longformer", _longformer, "sees to both sides: twice the window, and not causal"),
    _peer("Longformer", "longformer_encoder", _longformer, "no positions"),
    _peer("Reformer", "reformer", lambda sizes: _reformer(sizes, True), "later tokens move the chunks of earlier ones"),
    _peer("Reformer", "reformer_encoder", lambda sizes: _reformer(sizes, False)),
    _peer("BigBird", "bigbird", _bigbird, "not causal; the first and the last block are global"),
    _peer("BigBird", "bigbird_encoder", _bigbird, "the first and the last block are global"),
)
