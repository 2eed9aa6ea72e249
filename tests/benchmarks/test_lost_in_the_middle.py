"""Lost in the Middle: what a prompt holds and where, the published scorers and files, and every mistake in one line."""

from __future__ import annotations

import gzip
import json
import math
import re
import uuid
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Bytes, Lookup, Numbers
from solvers import Solver, small_bpe

from farfield.benchmarks.running.results import read_result
from farfield.benchmarks.running.runner import evaluate
from farfield.benchmarks.suites.lost_in_the_middle import LostInTheMiddleSuite
from farfield.benchmarks.tasks.bm25 import Bm25
from farfield.benchmarks.tasks.found_documents import DOCUMENTS, FoundDocuments, subspan_match
from farfield.benchmarks.tasks.key_values import KEY_VALUES, KeyValues, TokenKeyValues, draw_uuids
from farfield.benchmarks.tasks.lost_files import Passage, Searched, read_records, read_searched
from farfield.benchmarks.tasks.pairs import Pairs
from farfield.benchmarks.tasks.recall.phone_book import PHONE_BOOK, PhoneBook, TextEntries
from farfield.benchmarks.tasks.sample import Sample, Split, Task, Tokenizer, TooShortError, generator, hashed
from farfield.benchmarks.tasks.scoring import normalised
from farfield.benchmarks.tasks.stories import Keyed
from farfield.benchmarks.tasks.text_needle import TextNeedle
from farfield.benchmarks.tasks.wording_file import Wording
from farfield.config import ConfigError, DataError, FarfieldError, read

SPLITS: list[Split] = ["train", "test"]
TOKENIZERS: dict[str, Tokenizer] = {"bytes": Bytes(), "bpe": small_bpe()}
DATA = Path(__file__).parents[2].parent / "shared" / "data" / "lost_in_the_middle"
KV, NQ = DATA / "kv-retrieval-75_keys.jsonl.gz", DATA / "nq-open-oracle.jsonl"
COLOURS = "red blue green white black brown amber violet silver golden".split()


@cache
def questions(count: int = 60) -> tuple[Searched, ...]:
    """Made up pages: what colour each of some harbours has painted its gate."""
    made = []
    for at in range(count):
        name, colour = f"Harbour {chr(65 + at % 26)}{at}", f"{COLOURS[at % 10]} {at}"
        text = f"The gate of {name} is {colour}. " + "Ships come and go. " * (1 + at % 4)
        made.append(Searched(question=f"what colour is the gate of {name}", answers=(f"The {colour}", "x" * 30), ctxs=(
            Passage(title=name, text=text.strip()),
        )))  # fmt: skip
    return tuple(made)


def solve(text: str) -> str:
    """The answer to a prompt, from its text alone."""
    key = re.search(r'Key: "([^"]+)"\nValue:$', text)
    if key is not None:
        found = json.loads(text[text.index("{") : text.rindex("}") + 1]) if "{" in text else {}
        return f' "{found.get(key[1], "")}"'
    name = text.rpartition("the gate of ")[2].removesuffix("\nAnswer:")
    told = re.search(rf"The gate of {name} is (\w+ \d+)\.", text)
    return f" the {told[1]}\nor not" if told else ""


def kv(tokenizer: str, **options: Any) -> KeyValues:
    return KeyValues(TOKENIZERS[tokenizer], Wording(KEY_VALUES), **options)


@cache
def documents(tokenizer: str, number: int | None = None, aware: bool = False) -> FoundDocuments:
    return FoundDocuments(TOKENIZERS[tokenizer], Wording(DOCUMENTS), questions(), "made.jsonl", number, aware)


def text_of(sample: Sample, tokenizer: str) -> str:
    return TOKENIZERS[tokenizer].decode(sample.prompt.tolist())


def gold_of(sample: Sample, tokenizer: str) -> str:
    ((low, high),) = sample.gold
    return TOKENIZERS[tokenizer].decode(sample.prompt[low:high].tolist())


def write(path: Path, lines: list[Any]) -> str:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


