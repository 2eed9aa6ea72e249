"""What is measured one layer at a time: a mixer or an encoder of ours with settings that its peers can be given too.

Sizes that peers fix are told in their modules: a window of 256 tokens before a token's own (to each side in encoders),
16 global tokens, blocks of 64, 256 rows of Linformer, state spaces of 16 (Mamba) and 128 (Mamba-2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from farfield.architectures import Rows, build_mixer
from farfield.architectures.encoders import build_encoder
from farfield.benchmarks.peers import Decoder, Layer, Sizes

__all__ = ["CASES", "Case", "layer"]

Settings = Callable[[Sizes], Mapping[str, Any]]


@dataclass(frozen=True)
class Case:
    """A layer of ours by its settings, and in a few words what it computes."""

    told: str
    settings: Settings
    encoder: bool = False


def _plain(kind: str, **settings: Any) -> Settings:
    return lambda sizes: {"kind": kind, "heads": sizes.heads, **settings}


CASES: dict[str, Case] = {
    "attention": Case("softmax over all that is before", _plain("attention")),
    "window": Case("softmax over 256 tokens before", _plain("longformer", window=256)),
    "longformer": Case("a window of 256 and 16 global tokens", _plain("longformer", window=256, globals=16)),
    "dilated": Case(
        "LongNet's segments of 256, 512, 1024 at rates 1, 2, 4",
        _plain("dilated", branches=[[256, 1], [512, 2], [1024, 4]]),
    ),
    "strided": Case("a band and a comb of 64", _plain("sparse", pattern="strided", stride=64)),
    "fixed": Case("blocks of 64 and summaries of 2", _plain("sparse", pattern="fixed", stride=64)),
    "bigbird": Case(
        "blocks of 64: window, 64 globals, 3 random",
        _plain("sparse", pattern="bigbird", stride=64, globals=64, random=3),
    ),
    "s2": Case("LongLoRA's groups of 1024, half of the heads shifted", _plain("s2", group=1024)),
    "reformer": Case("newest 64 tokens of a bucket, two rounds", _plain("reformer", buckets=16, rounds=2, window=64)),
    "linformer": Case("segments of 64 through 16 rows", _plain("linformer", segment=64, rows=16)),
    "retnet": Case("retention, values twice as wide as keys", _plain("retnet", value_ratio=2)),
    "retnet_narrow": Case("retention, values as wide as keys", _plain("retnet", value_ratio=1)),
    "lightning": Case("linear attention with a decay a head", _plain("lightning")),
    "performer": Case("266 random features a head of 64", _plain("performer", position="none")),
    "gated_deltanet": Case("the gated delta rule, values twice as wide", _plain("gated_deltanet", value_ratio=2)),
    "mamba": Case("a selective scan, 16 states a channel", lambda sizes: {"kind": "mamba"}),
    "mamba2": Case("state space duality, state 128", lambda sizes: {"kind": "mamba2", "heads": 2 * sizes.heads}),
    "gss": Case(
        "a long convolution, 512 states", lambda sizes: {"kind": "gss", "state": 512, "channels": sizes.width // 4}
    ),
    "attention_encoder": Case("softmax over all", _plain("attention"), encoder=True),
    "longformer_encoder": Case(
        "256 tokens to each side and 16 global", _plain("longformer", window=256, globals=16), encoder=True
    ),
    "bigbird_encoder": Case(
        "blocks of 64: window, 64 globals, 3 random", _plain("bigbird", block=64, globals=64, random=3), encoder=True
    ),
    "reformer_encoder": Case(
        "chunks of 64 by bucket, two rounds", _plain("reformer", buckets=16, rounds=2, chunk=64), encoder=True
    ),
    "linformer_encoder": Case(
        "256 learned rows",
        lambda sizes: {
            "kind": "linformer",
            "heads": sizes.heads,
            "rows": 256,
            "length": sizes.length,
            "position": "none",
        },
        encoder=True,
    ),
    "performer_encoder": Case("266 random features a head of 64", _plain("performer", position="none"), encoder=True),
}
"""By name: the mixers, then the encoders."""


def _fresh(x: Tensor) -> Rows:
    """Every row of `x` (B, T, D) one whole document."""
    return Rows.fresh_documents(x.shape[0], x.shape[1], x.device)


def layer(case: Case, sizes: Sizes) -> Layer:
    """Our layer of a case, with fresh weights."""
    settings = case.settings(sizes)
    if case.encoder:
        encoder = build_encoder(settings, sizes.width)
        return Layer(encoder, lambda x: encoder.encode(x, _fresh(x)))
    mixer = build_mixer(settings, sizes.width)

    def read(x: Tensor) -> Any:
        state = mixer(x, _fresh(x), mixer.start(x.shape[0]))[1]
        return state, x.shape[1]

    def step(x: Tensor, state: Any) -> tuple[Tensor, Any]:
        kept, tokens = state
        out, kept = mixer(x, Rows.at(torch.full(x.shape[:2], tokens, device=x.device)), kept)
        return out, (kept, tokens + 1)

    def forward(x: Tensor) -> Tensor:
        out: Tensor = mixer(x, _fresh(x), mixer.start(x.shape[0]))[0]
        return out

    return Layer(mixer, forward, Decoder(read, step))
