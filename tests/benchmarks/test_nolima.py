from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from oracle import Bytes

from farfield.benchmarks.suites.longdoc import LongdocSuite
from farfield.benchmarks.tasks.longdoc.nolima import NolimaTask, nolima_tasks
from farfield.benchmarks.tasks.sample import TooShortError
from farfield.config import ConfigError, DataError, read
from farfield.tokenizers import train_bpe

BYTES = Bytes()
NAMES = ["Yuki", "Stuart", "Katie"]
# The published schema, with a needle of our own.
NEEDLE: dict[str, Any] = {
    "id": "0001",
    "reasoning_type": "world_knowledge",
    "system_prompt": "",
    "task_template": "{haystack}\n{question}",
    "needle": "Besides, {CHAR} works in the {1}.",
    "questions": {"onehop": "Who has seen {2}?", "twohop": "Who has seen {3}?"},
    "character_set": NAMES,
    "tests": {
        "T01": {"input_args": ["harbour of Oslo", "Oslo", "Norway"]},
        "T02": {"input_args": ["harbour of Turku", "Turku", "Finland"]},
    },
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    books = tmp_path / "haystack" / "rand_shuffle"
    books.mkdir(parents=True)
    for number in (1, 2):
        lines = [f"Line {line} of book {number} goes on and on." for line in range(400)]
        (books / f"rand_book_{number}.txt").write_text("\n".join(lines))
    (tmp_path / "needle_set.json").write_text(json.dumps([NEEDLE]))
    return tmp_path


def tasks(folder: Path, *names: str, tokenizer: Any = BYTES) -> list[NolimaTask]:
    return nolima_tasks(names, folder, tokenizer, None)


@pytest.mark.parametrize("depth", [0.0, 0.3, 1.0])
def test_a_needle_has_a_line_of_its_own_at_its_depth(folder: Path, depth: float) -> None:
    one, two = tasks(folder)
    assert (one.name, two.name) == ("nolima_onehop", "nolima_twohop")
    assert one.available(1024, "test") == two.available(1024, "test") == 4
    assert (one.labels, two.labels) == ({"hops": 1}, {"hops": 2})
    for sample in two.generate(0, 3000, 4, "test", depth=depth):
        text = BYTES.decode(sample.prompt.tolist())
        ((low, high),) = sample.gold
        found = re.fullmatch(r"Besides, (\w+) works in the harbour of (\w+)\.\n", text[low:high])
        assert found is not None
        assert found[1] == sample.text_answers[0]
        assert text.endswith(f"Who has seen {'Norway' if found[2] == 'Oslo' else 'Finland'}?\nAnswer:")
        assert found[2] not in text.replace(text[low:high], "")
        assert sample.depths[0] == pytest.approx(depth, abs=0.02)
        assert len(sample.prompt) + sample.budget == sample.length == 3000
        assert [BYTES.decode(ids.tolist()) for ids in sample.choices] == [f" {name}" for name in NAMES]
        assert sample.right == (NAMES.index(found[1]),)
        assert found[1] not in BYTES.decode(sample.prompts["no_context"].tolist())
        assert text[low:high] in BYTES.decode(sample.prompts["gold_only"].tolist())
        outputs = [BYTES.encode(f"It is {found[1].lower()}."), BYTES.encode("nobody")]
        assert two.score([sample, sample], outputs) == [1, 0]


def test_depths_of_one_index_share_text_and_needle(folder: Path) -> None:
    (task,) = tasks(folder, "onehop")
    rows = [task.generate(3, 2000, 4, "test", depth=depth) for depth in (0.0, 0.5, 1.0)]
    for same in zip(*rows, strict=True):
        assert len({sample.text_answers for sample in same}) == 1
        assert len({tuple(sorted(sample.prompt.tolist())) for sample in same}) == 1
    anywhere = {sample.depths for sample in task.generate(3, 2000, 4, "test")}
    assert len(anywhere) == 4


def test_both_tokenizers_fill_the_length_and_hold_the_needle(folder: Path) -> None:
    tokenizer = train_bpe(["Line of book goes on and on. Besides, Yuki works in the harbour." * 4], 300)
    (task,) = tasks(folder, "onehop", tokenizer=tokenizer)
    for sample in task.generate(0, 1024, 4, "test"):
        assert len(sample.prompt) + sample.budget == 1024
        ((low, high),) = sample.gold
        assert tokenizer.decode(sample.prompt[low:high].tolist()).startswith("Besides, ")


def test_lengths_and_splits_that_do_not_fit(folder: Path) -> None:
    (task,) = tasks(folder, "onehop")
    with pytest.raises(TooShortError, match=r"a length of 300 tokens is too short .*: \d+ is the least") as caught:
        task.check(0, 300, 1, "test")
    least = int(str(caught.value).split(": ")[-1].split(" is")[0])
    assert task.generate(0, least, 4, "test")[0].length == least
    with pytest.raises(ConfigError, match="its needles are for testing"):
        task.check(0, 4096, 1, "train")


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"needle": "no name"}, r"needle_set.json: row 1: 'needle' has no {CHAR}\."),
        ({"character_set": []}, r"row 1: 'character_set' is empty, a text or more is needed\."),
        ({"questions": 3}, r"row 1: 'questions' is a number, an object is needed\."),
        ({"tests": {"T01": {}}}, r"row 1: tests: T01: 'input_args' is missing\. Its fields: none\."),
        ({"questions": {}}, r"needle_set.json: no question of onehop or twohop in it\."),
    ],
)
def test_another_schema_is_told_by_row_and_field(folder: Path, changed: dict[str, Any], problem: str) -> None:
    (folder / "needle_set.json").write_text(json.dumps([{**NEEDLE, **changed}]))
    with pytest.raises(DataError, match=problem):
        tasks(folder)


def test_what_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    suite = read(LongdocSuite, {"benchmark": "nolima", "source": str(folder), "tasks": ["twohop"], "depths": 5})
    assert [task.name for task in suite.tasks(BYTES)] == ["nolima_twohop"]
    assert suite.places() == (0, 0.25, 0.5, 0.75, 1)
    for book in folder.rglob("*.txt"):
        book.unlink()
    with pytest.raises(DataError, match=r"has no folder rand_shuffle with books that end in \.txt\."):
        tasks(folder)
    (folder / "needle_set.json").unlink()
    with pytest.raises(DataError, match=r"has no needle_set\.json"):
        tasks(folder)
