"""What is asked of models, how, and what comes of it: suites, runner, subjects, report, speed.

The work of the commands is imported when it is first used: settings are read without torch's weight.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from farfield.benchmarks.commands import evaluate, evaluate_together, report_command

__all__ = ["evaluate", "evaluate_together", "report_command"]


def __getattr__(name: str) -> object:
    """`farfield.benchmarks.<name>`, imported at its first use (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'farfield.benchmarks' has no attribute '{name}'")
    return getattr(import_module("farfield.benchmarks.commands"), name)
