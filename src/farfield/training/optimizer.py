"""AdamW, and which weights it decays.

Decay pulls matrices towards zero, where only their direction matters behind a norm. It is kept from

    gains, biases, gates, decays    all that has one dimension: its size has a meaning
    embeddings                      a rare token's row would decay in every step and learn in few; as of the head's
                                    weights where they are the embedding's
    convolution taps                they begin as the identity
    whatever asks for it            parameters with a true attribute `_no_weight_decay`, as published state space
                                    models mark theirs
"""

from __future__ import annotations

import torch
from torch import nn

from farfield.training.options import OptimizerConfig

__all__ = ["build_optimizer", "decayed"]

TAPS = "taps"  # what mixers call the weights of a short convolution


def decayed(model: nn.Module) -> set[str]:
    """The names of the parameters that are decayed."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return {
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim > 1
        and id(parameter) not in embeddings
        and name.rpartition(".")[2] != TAPS
        and not getattr(parameter, "_no_weight_decay", False)
    }


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW in two groups, those decayed and those not. The learning rate is set anew before each step."""
    chosen = decayed(model)
    parameters = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for name, p in parameters if name in chosen], "weight_decay": config.weight_decay},
        {"params": [p for name, p in parameters if name not in chosen], "weight_decay": 0.0},
    ]
    # One kernel for all parameters; the plain form starts dozens of them for each.
    fused = all(parameter.device.type in ("cpu", "cuda") for _, parameter in parameters)
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=config.learning_rate, betas=config.betas, fused=fused
    )
