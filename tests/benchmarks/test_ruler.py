from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Bytes
from ruler_cases import BYTES, LINE, made, own_bpe, read
from ruler_solver import solve, write_hotpot, write_squad

from farfield.benchmarks.tasks.haystack import load_haystack
from farfield.benchmarks.tasks.ruler.assembly import Pieces
from farfield.benchmarks.tasks.ruler.catalogue import NAMES, Sources, text_tasks
from farfield.benchmarks.tasks.ruler.niah import NIAH, SPECS, Niah
from farfield.benchmarks.tasks.ruler.task import Place, RulerTask
from farfield.benchmarks.tasks.sample import LackingError, Sample, Split, Tokenizer, TooShortError
from farfield.benchmarks.tasks.wording import noise_sentences
from farfield.benchmarks.tasks.wording_file import Wording
from farfield.tokenizers.bpe import BpeTokenizer

LENGTHS = (256, 512, 1024, 4096, 16384, 131072)
BUDGETS = {"vt": 30, "cwe": 120, "fwe": 50, "qa_1": 32, "qa_2": 32} | dict.fromkeys(SPECS, 128)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    folder = tmp_path_factory.mktemp("ruler")
    return Sources(squad=str(write_squad(folder)), hotpot=str(write_hotpot(folder)))


@pytest.fixture(scope="module")
def bpe() -> BpeTokenizer:
    return own_bpe()


