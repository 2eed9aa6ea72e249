"""A model that is made, not trained, to recall: what it answers it can only have from what its layer reads.

Each id has a dimension of the stream of its own. The key of a token is the token before it, its query and its value are
the token itself: behind `K V ... ? K` the last K finds the V that stands behind the first.
"""

from __future__ import annotations

from typing import Any

import torch

from farfield.benchmarks.subjects.model_subject import ModelSubject
from farfield.config import read
from farfield.generation import TextModel
from farfield.model import LanguageModel, ModelConfig
from farfield.tokenizers import IdsTokenizer

__all__ = ["recaller"]


def recaller(
    memory: dict[str, Any] | None = None, window: int | None = None, vocabulary: int = 96, dtype: str = "float64"
) -> ModelSubject:
    """One layer of softmax attention, in a `window` if there is one, with `memory` around it."""
    mixer: dict[str, Any] = {"kind": "attention", "heads": 1, "conv": 2, "position": "none"}
    if window is not None:
        mixer |= {"kind": "longformer", "window": window, "globals": 0}
    layer = {"mixer": mixer, "feedforward": {"kind": "none"}}
    architecture = {"width": vocabulary, "depth": 1, "pattern": ["a"], "layers": {"a": layer}}
    model = LanguageModel(read(ModelConfig, {"architecture": architecture, "memory": memory, "vocabulary": vocabulary}))
    same = torch.eye(vocabulary)
    now, before = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    made = {
        "embedding.weight": same,
        "output.weight": same,
        "qkv.weight": torch.cat((8 * same, same, same)),
        "taps": torch.stack((now, before, now)).repeat_interleave(vocabulary, 0),
        "out.weight": 10 * same,
    }
    with torch.no_grad():
        for name, weight in model.named_parameters():
            for end, value in made.items():
                if name.endswith(end):
                    weight.copy_(value)
    model = model.to(getattr(torch, dtype)).eval()
    return ModelSubject(TextModel(model, IdsTokenizer(vocabulary)), "recaller")
