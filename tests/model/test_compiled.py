"""torch.compile: the same numbers, and for the dense and the recurrent backbone one graph."""

from __future__ import annotations

import pytest
import torch
from models import VOCABULARY, model_of
from torch._dynamo.utils import counters

from farfield.architectures.encoders import encoder_kinds
from farfield.config import read
from farfield.encoding import EncoderModel
from farfield.model import ModelConfig


# Dynamo's own ways of tracing warn, and the tests turn warnings into errors.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("attention", True),
        ("alibi", True),
        ("retnet", True),
        ("memory-above", False),
        ("cla", True),
        ("lckv", False),
        ("summaries", False),
    ],
)
def test_a_compiled_decoder_learns_the_same(name: str, whole: bool) -> None:
    model = model_of(name)
    tokens = torch.randint(VOCABULARY, (2, 40), generator=torch.Generator().manual_seed(0))

    def learnt() -> list[torch.Tensor]:
        model.zero_grad()
        loss = model.loss(tokens, tokens)
        loss.total.backward()
        return [loss.total.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]

    expected = learnt()
    torch._dynamo.reset()
    counters.clear()
    model.decoder.compile(backend="aot_eager")
    found = learnt()
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert counters["stats"]["unique_graphs"] >= 1
    if whole:
        assert not counters["graph_break"]
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("kind", encoder_kinds())
def test_a_compiled_encoder_learns_the_same(kind: str) -> None:
    """Also where what hashes and lengths decide stays outside of the graph."""
    layers = {"layer": {"mixer": {"kind": kind, "heads": 4}, "feedforward": {"kind": "gelu"}}}
    architecture = {"bidirectional": True, "width": 32, "depth": 2, "pattern": ["layer"], "layers": layers}
    model = EncoderModel(read(ModelConfig, {"architecture": architecture, "vocabulary": VOCABULARY}))
    tokens = torch.randint(VOCABULARY, (2, 70), generator=torch.Generator().manual_seed(0))
    positions = torch.cat((torch.arange(40), torch.arange(25), torch.full((5,), -1))).expand(2, -1)

    def learnt() -> list[torch.Tensor]:
        loss = model.loss(tokens, tokens, positions=positions)
        return [loss.total.detach(), *torch.autograd.grad(loss.total, list(model.parameters()))]

    expected = learnt()
    torch._dynamo.reset()
    model.stack.compile(backend="aot_eager")
    for ours, theirs in zip(learnt(), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()
