"""torch.compile: the same numbers, and for the dense and the recurrent backbone one graph."""

from __future__ import annotations

import pytest
import torch
from models import VOCABULARY, model_of
from torch._dynamo.utils import counters


# Dynamo's own ways of tracing warn, and the tests turn warnings into errors.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    ("name", "whole"), [("attention", True), ("alibi", True), ("retnet", True), ("memory-above", False)]
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
