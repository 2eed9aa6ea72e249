"""Parity of prompts in windows side by side with transformers' Llama: a mask of four dimensions, repeated positions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from parity import Parity
from theirs import installed
from torch import Tensor

from farfield.config import read
from farfield.context import ParallelContext, stretched
from farfield.generation import GenerationConfig, generate, prefill
from farfield.model import LanguageModel, ModelConfig
from farfield.tokenizers import BytesTokenizer
from farfield.windows import ParallelWindows

WIDTH, INNER, HEADS, GROUPS, DEPTH = 32, 48, 4, 2, 3
VOCABULARY = BytesTokenizer().vocabulary
FLOAT32 = 1e-5  # in which their norms and their softmax are computed, whatever the weights are


def theirs() -> Any:
    """A Llama with weights that are always the same, float64."""
    llama = installed("transformers.models.llama")
    torch.manual_seed(0)
    config = llama.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        num_key_value_heads=GROUPS,
        initializer_range=0.2,
        attn_implementation="eager",
    )
    return llama.LlamaForCausalLM(config).double().eval()


def ours(llama: Any) -> LanguageModel:
    """The same in our layers."""
    layer = {
        "mixer": {"kind": "attention", "heads": HEADS, "kv_heads": GROUPS},
        "feedforward": {"kind": "swiglu", "inner": INNER},
    }
    architecture = {
        "width": WIDTH,
        "depth": DEPTH,
        "pattern": ["a"],
        "layers": {"a": layer},
        "tied": False,
        "epsilon": 1e-6,
    }
    model = LanguageModel(read(ModelConfig, {"architecture": architecture, "memory": None, "vocabulary": VOCABULARY}))
    given, found = llama.state_dict(), {}
    found["embedding.weight"], found["output.weight"] = given["model.embed_tokens.weight"], given["lm_head.weight"]
    found["decoder.norm.weight"] = given["model.norm.weight"]
    for n in range(DEPTH):
        at, from_ = f"decoder.layers.{n}", f"model.layers.{n}"
        found[f"{at}.mixer.projection.qkv.weight"] = torch.cat(
            [given[f"{from_}.self_attn.{name}_proj.weight"] for name in "qkv"]
        )
        found[f"{at}.mixer.projection.out.weight"] = given[f"{from_}.self_attn.o_proj.weight"]
        found[f"{at}.feedforward.up.weight"] = torch.cat(
            [given[f"{from_}.mlp.{name}_proj.weight"] for name in ("gate", "up")]
        )
        found[f"{at}.feedforward.down.weight"] = given[f"{from_}.mlp.down_proj.weight"]
        found[f"{at}.mixer_norm.weight"] = given[f"{from_}.input_layernorm.weight"]
        found[f"{at}.feedforward_norm.weight"] = given[f"{from_}.post_attention_layernorm.weight"]
    model = model.double()
    model.load_state_dict(found)
    return model.eval()


def expected(llama: Any, windows: list[list[int]], task: list[int], shared: int) -> Tensor:
    """Logits (T, V) of the task, in one call: windows see themselves, what they share is seen of the longest alone."""
    longest = max(range(len(windows)), key=lambda n: len(windows[n]))
    ids = [token for window in windows for token in window] + task
    phase = [n for window in windows for n in range(len(window))]
    phase += [len(windows[longest]) + n for n in range(len(task))]
    owner = [n for n, window in enumerate(windows) for _ in window] + [-1] * len(task)
    visible = torch.zeros(len(ids), len(ids), dtype=torch.bool)
    for n in range(len(ids)):
        for m in range(n + 1):
            kept = phase[m] >= shared or owner[m] in (longest, -1)
            visible[n, m] = owner[n] == owner[m] or (owner[n] == -1 and kept)
    mask = torch.zeros(len(ids), len(ids), dtype=torch.float64).masked_fill(~visible, -1e9)[None, None]
    given = {"attention_mask": mask, "position_ids": torch.tensor([phase])}
    return llama(torch.tensor([ids]), **given).logits[0, -len(task) :]  # type: ignore[no-any-return]


@pytest.mark.parity("parallel context windows", "transformers' Llama with a 4-D mask")
@pytest.mark.parametrize("shared", [0, 1], ids=["", "shared"])
@torch.no_grad()
def test_windows_side_by_side(parity: Parity, shared: int) -> None:
    llama = theirs()
    model = stretched(ours(llama), ParallelContext(window=20, task=7, shared=shared))
    prompt = torch.randint(VOCABULARY - 1, (77,), generator=torch.Generator().manual_seed(2)).tolist()
    windows, task = ParallelWindows(window=20, task=7, shared=shared).cut(prompt)
    assert len({len(window) for window in windows}) == 2
    logits, _ = prefill(model, [prompt], piece=3)
    parity.close(logits[0], expected(llama, windows, task, shared)[-1], FLOAT32)
    (answer,) = generate(model, BytesTokenizer(), [prompt], GenerationConfig(tokens=12))
    for token in answer.ids:  # greedily, each from the whole
        assert int(expected(llama, windows, task, shared)[-1].argmax()) == token
        task = [*task, token]
