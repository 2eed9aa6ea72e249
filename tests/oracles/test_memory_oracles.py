"""Parity of memories with other people's implementations: see theirs.py for their installation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from parity import FLOAT64, Parity
from theirs import installed
from torch import Tensor
from torch.nn.functional import logsigmoid

from farfield.architectures import Rows
from farfield.memory.infini import Compressed, Rule, compressive
from farfield.memory.inner_network import Learnt, Rates, regressed

SEGMENT = 8


@pytest.mark.parity("infini", "infini-transformer-pytorch")
@pytest.mark.parametrize("rule", ["linear", "delta"])
def test_infini_is_infini_transformer_pytorchs(rule: Rule, parity: Parity) -> None:
    """Its gate is that of the near field: it is handed the negative of ours."""
    theirs = installed("infini_transformer_pytorch.infini_transformer", "rotary_embedding_torch")
    memory = theirs.FastweightMemory(heads=3, use_mem_delta_rule=rule == "delta").double()
    q, k, v, near = torch.randn(4, 2, 3, 5 * SEGMENT, 6, dtype=torch.float64).requires_grad_().unbind(0)
    gate = torch.randn(3, dtype=torch.float64, requires_grad=True)
    memory.head_gates = torch.nn.Parameter(-gate.detach())
    blended, past = [], None
    for queries, keys, values, out in zip(*(x.split(SEGMENT, 2) for x in (q, k, v, near)), strict=True):
        blended.append(memory.retrieve_and_add_to_output(out, queries, past))
        past = memory.create_new_memories(keys, values, past)
    empty = torch.zeros(2, 3, 6, 7, dtype=torch.float64)
    rows = Rows.fresh_documents(2, 5 * SEGMENT)
    read, share, state = compressive(q, k, v, rows, Compressed(empty, empty), SEGMENT, rule)
    found = near + torch.sigmoid(gate)[:, None, None] * share[..., None] * (read - near)
    parity.close(state.written[..., :-1], past.kv_mem, FLOAT64)
    parity.close(state.written[..., -1], past.k_norm, FLOAT64)
    parity.outputs(found, torch.cat(blended, 2), FLOAT64, q, k, v, near)


class Named(dict[str, Tensor]):
    """What titans-pytorch uses of tensordict, which is not installed for it."""

    def apply(self, change: Callable[[Tensor], Tensor]) -> Named:
        return Named({name: change(tensor) for name, tensor in self.items()})

    def mul(self, factor: float) -> Named:
        return self.apply(lambda tensor: tensor * factor)

    def clone(self) -> Named:
        return self.apply(torch.Tensor.clone)

    def zero_(self) -> Named:
        return self.apply(torch.zeros_like)


def neural_memory(depth: int, width: int) -> Any:
    """Theirs, learning by token, gradients at the weights of the segment's start: plain networks, the published loss.

    Their default loss is a mean over dimensions; the network they default to has a norm and a residual.
    """
    titans = installed("titans_pytorch.neural_memory", "tensordict", "einx", "titans_pytorch.mac_transformer")
    titans.TensorDict = Named
    model = titans.MemoryMLP(width, depth, expansion_factor=2)
    return titans.NeuralMemory(
        width,
        chunk_size=1,
        batch_size=SEGMENT,
        model=model,
        pre_rmsnorm=False,
        mem_model_norm_add_residual=False,
        store_memory_loss_fn=lambda found, value: (found - value).square().sum(-1),
        default_step_transform_max_lr=0.3,
    ).double()


@pytest.mark.parity("titans", "titans-pytorch")
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("time", [SEGMENT - 3, 3 * SEGMENT, 3 * SEGMENT + 3])
def test_titans_is_titans_pytorchs(depth: int, time: int, parity: Parity) -> None:
    """Weights and momentum behind the last token. Theirs reads after a token is learnt, ours before its segment is."""
    width = 6
    theirs = neural_memory(depth, width)
    x = torch.randn(2, time, width, dtype=torch.float64, requires_grad=True)
    _, after = theirs(x)
    last, momentum = after.states
    told = (theirs.to_adaptive_step[0](x), theirs.to_momentum[0](x), -theirs.to_decay_factor[0](x))
    step, kept_up, kept = (each.transpose(1, 2) for each in told)
    rates = Rates(0.3 * torch.sigmoid(step), logsigmoid(kept_up), logsigmoid(kept))
    q, k, v = (project(x)[:, None] for project in (theirs.to_queries, theirs.to_keys, theirs.to_values))
    initial = tuple(theirs.memory_model_parameters)
    nothing = tuple(torch.zeros(2, *layer.shape, dtype=torch.float64) for layer in initial)
    state = Learnt(nothing, nothing, nothing)
    _, state = regressed(q, k, v, rates, Rows.fresh_documents(2, time), SEGMENT, initial, state, None)
    names = theirs.memory_model_parameter_names
    parity.outputs(
        torch.cat([layer.flatten() for layer in (*state.weights, *state.momentum)]),
        torch.cat([each.flatten() for each in (*(last[name] for name in names), *(momentum[name] for name in names))]),
        FLOAT64,
        x,
    )
