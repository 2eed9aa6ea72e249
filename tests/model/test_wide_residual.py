"""A residual stream of float32 between layers of bfloat16."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import VOCABULARY, mapping
from neighbouring import NEIGHBOURS
from torch import Tensor

from farfield.config import read
from farfield.memory import Passages
from farfield.model import LanguageModel, ModelConfig

TOKENS = torch.randint(0, VOCABULARY, (2, 40), generator=torch.Generator().manual_seed(1))


def model_of(wide: bool, pattern: str = "attention", depth: int = 12, **more: Any) -> LanguageModel:
    """The model with weights that bfloat16 holds, in float64."""
    torch.manual_seed(3)
    given = {**mapping([pattern], depth, memory=more.pop("memory", None), wide_residual=wide), **more}
    return LanguageModel(read(ModelConfig, given)).bfloat16().double()


def logits(model: LanguageModel, dtype: torch.dtype) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.to(dtype)(TOKENS)[0]
    assert found.dtype == dtype
    return found.double()


def error_of(wide: bool, **more: Any) -> float:
    """How far the answer in bfloat16 is from that in float64."""
    truth = logits(model_of(False, **more), torch.float64)
    return float((logits(model_of(wide, **more), torch.bfloat16) - truth).square().mean().sqrt())


def test_narrow_weights_come_nearer_to_the_truth() -> None:
    """What 24 additions round away is most of the error of a narrow stream."""
    assert error_of(True) < 0.8 * error_of(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_wide_weights_answer_as_without_it(dtype: torch.dtype) -> None:
    assert torch.equal(logits(model_of(True), dtype), logits(model_of(False), dtype))


def test_a_side_network_has_the_wide_stream_too() -> None:
    memory = {"kind": "longmem", "capacity": 64, "segment": 8, "unit": 8, "top": 8}
    assert error_of(True, memory=memory) < 0.8 * error_of(False, memory=memory)


def test_passages_are_read_by_the_weights_width() -> None:
    augmentation = {**NEIGHBOURS, "layers": [0, 2]}
    model = model_of(True, depth=4, augmentation=augmentation).bfloat16()
    passages = Passages(torch.randint(0, VOCABULARY, (2, 10, 2, model.config.augmentation.length)))  # type: ignore[union-attr]
    found, state = model(TOKENS, passages=passages)
    assert found.dtype == torch.bfloat16
    assert {part.dtype for part in state.layers[-1].tensors().values() if part.is_floating_point()} == {torch.bfloat16}