@pytest.mark.parametrize("scoring", ["generate", "likelihood"])
@pytest.mark.parametrize("tokenizer", list(TOKENIZERS))
def test_who_reads_answers_and_who_is_blind_does_not(scoring: str, tokenizer: str, tmp_path: Path) -> None:
    path = write(tmp_path / "nq.jsonl", [line.model_dump() for line in questions()])
    mapping = {"lengths": [1500], "depths": 2, "samples": 2, "documents": path, "scoring": scoring}
    suite = read(LostInTheMiddleSuite, {**mapping, "controls": ["no_context", "gold_only"]})
    for name, answer, wanted in (("reads", solve, 1.0), ("blind", lambda text: "none", 0.0)):
        outcome = evaluate(suite, Solver(TOKENIZERS[tokenizer], answer), tmp_path / name)
        result = read_result(outcome.path)
        assert {cell.task for cell in result.cells} == {"kv_text", "documents"}
        for cell, answers in result.cells.items():
            assert answers.score == (0.0 if cell.condition == "no_context" else wanted), cell


def test_ids_are_asked_too(tmp_path: Path) -> None:
    suite = LostInTheMiddleSuite(lengths=(23,), samples=4, controls=("no_context", "gold_only"))
    result = read_result(evaluate(suite, Lookup(Numbers()), tmp_path).path)
    for cell, answers in result.cells.items():
        assert answers.score == (0.0 if cell.condition == "no_context" else 1.0)
        assert cell.depth is None or answers.depths == [[round(cell.depth * 9) / 9]] * 4


@given(
    seed=st.integers(0, 2**30),
    length=st.integers(700, 4000),
    depth=st.one_of(st.none(), st.floats(0, 1)),
    split=st.sampled_from(SPLITS),
    tokenizer=st.sampled_from(list(TOKENIZERS)),
    aware=st.booleans(),
)
@settings(deadline=None, max_examples=25)
def test_pairs_are_a_json_object_with_the_gold_one_in_its_place(
    seed: int, length: int, depth: float | None, split: Split, tokenizer: str, aware: bool
) -> None:
    for sample in kv(tokenizer, aware=aware).generate(seed, length, 2, split, depth=depth):
        text = text_of(sample, tokenizer)
        assert len(sample.prompt) + sample.budget == sample.length <= length
        # A line and the slack are the most that stays free.
        assert length - sample.length <= len(TOKENIZERS[tokenizer].encode(f' "{uuid.UUID(int=0)}": ""')) * 2 + 16
        assert bool(sample.unfilled) == (sample.length < 0.98 * length)
        data, key = re.fullmatch(r'[^{]*(\{.*\})\n\nKey: "([-0-9a-f]+)"\nValue:', text, re.DOTALL).groups()  # type: ignore[union-attr]
        found = json.loads(data)
        lines = data[1:-1].split(",\n ")
        assert all(re.fullmatch(r'"[-0-9a-f]{36}": "[-0-9a-f]{36}"', line) for line in lines)
        assert len(lines) == len(found) >= 2
        assert (found[key],) == sample.text_answers
        assert sample.depths == (list(found).index(key) / (len(found) - 1),)
        assert depth is None or list(found).index(key) == round(depth * (len(found) - 1))
        assert f'"{key}": "{found[key]}"' in gold_of(sample, tokenizer)
        assert (key in text[: text.index("{")]) == aware
        assert all(is_of(one, split) for pair in found.items() for one in pair)
        replies = [TOKENIZERS[tokenizer].decode(choice.tolist()) for choice in sample.choices]
        assert [replies[at] for at in sample.right] == [f' "{found[key]}"']
        assert {reply.strip(' "') for reply in replies} <= set(found.values())
        assert len(set(replies)) == len(replies) == min(16, len(found))


def is_of(text: str, split: Split) -> bool:
    number = uuid.UUID(text)
    assert (number.version, str(number)) == (4, text)
    held = hashed(np.array([number.time_low]))[0] == number.int % 4
    return bool(held) == (split == "test")


def test_uuids_of_train_and_test_are_told_apart_by_themselves() -> None:
    drawn = {split: draw_uuids(generator("sample", 0), 400, split) for split in SPLITS}
    assert all(is_of(text, split) for split, texts in drawn.items() for text in texts)
    assert len({*drawn["train"], *drawn["test"]}) == 800
    assert {text[-1] for text in drawn["test"]} == set("0123456789abcdef")


