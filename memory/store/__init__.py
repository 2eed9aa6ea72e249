"""A store of states, in memory and on disk, of any model whose state is tensors: found by what they have read.

    store = StateStore(Path("sessions"))
    store.put(seed, tokens, parts)              # parts: tensors by name, in the order in which they are needed
    found = store.find(seed, prompt)            # the state that has read the longest beginning of the prompt
    found.count, found.part(0), found.part(1)   # from disk, each part is waited for while the next ones are read

A `seed` stands for the model, so that no other model's states are ever found. It knows nothing of models itself:
`farfield.sessions` keeps conversations on top of it.
"""

from __future__ import annotations

from farfield.memory.store.catalogue import Session
from farfield.memory.store.chain import token_ids
from farfield.memory.store.files import DamagedError, Part
from farfield.memory.store.policies import POLICIES, Held, Policy, ahead, victims
from farfield.memory.store.settings import StoreConfig
from farfield.memory.store.store import Found, StateStore

__all__ = [
    "POLICIES",
    "DamagedError",
    "Found",
    "Held",
    "Part",
    "Policy",
    "Session",
    "StateStore",
    "StoreConfig",
    "ahead",
    "token_ids",
    "victims",
]
