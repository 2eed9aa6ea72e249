"""States are found by what they have read: digests of token ids, block by block.

    seed ──> block 0 ──> block 1 ──> block 2 ──> rest          one digest behind each whole block,
              d1           d2          d3         whole         and one of the whole, however long

A digest stands for the seed and all tokens before it, so two texts share digests exactly as far as they are alike in
whole blocks. The seed stands for the model: its states are never another's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["BLOCK", "Ids", "chain", "shared", "token_ids", "whole"]

BLOCK = 64  # tokens
SIZE = 16  # bytes of a digest

Ids = NDArray[np.int32]


def token_ids(tokens: Sequence[int] | Ids) -> Ids:
    """Token ids as the digests take them, (tokens,) of four bytes, the least first."""
    return np.ascontiguousarray(np.asarray(tokens, dtype=np.int64).astype("<i4", casting="same_kind"))


def chain(seed: str, tokens: Ids) -> list[str]:
    """Digests behind 0, 1, 2, ... whole blocks, hexadecimal."""
    found = [_digest(b"seed", seed.encode())]
    for end in range(BLOCK, len(tokens) + 1, BLOCK):
        found.append(_digest(b"block", bytes.fromhex(found[-1]) + tokens[end - BLOCK : end].tobytes()))
    return found


def whole(links: Sequence[str], tokens: Ids, length: int) -> str:
    """The digest of the first `length` tokens, where `links` are the chain of all."""
    blocks = length // BLOCK
    return _digest(b"whole", bytes.fromhex(links[blocks]) + tokens[blocks * BLOCK : length].tobytes())


def shared(first: Ids, second: Ids) -> int:
    """How many tokens two texts begin alike with."""
    least = min(len(first), len(second))
    differ = np.flatnonzero(first[:least] != second[:least])
    return int(differ[0]) if len(differ) else least


def _digest(kind: bytes, content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=SIZE, person=kind).hexdigest()