@pytest.fixture(scope="module")
def wordpiece() -> BpeTokenizer:
    """Small letters, without line ends, and with spaces around signs when it writes."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    backend = Backend(models.WordPiece(unk_token="[UNK]"))  # type: ignore[call-arg]
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789.,:?-='"]
    trainer = trainers.WordPieceTrainer(
        vocab_size=900, special_tokens=["[PAD]", "[UNK]", "[SEP]"], initial_alphabet=letters, show_progress=False
    )
    alphabet = [" ".join(letters) + " " + "".join(letters[:36]) + " " + "".join(reversed(letters[:36]))]
    backend.train_from_iterator([*noise_sentences(300), *NIAH.values(), *alphabet], trainer)
    return BpeTokenizer(backend, end=2)


@pytest.fixture(scope="module")
def tokenizers(bpe: BpeTokenizer, wordpiece: BpeTokenizer) -> dict[str, Tokenizer]:
    return {"bytes": BYTES, "bpe": bpe, "wordpiece": wordpiece}


@pytest.fixture(scope="module")
def tasks(tokenizers: dict[str, Tokenizer], sources: Sources) -> dict[tuple[str, str], RulerTask]:
    return {
        (kind, task.name): task
        for kind, tokenizer in tokenizers.items()
        for task in text_tasks(NAMES, tokenizer, sources)
    }


Tasks = dict[tuple[str, str], RulerTask]


def asked_in(sample: Sample) -> str:
    return BYTES.decode(sample.prompt[sample.question :].tolist())


def squeezed(text: str) -> str:
    return re.sub(r"\W", "", text).lower()


@pytest.mark.parametrize(
    ("kind", "length"),
    [
        (kind, length)
        for kind in ("bytes", "bpe", "wordpiece")
        for length in LENGTHS
        if kind == "bytes" or length < 20_000
    ],
)
def test_every_length_is_filled_and_holds_its_gold(
    kind: str, length: int, tasks: Tasks, tokenizers: dict[str, Tokenizer]
) -> None:
    tokenizer, count = tokenizers[kind], 0
    for name in NAMES:
        for sample in made(tasks[kind, name], length, 2 if length < 10_000 else 1):
            count += 1
            assert sample.length == len(sample.prompt) + sample.budget <= length
            assert sample.length >= 0.98 * length
            assert sample.unfilled == ""
            assert len(sample.answer) <= sample.budget
            assert tasks[kind, name].score([sample], [sample.answer.tolist()]) == [1.0]
            assert tasks[kind, name].score([sample], [sample.question * [0]]) == [0.0]
            assert sample.budget >= BUDGETS[name]
            assert sample.budget == BUDGETS[name] or sample.budget == len(sample.answer)
            spans = [squeezed(tokenizer.decode(sample.prompt[low:high].tolist())) for low, high in sample.gold]
            for gold in sample.text_answers:
                assert any(squeezed(gold) in span for span in spans), (name, gold, spans)
            assert len(sample.depths) == len(sample.gold)
            assert all(0 <= depth <= 1 for depth in sample.depths)
            assert list(sample.gold) == sorted(sample.gold) or name in ("cwe", "fwe")
            assert all(high <= sample.question for _, high in sample.gold)
            assert (
                sample.prompt[sample.question :].tolist()
                == sample.prompts["no_context"][-(len(sample.prompt) - sample.question) :].tolist()
            )
    assert count >= {256: 0, 512: 6, 1024: 14}.get(length, 13)


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
@pytest.mark.parametrize("name", NAMES)
def test_a_solver_finds_the_answer_in_the_prompt_and_not_without_it(
    kind: str, name: str, tasks: Tasks, tokenizers: dict[str, Tokenizer]
) -> None:
    task, tokenizer = tasks[kind, name], tokenizers[kind]
    for length in (2500, 9000):
        samples = made(task, length, 4)
        assert samples
        prompts = [tokenizer.decode(sample.prompt.tolist()) for sample in samples]
        assert task.score(samples, [tokenizer.encode(solve(name, prompt)) for prompt in prompts]) == [1.0] * 4
        alone = [tokenizer.decode(sample.prompts["gold_only"].tolist()) for sample in samples]
        assert task.score(samples, [tokenizer.encode(solve(name, prompt)) for prompt in alone]) == [1.0] * 4
        blind = [tokenizer.decode(sample.prompts["no_context"].tolist()) for sample in samples]
        assert task.score(samples, [tokenizer.encode(solve(name, prompt)) for prompt in blind]) == [0.0] * 4
        assert task.score(samples, [sample.answer.tolist() for sample in samples]) == [1.0] * 4


@given(
    name=st.sampled_from(NAMES),
    length=st.integers(1, 3500),
    seed=st.integers(0, 2**40),
    split=st.sampled_from(["train", "test"]),
)
@settings(deadline=None, max_examples=150)
def test_any_length_ends_in_a_sample_or_in_the_least_that_is_needed(
    tasks: Tasks, name: str, length: int, seed: int, split: Split
) -> None:
    task = tasks["bytes", name]
    try:
        task.check(seed, length, 1, split)
    except TooShortError as error:
        said = re.fullmatch(
            rf"{name}: a length of {length} tokens is too short for the task and its answer: (\d+) is the least\. "
            r"Give longer lengths\.",
            str(error),
        )
        assert said is not None
        assert int(said[1]) > length
        with pytest.raises(TooShortError):
            task.generate(seed, length, 1, split)
    else:
        (sample,) = task.generate(seed, length, 1, split)
        assert 0.98 * length <= sample.length <= length


def least(task: RulerTask, seed: int, length: int, n: int, split: Split = "test") -> int:
    """The least length that `task` names."""
    with pytest.raises(TooShortError, match="is the least") as error:
        task.check(seed, length, n, split)
    return int(re.findall(r"(\d+) is the least", str(error.value))[0])


@pytest.mark.parametrize("name", NAMES[:-2])
def test_the_least_length_is_the_same_whatever_is_asked_and_holds_every_sample(name: str, tasks: Tasks) -> None:
    for kind in ("bytes", "bpe"):
        task = tasks[kind, name]
        named = {least(task, seed, length, n) for seed, length, n in ((0, 1, 1), (1, 40, 3), (2**40, 200, 9))}
        assert len(named) == 1, (kind, named)
        (shortest,) = named
        assert {least(task, 3, shortest - 1, 1, "train")} == named
        for seed, split in ((7, "test"), (8, "train")):
            samples = made(task, shortest, 40, split, seed)
            assert len(samples) == 40
            assert all(0.98 * shortest <= sample.length <= shortest for sample in samples)
            (again,) = task.generate(seed, shortest, 1, split, first=39)
            assert again.prompt.tolist() == samples[39].prompt.tolist()


@pytest.mark.parametrize("name", NAMES[-2:])
def test_the_least_length_of_questions_of_a_file_is_that_of_those_that_are_asked(name: str, tasks: Tasks) -> None:
    for kind in ("bytes", "bpe"):
        task = tasks[kind, name]
        (shortest,) = {least(task, 7, length, 5) for length in (1, 50, 100)}
        assert least(task, 7, shortest - 1, 5) == shortest
        assert len(made(task, shortest, 5, seed=7)) == 5


@pytest.mark.parametrize(("name", "split"), [(name, split) for name in NAMES for split in ("train", "test")])
def test_questions_of_a_file_are_counted_and_drawn_ones_have_no_end(name: str, split: Split, tasks: Tasks) -> None:
    task = tasks["bytes", name]
    count = task.available(4000, split)
    assert (count < 1000) == name.startswith("qa")
    if count < 1000:
        asked = {asked_in(sample) for sample in task.generate(3, 4000, count, split)}
        assert len(asked) == count
        assert asked_in(task.generate(3, 4000, 1, split, first=count)[0]) in asked


def test_the_beginning_of_the_answer_stands_behind_the_last_question_mark_or_line_end(tasks: Tasks) -> None:
    """Where a chat's user ends and its assistant begins."""
    for name in NAMES:
        (sample,) = tasks["bytes", name].generate(0, 3000, 1, "test")
        begun = re.split(r"[?\n]", read(sample))[-1]
        assert re.fullmatch(r"Answer:| Answer: .*[a-z]:| The secret number.* (is|are)| The secret uuid.* is", begun), (
            begun
        )
        assert sample.question < len(sample.prompt) - len(begun)


