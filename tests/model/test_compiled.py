"""torch.compile: the same numbers, and for the dense and the recurrent backbone one graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import VOCABULARY, config_of, model_of
from torch._dynamo.utils import counters

from farfield.architectures.encoders import encoder_kinds
from farfield.compose import option
from farfield.config import read
from farfield.encoding import EncoderModel
from farfield.model import LanguageModel, ModelConfig


# Dynamo's own ways of tracing warn, and the tests turn warnings into errors.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("attention", True),
        ("alibi", True),
        ("retnet", True),
        ("cla", True),
        ("lckv", False),
    ],
)
def test_a_compiled_decoder_learns_the_same(name: str, whole: bool) -> None:
    compared(model_of(name))
    if whole:
        assert not counters["graph_break"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(("name", "pattern"), [("memory-above", ["retnet", "attention"]), ("summaries", ["attention"])])
def test_compiled_layers_in_segments_learn_the_same(name: str, pattern: list[str]) -> None:
    """As few layers as there can be: each is compiled anew for most of the segments."""
    mapping = config_of(name).mapping()
    architecture = {**mapping["architecture"], "pattern": pattern, "depth": len(pattern)}
    architecture["layers"] = {layer: architecture["layers"][layer] for layer in pattern}
    torch.manual_seed(3)
    compared(LanguageModel(read(ModelConfig, {**mapping, "architecture": architecture})))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", ["heavy_hitter", "infllm", "infini", "titans"])
def test_a_compiled_memory_learns_the_same(name: str) -> None:
    """Also where numbers decide what is kept and found, outside of the graph."""
    words = {
        "infllm": ["unit=4", "initial=4", "stretch=8"],
        "heavy_hitter": ["capacity=16", "recent=4"],
        "titans": ["head_width=8"],
    }
    memory = option("memory", name, ["segment=8", *words.get(name, [])])
    mapping = config_of("attention").mapping()
    torch.manual_seed(3)
    compared(LanguageModel(read(ModelConfig, {**mapping, "memory": memory})))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    ("settings", "lengths"),
    [
        ({"pattern": "bigbird", "stride": 5}, [22]),
        ({"pattern": "strided", "stride": 5, "extension": {"kind": "dual_chunk", "chunk": 9, "window": 3}}, [22, 41]),
    ],
    ids=["bigbird", "strided-extended"],
)
def test_a_compiled_pattern_learns_the_same(settings: dict[str, Any], lengths: list[int]) -> None:
    """Also where blocks are drawn and chunks begin, outside of the graph: of one length, and then of another."""
    layers = {"layer": {"mixer": {"kind": "sparse", **settings}, "feedforward": {"kind": "none"}}}
    architecture = {"width": 32, "depth": 1, "pattern": ["layer"], "layers": layers}
    torch.manual_seed(3)
    compared(LanguageModel(read(ModelConfig, {"architecture": architecture, "vocabulary": VOCABULARY})), *lengths)


def compared(model: LanguageModel, *lengths: int) -> None:
    """Loss and gradients of the model as it is and compiled; what the compiler has counted stays to be looked at."""
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(VOCABULARY, (2, length), generator=generator) for length in lengths or (22,)]

    def learnt() -> list[torch.Tensor]:
        found = []
        for tokens in texts:
            model.zero_grad()
            loss = model.loss(tokens, tokens)
            loss.total.backward()
            found += [loss.total.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]
        return found

    expected = learnt()
    torch._dynamo.reset()
    counters.clear()
    model.decoder.compile(backend="aot_eager")
    found = learnt()
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert counters["stats"]["unique_graphs"] >= 1
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