@pytest.mark.parametrize("tokenizer", list(TOKENIZERS))
def test_a_fixed_number_of_pairs_and_places_of_a_row(tokenizer: str) -> None:
    task = kv(tokenizer, pairs=5)
    least = None
    with pytest.raises(ConfigError) as error:
        task.check(0, 300, 3, "test")
    said = re.fullmatch(
        r"lost_in_the_middle: a length of 300 tokens is too short for 5 pairs, the question and 100 tokens of answer: "
        r"(\d+) is the least. Give longer lengths or less to hold.",
        str(error.value),
    )
    assert said is not None
    least = int(said[1])
    task.check(0, least, 3, "test")
    rows = [task.generate(0, least, 3, "test", depth=depth) for depth in (0, 0.25, 0.5, 0.75, 1)]
    for at, row in enumerate(rows):
        for sample, first in zip(row, rows[0], strict=True):
            found = json.loads(re.search(r"\{.*\}", text_of(sample, tokenizer), re.DOTALL)[0])  # type: ignore[index]
            assert list(found.values()).index(sample.text_answers[0]) == at
            assert sample.text_answers == first.text_answers
            assert len(found) == 5
    (sample,) = task.generate(0, 4000, 1, "test", depth=0)
    assert sample.unfilled == f"{sample.length} of 4000 tokens are filled: 5 pairs are asked for"
    assert rows[1][0].prompt[: rows[1][0].gold[0][0]].tolist() == rows[2][0].prompt[: rows[1][0].gold[0][0]].tolist()


@pytest.mark.parametrize("tokenizer", list(TOKENIZERS))
@pytest.mark.parametrize("name", ["kv_text", "kv_text of five pairs", "documents", "needle", "phone_book"])
def test_the_least_length_is_the_same_at_any_length_and_holds_every_sample(name: str, tokenizer: str) -> None:
    task: Task = {
        "kv_text": lambda: kv(tokenizer, aware=True),
        "kv_text of five pairs": lambda: kv(tokenizer, pairs=5),
        "documents": lambda: documents(tokenizer),
        "needle": lambda: TextNeedle(TOKENIZERS[tokenizer], None, Keyed(4, 2)),
        "phone_book": lambda: PhoneBook(TextEntries(TOKENIZERS[tokenizer], Wording(PHONE_BOOK))),
    }[name]()
    seeds = (0,) if name == "documents" else (0, 1, 2**40)  # the questions of a file are those of the seed
    named = {least(task, seed, length) for seed in seeds for length in (10, 40, 70)}
    assert len(named) == 1
    (shortest,) = named
    assert least(task, 0, shortest - 1) == shortest
    for seed in seeds:
        task.check(seed, shortest, 60, "test")
        samples = task.generate(seed, shortest, 60, "test", depth=0.5 if task.placed else None)
        assert all(len(sample.prompt) + sample.budget <= shortest for sample in samples)


def least(task: Task, seed: int, length: int) -> int:
    """The least length that `task` names for 60 samples."""
    with pytest.raises(TooShortError) as error:
        task.check(seed, length, 60, "test")
    return int(re.findall(r"(\d+) is the least", str(error.value))[0])


