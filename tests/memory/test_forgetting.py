"""What a memory is worth: models without theirs, and with what it holds exchanged."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import farfield
from farfield.compose import option
from farfield.config import ModelError, read
from farfield.forgetting import exchanged, without_memory
from farfield.memory.forgetting import cycles
from farfield.model import LanguageModel, ModelConfig

MEMORIES = sorted(path.stem for path in Path(farfield.__file__).parent.joinpath("configs/memory").glob("*.yaml"))
MEMORIES.remove("none")
# Their own weights change what a model says before anything is remembered.
WEIGHED = ("longmem", "titans")
SHORT = {"rmt": ["segment=64"], "mac": ["segment=64"], "autocompressor": ["segment=64", "spread=0"]}
UNBOUND = {"rmt", "autocompressor", "mac"}  # vectors without keys


@cache
def model(memory: str) -> LanguageModel:
    """A small model with fresh weights, whose memory is read from the 65th token on at the latest, in float64."""
    around = "attention" if memory == "camelot" else "longformer"
    window = [] if around == "attention" else ["layers.longformer.mixer.window=64"]
    return built(around, window, memory)


def built(architecture: str, changes: list[str], memory: str) -> LanguageModel:
    """A model of two layers with segments of at most 64 tokens, and fresh weights."""
    torch.manual_seed(3)
    config = {
        "architecture": option("architecture", architecture, ["width=32", "depth=2", *changes]),
        "memory": option("memory", memory, SHORT.get(memory, [])),
        "vocabulary": 257,
    }
    return LanguageModel(read(ModelConfig, config)).double().eval()


def tokens(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(shape[-1]))


@given(st.lists(st.lists(st.booleans(), min_size=9, max_size=9), min_size=1, max_size=3), st.integers(0, 99))
def test_a_cycle_goes_through_all_valid_columns(valid: list[list[bool]], seed: int) -> None:
    order = cycles(torch.tensor(valid), seed)
    for row, there in zip(order.tolist(), valid, strict=True):
        columns = [at for at, one in enumerate(there) if one]
        fixed = [at for at in range(9) if not there[at] or len(columns) == 1]
        assert [at for at in range(9) if row[at] == at] == fixed
        seen, at = [], columns[0] if columns else 0
        for _ in columns:
            seen.append(at)
            at = row[at]
        assert sorted(seen) == columns
    # A row's order does not depend on the rows beside it.
    assert order[-1].tolist() == cycles(torch.tensor(valid[-1:]), seed)[0].tolist()


@pytest.mark.parametrize("memory", MEMORIES)
@torch.no_grad()
def test_without_a_memory_what_is_near_is_seen_as_before_and_nothing_else(memory: str) -> None:
    whole = model(memory)
    alone = without_memory(whole)
    begins = whole.config.memory_from() or 0
    text = tokens(2, begins + 90)
    if memory not in WEIGHED:
        near = begins - 1
        assert torch.allclose(alone(text[:, :near])[0], whole(text[:, :near])[0], atol=1e-9, rtol=0)
    assert not torch.allclose(alone(text)[0], whole(text)[0], atol=1e-4, rtol=0)
    # It is a model like any other: pieces are as the whole, and the state goes on.
    first, state = alone(text[:, :77])
    rest, _ = alone(text[:, 77:], state)
    assert torch.allclose(torch.cat((first, rest), 1), alone(text)[0], atol=1e-9, rtol=0)
    assert {id(weight) for weight in alone.parameters()} <= {id(weight) for weight in whole.parameters()}


@pytest.mark.parametrize("memory", [memory for memory in MEMORIES if memory != "titans"])
@torch.no_grad()
def test_full_attention_sees_the_open_segment_alone(memory: str) -> None:
    whole = built("attention", ["layers.attention.mixer.conv=0"], memory)
    segment = (whole.config.memory_from() or 0) - 1
    one, other = tokens(1, 2 * segment + 9), tokens(1, 2 * segment + 9)
    other[:, : 2 * segment] = (other[:, : 2 * segment] + 1) % 256
    near = slice(2 * segment, None)
    alone = without_memory(whole)
    assert torch.allclose(alone(one)[0][:, near], alone(other)[0][:, near], atol=1e-12, rtol=0)
    assert not torch.allclose(whole(one)[0][:, near], whole(other)[0][:, near], atol=1e-4, rtol=0)


@pytest.mark.parametrize("memory", MEMORIES)
@torch.no_grad()
def test_every_memory_is_exchanged_or_says_why_not(memory: str) -> None:
    whole = model(memory)
    begins = whole.config.memory_from() or 0
    text, question = tokens(3, begins + 90), tokens(3, 5)
    _, state = whole.hidden(text)
    if memory in UNBOUND:
        with pytest.raises(ModelError, match="its vectors are not bound to keys"):
            exchanged(whole, state, seed=0)
        return
    kept = {name: tensor.clone() for name, tensor in state.tensors().items()}
    shuffled = exchanged(whole, state, seed=0)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in state.tensors().items())
    assert shuffled.bytes == state.bytes
    changed = whole(question, shuffled)[0]
    assert not torch.allclose(changed, whole(question, state)[0], atol=1e-4, rtol=0)
    assert not torch.allclose(changed, whole(question, exchanged(whole, state, seed=1))[0], atol=1e-4, rtol=0)
    row = torch.tensor([1])
    alone = whole(question[row], exchanged(whole, state.select(row), seed=0))[0]
    assert torch.allclose(changed[row], alone, atol=1e-9, rtol=0)


def test_what_cannot_be_taken_away_or_exchanged_is_said() -> None:
    plain = farfield.build("retnet", ["width=32", "depth=2"]).model
    with pytest.raises(ModelError, match="this model has none that could be taken away"):
        without_memory(plain)
    with pytest.raises(ModelError, match="this model has none whose entries could be exchanged"):
        exchanged(plain, plain.start(1), seed=0)
    short = model("knn").hidden(tokens(1, 20))[1]
    with pytest.raises(ModelError, match="memory 'knn': read from 66 tokens on, and 20 are before the question"):
        exchanged(model("knn"), short, seed=0)
