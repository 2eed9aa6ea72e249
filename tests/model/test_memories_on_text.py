"""Whole models with every memory on a text of few words, where many tokens are alike, in any split."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from farfield.benchmarks.memories.plan import WHOLE, chosen, memory_of, variants
from farfield.config import read
from farfield.memory.ties import coarse, earliest
from farfield.model import LanguageModel, ModelConfig

WORDS = 4


def model_of(name: str, kind: str, position: str, size: int) -> LanguageModel:
    mixer: dict[str, Any] = {"kind": kind, "heads": 4, "kv_heads": 2, "position": position, "conv": 0}
    if kind == "longformer":
        mixer |= {"window": 15, "globals": 0}
    architecture = {"width": 32, "depth": 2, "pattern": ["layer"], "layers": {"layer": {"mixer": mixer}}}
    memory = memory_of(variants(name, [size], 15)[0]).mapping()
    if "position" in memory and position == "none" and memory["position"] in ("first", "capped", "index", "original"):
        memory["position"] = "none"
    torch.manual_seed(0)
    mapping = {"architecture": architecture, "memory": memory, "vocabulary": WORDS}
    return LanguageModel(read(ModelConfig, mapping)).double().eval()


def text(rows: int, time: int) -> torch.Tensor:
    """Two words again and again, and now and then another."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.arange(time).expand(rows, -1) % 2
    return torch.where(torch.rand(rows, time, generator=generator) < 0.1, torch.randint(WORDS, (rows, time)), tokens)


CASES = [
    (name, kind, position)
    for name in chosen([])
    for kind, position in (("attention", "rope"), ("longformer", "none"))
    if kind == "attention" or name not in WHOLE
]


@pytest.mark.parametrize(("name", "kind", "position"), CASES)
@torch.no_grad()
def test_equal_tokens_are_chosen_alike_in_any_split(name: str, kind: str, position: str) -> None:
    model, tokens = model_of(name, kind, position, 48), text(2, 230)
    whole, _ = model(tokens)
    for size in (50, 7):
        state, found = None, []
        for piece in tokens.split(size, 1):
            y, state = model(piece, state)
            found.append(y)
        assert (torch.cat(found, 1) - whole).abs().max() < 1e-9


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_of_equal_scores_the_earliest_win(dtype: torch.dtype) -> None:
    """Differences in the last bits count for nothing, those of the fourth digit do, infinities stay."""
    noise = 1 + torch.tensor([1.0, -2.0, 0.0, 2.0]) * torch.finfo(dtype).eps * (dtype != torch.bfloat16)
    scores = torch.cat((torch.tensor([0.5, -torch.inf]), -3 * noise, torch.tensor([0.51]))).to(dtype)
    values, index = earliest(scores, 5)
    assert index.tolist() == [6, 0, 2, 3, 4]
    assert torch.equal(values, scores[index])
    assert coarse(torch.tensor([-torch.inf, torch.inf, 0.0])).tolist() == [-torch.inf, torch.inf, 0.0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("columns", [1, 5, 300])
def test_the_earliest_are_those_of_a_stable_sort(columns: int, dtype: torch.dtype) -> None:
    """Of scores of all sizes and signs, many of them equal, infinite or zeros of either sign."""
    scores = (torch.randn(3, 4, columns, dtype=torch.float64) * 10.0 ** torch.arange(-3, 6, 3)[:, None, None]).to(dtype)
    if columns > 9:
        scores[..., ::3] = scores[..., :1]
        scores[..., 4:9] = torch.tensor([-torch.inf, 0.0, -0.0, torch.inf, -torch.inf], dtype=dtype)
    for count in {1, min(7, columns), columns}:
        values, index = earliest(scores, count)
        assert torch.equal(index, coarse(scores).argsort(dim=-1, descending=True, stable=True)[..., :count])
        assert torch.equal(values, scores.gather(-1, index))
