"""What is asked of models, how, and what comes of it: suites, runner, subjects, report, speed.

The work of the commands is imported when it is first used: settings are read without torch's weight.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from farfield.benchmarks.commands import evaluate, evaluate_together, report_command
    from farfield.benchmarks.speed import speed

__all__ = ["evaluate", "evaluate_together", "report_command", "speed"]

_HOMES = {
    "evaluate": "commands",
    "evaluate_together": "commands",
    "report_command": "commands",
    "speed": "speed",
}


def __getattr__(name: str) -> object:
    """`farfield.benchmarks.<name>`, imported at its first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'farfield.benchmarks' has no attribute '{name}'")
    return getattr(import_module(f"farfield.benchmarks.{_HOMES[name]}"), name)
