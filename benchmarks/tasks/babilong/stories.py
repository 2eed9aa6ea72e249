"""Stories of bAbI, from its files: facts in order, a question, and which facts answer it.

    1 Mary moved to the bathroom.             a fact
    2 John went to the hallway.
    3 Where is Mary?    bathroom    1         a question, its answer, the numbers of the facts that support it
    4 Daniel went back to the hallway.        the story goes on: the next question has all facts so far, no questions
    1 ...                                     the next story

Every question is a story of its own, as in BABILong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from farfield.config import DataError

__all__ = ["LABELS", "Story", "find_stories", "read_stories"]

PLACES = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
TRUTH = ("no", "yes")
WAYS = tuple(f"{one},{other}" for one in "nesw" for other in "nesw" if one + other not in ("ns", "sn", "ew", "we"))
# What an answer can be, task by task, as BABILong's metrics.py has it.
LABELS: dict[str, tuple[str, ...]] = {
    "qa1": PLACES,
    "qa2": PLACES,
    "qa3": PLACES,
    "qa4": PLACES,
    "qa5": ("Bill", "Fred", "Jeff", "Mary", "apple", "football", "milk"),
    "qa6": TRUTH,
    "qa7": ("none", "one", "two", "three"),
    "qa8": ("apple", "football", "milk", "nothing"),
    "qa9": TRUTH,
    "qa10": ("maybe", "no", "yes"),
    "qa11": PLACES,
    "qa12": PLACES,
    "qa13": PLACES,
    "qa14": ("bedroom", "cinema", "kitchen", "office", "park", "school"),
    "qa15": ("cat", "mouse", "sheep", "wolf"),
    "qa16": ("gray", "green", "white", "yellow"),
    "qa17": TRUTH,
    "qa18": TRUTH,
    "qa19": WAYS,
    "qa20": ("bedroom", "bored", "garden", "hungry", "kitchen", "thirsty", "tired"),
}


@dataclass(frozen=True)
class Story:
    """`support` are the places in `facts` of those that answer the question."""

    facts: tuple[str, ...]
    question: str
    answer: str
    support: tuple[int, ...]


def find_stories(folder: Path, task: str, kind: str) -> Path | None:
    """The file of a task, `qa1_single-supporting-fact_train.txt` or the like."""
    return next(iter(sorted(folder.rglob(f"{task}_*_{kind}.txt"))), None)


def read_stories(file: Path) -> list[Story]:
    """The stories of a file, one a question.

    Raises:
        DataError: it cannot be read, or a line is neither a fact nor a question.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 text: {error.reason} at byte {error.start}.") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}.") from None
    stories = list(_stories(file, lines))
    if not stories:
        raise DataError(f"{file}: no question in it.")
    return stories


def _stories(file: Path, lines: Sequence[str]) -> Iterator[Story]:
    facts: dict[int, str] = {}
    for place, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        number, _, text = line.partition(" ")
        if not number.isdigit() or not text:
            raise DataError(
                f"{file}: line {place}: a number and a sentence are needed, as '1 Mary moved to the bath.'."
            )
        if int(number) == 1:
            facts = {}
        parts = text.split("\t")
        if len(parts) == 1:
            facts[int(number)] = text.strip()
            continue
        order = list(facts)
        support = parts[2].split() if len(parts) == 3 else []
        if len(parts) != 3 or not support or not all(one.isdigit() and int(one) in facts for one in support):
            raise DataError(
                f"{file}: line {place}: a question, its answer and the numbers of facts before it are needed, "
                "separated by tabs."
            )
        places = tuple(sorted(order.index(int(one)) for one in set(support)))
        yield Story(tuple(facts.values()), parts[0].strip(), parts[1].strip(), places)
