"""`farfield models`: what can be chosen, with one line each and what it costs.

Costs are computed from the settings, nothing is built: weights, bytes of one row's state and work of decoding one token
after so many tokens, for float32 and a vocabulary of bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from farfield.architectures.decoder import DecoderConfig
from farfield.benchmarks.settings import NeedleSuite
from farfield.compose import compose, option
from farfield.config import read
from farfield.memory import MemoryConfig
from farfield.model import ModelConfig
from farfield.usage import options

__all__ = ["models"]

LENGTHS = (4096, 131072)
VOCABULARY = 257
HOST = "attention"  # the architecture around which memories are told


def models() -> dict[str, Any]:
    """Architectures, encoders, memories and suites, by the names that the command line takes."""
    found: dict[str, Any] = {
        "architectures": [_architecture(name, text) for name, text in options("architecture").items()],
        "encoders": [],
        "memories": [_memory(name, text) for name, text in options("memory").items() if name != "none"],
        "suites": [_suite(name, text) for name, text in options("suite").items()],
    }
    return {**found, "text": _text(found)}


def _architecture(name: str, text: str) -> dict[str, Any]:
    config = read(DecoderConfig, option("architecture", name), "architecture")
    mixers = {config.layers[layer].mixer.kind: config.layers[layer].mixer for layer in config.pattern}
    return {
        "name": name,
        "summary": text,
        "pattern": list(config.pattern),
        "mixers": sorted(mixers),
        "forms": {kind: mixer.form for kind, mixer in mixers.items()},
        "sources": {kind: mixer.source for kind, mixer in mixers.items()},
        "width": config.width,
        "depth": config.depth,
        **_costs(ModelConfig(architecture=config, vocabulary=VOCABULARY)),
    }


def _memory(name: str, text: str) -> dict[str, Any]:
    host = read(DecoderConfig, option("architecture", HOST), "architecture")
    memory = read(MemoryConfig, option("memory", name), "memory")
    declared = {"causal": memory.causal, "split_exact": memory.split_exact, "row_independent": memory.row_independent}
    costs = _costs(ModelConfig(architecture=host, memory=memory, vocabulary=VOCABULARY))
    return {"name": name, "summary": text, "around": HOST, **declared, **costs}


def _suite(name: str, text: str) -> dict[str, Any]:
    suite = read(NeedleSuite, compose("evaluate", [f"suite={name}", "model=none"])["suite"], "suite")
    cells = len(suite.lengths) * len(suite.places())
    samples = cells * suite.samples
    return {"name": name, "summary": text, "lengths": list(suite.lengths), "cells": cells, "samples": samples}


def _costs(model: ModelConfig) -> dict[str, Any]:
    return {
        "parameters": model.parameters(),
        "state_bytes": {str(length): model.state_bytes(length) for length in LENGTHS},
        "flops_per_token": {str(length): model.flops(length) for length in LENGTHS},
    }


def _text(found: Mapping[str, list[dict[str, Any]]]) -> str:
    """The same for a person, in the width of a terminal."""
    lines = []
    width = max(len(one["name"]) for one in found["architectures"]) + 2
    for group, key in (("architectures", "architecture"), ("memories", "memory")):
        lines.append(f"{group} ({key}=name)")
        for one in found[group]:
            around = f" around {one['around']}" if "around" in one else ""
            lines += [f"  {one['name']:<{width}}{one['summary']}", f"  {'':<{width}}{_cost_line(one)}{around}"]
            lines += [f"  {'':<{width}}{_form_line(one)}"] if "pattern" in one else []
        lines.append("")
    lines += ["encoders", "  none yet", "", "suites (suite=name)"]
    for one in found["suites"]:
        lines += [
            f"  {one['name']:<{width}}{one['summary']}",
            f"  {'':<{width}}{one['cells']} cells, {one['samples']:,} samples",
        ]
    return "\n".join([*lines, "", "State and work are those of one row after 4k and after 128k tokens, in float32."])


def _form_line(one: Mapping[str, Any]) -> str:
    """The pattern where there is one, and how each mixer is trained."""
    pattern = f"{', '.join(one['pattern'])}: " if len(one["pattern"]) > 1 else ""
    return pattern + "; ".join(f"{form} ({one['sources'][kind]})" for kind, form in one["forms"].items())


def _cost_line(one: Mapping[str, Any]) -> str:
    states = [_scaled(value, 1024, ("Ki", "Mi", "Gi")) + "B" for value in one["state_bytes"].values()]
    work = [_scaled(value, 1000, ("k", "M", "G", "T")) + "FLOP" for value in one["flops_per_token"].values()]
    weights = _scaled(one["parameters"], 1000, ("k", "M", "G", "T"))
    return f"{weights} weights, state {' to '.join(states)}, {' to '.join(work)} a token"


def _scaled(value: float, step: int, units: tuple[str, ...]) -> str:
    """A number with three digits and its unit: 1.5 M."""
    unit = ""
    for bigger in units:
        if value < step:
            break
        value, unit = value / step, bigger
    return f"{value:.3g} {unit}"
