"""Mixers of other people: a file outside Farfield, named by its import path, trusted by an environment variable.

    layers:
      mine:
        mixer: {kind: external, path: "my_mixers:AverageConfig", settings: {rate: 0.1}}

    FARFIELD_EXTERNAL=my_mixers farfield train architecture=mine --config-dir my

A run's own settings cannot grant that trust: loading a model that somebody else has trained imports nothing of theirs
unless the person at the keyboard has named the module. docs/adding_an_architecture.md walks through one.
"""

from __future__ import annotations

import importlib
import os
from functools import cached_property
from typing import Any, Literal

from pydantic import Field

from farfield.architectures.mixer import Mixer, MixerSettings
from farfield.config import ConfigError, read

__all__ = ["TRUSTED", "ExternalConfig"]

TRUSTED = "FARFIELD_EXTERNAL"  # modules, separated by commas


class ExternalConfig(MixerSettings):
    """A mixer of another module, which the environment variable FARFIELD_EXTERNAL must name."""

    kind: Literal["external"] = "external"
    path: str = Field(pattern=r"^[\w.]+:\w+$", description="module:class of the mixer's settings")
    settings: dict[str, Any] = Field(default_factory=dict, description="what that class is given")

    def resolved(self) -> MixerSettings:
        return self._own

    @cached_property
    def _own(self) -> MixerSettings:
        module, name = self.path.split(":")
        trusted = [one.strip() for one in os.environ.get(TRUSTED, "").split(",")]
        if not any(one and (module == one or module.startswith(f"{one}.")) for one in trusted):
            raise ValueError(f"path: '{self.path}' is code from outside. If you trust it, set {TRUSTED}={module}.")
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"path: '{self.path}' cannot be imported: {error}.") from None
        if not isinstance(found, type) or not issubclass(found, MixerSettings):
            raise ValueError(f"path: '{self.path}' is no class of MixerSettings.")
        try:
            return read(found, self.settings)
        except ConfigError as error:
            raise ValueError(f"settings: {error}") from None

    def check(self, width: int) -> None:
        try:
            self._own.check(width)
        except ValueError as error:
            told = str(error)
            raise ValueError(told if told.startswith(("path:", "settings:")) else f"settings.{told}") from None

    def build(self, width: int, layer: int, depth: int) -> Mixer:
        return self._own.build(width, layer, depth)

    def parameters(self, width: int, layer: int, depth: int) -> int:
        return self._own.parameters(width, layer, depth)

    def state_bytes(self, width: int, tokens: int, layer: int, depth: int, element: int = 4) -> int:
        return self._own.state_bytes(width, tokens, layer, depth, element)

    def flops(self, width: int, tokens: int, layer: int, depth: int) -> int:
        return self._own.flops(width, tokens, layer, depth)
