"""Truncation against its definition: kept keys as they were computed, turned to positions that begin anew."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from farfield.architectures import KeyedMixer, Rows, build_mixer
from farfield.config import ModelError, read
from farfield.model import LanguageModel, ModelConfig
from farfield.truncation import truncated

WIDTH, PAST, KEPT, MORE = 16, 23, 9, 6
POSITIONS = ["rope", "xpos", "alibi", "none"]
KINDS: dict[str, dict[str, Any]] = {
    "attention": {"kind": "attention", "heads": 4, "kv_heads": 2},
    "convolution": {"kind": "attention", "heads": 2, "conv": 3},
    "window": {"kind": "longformer", "heads": 2, "window": 5, "dilation": [1, 2]},
    "wide window": {"kind": "longformer", "heads": 2, "window": 40},
    "local": {"kind": "sparse", "heads": 2, "pattern": "local", "stride": 4},
    "strided": {"kind": "sparse", "heads": 2, "pattern": "strided", "stride": 4},
}


def mixer_of(kind: str, position: str) -> KeyedMixer:
    torch.manual_seed(1)
    found = build_mixer({**KINDS[kind], "position": position, "scale_base": 4}, WIDTH).double()
    assert isinstance(found, KeyedMixer)
    return found


def defined(mixer: KeyedMixer, x: Tensor, kept: int) -> Tensor:
    """Outputs (B, MORE, D) of the last tokens of x (B, PAST + MORE, D), where the first PAST - kept have been dropped.

    Keys and values are projected with the whole past. The others stand at positions from 0 on, and the near field sees
    of them what it sees at such distances.
    """
    rows = Rows.fresh_documents(x.shape[0], x.shape[1])
    heads, _ = mixer.project(x, rows, mixer.start(x.shape[0]))
    keys, values = (part[:, :, PAST - kept :] for part in (heads.keys, heads.values))
    queries = heads.queries[:, :, PAST:]
    position = torch.arange(kept + MORE).expand(x.shape[0], -1)
    own = position[:, kept:]
    share = queries.shape[1] // keys.shape[1]
    q = mixer.rotate(queries, own, own)
    k = mixer.rotate(keys, position, -position).repeat_interleave(share, 1)
    scores = q @ k.transpose(-1, -2) * mixer.scale
    if mixer.slopes is not None:
        scores = scores - mixer.slopes[:, None, None] * (own[:, None, :, None] - position[:, None, None])
    seen = mixer.near(own, position)
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    return mixer.finish(weights @ values.repeat_interleave(share, 1), x[:, PAST:], Rows.at(own))


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_state_is_its_definition(kind: str, position: str) -> None:
    mixer = mixer_of(kind, position)
    x = torch.randn(2, PAST + MORE, WIDTH, dtype=torch.float64)
    rows = Rows.fresh_documents(2, PAST)
    _, state = mixer(x[:, :PAST], rows, mixer.start(2))
    cut = mixer.newest(state, KEPT, torch.full((2,), PAST - KEPT))
    outputs = []
    for step in range(MORE):  # one token, then two, then the rest
        here = slice(PAST + step, PAST + step + 1)
        y, cut = mixer(x[:, here], Rows.at(torch.full((2, 1), KEPT + step)), cut)
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, 1), defined(mixer, x, KEPT), rtol=0, atol=1e-9)


def test_rows_of_different_lengths_lose_what_is_over() -> None:
    config = {"width": 16, "depth": 2, "pattern": ["a"], "layers": {"a": {"mixer": KINDS["attention"]}}}
    model = LanguageModel(read(ModelConfig, {"architecture": config, "memory": None, "vocabulary": 11})).double()
    tokens = torch.randint(0, 11, (2, 14))
    short = torch.where(torch.arange(14) < 6, torch.arange(14), -1)
    _, both = model(tokens, positions=torch.stack((torch.arange(14), short)))
    cut = truncated(model, both, 8)
    assert cut.position.tolist() == [8, 6]
    more = torch.randint(0, 11, (2, 3))
    found, _ = model(more, cut)
    _, first = model(tokens[:1])
    _, second = model(tokens[1:, :6])
    torch.testing.assert_close(found[:1], model(more[:1], truncated(model, first, 8))[0], rtol=0, atol=1e-9)
    torch.testing.assert_close(found[1:], model(more[1:], second)[0], rtol=0, atol=1e-9)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "retnet": ({"kind": "retnet", "heads": 2}, "its state does not hold single tokens"),
    "mamba": ({"kind": "mamba"}, "its state does not hold single tokens"),
    "reformer": ({"kind": "reformer", "heads": 2}, "its state does not hold single tokens"),
    "linformer": ({"kind": "linformer", "heads": 2}, "its state does not hold single tokens"),
    "globals": ({"kind": "longformer", "heads": 2, "globals": 2}, "the 2 global positions at a document's start would"),
    "dilated": ({"kind": "dilated", "heads": 2}, "its segments are cut at fixed positions"),
    "bigbird": ({"kind": "sparse", "heads": 2, "pattern": "bigbird"}, "its segments are cut at fixed positions"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_such_meaning_is_refused_in_one_line(kind: str) -> None:
    mixer, told = REFUSED[kind]
    layers = {"a": {"mixer": KINDS["attention"]}, "b": {"mixer": mixer}}
    config = {"width": 16, "depth": 2, "pattern": ["a", "b"], "layers": layers}
    model = LanguageModel(read(ModelConfig, {"architecture": config, "memory": None, "vocabulary": 11}))
    _, state = model(torch.randint(0, 11, (1, 9)))
    with pytest.raises(ModelError) as error:
        truncated(model, state, 4)
    assert str(error.value).startswith(f"layer 1 (b): {told}")
    assert "\n" not in str(error.value)


WINDOW = {"kind": "longformer", "heads": 2, "window": 5, "globals": 0, "conv": 0}


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("position", ["none", "original", "first"])
@pytest.mark.parametrize("encoding", ["rope", "alibi", "none"])
def test_a_truncated_memory_is_one_that_read_the_newest_tokens_alone(encoding: str, position: str, rows: int) -> None:
    """Of one layer, whose keys do not depend on what is dropped; segments are counted from the first token kept."""
    layers = {"a": {"mixer": {**WINDOW, "position": encoding}}}
    config = {"width": 16, "depth": 1, "pattern": ["a"], "layers": layers}
    memory = {"kind": "key_value", "segment": 3, "capacity": 30, "top": 4, "position": position}
    model = LanguageModel(read(ModelConfig, {"architecture": config, "memory": memory, "vocabulary": 11})).double()
    tokens, more = torch.randint(0, 11, (rows, 40)), torch.randint(0, 11, (rows, 9))
    with torch.no_grad():
        lengths = [40, 17][:rows]
        column = torch.arange(40)
        positions = torch.stack([torch.where(column < length, column, -1) for length in lengths])
        _, state = model(tokens, positions=positions)
        cut = truncated(model, state, 20)
        found = []
        for token in more.split(1, 1):
            logits, cut = model(token, cut)
            found.append(logits)
        for row, length in enumerate(lengths):
            alone = torch.cat((tokens[row : row + 1, max(0, length - 20) : length], more[row : row + 1]), 1)
            expected = model(alone)[0][:, -9:]
            torch.testing.assert_close(torch.cat(found, 1)[row : row + 1], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("mixer", "memory", "told"),
    [
        (KINDS["attention"], {"segment": 4}, "without a window the open segment cannot be counted anew."),
        (WINDOW, {"segment": 4, "initial": 4}, "units and first tokens of a document cannot be counted anew."),
        (WINDOW, {"segment": 4, "keep": "sinks", "position": "index"}, "its state does not hold single"),
    ],
)
def test_a_memory_that_cannot_be_cut_says_so(mixer: dict[str, Any], memory: dict[str, Any], told: str) -> None:
    config = {"width": 16, "depth": 1, "pattern": ["a"], "layers": {"a": {"mixer": mixer}}}
    mapping = {"architecture": config, "memory": {"kind": "key_value", **memory}, "vocabulary": 11}
    model = LanguageModel(read(ModelConfig, mapping))
    with pytest.raises(ModelError) as error:
        truncated(model, model.start(1), 4)
    assert str(error.value).startswith(f"memory 'knn': {told}")


def test_nothing_to_keep_is_refused() -> None:
    config = {"width": 16, "depth": 1, "pattern": ["a"], "layers": {"a": {"mixer": KINDS["attention"]}}}
    model = LanguageModel(read(ModelConfig, {"architecture": config, "memory": None, "vocabulary": 11}))
    with pytest.raises(ModelError, match=r"^truncation: 0 tokens given, at least 1 is kept\.$"):
        truncated(model, model.start(1), 0)
