"""Golden: what a user is told whose settings of an encoder do not fit, or whose document is too long for one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from farfield.architectures import Rows
from farfield.architectures.encoders import build_encoder, encoder_kinds
from farfield.config import ConfigError, ModelError

KINDS = ", ".join(sorted(encoder_kinds()))

MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown kind": (
        {"kind": "longfomer"},
        f"mixer: unknown kind 'longfomer'. Did you mean 'longformer'? Known: {KINDS}.",
    ),
    "no kind": ({"heads": 4}, "mixer: 'kind' is missing."),
    "a key of the causal form": (
        {"kind": "attention", "heads": 4, "conv": 4},
        "mixer: unknown key 'conv'. Known: backend, base, head_width, heads, kind, kv_heads, position.",
    ),
    "heads": (
        {"kind": "attention", "heads": 3},
        "mixer.heads: 3 does not divide the width 16. Nearest that does: 2.",
    ),
    "head width": (
        {"kind": "bigbird"},
        "mixer.head_width: 32 does not divide the width 16. Nearest width: 32.",
    ),
    "heads of keys": (
        {"kind": "dilated", "heads": 4, "kv_heads": 3},
        "mixer.kv_heads: 3 does not divide the 4 heads.",
    ),
    "odd heads": (
        {"kind": "attention", "heads": 16},
        "mixer.position: rope needs heads of even width, and this one is 1 wide.",
    ),
    "odd features": (
        {"kind": "performer", "heads": 16, "count": 4},
        "mixer.position: rope needs heads of even width, and this one is 1 wide.",
    ),
    "xpos": (
        {"kind": "longformer", "heads": 4, "position": "xpos"},
        "mixer.position: unknown choice 'xpos'. Known: alibi, none, rope.",
    ),
    "a row has no place": (
        {"kind": "linformer", "heads": 4, "position": "alibi"},
        "mixer.position: unknown choice 'alibi'. Known: none, rope.",
    ),
    "no feature": (
        {"kind": "performer", "heads": 16},
        "mixer.count: null gives no feature to heads of width 1. Give a number.",
    ),
    "window": ({"kind": "longformer", "heads": 4, "window": 0}, "mixer.window: 0 given; at least 1 is needed."),
    "windows": (
        {"kind": "longformer", "heads": 4, "window": [4, 0]},
        "mixer.window: (4, 0) given; at least 1 is needed.",
    ),
    "dilation": (
        {"kind": "longformer", "heads": 4, "dilation": [1, -2]},
        "mixer.dilation: (1, -2) given; at least 1 is needed.",
    ),
    "dilations": (
        {"kind": "longformer", "heads": 2, "dilation": [1, 2, 3]},
        "mixer.dilation: 3 values for 2 heads.",
    ),
    "globals": (
        {"kind": "longformer", "heads": 2, "globals": -1},
        "mixer.globals: -1 given. Input should be greater than or equal to 0.",
    ),
    "block": (
        {"kind": "bigbird", "heads": 2, "block": 0},
        "mixer.block: 0 given. Input should be greater than or equal to 1.",
    ),
    "rate": (
        {"kind": "dilated", "heads": 4, "branches": [[8, 1], [16, 3]]},
        "mixer.branches: rate 3 does not divide the segment 16. Nearest segment: 15.",
    ),
    "no rate 1": (
        {"kind": "dilated", "heads": 4, "branches": [[8, 2]]},
        "mixer.branches: none has rate 1, so that some tokens would see nothing. Add one, as [16, 1].",
    ),
    "segment": (
        {"kind": "dilated", "heads": 4, "branches": [[0, 1]]},
        "mixer.branches: [0, 1] given; both are at least 1.",
    ),
    "rows": (
        {"kind": "linformer", "heads": 4, "length": 8, "rows": 9},
        "mixer.rows: 9 rows for documents of 8 tokens save nothing. At most 8.",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_settings_that_do_not_fit(name: str) -> None:
    settings, text = MISTAKES[name]
    with pytest.raises(ConfigError) as mistake:
        build_encoder(settings, width=16)
    assert str(mistake.value) == text


def test_a_document_that_is_too_long() -> None:
    """For Linformer, which has weights for each position. What is long by padding or by other documents is not."""
    encoder = build_encoder({"kind": "linformer", "heads": 2, "length": 5, "rows": 2}, width=8)
    assert encoder.encode(torch.randn(1, 7, 8), Rows.at(torch.tensor([[0, 1, 2, 3, 4, 0, -1]]))).isfinite().all()
    with pytest.raises(ModelError) as mistake:
        encoder.encode(torch.randn(1, 7, 8), Rows.fresh_documents(1, 7))
    assert str(mistake.value) == "a document of 7 tokens; this linformer's length allows at most 5."
