"""What the contract suite needs of each kind: further settings, formulas, definitions of ops of its own.

EXTRA        by kind and name: settings that reach paths which the default ones do not
FORMULAS     by kind: the answer (T, D) to one document (T, D) from weights and buffers by name, see contract.dense
PLACES       by the name of a subject: layer and depth, where they are not 0 of 1
DEFINITIONS  an op, and the definition that stands for it in clauses 3 and 4, see contract.definitions
CHOICES      methods that choose, see contract.definitions
MEMORIES     by name: the kinds of mixers that a memory is put around, and its settings as a file gives them
DEPTHS       by the same name: layers that it needs, where it is not one
REMEMBERED   by the same name: the answer (T, D) of mixer and memory to one document (T, D), see contract.dense
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from contract.families import hashes, ladders, linear, prefixes, readouts, scans, segments, selections, slots

FAMILIES = (hashes, ladders, linear, prefixes, readouts, scans, segments, selections, slots)

EXTRA: dict[str, dict[str, dict[str, Any]]] = {}
FORMULAS: dict[str, Callable[..., Any]] = {}
PLACES: dict[str, tuple[int, int]] = {}
DEFINITIONS: dict[Callable[..., Any], Callable[..., Any]] = {}
CHOICES: list[tuple[type, str]] = []
MEMORIES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {}
DEPTHS: dict[str, int] = {}
REMEMBERED: dict[str, Callable[..., Any]] = {}
for family in FAMILIES:
    EXTRA |= getattr(family, "EXTRA", {})
    FORMULAS |= getattr(family, "FORMULAS", {})
    PLACES |= getattr(family, "PLACES", {})
    DEFINITIONS |= getattr(family, "DEFINITIONS", {})
    CHOICES += getattr(family, "CHOICES", [])
    MEMORIES |= getattr(family, "MEMORIES", {})
    DEPTHS |= getattr(family, "DEPTHS", {})
    REMEMBERED |= getattr(family, "REMEMBERED", {})