@given(
    seed=st.integers(0, 2**30),
    length=st.integers(700, 6000),
    depth=st.one_of(st.none(), st.floats(0, 1)),
    tokenizer=st.sampled_from(list(TOKENIZERS)),
    aware=st.booleans(),
)
@settings(deadline=None, max_examples=25)
def test_documents_are_numbered_and_none_but_the_gold_one_answers(
    seed: int, length: int, depth: float | None, tokenizer: str, aware: bool
) -> None:
    for sample in documents(tokenizer, None, aware).generate(seed, length, 2, "test", depth=depth):
        text = text_of(sample, tokenizer)
        assert 0.98 * length <= len(sample.prompt) + sample.budget == sample.length <= length or sample.unfilled
        body, _, question = text.partition("\n\n")[2].rpartition("\n\nQuestion: ")
        found = re.findall(r"^Document \[(\d+)\]\(Title: (.*?)\) (.*)$", body, re.MULTILINE)
        assert body.count("\n") + 1 == len(found) >= 2
        assert [int(number) for number, *_ in found] == list(range(1, len(found) + 1))
        assert len({title for _, title, _ in found}) == len(found)
        holds = [normalised(sample.text_answers[0]) in normalised(told) for *_, told in found]
        assert holds.count(True) == 1
        assert sample.depths == (holds.index(True) / (len(found) - 1),)
        assert depth is None or holds.index(True) == round(depth * (len(found) - 1))
        assert gold_of(sample, tokenizer).rstrip("\n") == body.split("\n")[holds.index(True)]
        asked = question.removesuffix("\nAnswer:")
        assert any(line.question == asked and line.answers == sample.text_answers for line in questions())
        assert (asked in text.partition("\n\n")[0]) == aware
        replies = [TOKENIZERS[tokenizer].decode(choice.tolist()) for choice in sample.choices]
        assert [subspan_match(reply, sample.text_answers) for reply in replies].count(1.0) == 1
        assert [replies[at] for at in sample.right] == [f" {sample.text_answers[0]}"]
        assert len(replies) == 8


def test_prompts_in_pieces_are_the_tokens_of_their_text() -> None:
    """What is encoded apart is cut where the tokenizer cuts."""
    for task in (kv("bpe"), documents("bpe")):
        for sample in task.generate(0, 2000, 4, "test"):
            assert small_bpe().encode(text_of(sample, "bpe")) == sample.prompt.tolist()


def test_others_are_the_passages_nearest_to_the_question() -> None:
    (sample,) = documents("bytes", 4).generate(3, 4000, 1, "test", depth=1.0)
    text = text_of(sample, "bytes")
    at = next(at for at, line in enumerate(questions()) if line.answers == sample.text_answers)
    order = Bm25([f"{line.gold.title} {line.gold.text}" for line in questions()]).nearest(questions()[at].question)
    wanted = [questions()[one].gold.title for one in order if one != at][:3]
    # Colours come again after ten harbours, with other numbers: no other passage has the answer.
    assert re.findall(r"\(Title: (.*?)\)", text) == [*wanted, questions()[at].gold.title]


def test_each_question_is_asked_once() -> None:
    samples = documents("bytes", 2).generate(0, 1500, 60, "test")
    assert {sample.text_answers for sample in samples} == {line.answers for line in questions()}
    again = documents("bytes", 2).generate(0, 1600, 60, "test")
    assert [one.text_answers for one in again] == [one.text_answers for one in samples]
    with pytest.raises(ConfigError) as error:
        documents("bytes", 2).check(0, 1500, 61, "test")
    assert str(error.value) == "suite.samples: made.jsonl has 60 lines, and sample 61 is asked for."


def test_a_file_s_own_passages_come_first() -> None:
    line = questions()[0]
    others = tuple(Passage(title=f"t{at}", text="no", isgold=False) for at in range(3))
    found = line.model_copy(update={"ctxs": (others[0], line.gold, *others[1:])})
    task = FoundDocuments(Bytes(), Wording(DOCUMENTS), [found, *questions()[1:]], "made.jsonl", 4)
    texts = [text_of(sample, "bytes") for sample in task.generate(0, 2000, 60, "test", depth=0.5)]
    (text,) = (text for text in texts if text.endswith(f"{line.question}\nAnswer:"))
    assert re.findall(r"\(Title: (.*?)\)", text) == ["t0", "t1", line.gold.title, "t2"]
    few = FoundDocuments(Bytes(), Wording(DOCUMENTS), [found], "made.jsonl", 5)
    with pytest.raises(ConfigError) as error:
        few.check(0, 2000, 1, "test")
    assert str(error.value) == (
        f"lost_in_the_middle: of made.jsonl only 4 documents are for the question '{line.question}', 5 are asked for. "
        "Give fewer documents_per_prompt."
    )


