"""The settings of every suite, told apart by `kind`. A new suite is added to `Suite`, with a file in configs/suite."""

from __future__ import annotations

from typing import TypeAlias

from farfield.benchmarks.suites.needle import NeedleSuite

__all__ = ["Suite"]

Suite: TypeAlias = NeedleSuite
