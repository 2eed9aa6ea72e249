"""Farfield: a research platform for long context.

    import farfield
    model = farfield.build("retnet", ["width=64", "depth=2"])     # fresh weights; overrides within `architecture`
    model = farfield.load("runs/retnet-text")                     # a run's folder, or one of Hugging Face
    logits, state = model(tokens)                                 # (batch, time) -> (batch, time, vocabulary)
    index = farfield.open_index("handbook")
    answer = farfield.ask(model, index, "Who signs for it?")
    with farfield.open_sessions("sessions", model) as sessions:   # what comes back prefills only what is new
        reply = sessions.say("alice", "Who signs for it?")

A mistake of its user is a `farfield.FarfieldError` of one line; see `farfield.config` for its kinds.

Importing this package is light: a name below brings its module, and torch with it, when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from farfield.api import build, build_encoder, load, load_encoder, open_index, save
    from farfield.config import FarfieldError
    from farfield.query import ask
    from farfield.sessions import open_sessions

__all__ = [
    "FarfieldError",
    "__version__",
    "ask",
    "build",
    "build_encoder",
    "load",
    "load_encoder",
    "open_index",
    "open_sessions",
    "save",
]

__version__ = "0.1.0"

_HOMES = {
    "FarfieldError": "farfield.config",
    "ask": "farfield.query",
    "build": "farfield.api",
    "build_encoder": "farfield.api",
    "load": "farfield.api",
    "load_encoder": "farfield.api",
    "open_index": "farfield.api",
    "open_sessions": "farfield.sessions",
    "save": "farfield.api",
}
_MODULES = ("architectures", "benchmarks", "data", "generation", "memory", "model", "retrieval", "training")


def __getattr__(name: str) -> object:
    """`farfield.<name>`, imported at its first use (PEP 562)."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _MODULES:
        return import_module(f"farfield.{name}")
    raise AttributeError(f"module 'farfield' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES])
