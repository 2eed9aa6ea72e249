"""The published rules: texts within texts, without regard to case, after control characters have become line ends.

    match_all    the share of the gold texts that the output has
    match_part   1 if it has any of them

A gold number within a longer one counts: the rule is the published one, and scores are comparable with others' scores.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

__all__ = ["clean", "match_all", "match_part", "nulls"]

CONTROL = re.compile(r"[\x00-\x1f]")


def clean(output: str) -> str:
    """`output` as the rules read it."""
    return CONTROL.sub("\n", output.strip()).strip()


def match_all(output: str, gold: Sequence[str]) -> float:
    """Published as string_match_all."""
    text = clean(output).lower()
    return sum(one.lower() in text for one in gold) / len(gold)


def match_part(output: str, gold: Sequence[str]) -> float:
    """Published as string_match_part."""
    text = clean(output).lower()
    return float(any(one.lower() in text for one in gold))


def nulls(outputs: Iterable[str]) -> int:
    """How many outputs say nothing: a sign that something is wrong with the model or its prompts."""
    return sum(not clean(output) for output in outputs)
