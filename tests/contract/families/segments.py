"""Softmax attention over parts of a document: dilated, shifted, sparse, projected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

EXTRA: dict[str, dict[str, dict[str, Any]]] = {}

FORMULAS: dict[str, Callable[..., Any]] = {}

DEFINITIONS: dict[Callable[..., Any], Callable[..., Any]] = {}
