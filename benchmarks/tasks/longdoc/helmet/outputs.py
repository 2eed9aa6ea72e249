"""What HELMET takes for the answer in what was written."""

from __future__ import annotations

import re
from collections.abc import Callable

from farfield.benchmarks.tasks import scoring
from farfield.benchmarks.tasks.longdoc.data_set import Question, Rule

__all__ = ["either", "said"]


def said(output: str, opening: str) -> str:
    """The rest of the line behind the first `opening`, whatever its case, or else the first line."""
    found = re.search(rf"{re.escape(opening)}(.*)", output, re.IGNORECASE)
    line = (found[1] if found else output.split("\n")[0]).strip()
    return re.sub(rf"^{re.escape(opening)}", "", line, flags=re.IGNORECASE).strip()


def either(rule: Callable[[str, str], float], opening: str = "Answer:") -> Rule:
    """`rule` of all that was written or of what it says, over all gold answers: whichever is best."""

    def judge(output: str, question: Question) -> float:
        return max(scoring.best(rule, text, question.answers) for text in (output, said(output, opening)))

    return judge
