"""Digests: the same bytes for the same content, in every process and on every machine."""

from __future__ import annotations

import hashlib
import unicodedata

import numpy as np

__all__ = ["content", "digest"]


def digest(*fields: object) -> bytes:
    """16 bytes that change with any of `fields` (bytes as they are, others as text)."""
    parts = [field if isinstance(field, bytes) else str(field).encode() for field in fields]
    lengths = np.array([len(part) for part in parts], "<i8").tobytes()
    return hashlib.blake2b(lengths + b"".join(parts), digest_size=16).digest()


def content(text: str) -> bytes:
    """16 bytes that two texts share if they hold the same words in the same order.

    Only white space (how much, and of which kind) and the way in which accents are composed may differ.
    """
    return digest(" ".join((text if text.isascii() else unicodedata.normalize("NFC", text)).split()))
