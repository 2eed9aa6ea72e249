"""What the fixture `fill` is; apart from it, since modules called conftest stand in several folders."""

from __future__ import annotations

from collections.abc import Callable

from farfield.retrieval import IngestResult

__all__ = ["Ingest"]

Ingest = Callable[..., IngestResult]
