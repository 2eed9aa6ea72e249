"""The cache of a transformers model, as a value: what was read before stays as it was when something is read behind it.

Layers of attention grow by concatenation, so that copies may share their tensors; recurrent layers write in place, and
are copied whole.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

__all__ = ["branch", "cache_bytes", "rows"]

GROWING = (DynamicLayer, DynamicSlidingWindowLayer)  # these very classes: what is derived from them may write in place


def branch(cache: Cache) -> Cache:
    """A cache that can be read on from, while `cache` stays as it is."""
    found = copy.copy(cache)
    found.layers = [copy.copy(layer) if type(layer) in GROWING else copy.deepcopy(layer) for layer in cache.layers]
    return found


def rows(cache: Cache, index: Tensor) -> Cache:
    """The rows `index` (n,) of `cache`, picked, repeated or in another order."""
    found = branch(cache)
    found.reorder_cache(index.long())  # type: ignore[arg-type]  # torch.LongTensor is no class of int64 tensors
    return found


def cache_bytes(cache: Cache, length: int) -> int:
    """Bytes of one row after `length` tokens, told from a `cache` of one row after some."""
    return sum(_layer_bytes(layer, length) for layer in cache.layers)


def _layer_bytes(layer: Any, length: int) -> int:
    window = getattr(layer, "sliding_window", None)
    kept = min(length, window - 1) if window else length
    grown = [tensor for name in ("keys", "values") if isinstance(tensor := getattr(layer, name, None), Tensor)]
    fixed = [
        tensor
        for name in ("conv_states", "recurrent_states")
        for tensor in dict(getattr(layer, name, None) or {}).values()
        if isinstance(tensor, torch.Tensor)
    ]
    return sum(one.nbytes // one.shape[-2] * kept for one in grown) + sum(one.nbytes for one in fixed)