def test_train_and_test_share_no_key_and_no_value(tasks: Tasks) -> None:
    for name in NAMES:
        samples = {split: made(tasks["bytes", name], 4096, 25, split) for split in ("train", "test")}
        answers = {split: {text for one in found for text in one.text_answers} for split, found in samples.items()}
        assert answers["train"]
        assert not answers["train"] & answers["test"], name
    keys = {
        split: set(
            re.findall(r"of (\w+-\w+) is", "".join(map(read, made(tasks["bytes", "niah_multikey_2"], 8000, 9, split))))
        )
        for split in ("train", "test")
    }
    assert not keys["train"] & keys["test"]


def test_the_same_index_gives_the_same_sample_whatever_else_is_asked(tasks: Tasks) -> None:
    for name in NAMES:
        task = tasks["bpe", name]
        together = task.generate(3, 2000, 4, "test")
        assert together[2].prompt.tolist() == task.generate(3, 2000, 1, "test", first=2)[0].prompt.tolist()
        assert len({sample.prompt.tobytes() for sample in together}) == 4
        assert together[0].prompt.tobytes() != task.generate(4, 2000, 1, "test")[0].prompt.tobytes()


@pytest.mark.parametrize(("name", "spec"), SPECS.items())
def test_needles_are_as_many_and_hidden_as_published(name: str, spec: object, tasks: Tasks) -> None:
    own = SPECS[name]
    for sample in made(tasks["bytes", name], 3000, 5):
        text = read(sample)
        found = re.findall(r"One of the secret (\w+) of (\S+) is: (\S+)\.", text)
        value = (
            r"[1-9]\d{6}"
            if own.value == "numbers"
            else r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
        )
        key = (
            r"[a-z]+-[a-z]+"
            if own.key == "words"
            else r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
        )
        assert {kind for kind, _, _ in found} == {own.value}
        assert all(re.fullmatch(key, one) and re.fullmatch(value, two) for _, one, two in found)
        assert len({two for _, _, two in found}) == len(found)
        lines = text.split("\n")[2:]
        if own.haystack == "needles":
            assert len({one for _, one, _ in found}) == len(found) > 8
            assert sum(not line.startswith("One of") for line in lines[:-1]) <= 1
        else:
            assert len(found) == own.keys * own.values
            assert len({one for _, one, _ in found}) == own.keys
        if own.haystack == "noise":
            assert sum(line == LINE for line in lines) == len(lines) - 2
        asked = re.findall(r"[\w-]+", text[text.rindex("\nWhat ") :].split(" of ")[1].split(" that")[0])
        asked = [one for one in asked if one != "and"]
        assert len(asked) == own.queries
        assert len(sample.gold) == len(sample.text_answers) == own.queries * own.values
        assert len(sample.choices) == len(sample.text_answers) + 12
        assert [BYTES.decode(sample.choices[at].tolist()) for at in sample.right] == [
            f" {one}" for one in sample.text_answers
        ]
        assert len({choice.tobytes() for choice in sample.choices}) == len(sample.choices)