@pytest.mark.parametrize(
    ("output", "answers", "score"),
    [
        (" It was the Röntgen, I think\nno", ["Wilhelm", "Röntgen"], 1),
        (" no\nRöntgen", ["Röntgen"], 0),
        ("\nRöntgen", ["Röntgen"], 0),  # the first line is empty
        (" An apple-pie!", ["the applepie"], 1),
        (" anything", ["a"], 0),  # the published rule finds an empty answer everywhere
        (" A ", ["a"], 1),
        (" anything", ["The", "anything"], 1),
        ("", ["Röntgen"], 0),
    ],
)
def test_documents_are_judged_by_the_first_line(output: str, answers: list[str], score: float) -> None:
    assert subspan_match(output, answers) == score


def test_pairs_are_judged_by_the_value_anywhere_in_the_answer() -> None:
    task = kv("bytes")
    (sample,) = task.generate(0, 700, 1, "test")
    value = sample.text_answers[0]
    outputs = [Bytes().encode(text) for text in (f"\nIt is {value.upper()}.", value[:-1], "")]
    assert task.score([sample] * 3, outputs) == [1.0, 0.0, 0.0]


@given(aware=st.booleans(), split=st.sampled_from(SPLITS), length=st.integers(9, 200), seed=st.integers(0, 2**30))
@settings(deadline=None, max_examples=40)
def test_token_mode_is_pairs_and_noise_where_there_are_no_more(
    aware: bool, split: Split, length: int, seed: int
) -> None:
    pairs = Pairs(128)
    for sample in TokenKeyValues(pairs, aware=aware).generate(seed, length, 2, split):
        prompt = sample.prompt.tolist()
        assert len(prompt) + 1 == sample.length == length
        assert sample.unfilled == ""
        key = prompt[-1]
        assert prompt[-2] == pairs.query
        assert prompt[: 2 * aware] == [pairs.query, key] * aware
        body = [one for one in prompt[2 * aware : -2] if one not in pairs.noise]
        found = dict(zip(body[::2], body[1::2], strict=True))
        assert len(found) == len(body) // 2 == min((length - 3 - 2 * aware) // 2, pairs.room(split))
        assert [found[key]] == sample.answer.tolist()
        assert prompt[slice(*sample.gold[0])] == [key, found[key]]
        assert sample.depths == (list(found).index(key) / (len(found) - 1),)
        keys, values = (np.array(list(part), dtype=np.int32) for part in (found, found.values()))
        assert pairs.within(keys, values, split).all()
        assert all(prompt[prompt.index(one, 2 * aware) + 1] == found[one] for one in found)


def test_noise_between_pairs_stands_everywhere_and_alike_at_all_depths() -> None:
    task, pairs = TokenKeyValues(Pairs(128)), Pairs(128)
    rows = [task.generate(5, 512, 1, "test", depth=depth)[0] for depth in (0.0, 0.5, 1.0)]
    noisy = [np.isin(row.prompt[:-2], pairs.noise) for row in rows]
    assert (noisy[0] == noisy[1]).all()
    assert (noisy[0] == noisy[2]).all()
    assert all(half.sum() > 100 for half in np.split(noisy[0][:508], 2))
    start = min(rows[1].gold[0][0], rows[2].gold[0][0])
    assert rows[1].prompt[:start].tolist() == rows[2].prompt[:start].tolist()
    assert rows[0].gold[0][0] < 128 < rows[1].gold[0][0] < 384 < rows[2].gold[0][0]
    (fixed,) = TokenKeyValues(Pairs(128), pairs=4).generate(5, 512, 1, "test")
    assert fixed.unfilled == "11 of 512 tokens are filled: 4 pairs are asked for"


def test_bm25_is_its_formula() -> None:
    texts = ["a cat sat", "the cat the cat", "dogs bark at a dog", ""]
    index, mean = Bm25(texts), 12 / 4

    def term(often: int, size: int, holding: int) -> float:
        idf = math.log(1 + (4 - holding + 0.5) / (holding + 0.5))
        return idf * often * 1.9 / (often + 0.9 * (0.6 + 0.4 * size / mean))

    assert index.scores("Cat, dog?") == pytest.approx([term(1, 3, 2), term(2, 4, 2), term(1, 5, 1), 0])
    assert index.nearest("cat") == [1, 0, 2, 3]
    assert index.nearest("bird") == [0, 1, 2, 3]


