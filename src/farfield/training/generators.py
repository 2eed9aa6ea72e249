"""The random generators of Python, NumPy and torch: seeded for a run, put into its checkpoints, and then given back.

Farfield's own data and tasks are pure functions of a seed and need none of them; weights, and whatever draws during
training, do.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

__all__ = ["capture", "restore", "seeded"]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """All generators begin from `seed` within the block, and are afterwards as they were before it."""
    before = capture()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        restore(before)


def capture() -> dict[str, Any]:
    """The generators' states as plain values and tensors."""
    _, keys, place, has_gauss, gauss = np.random.get_state(legacy=True)
    version, numbers, following = random.getstate()
    return {
        "python": {"version": version, "numbers": list(numbers), "following": following},
        "numpy": {
            "keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "place": int(place),
            "has_gauss": int(has_gauss),
            "gauss": float(gauss),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def restore(states: Mapping[str, Any]) -> None:
    """The generators as `capture` found them; those of CUDA where the same number of devices is in use."""
    python, numpy = states["python"], states["numpy"]
    random.setstate((python["version"], tuple(python["numbers"]), python["following"]))
    keys = numpy["keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, numpy["place"], numpy["has_gauss"], numpy["gauss"]))
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
