"""A memory around mixers whose positions are xPos's or ALiBi's: what they see of far tokens, it sees."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contract.runs import assert_close, cut, in_calls, positions_of, sample, through, whole
from test_key_value_memory import EVERYTHING, WIDTH, assert_equal, mixer_of, remembering, unwrapped

from farfield.architectures import Rows

POSITIONS: dict[str, dict[str, Any]] = {
    "alibi": {"position": "alibi"},
    "xpos": {"position": "xpos"},
    "xpos-in-pieces": {"position": "xpos", "scale_base": 2},
}


@pytest.mark.parametrize("size", [1, 63, 200])
@pytest.mark.parametrize("kind", ["attention", "longformer"])
@pytest.mark.parametrize("name", POSITIONS)
def test_with_room_for_everything_attention_is_full(name: str, kind: str, size: int) -> None:
    """At original positions, in values and gradients, whatever the near field, in any calls, packed and padded."""
    near = mixer_of(kind, kv_heads=2, **POSITIONS[name], **({"window": 7} if kind == "longformer" else {}))
    full = mixer_of("attention", kv_heads=2, **POSITIONS[name])
    full.load_state_dict(near.state_dict())
    memory = remembering(near, segment=5, **EVERYTHING)
    rows = ("10 3 -2 5", "20", "-20") if size == 1 else ("130", "-3 63 1 1 62", "100 30")
    calls = cut(positions_of(*rows), [size])
    x, cotangent = sample(3, torch.cat(calls, 1).shape[1], WIDTH, torch.float64)
    assert_equal(unwrapped(in_calls(memory, x, cotangent, calls)), in_calls(full, x, cotangent, calls))


@pytest.mark.parametrize("name", POSITIONS)
def test_without_positions_the_memory_knows_no_distance(name: str) -> None:
    """Tokens between change nothing: what is remembered weighs as much from afar."""
    memory = remembering(mixer_of("attention", **POSITIONS[name]), segment=5, capacity=1000, top=5)
    x, _ = sample(1, 60, WIDTH, torch.float64)
    best = x[:, :5] * 100
    answers = []
    for between in (5, 45):
        tokens = torch.cat((best, 1e-6 * x[:, :between], x[:, -5:]), 1)
        with torch.no_grad():
            answers.append(through(memory, tokens, whole(1, tokens.shape[1]))[0][:, -5:])
    assert_close(answers[1], answers[0], 1e-4)


@pytest.mark.parametrize("name", POSITIONS)
def test_far_from_the_documents_start(name: str) -> None:
    """Float32 at positions of a million: finite, and as float64 says."""
    memory = remembering(mixer_of("longformer", window=7, **POSITIONS[name]), segment=5, **EVERYTHING)
    x, _ = sample(2, 60, WIDTH, torch.float32)
    calls = [call + 1_000_000 for call in cut(whole(2, 60)[0], [40, 1, 19])]

    def answered(dtype: torch.dtype) -> torch.Tensor:
        mixer, outputs, at = memory.to(dtype), [], 0
        state = mixer.start(2)
        with torch.no_grad():
            for positions in calls:
                y, state = mixer(x[:, at : at + positions.shape[1]].to(dtype), Rows.at(positions), state)
                outputs.append(y)
                at += positions.shape[1]
        return torch.cat(outputs, 1)

    assert_close(answered(torch.float32), answered(torch.float64), 1e-5)
