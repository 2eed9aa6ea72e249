"""What the suite of bidirectional mixers is run on: every kind in their union, with settings that reach its paths.

An encoder is handed to the functions of the causal suite as a mixer without a state, whose documents are all whole.
"""

from __future__ import annotations

from typing import Any

import torch
from contract.subjects import Subject
from torch import Tensor, nn

from farfield.architectures import Rows
from farfield.architectures.encoders import Encoder, EncoderSettings, encoder_kinds

EXTRA: dict[str, dict[str, dict[str, Any]]] = {
    "attention": {
        "grouped": {"heads": 4, "kv_heads": 2},
        "nope": {"heads": 2, "position": "none"},
        "alibi": {"heads": 6, "kv_heads": 3, "position": "alibi"},
    },
    "bigbird": {
        "grouped": {"heads": 4, "kv_heads": 2, "block": 4, "globals": 6, "random": 3},
        "random": {"heads": 2, "block": 3, "globals": 0, "random": 1, "seed": 7},
        "window": {"heads": 2, "block": 5, "globals": 1, "random": 0, "position": "none"},
        "tokens": {"heads": 4, "kv_heads": 1, "block": 1, "globals": 2, "random": 5},
        "alibi": {"heads": 6, "kv_heads": 2, "block": 4, "globals": 3, "random": 2, "position": "alibi"},
    },
    "dilated": {
        "grouped": {"heads": 4, "kv_heads": 2, "branches": ((4, 1), (8, 4))},
        "modulo": {"heads": 6, "kv_heads": 3, "branches": ((8, 2), (4, 1), (8, 4)), "offsets": "modulo"},
        "uneven": {"heads": 6, "kv_heads": 2, "branches": ((6, 3), (8, 1), (16, 4)), "position": "none"},
        "twice": {"heads": 2, "branches": ((5, 1), (5, 1), (20, 5), (1, 1))},
        "alibi": {"heads": 6, "kv_heads": 3, "branches": ((6, 3), (8, 1), (16, 4)), "position": "alibi"},
    },
    "linformer": {
        "grouped": {"heads": 4, "kv_heads": 2, "length": 300, "rows": 5},
        "apart": {"heads": 4, "kv_heads": 2, "length": 270, "rows": 7, "share": False, "position": "none"},
    },
    "longformer": {
        "window": {"heads": 2, "window": 5, "globals": 0},
        "globals": {"heads": 2, "window": 4, "globals": 3},
        "dilated": {"heads": 6, "kv_heads": 3, "window": 3, "dilation": (1, 3, 2), "globals": 2},
        "listed": {"heads": 4, "kv_heads": 1, "window": (3, 70), "globals": 70, "position": "none"},
        "alibi": {
            "heads": 6,
            "kv_heads": 3,
            "window": 3,
            "dilation": (1, 3, 2),
            "globals": 2,
            "position": "alibi",
        },
    },
    "performer": {
        "few": {"heads": 4, "count": 9, "position": "none"},
        "constant": {"heads": 2, "scaling": "constant", "position": "none", "redraw": 3},
        "relu": {"heads": 2, "features": "relu", "count": 20},
    },
    "reformer": {
        "rounds": {"heads": 4, "buckets": 6, "rounds": 3, "chunk": 5},
        "across": {"heads": 4, "buckets": 4, "rounds": 2, "chunk": 6, "across": True},
        "single": {"heads": 2, "buckets": 2, "rounds": 3, "chunk": 1, "across": True, "position": "none"},
        "alibi": {"heads": 3, "buckets": 4, "rounds": 2, "chunk": 5, "position": "alibi"},
        "alibi-across": {"heads": 4, "buckets": 6, "rounds": 3, "chunk": 4, "across": True, "position": "alibi"},
    },
}
"""By kind and name: further settings."""

PLACES = {"longformer.listed": (1, 2), "bigbird.random": (3, 4)}
"""By the name of a subject: layer and depth, where they are not 0 of 1."""


class Whole(nn.Module):
    """An encoder as a mixer that carries nothing on."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def start(self, batch: int) -> None:
        """No state."""

    def forward(self, x: Tensor, rows: Rows, state: None) -> tuple[Tensor, None]:
        return self.encoder.encode(x, rows), None


class EncoderSubject(Subject):
    """Settings of an encoder, and its place in the stack."""

    settings: EncoderSettings  # type: ignore[assignment]

    @property
    def group(self) -> str:
        return f"{self.settings.kind} encoder"  # type: ignore[attr-defined]

    def build(self, dtype: torch.dtype = torch.float64, settings: EncoderSettings | None = None) -> Whole:  # type: ignore[override]
        """The encoder with weights that are always the same, none of them at a special value."""
        torch.manual_seed(1)
        encoder = (settings or self.settings).build(self.width, self.layer, self.depth)
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter += 0.1 * torch.randn(parameter.shape)
        return Whole(encoder).to(dtype)


def _subjects() -> list[EncoderSubject]:
    found = []
    for kind, settings in encoder_kinds().items():
        found.append(EncoderSubject(f"{kind}.default", settings(), 64))
        for name, values in EXTRA.get(kind, {}).items():
            layer, depth = PLACES.get(f"{kind}.{name}", (0, 1))
            width = 4 * values["heads"]
            found.append(EncoderSubject(f"{kind}.{name}", settings(**values), width, layer=layer, depth=depth))
    return found


SUBJECTS = _subjects()