def test_one_is_asked_for_in_the_singular_and_several_in_the_plural(tasks: Tasks) -> None:
    one, several = (
        read(tasks["bytes", f"niah_{name}"].generate(0, 1024, 1, "test")[0]) for name in ("single_1", "multiquery")
    )
    assert one.startswith("A secret number is written somewhere in the text below. Remember it: ")
    assert re.search(
        r"\nWhat is the secret number of (\S+) that the text above names\? "
        r"The secret number of \1 that the text above names is$",
        one,
    )
    assert several.startswith("Some secret numbers are written somewhere in the text below. Remember them: ")
    assert re.search(
        r"\nWhat are all the secret numbers of (\S+, \S+, \S+, and \S+) that the text above names\? "
        r"The secret numbers of \1 that the text above names are$",
        several,
    )


def test_the_order_of_needles_is_drawn_for_each_sample(tasks: Tasks) -> None:
    """Published: the same order always."""
    task, orders = tasks["bytes", "niah_multiquery"], Counter[tuple[int, ...]]()
    for sample in made(task, 1024, 400):
        text = read(sample)
        orders[tuple(np.argsort([text.index(f"is: {value}") for value in sample.text_answers]).tolist())] += 1
    assert len(orders) == 24
    assert max(orders.values()) < 45  # 17 expected, and a standard deviation of 4


@pytest.mark.parametrize("name", ["niah_single_1", "niah_single_2", "niah_multikey_2", "vt"])
def test_gold_stands_anywhere(name: str, tasks: Tasks) -> None:
    depths = np.array([np.mean(sample.depths) for sample in made(tasks["bytes", name], 4096, 200)])
    if name != "vt":
        counts, _ = np.histogram(depths, bins=5, range=(0, 1))
        assert counts.min() > 15  # 40 expected
    assert depths.std() > 0.08


@pytest.mark.parametrize("length", [600, 1024, 4096, 30000])
def test_a_chain_is_hidden_in_its_order_behind_an_example(length: int, tasks: Tasks, bpe: BpeTokenizer) -> None:
    for sample in made(tasks["bpe", "vt"], length, 5):
        text = bpe.decode(sample.prompt.tolist())
        example, main = text.split("\n\nFollow the chain")
        names = sample.text_answers
        said = re.findall(r"\nVAR [^\n]*", main)
        value = re.search(r"assigned the value (\d{5}) in the text above", main)
        assert value is not None
        assert said == [
            f"\nVAR {names[0]} = {value[1]}",
            *(f"\nVAR {b} = VAR {a}" for a, b in pairwise(names)),
        ]
        assert all(re.fullmatch(r"[A-Z]{5}", name) for name in names)
        assert main.endswith(f" 5 variables have been assigned the value {value[1]}, namely:")
        shown = re.findall(r"VAR ([A-Z]{3}) =", example)
        assert len(shown) == 5
        assert example.endswith("namely: " + " ".join(shown))
        size = len(bpe.encode(example))
        assert size <= 500
        assert size > 350 or length < 2000
        assert value[1] not in example
        assert main.count(LINE) > 0


def documents_of(text: str) -> list[str]:
    body = text[text.index("These are the documents.") : text.rindex("\n\nAnswer the question")]
    numbers = re.findall(r"\n\nDocument (\d+):\n", body)
    assert [int(number) for number in numbers] == list(range(1, len(numbers) + 1))
    return re.split(r"\n\nDocument \d+:\n", body)[1:]


