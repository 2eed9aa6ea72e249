"""Farfield in lm-evaluation-harness: our models as a model of theirs, our suites as tasks of theirs.

    python -m farfield.harness run --model farfield --model_args path=runs/retnet --tasks lambada_openai
    python -m farfield.harness run --model farfield --model_args path=runs/retnet --tasks farfield_needle

The first is lm-eval's own command line: it finds models in its registry alone, so ours is entered there before it is
handed the words. lm-eval's own script reads the functions of a task's file before it looks for the model, so that a
file of ours among the tasks does the same:

    lm_eval run --model farfield --model_args path=runs/retnet --tasks <TASKS>/farfield_needle.yaml,arc_easy

What lm-eval has is not written again: its tasks run as they are, and its figures are its own.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["TASKS"]

TASKS = Path(__file__).parent / "tasks"
"""The folder of our tasks, for `--include_path`."""
