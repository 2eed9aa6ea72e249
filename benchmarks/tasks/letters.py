"""Which option of a multiple choice a written answer takes: one rule a benchmark, as each was published."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = [
    "infinitebench_choice",
    "infinitebench_debug",
    "leval_choice",
    "leval_letters",
    "longbench_letter",
    "true_false",
]

LETTERS = "ABCD"


def longbench_letter(output: str) -> str:
    """LongBench v2: the letter of "The correct answer is (A)", or else without brackets; "" where it is not said."""
    text = output.replace("*", "")
    found = re.search(r"The correct answer is \(([A-D])\)", text) or re.search(r"The correct answer is ([A-D])", text)
    return found[1] if found else ""


def infinitebench_choice(output: str, letter: str, text: str) -> float:
    """InfiniteBench's longbook_choice_eng: a first letter, or what follows "answer is", or the first lone letter.

    An output without any is wrong; on an empty one the published code fails.
    """
    if output[:1] in tuple(LETTERS):
        return float(output[0] == letter)
    clean = re.sub(r" +", " ", re.sub(r"[\n\"'.,?!{}]", " ", output))
    for opening in ("answer is:", "answer:", "answer is", "option is"):
        at = clean.find(opening)
        if at >= 0:
            return float(clean[at + len(opening) + 1 :].startswith((letter, text)))
    return float(next((word for word in clean.split() if word in LETTERS), "") == letter)


def infinitebench_debug(output: str, letter: str, function: str) -> float:
    """InfiniteBench's code_debug: the letter with a stop at once, or letter or function behind "answer is:"."""
    if output[:2] in (f"{letter}.", f"{letter}:"):
        return 1.0
    clean = re.sub(r" +", " ", re.sub(r"[\n`'\"*-]|[Oo]ption", " ", output.strip()))
    for opening in ("answer is:", "is:", "answer:"):
        at = clean.find(opening)
        if at >= 0:
            return float(clean[at + len(opening) + 1 :].startswith((letter, function)))
    return 0.0


def leval_letters(output: str, several: bool = False) -> str:
    """L-Eval: the first of A to D; with `several` (coursera) all letters that stand as options, in order.

    Where no letter is found the published rule guesses A, and so does this one; an empty output has none.
    """
    if output in LETTERS:
        return output
    if not several:
        return next((sign for sign in output if sign in LETTERS), "A")
    leading = re.match(f"[{LETTERS}]*", output)
    taken = leading[0] if leading else ""
    if len(taken) > 1:
        return "".join(sorted(set(taken)))
    rest = output[len(taken) :].split("Question")[0]
    found = "".join(re.findall(r"[A-Z](?=[\s.)])", rest))
    return "".join(sorted(set(taken + re.sub(f"[^{LETTERS}]", "", found)))) or "A"


def leval_choice(output: str, answer: str, several: bool = False) -> float:
    """L-Eval's score of letters: a quarter for some of the right letters and no wrong one.

    An output without letters names no wrong one either: by the published rule it has the quarter, here it has nothing.
    """
    taken, wanted = leval_letters(output, several), re.sub(f"[^{LETTERS}]", "", answer.split()[0]) or "A"
    if taken == wanted:
        return 1.0
    return 0.25 if taken and set(taken) <= set(wanted) else 0.0


def true_false(output: str, answer: str) -> float:
    """L-Eval's sci_fi, "True [fact: False]": half for what the story says, half for what is so in the world."""
    halves = (text.lower().split("[fact:") + [""] for text in (output, answer))
    given, wanted = ([_truth(half) for half in pair[:2]] for pair in halves)
    return sum(one == other and one != "" for one, other in zip(given, wanted, strict=True)) / 2


def _truth(text: str) -> str:
    """The first of "true" and "false" that a word holds."""
    words: Sequence[str] = text.split()
    return next(("true" if "true" in word else "false" for word in words if "true" in word or "false" in word), "")