def test_wording_of_the_user_s_own(tmp_path: Path) -> None:
    path, nq = tmp_path / "mine.yaml", write(tmp_path / "nq.jsonl", [line.model_dump() for line in questions()])
    path.write_text(
        "kv:\n"
        '  introduction_aware: "Find {key} here.\\n\\nJSON:\\n"\n'
        '  question: "\\n\\nThe key: {key}\\nIts value:"\n'
        "documents:\n"
        '  introduction_aware: "{question}\\n\\n"\n'
        '  heading: "Page {number} ["\n'
        '  passage: "{title}]: {text}\\n"\n'
        '  question: "\\nQ: {question}\\nA:"\n',
        encoding="utf-8",
    )
    suite = LostInTheMiddleSuite(query_aware=True, pairs=2, documents=nq, documents_per_prompt=2, wording=str(path))
    pairs, found = (task.generate(0, 1500, 1, "test", depth=0.0)[0] for task in suite.tasks(Bytes()))
    text = text_of(pairs, "bytes")
    key = text[5:41]
    assert text.startswith(f'Find {key} here.\n\nJSON:\n{{"{key}": "{pairs.text_answers[0]}",\n "')
    assert text.endswith(f'"}}\n\nThe key: {key}\nIts value:')
    line = next(line for line in questions() if line.answers == found.text_answers)
    assert text_of(found, "bytes").startswith(
        f"{line.question}\n\nPage 1 [{line.gold.title}]: {line.gold.text}\nPage 2 [Harbour "
    )
    assert text_of(found, "bytes").endswith(f"\n\nQ: {line.question}\nA:")


GOOD = {"question": "q", "answers": ["a"], "ctxs": [{"title": "t", "text": "x", "more": 1}], "more": 2}
PAIR = {"ordered_kv_records": [["a", "b"], ["c", "d"]], "key": "a", "value": "b"}


@pytest.mark.parametrize(
    ("name", "lines", "line"),
    [
        ("nq", [GOOD, {**GOOD, "ctxs": [{"title": "t"}]}], "{path}: line 2: no field 'ctxs.0.text'."),
        ("nq", [{"question": "q", "answers": ["a"]}], "{path}: line 1: no field 'ctxs'."),
        ("nq", [{**GOOD, "answers": "a"}], "{path}: line 1: field 'answers': Input should be a valid array."),
        (
            "nq",
            [{**GOOD, "ctxs": [{"title": "t", "text": "x", "isgold": False}]}],
            "{path}: line 1: ctxs has no passage of which isgold is true.",
        ),
        ("nq", [GOOD, "{"], "{path}: line 2: no JSON: EOF while parsing an object at line 1 column 1."),
        ("nq", [], "{path}: no line. A line is a JSON object with question, answers, ctxs."),
        ("kv", [PAIR, {**PAIR, "key": "z"}], "{path}: line 2: key and value are not among ordered_kv_records."),
        ("kv", [GOOD], "{path}: line 1: no field 'ordered_kv_records'."),
        (
            "kv",
            [{**PAIR, "ordered_kv_records": [["a", "b"], ["c"]]}],
            "{path}: line 1: no field 'ordered_kv_records.1.1'.",
        ),
    ],
)
def test_files_of_another_schema_are_said_with_line_and_field(
    name: str, lines: list[Any], line: str, tmp_path: Path
) -> None:
    path = write(tmp_path / f"{name}.jsonl", lines)
    with pytest.raises(DataError) as error:
        (read_records if name == "kv" else read_searched)(path)
    assert str(error.value) == line.format(path=path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.jsonl: cannot be read: No such file or directory\.$"):
        read_records(str(tmp_path / "no.jsonl"))
    (tmp_path / "no.jsonl.gz").write_text("{}")
    with pytest.raises(DataError, match=r"no\.jsonl\.gz: cannot be read: Not a gzipped file"):
        read_records(str(tmp_path / "no.jsonl.gz"))
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(PAIR).encode() * 100)[:-12])
    with pytest.raises(DataError, match=r"cut\.jsonl\.gz: cannot be read: "):
        read_records(str(path))


