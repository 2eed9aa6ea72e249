"""State spaces and delta rules: kinds with a recurrence of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

EXTRA: dict[str, dict[str, dict[str, Any]]] = {}

FORMULAS: dict[str, Callable[..., Any]] = {}

DEFINITIONS: dict[Callable[..., Any], Callable[..., Any]] = {}
