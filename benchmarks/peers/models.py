"""Whole language models of other libraries, of one shape: what their training steps and decoding are measured by.

    made = model.build(Shape(...))
    made.loss(tokens, targets)                    # mean nats a token of (B, T), (B, T), as its own training takes it
    state = made.decoder.read(tokens); logits, state = made.decoder.step(token, state)

All are Llama's shape: RMS norms, rotary positions, SwiGLU, no biases, the head tied to the embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from farfield.benchmarks.peers.peer import Decoder, Peer

__all__ = ["MODELS", "Model", "Shape"]


class Shape(NamedTuple):
    """Of a model: its layers, widths, heads, ids, and the most tokens of a text."""

    depth: int
    width: int
    inner: int
    heads: int
    vocabulary: int
    length: int


class Model(NamedTuple):
    """A module with its loss, how it decodes (None: it is not measured), and what is compiled of it; None: all."""

    module: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    decoder: Decoder | None = None
    compiled: nn.Module | None = None


def _llama(shape: Shape) -> Model:
    transformers: Any = import_module("transformers")
    config = transformers.LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.depth,
        num_attention_heads=shape.heads,
        max_position_embeddings=shape.length + 64,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )
    module = transformers.LlamaForCausalLM(config)

    def loss(tokens: Tensor, targets: Tensor) -> Tensor:
        found: Tensor = module(tokens, shift_labels=targets.contiguous(), labels=targets, use_cache=False).loss
        return found

    def read(tokens: Tensor) -> Any:
        cache = transformers.DynamicCache(config=config)
        module(tokens, past_key_values=cache, logits_to_keep=1)
        return cache

    def step(token: Tensor, state: Any) -> tuple[Tensor, Any]:
        return module(token, past_key_values=state).logits, state

    return Model(module, loss, Decoder(read, step))


def _litgpt(shape: Shape) -> Model:
    from litgpt.config import Config
    from litgpt.model import GPT
    from litgpt.utils import chunked_cross_entropy

    config = Config(
        block_size=shape.length,
        padded_vocab_size=shape.vocabulary,
        n_layer=shape.depth,
        n_head=shape.heads,
        n_embd=shape.width,
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
        intermediate_size=shape.inner,
    )
    module = GPT(config)
    module.apply(module._init_weights)
    module.lm_head.weight = module.transformer.wte.weight

    def loss(tokens: Tensor, targets: Tensor) -> Tensor:
        found: Tensor = chunked_cross_entropy(module(tokens), targets)
        return found

    return Model(module, loss)


def _x_transformers(shape: Shape) -> Model:
    from x_transformers import Decoder as Layers
    from x_transformers import TransformerWrapper

    layers = Layers(
        dim=shape.width,
        depth=shape.depth,
        heads=shape.heads,
        attn_dim_head=shape.width // shape.heads,
        attn_flash=True,
        use_rmsnorm=True,
        rotary_pos_emb=True,
        rotary_emb_dim=shape.width // shape.heads,
        ff_glu=True,
        ff_swish=True,
        ff_no_bias=True,
        ff_mult=shape.inner / shape.width,
    )
    module = TransformerWrapper(
        num_tokens=shape.vocabulary,
        max_seq_len=shape.length,
        attn_layers=layers,
        use_abs_pos_emb=False,
        tie_embedding=True,
    )

    def loss(tokens: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(module(tokens).flatten(0, 1), targets.flatten())  # faster than its AutoregressiveWrapper's

    return Model(module, loss)


MODELS: tuple[Peer[Shape, Model], ...] = (
    Peer("litgpt", "litgpt", "litgpt", "model", _litgpt),
    Peer("x-transformers", "x-transformers", "x_transformers", "model", _x_transformers, needs=("einx", "loguru")),
    Peer("transformers, Llama", "transformers", "transformers", "model", _llama),
)
