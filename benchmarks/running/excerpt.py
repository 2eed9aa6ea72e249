"""What a reader needs of a prompt to see why an answer is wrong: the gold in its surroundings, and the prompt's end.

... the sky is blue. ⟦The secret number of dawn is 3141.⟧ The sun ... [...] What is the secret number of dawn?
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from farfield.benchmarks.tasks.sample import Ids

__all__ = ["CLOSE", "OPEN", "excerpt"]

OPEN, CLOSE = "⟦", "⟧"  # around the gold
BESIDE, END = 48, 64  # tokens on either side of a gold, and of the prompt's end
LONGEST = 256  # tokens of a gold that are shown at either end, where it is longer than both


def excerpt(prompt: Ids, gold: Sequence[tuple[int, int]], decode: Callable[[list[int]], str]) -> str:
    """The stretches of `prompt` around `gold` (first token and end of each place), each token once, and its end."""
    shown = sorted(part for low, high in gold for part in _ends(low, high))
    return " [...] ".join(_marked(prompt, low, high, shown, decode) for low, high in _stretches(len(prompt), shown))


def _ends(low: int, high: int) -> list[tuple[int, int]]:
    """A gold itself, or the begin and the end of a long one."""
    if high - low <= 2 * LONGEST:
        return [(low, high)]
    return [(low, low + LONGEST), (high - LONGEST, high)]


def _stretches(length: int, gold: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Where to look, from left to right; what touches is one."""
    wanted = [(max(0, low - BESIDE), min(length, high + BESIDE)) for low, high in gold]
    found: list[tuple[int, int]] = []
    for low, high in [*wanted, (max(0, length - END), length)]:
        if found and low <= found[-1][1]:
            found[-1] = (found[-1][0], max(high, found[-1][1]))
        else:
            found.append((low, high))
    return found


def _marked(
    prompt: Ids, low: int, high: int, gold: Sequence[tuple[int, int]], decode: Callable[[list[int]], str]
) -> str:
    parts, at = [], low
    for first, end in gold:
        if at <= first and end <= high:
            parts += [decode(prompt[at:first].tolist()), OPEN, decode(prompt[first:end].tolist()), CLOSE]
            at = end
    return "".join([*parts, decode(prompt[at:high].tolist())])
