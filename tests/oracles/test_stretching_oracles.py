"""Parity of stretched rotary frequencies with transformers', where it is installed (the extra `oracles`)."""

from __future__ import annotations

from typing import Any

import pytest
from parity import Parity
from theirs import installed

from farfield.architectures.stretching import Interpolation, Llama3, Scaling, YaRN

WIDTH, BASE = 16, 10000.0
FLOAT32_FREQUENCIES = 1e-6  # theirs are float32
SHORT = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 6}
LONG = {**SHORT, "original_max_position_embeddings": 4096}
CROSSED = ("short", "short-whole", "base-3", "base-1.5", "base-0.5")  # where the blend would end before it begins


@pytest.mark.parity("rotary scaling", "transformers' modeling_rope_utils")
@pytest.mark.parametrize(
    ("scaling", "theirs"),
    [
        (Interpolation(factor=8), {"rope_type": "linear", "factor": 8.0}),
        (YaRN(factor=4, trained=512), {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}),
        (
            YaRN(factor=8, trained=64, fast=8, slow=2, temperature=1.5, whole=False),
            {
                "rope_type": "yarn",
                "factor": 8.0,
                "original_max_position_embeddings": 64,
                "beta_fast": 8.0,
                "beta_slow": 2.0,
                "attention_factor": 1.5,
                "truncate": False,
            },
        ),
        *((YaRN(factor=4, trained=6, whole=whole), {**SHORT, "truncate": whole}) for whole in (False, True)),
        *((YaRN(factor=4, trained=4096), {**LONG, "rope_theta": base}) for base in (3.0, 1.5, 0.5)),
        (
            Llama3(factor=8, trained=512),
            {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 512,
            },
        ),
    ],
    ids=["linear", "yarn", "yarn-own", *(f"yarn-{ends}" for ends in CROSSED), "llama3"],
)
def test_frequencies_are_transformers(parity: Parity, scaling: Scaling, theirs: dict[str, Any]) -> None:
    rope = installed("transformers.modeling_rope_utils")
    llama = installed("transformers.models.llama.configuration_llama")
    config = llama.LlamaConfig(
        hidden_size=4 * WIDTH,
        num_attention_heads=4,
        max_position_embeddings=4096,
        rope_parameters={"rope_theta": BASE, **theirs},
    )
    frequency, factor = rope.ROPE_INIT_FUNCTIONS[theirs["rope_type"]](config)
    parity.close(scaling.frequencies(WIDTH, theirs.get("rope_theta", BASE)), frequency.double(), FLOAT32_FREQUENCIES)
    assert scaling.sharpness == pytest.approx(factor**2)
