"""Linear attention: kinds whose state is a matrix of keys by values, with decay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

EXTRA: dict[str, dict[str, dict[str, Any]]] = {}

FORMULAS: dict[str, Callable[..., Any]] = {}

DEFINITIONS: dict[Callable[..., Any], Callable[..., Any]] = {}