@pytest.mark.parametrize("name", ["qa_1", "qa_2"])
def test_gold_documents_stand_at_drawn_places_among_others(name: str, tasks: Tasks) -> None:
    """Published: at the same place in each sample of a length."""
    places = Counter[int]()
    for sample in made(tasks["bytes", name], 3000, 300):
        text = read(sample)
        listed = documents_of(text)
        gold = [BYTES.decode(sample.prompt[low:high].tolist()).lstrip("\n") for low, high in sample.gold]
        found = [at for at, document in enumerate(listed) for one in gold if document == one]
        assert len(found) == len(gold) == {"qa_1": 1, "qa_2": 2}[name]
        assert len(set(listed)) == len(listed)
        places[int(5 * found[0] / len(listed))] += 1
        assert sample.text_answers[0] in " ".join(gold)
    assert len(places) == 5 or name == "qa_2"
    assert min(places[at] for at in range(4)) > 20


def test_distractors_of_the_same_article_come_first(tasks: Tasks) -> None:
    for sample in made(tasks["bytes", "qa_1"], 2600, 30):
        text = read(sample)
        land = re.search(r"Which city rules Country(\d+)x", text)
        assert land is not None
        lands = [re.search(r"rules Country(\d+)x", document) for document in documents_of(text)]
        others = [found[1] for found in lands if found is not None]
        assert others.count(land[1]) >= min(len(others), 3)


def test_documents_come_again_where_there_are_no_more_but_never_gold(tasks: Tasks) -> None:
    (sample,) = tasks["bytes", "qa_1"].generate(0, 60_000, 1, "test")
    listed = Counter(documents_of(read(sample)))
    ((low, high),) = sample.gold
    assert listed[BYTES.decode(sample.prompt[low:high].tolist()).lstrip("\n")] == 1
    assert max(listed.values()) > 2
    assert sample.length == 60_000


def test_cells_without_data_say_what_to_give(sources: Sources) -> None:
    one, two = text_tasks(["qa_1", "qa_2"], BYTES, Sources())
    with pytest.raises(LackingError, match=r"^qa_1: needs the questions of SQuAD\. Give suite\.squad=<dev-v2\.0\.json"):
        one.check(0, 4096, 1, "test")
    with pytest.raises(LackingError, match=r"^qa_2: needs the questions of HotpotQA\. Give suite\.hotpot=<hotpot_dev"):
        two.check(0, 4096, 1, "test")


def test_an_essay_of_ones_own_is_read_again_from_its_beginning(tmp_path: Path) -> None:
    (tmp_path / "essay.txt").write_text("".join(f" This is thought {number} of a short essay." for number in range(30)))
    (task,) = text_tasks(["niah_multikey_1"], BYTES, Sources(essay=str(tmp_path)))
    (sample,) = task.generate(0, 9000, 1, "test")
    assert read(sample).count("This is thought 7 of a short essay.") in range(5, 9)
    assert sample.length == 9000
    noise = text_tasks(["niah_multikey_1"], BYTES, Sources())[0]
    assert noise.fingerprint != task.fingerprint


def test_published_wording_takes_the_place_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "wording.yaml"
    path.write_text('niah:\n  needle: "One of the special things, {kind}, for {key}: {value}"\n  noise: "Blah."\n')
    wording = Wording.of("niah", NIAH, str(path), ())
    task = Niah(SPECS["niah_single_1"], Pieces(BYTES), wording, load_haystack("noise", BYTES))
    place = Place("niah_single_1", 0, 800, 0, "test")
    body = BYTES.decode(task.parts(place).body.tolist())
    assert re.search(r"\nOne of the special things, numbers, for \w+-\w+: \d{7}\n", body)
    assert body.count("\nBlah.") > 20
    own = text_tasks(["niah_single_1"], BYTES, Sources())[0]
    assert own.fingerprint != text_tasks(["niah_single_1"], BYTES, Sources(wording=str(path)))[0].fingerprint


def test_a_million_tokens_take_no_tokenizing_of_prompts(tasks: Tasks) -> None:
    """Each piece goes through the tokenizer once, whatever the length."""

    class Counting(Bytes):
        def encode(self, text: str) -> list[int]:
            longest.append(len(text))
            return super().encode(text)

    longest: list[int] = []
    for task in text_tasks([name for name in NAMES if name in SPECS or name == "vt"], Counting(), Sources()):
        (sample,) = task.generate(0, 1 << 20, 1, "test")
        assert sample.length == 1 << 20
    assert max(longest) < 1000