@pytest.mark.parametrize(
    ("mapping", "tokenizer", "line"),
    [
        (
            {"tasks": ["document"]},
            Bytes(),
            "suite.tasks: lost_in_the_middle has no task 'document'. Did you mean 'documents'? Known: documents, kv.",
        ),
        (
            {"tasks": ["documents"]},
            Bytes(),
            "suite.documents: the task documents needs a file: suite.documents=nq-open-oracle.jsonl.",
        ),
        ({"kv": "x.jsonl"}, Numbers(), "suite.kv: text, and a model of the ids tokenizer reads none. Leave it out."),
        (
            {"tasks": ["documents"], "documents": "x"},
            Numbers(),
            "suite.tasks: documents is text, and a model of the ids tokenizer reads none. Take kv.",
        ),
        ({"kv": "no.jsonl"}, Bytes(), "no.jsonl: cannot be read: No such file or directory."),
    ],
)
def test_settings_that_do_not_fit(mapping: dict[str, Any], tokenizer: Tokenizer, line: str) -> None:
    with pytest.raises(FarfieldError) as error:
        read(LostInTheMiddleSuite, mapping, "suite").tasks(tokenizer)
    assert str(error.value) == line


def test_a_rule_that_is_not_the_published_one_is_told() -> None:
    (told,) = LostInTheMiddleSuite(documents="nq.jsonl").notes(Bytes())
    assert told.startswith("documents: an answer of articles alone (The The) has to be the whole line, where the publi")
    assert subspan_match("any line", ["The The"]) == 0.0
    for mapping in ({}, {"documents": "x", "tasks": ["kv"]}, {"documents": "x", "scoring": "likelihood"}):
        assert read(LostInTheMiddleSuite, mapping).notes(Bytes()) == ()


def test_files_are_for_testing(tmp_path: Path) -> None:
    path = write(tmp_path / "kv.jsonl.gz", [PAIR] * 2)
    (task,) = LostInTheMiddleSuite(kv=path).tasks(Bytes())
    with pytest.raises(ConfigError, match=r"^suite\.split: .* is for testing\. Take split=test"):
        task.check(0, 1000, 1, "train")
    (many,) = LostInTheMiddleSuite(kv=path, pairs=3).tasks(Bytes())
    with pytest.raises(ConfigError) as error:
        many.check(0, 1000, 1, "test")
    assert str(error.value) == f"suite.pairs: 3 given, and {path} has lines of 2 pairs."
    (sample,) = task.generate(0, 1000, 1, "test", depth=1.0)
    assert '{"c": "d",\n "a": "b"}' in text_of(sample, "bytes")
    assert sample.unfilled.endswith("kv.jsonl.gz has no more pairs, or the next does not fit")


@pytest.mark.skipif(not KV.exists(), reason=f"no {KV.name} at hand")
def test_the_published_pairs() -> None:
    lines = read_records(str(KV))
    assert {len(line.ordered_kv_records) for line in lines} == {75}
    task = kv("bytes", records=lines, source=KV.name)
    for sample in task.generate(0, 8192, 3, "test", depth=0.5):
        text = text_of(sample, "bytes")
        found = json.loads(text[text.index("{") : text.rindex("}") + 1])
        line = next(line for line in lines if line.value == sample.text_answers[0])
        assert sorted(found.items()) == sorted(line.ordered_kv_records)
        assert list(found)[37] == line.key


@pytest.mark.skipif(not NQ.exists(), reason=f"no {NQ.name} at hand")
def test_the_published_questions() -> None:
    lines = read_searched(str(NQ))
    assert len(lines) == 2655
    task = FoundDocuments(Bytes(), Wording(DOCUMENTS), lines, NQ.name)
    for sample in task.generate(0, 8192, 6, "test", depth=0.5):
        text = text_of(sample, "bytes")
        assert sample.length >= 0.98 * 8192
        documents = re.split(r"\nDocument \[\d+\]", text.partition("\n\n")[2].rpartition("\nQuestion:")[0])
        answers = [normalised(answer) for answer in sample.text_answers]
        holding = [any(answer in normalised(told) for answer in answers) for told in documents]
        gold = round(0.5 * (len(documents) - 1))
        assert not any(holding[:gold] + holding[gold + 1 :])
        assert documents[gold].strip() == gold_of(sample, "bytes").partition("]")[2].strip()
