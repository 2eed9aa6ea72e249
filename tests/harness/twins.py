"""One small Llama twice: as a run of Farfield and as a folder of Hugging Face, with one tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from farfield.config import read
from farfield.model import LanguageModel, ModelConfig
from farfield.tokenizers import BpeTokenizer, train_bpe

WIDTH, DEPTH, HEADS, KV_HEADS, RATIO, LENGTH = 32, 2, 4, 2, 2, 64
TEXT = (
    "The ferry leaves at noon, and the clerk signs for it. Leave is signed by the head of the unit. The gate opens "
    "with a code that nobody knows. A garden lies behind the wall, and the wind is cold in the morning. "
)


def tokenizer() -> BpeTokenizer:
    return train_bpe([TEXT] * 2, 300)


def farfield_run(folder: Path, kind: str = "attention") -> Path:
    """A run of random weights, wide enough for mistakes to show."""
    words = tokenizer()
    mixer: dict[str, Any] = {"kind": kind, "heads": HEADS}
    if kind == "attention":
        mixer |= {"kv_heads": KV_HEADS, "conv": 0}
    layer = {"mixer": mixer, "feedforward": {"kind": "swiglu", "ratio": RATIO}}
    architecture = {"width": WIDTH, "depth": DEPTH, "pattern": [kind], "layers": {kind: layer}}
    config = {"architecture": architecture, "memory": None, "vocabulary": words.vocabulary}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LanguageModel(read(ModelConfig, config)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.normal_(std=parameter.shape[1] ** -0.5)
    folder.mkdir(parents=True)
    settings = {"format": 1, "name": folder.name, **config, "data": {"length": LENGTH}}
    (folder / "config.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(settings))), encoding="utf-8")
    save_file(model.state_dict(), folder / "model.safetensors")
    words.save(folder / "tokenizer")
    return folder


def llama_twin(run: Path, folder: Path) -> Path:
    """The same weights by the names of transformers."""
    from safetensors.torch import load_file
    from transformers import LlamaConfig, LlamaForCausalLM

    words = tokenizer()
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=words.vocabulary,
            hidden_size=WIDTH,
            intermediate_size=RATIO * WIDTH,
            num_hidden_layers=DEPTH,
            num_attention_heads=HEADS,
            num_key_value_heads=KV_HEADS,
            max_position_embeddings=LENGTH,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            bos_token_id=None,
            eos_token_id=words.end,
            pad_token_id=words.end,
        )
    )
    theirs.load_state_dict(renamed(load_file(run / "model.safetensors")))
    theirs.save_pretrained(folder)
    words.save(folder)
    return folder


def renamed(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    theirs = {
        "model.embed_tokens.weight": ours["embedding.weight"],
        "lm_head.weight": ours["embedding.weight"],
        "model.norm.weight": ours["decoder.norm.weight"],
    }
    width = WIDTH // HEADS
    for layer in range(DEPTH):
        mine, other = f"decoder.layers.{layer}.", f"model.layers.{layer}."
        heads = ours[mine + "mixer.projection.qkv.weight"].split([HEADS * width, KV_HEADS * width, KV_HEADS * width])
        gate, up = ours[mine + "feedforward.up.weight"].chunk(2)
        theirs |= {f"{other}self_attn.{name}_proj.weight": part for name, part in zip("qkv", heads, strict=True)}
        theirs |= {
            other + "self_attn.o_proj.weight": ours[mine + "mixer.projection.out.weight"],
            other + "mlp.gate_proj.weight": gate,
            other + "mlp.up_proj.weight": up,
            other + "mlp.down_proj.weight": ours[mine + "feedforward.down.weight"],
            other + "input_layernorm.weight": ours[mine + "mixer_norm.weight"],
            other + "post_attention_layernorm.weight": ours[mine + "feedforward_norm.weight"],
        }
    return theirs
