"""Solves the tasks of `ruler` from their prompts alone: writes what a model that can do them would write."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np

from farfield.benchmarks.tasks.pairs import Pairs
from farfield.benchmarks.tasks.sample import Ids

COUNTRIES, CITIES = 40, 4  # of the questions that are made here


def solve(task: str, prompt: str) -> str:
    """What follows the prompt of a text task; empty where the prompt does not say."""
    if task.startswith("niah"):
        return needles(prompt)
    return {"vt": chain, "cwe": common, "fwe": frequent, "qa_1": capital, "qa_2": twins}[task](prompt)


def needles(prompt: str) -> str:
    body, _, asked = prompt.rpartition("\nWhat ")
    found = re.match(r"(?:is|are all) the secret (\w+) of (.+) that the text above names\? The secret", asked)
    assert found is not None
    keys = re.split(r", and |, ", found[2])
    kind = found[1] if found[1].endswith("s") else f"{found[1]}s"
    values = [
        value for key in keys for value in re.findall(rf"One of the secret {kind} of {key} is: ([-0-9a-f]+)\.", body)
    ]
    return " " + ", ".join(values)


def chain(prompt: str) -> str:
    body = prompt[prompt.rindex("Follow the chain") :]
    found = re.search(r"(\d) variables have been assigned the value (\d{5}), namely:$", body)
    assert found is not None
    names: list[str] = []
    for name, value, other in re.findall(r"VAR ([A-Z]+) = (?:(\d+)|VAR ([A-Z]+))", body):
        if value == found[2] or other in names:
            names.append(name)
    assert len(names) in (0, int(found[1]))
    return "".join(f" {name}" for name in names)


def common(prompt: str) -> str:
    body = prompt[prompt.rindex("Here is a numbered list") : prompt.rindex("\nQuestion:")]
    return " ".join(word for word, _ in Counter(re.findall(r"\d+\. (\w+)", body)).most_common(10))


def frequent(prompt: str) -> str:
    body = prompt[prompt.index("most often.") + len("most often.") : prompt.rindex("\nQuestion:")]
    return " ".join(word for word, _ in Counter(re.findall(r"[a-z]{6}", body)).most_common(3))


def capital(prompt: str) -> str:
    country = re.search(r"\n\nQuestion: Which city rules (\w+)\?\nAnswer:$", prompt)
    assert country is not None
    found = re.search(rf"The city that rules {country[1]} is (\w+)\.", prompt)
    return f" {found[1]}" if found else ""


def twins(prompt: str) -> str:
    river = re.search(r"\n\nQuestion: In which year was the town on the (\w+) founded\?\nAnswer:$", prompt)
    assert river is not None
    town = re.search(rf"(\w+)\nThe town lies on the {river[1]}\.", prompt)
    year = re.search(rf"History of {town[1]}\nThe town was founded in (\d+)\.", prompt) if town else None
    return f" {year[1]}" if year else ""


def write_squad(folder: Path) -> Path:
    """A file in the schema of SQuAD 2, of articles with CITIES paragraphs; a question without an answer in each."""
    filling = "It has a harbour, a market and a wall. Many roads lead there, and most of them are old. "
    articles = [
        {
            "title": f"Land {land}",
            "paragraphs": [
                {
                    "context": f"{filling * (1 + place)}The city that rules Country{land}x{place} is "
                    f"City{land}y{place}.",
                    "qas": [
                        {
                            "question": f"Which city rules Country{land}x{place}?",
                            "answers": [{"text": f"City{land}y{place}", "answer_start": 0}] * 2,
                            "is_impossible": False,
                        },
                        {"question": f"Who rules {land}?", "answers": [], "is_impossible": True},
                    ],
                }
                for place in range(CITIES)
            ],
        }
        for land in range(COUNTRIES // CITIES)
    ]
    path = folder / "squad.json"
    path.write_text(json.dumps({"version": "v2.0", "data": articles}))
    return path


def hotpot_entries() -> list[dict[str, object]]:
    """Questions in the published schema of HotpotQA, each with two gold paragraphs and three others."""
    return [
        {
            "_id": str(number),
            "question": f"In which year was the town on the River{number}r founded?",
            "answer": str(1000 + number),
            "supporting_facts": [[f"Town{number}t", 0], [f"History of Town{number}t", 0], [f"Town{number}t", 1]],
            "context": [
                [f"Town{number}t", [f"The town lies on the River{number}r.", " It is small."]],
                *([f"Hill {number} {other}", ["A hill of no great height."] * (1 + other)] for other in range(3)),
                [f"History of Town{number}t", [f"The town was founded in {1000 + number}."]],
            ],
        }
        for number in range(COUNTRIES)
    ]


def write_hotpot(folder: Path) -> Path:
    path = folder / "hotpot.json"
    path.write_text(json.dumps(hotpot_entries()))
    return path


def solve_ids(task: str, prompt: Ids, pairs: Pairs) -> list[int]:
    """What follows the prompt of a task of ids."""
    at = int(np.flatnonzero(prompt == pairs.query)[-1])
    body, asked = prompt[:at].tolist(), prompt[at + 1 :].tolist()
    if task.startswith("niah"):
        return _bound(task, body, asked)
    if task == "vt":
        start = int(np.flatnonzero(prompt == pairs.query)[0]) + 7  # behind the example's question and answer
        names = asked
        for first, second in zip(body[start:], body[start + 1 :], strict=False):
            if second == names[-1] and first in pairs.keys:
                names = [*names, first]
        return names[1:]
    words = [(key, value) for key, value in pairwise(body) if key in pairs.keys and value in pairs.values]
    if task == "cwe":
        words = words[words_of_example(prompt, pairs) :]
    count = 10 if task == "cwe" else 3
    return [one for word, _ in Counter(words).most_common(count) for one in word]


def words_of_example(prompt: Ids, pairs: Pairs) -> int:
    """Words up to the end of the example's answer."""
    return int(np.flatnonzero(prompt == pairs.query)[0]) // 2 + 10


def _bound(task: str, body: list[int], asked: list[int]) -> list[int]:
    size = 4 if task == "niah_multikey_3" else 1
    value = 4 if task in ("niah_single_3", "niah_multikey_3") else 1
    found = []
    for key in (asked[at : at + size] for at in range(0, len(asked), size)):
        for at in range(len(body) - size):
            if body[at : at + size] == key:
                found += body[at + size : at + size + value]
    return found
