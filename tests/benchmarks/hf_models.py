"""Tiny models of transformers with random weights, and a tokenizer for them, saved as any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

VOCABULARY = 260
TEMPLATE = (
    "{{ bos_token }}{% for turn in messages %}[{{ turn['role'] }}]{{ turn['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[answer]{% endif %}"
)
SIZES: dict[str, dict[str, Any]] = {
    "Llama": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
    },
    "Mistral": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "sliding_window": 9,
    },
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 96},
    "Mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
}
HEADS = {"GPT2": "GPT2LMHeadModel"}


def tiny_model(kind: str, dtype: torch.dtype = torch.float64) -> Any:
    """A model whose matrices are wide enough for mistakes to show."""
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        vocab_size=VOCABULARY, bos_token_id=257, eos_token_id=256, pad_token_id=None, **SIZES[kind]
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, HEADS.get(kind, f"{kind}ForCausalLM"))(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.normal_(std=parameter.shape[1] ** -0.5)
    return model.to(dtype).eval()


def byte_tokenizer(begin: bool = False, template: str | None = None) -> Any:
    """Bytes, an end (256) and a beginning (257), which `begin` puts before a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: at for at, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<end>", "<begin>"])
    if begin:
        backend.post_processor = processors.TemplateProcessing(single="<begin> $A", special_tokens=[("<begin>", 257)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", bos_token="<begin>")
    tokenizer.chat_template = template
    return tokenizer


def save(folder: Path, kind: str, begin: bool = False, template: str | None = None) -> Path:
    """A folder as `from_pretrained` reads it."""
    tiny_model(kind, torch.float32).save_pretrained(folder)
    byte_tokenizer(begin, template).save_pretrained(folder)
    return folder
