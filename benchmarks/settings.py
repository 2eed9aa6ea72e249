"""The settings of every suite, told apart by `kind`. A new suite is added to `Suite`, with a file in configs/suite."""

from __future__ import annotations

from typing import TypeAlias

from farfield.benchmarks.subject_settings import EndpointConfig, HuggingFaceConfig, kind_of, url_mistake, url_name
from farfield.benchmarks.suites.needle import NeedleSuite

__all__ = ["EndpointConfig", "HuggingFaceConfig", "Suite", "kind_of", "url_mistake", "url_name"]

Suite: TypeAlias = NeedleSuite
