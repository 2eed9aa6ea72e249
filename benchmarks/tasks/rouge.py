"""ROUGE, as the two packages count it with which benchmarks were published.

    rouge_n(output, answer, 2)     of n-grams           as `rouge-score` counts (L-Eval, ZeroSCROLLS)
    rouge_l(output, answer)        of whole texts       as `rouge-score` counts
    rouge_l_sum(output, answer)    line by line         as `rouge-score` counts (InfiniteBench)
    summary_l(output, answer)      sentence by sentence, of different words, as `rouge` counts (LongBench, LooGLE)

All give (precision, recall, F1). The two packages disagree: `rouge` knows no lower case, cuts at every full stop and
counts a word once. Tests compare with both.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Rouge", "geometric_mean", "rouge_l", "rouge_l_sum", "rouge_n", "summary_l"]

OTHER = re.compile(r"[^a-z0-9]+")
EPSILON = 1e-8  # `rouge` adds it to a denominator


class Rouge(NamedTuple):
    """Shares of the output, of the answer, and their harmonic mean."""

    precision: float
    recall: float
    f1: float


def rouge_n(output: str, answer: str, n: int) -> Rouge:
    """Common n-grams of words."""
    given, wanted = (_grams(_words(text), n) for text in (output, answer))
    return _scores((given & wanted).total(), given.total(), wanted.total())


def rouge_l(output: str, answer: str) -> Rouge:
    """The longest common subsequence of the words of both texts."""
    given, wanted = _words(output), _words(answer)
    return _scores(len(_common(wanted, given, early=True)), len(given), len(wanted))


def rouge_l_sum(output: str, answer: str) -> Rouge:
    """Of each line of the answer, the words in its longest common subsequences with any of the output's lines.

    A word counts at most as often as both texts have it.
    """
    given, wanted = ([_words(line) for line in text.split("\n") if line] for text in (output, answer))
    left_given, left_wanted = (Counter(word for line in lines for word in line) for lines in (given, wanted))
    sizes = left_given.total(), left_wanted.total()
    hits = 0
    for line in wanted:
        places = sorted({place for other in given for place in _common(line, other, early=True)})
        for word in (line[place] for place in places):
            if left_given[word] and left_wanted[word]:
                hits += 1
                left_given[word] -= 1
                left_wanted[word] -= 1
    return _scores(hits, *sizes)


def summary_l(output: str, answer: str) -> Rouge:
    """The different words in longest common subsequences of any sentence with any, over the different words of each.

    Zero where a text has no sentence, where the package fails.
    """
    given, wanted = (
        [" ".join(part.split()).split(" ") for part in text.split(".") if part] for text in (output, answer)
    )
    if not given or not wanted:
        return Rouge(0.0, 0.0, 0.0)
    common = {line[place] for line in wanted for other in given for place in _common(line, other, early=False)}
    precision, recall = (len(common) / len({word for line in lines for word in line}) for lines in (given, wanted))
    return Rouge(precision, recall, 2 * precision * recall / (precision + recall + EPSILON))


def geometric_mean(output: str, answer: str) -> float:
    """Of the F1 of ROUGE-1, ROUGE-2 and ROUGE-L (L-Eval, ZeroSCROLLS)."""
    product = rouge_n(output, answer, 1).f1 * rouge_n(output, answer, 2).f1 * rouge_l(output, answer).f1
    return float(product ** (1 / 3))


def _words(text: str) -> list[str]:
    return OTHER.sub(" ", text.lower()).split()


def _grams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[at : at + n]) for at in range(len(words) - n + 1))


def _common(one: Sequence[str], other: Sequence[str], early: bool) -> list[int]:
    """The places in `one` of a longest common subsequence.

    Of several, the one that is found from the ends by stepping back in `one` (`early`) or in `other` where both do.
    """
    table = [[0] * (len(other) + 1)]
    for word in one:
        above, row, last = table[-1], [0], 0
        for column, candidate in enumerate(other):
            last = above[column] + 1 if word == candidate else max(above[column + 1], last)
            row.append(last)
        table.append(row)
    places, i, j = list[int](), len(one), len(other)
    while i and j:
        up, left = table[i - 1][j], table[i][j - 1]
        if one[i - 1] == other[j - 1]:
            i, j = i - 1, j - 1
            places.append(i)
        elif up > left or (early and up == left):
            i -= 1
        else:
            j -= 1
    return places[::-1]


def _scores(same: int, given: int, wanted: int) -> Rouge:
    if not same:
        return Rouge(0.0, 0.0, 0.0)
    return Rouge(same / given, same / wanted, 2 * same / (given + wanted))
