"""Rotary settings of a config.json, in the form of today (`rope_parameters`) and in that of before transformers 5.

    "rope_parameters": {"rope_theta": 1e6, "rope_type": "yarn", "factor": 4.0, ...}
    "rope_theta": 1e6, "rope_scaling": {"type": "yarn", "factor": 4.0, ...}

Read and written are the types default, linear, yarn and llama3; all others are refused by name.
"""

from __future__ import annotations

import math
from typing import Any

from farfield.architectures.stretching import FARTHEST, NTK, SHARPEST, TURNS, Interpolation, Llama3, Scaling, YaRN
from farfield.config import ModelError
from farfield.huggingface.given import LONGEST, Given

__all__ = ["read_rotary", "written_rotary"]

BASE = 10000.0  # where no file says
YARN = ("beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim", "truncate")
KEYS = {
    "default": (),
    "linear": ("factor",),
    "yarn": ("factor", "original_max_position_embeddings", *YARN),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
}


def read_rotary(given: Given, longest: int) -> tuple[float, Scaling | None]:
    """Base of the rotary frequencies, and how they are stretched; `longest` is max_position_embeddings.

    Raises:
        ModelError: a type that is not supported, a key that it does not have, or a value that does not fit.
    """
    given.only("partial_rotary_factor", 1)
    rope = given.within("rope_scaling" if given.values.get("rope_scaling") else "rope_parameters")
    base = given.number("rope_theta", BASE, above=0)
    if rope is None:
        return base, None
    base = rope.number("rope_theta", base, above=0)
    rope.only("partial_rotary_factor", 1)
    named = "rope_type" if rope.values.get("rope_type") is not None else "type"
    kind = rope.choice(named, tuple(KEYS), "default")
    for key in rope.values.keys() - {"rope_type", "type", "rope_theta", "partial_rotary_factor", *KEYS[kind]}:
        rope.refuse(key, f"the rope type {kind} has no such key")
    if kind == "default":
        return base, None
    factor = rope.number("factor", least=1, most=FARTHEST)
    if kind == "linear":
        return base, Interpolation(factor=factor)
    told = given if given.values.get("original_max_position_embeddings") is not None else rope
    trained = told.whole("original_max_position_embeddings", longest, most=LONGEST)
    try:
        return base, _yarn(rope, factor, trained) if kind == "yarn" else _llama3(rope, factor, trained)
    except ValueError as error:
        said = str(error).splitlines()
        raise ModelError(f"{rope.file}: {rope.path}: {' '.join(said)[:200]}") from None


def _yarn(rope: Given, factor: float, trained: int) -> YaRN:
    fast, slow = rope.number("beta_fast", 32, above=0, most=TURNS), rope.number("beta_slow", 1, least=1 / TURNS)
    if slow >= fast:
        rope.refuse("beta_slow", f"less than beta_fast = {fast:g} is needed")
    return YaRN(
        factor=factor,
        trained=trained,
        fast=fast,
        slow=slow,
        temperature=_temperature(rope, factor),
        whole=rope.flag("truncate", True),
    )


def _temperature(rope: Given, factor: float) -> float | None:
    """What queries and keys are multiplied by; None: what YaRN takes of the factor alone."""
    if rope.values.get("attention_factor") is not None:
        return rope.number("attention_factor", above=0, most=SHARPEST)
    two = rope.number("mscale", 0, least=0), rope.number("mscale_all_dim", 0, least=0)
    if not all(two):
        return None
    above, below = (0.1 * one * math.log(factor) + 1 for one in two)
    return above / below


def _llama3(rope: Given, factor: float, trained: int) -> Llama3:
    slow, fast = rope.number("low_freq_factor", above=0), rope.number("high_freq_factor", above=0)
    if slow >= fast:
        rope.refuse("low_freq_factor", f"less than high_freq_factor = {fast:g} is needed")
    return Llama3(factor=factor, trained=trained, fast=fast, slow=slow)


def written_rotary(base: float, scaling: Scaling | None, width: int) -> dict[str, Any]:
    """The `rope_parameters` of heads of `width`; stretched by NTK they are those of a larger base."""
    match scaling:
        case None:
            return {"rope_type": "default", "rope_theta": base}
        case NTK():
            return {"rope_type": "default", "rope_theta": base * scaling.factor ** (width / max(width - 2, 1))}
        case Interpolation():
            return {"rope_type": "linear", "rope_theta": base, "factor": scaling.factor}
        case YaRN():
            told = {} if scaling.temperature is None else {"attention_factor": scaling.temperature}
            return {
                "rope_type": "yarn",
                "rope_theta": base,
                "factor": scaling.factor,
                "original_max_position_embeddings": scaling.trained,
                "beta_fast": scaling.fast,
                "beta_slow": scaling.slow,
                "truncate": scaling.whole,
                **told,
            }
        case Llama3():
            return {
                "rope_type": "llama3",
                "rope_theta": base,
                "factor": scaling.factor,
                "original_max_position_embeddings": scaling.trained,
                "low_freq_factor": scaling.slow,
                "high_freq_factor": scaling.fast,
            }
    raise ModelError(f"scaling.kind: {type(scaling).__name__} has no name in a config.json.")
