from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from farfield.benchmarks.suites.needle import NeedleSuite
from farfield.benchmarks.suites.recall import RecallSuite
from farfield.benchmarks.suites.ruler import RulerSuite
from farfield.benchmarks.tasks.recall.mqar import Mqar
from farfield.benchmarks.tasks.sample import Sample, Split
from farfield.compose import compose
from farfield.config import ConfigError, read
from farfield.data import PADDING, UNSCORED, Batch, DataConfig, SuiteData, open_source
from farfield.data.suite import Share, SuiteSource
from farfield.settings import TrainSettings
from farfield.tokenizers import BytesConfig, IdsConfig

MQAR = SuiteData(
    suite=RecallSuite(tasks=("mqar",), pairs=(2, 4), lengths=(16, 32)),
    tokenizer=IdsConfig(vocabulary=129),
    mixture=(Share(task="mqar_2", length=16, weight=3), Share(task="mqar_4", length=32)),
)


def same(one: Batch, two: Batch) -> bool:
    return all(np.array_equal(getattr(one, part), getattr(two, part)) for part in ("tokens", "targets", "positions"))


def test_rows_are_the_suites_training_split() -> None:
    source = open_source(MQAR, seed=5, batch=3)
    for step in range(4):
        batch = source.batch(step)
        length = batch.tokens.shape[1]
        task = {16: 0, 32: 1}[length]
        (mqar_2, mqar_4) = MQAR.suite.tasks(source.tokenizer)
        samples = (mqar_2, mqar_4)[task].generate(5, length, 3, "train", first=3 * step)
        for row, sample in enumerate(samples):
            assert sample.targets is not None
            assert batch.tokens[row].tolist() == sample.prompt.tolist()
            assert batch.targets[row].tolist() == sample.targets.tolist()
            assert batch.positions[row].tolist() == list(range(length))


def test_answers_are_scored_behind_the_prompt_and_the_end_where_there_is_room() -> None:
    """A needle of text: the answer's tokens, then the end; of ids: the answer alone, which fills its budget."""
    for tokenizer in (BytesConfig(), IdsConfig(vocabulary=128)):
        suite = NeedleSuite(lengths=(300,), samples=1)
        source = open_source(SuiteData(suite=suite, tokenizer=tokenizer), seed=1, batch=2)
        batch = source.batch(0)
        (task,) = suite.tasks(source.tokenizer)
        for row in range(2):
            (sample,) = task.generate(1, 300, 1, "train", first=row)
            end = [source.tokenizer.end] if sample.budget > len(sample.answer) else []
            scored = np.flatnonzero(batch.targets[row] != UNSCORED)
            assert scored[0] == len(sample.prompt) - 1
            assert batch.targets[row][scored].tolist() == [*sample.answer.tolist(), *end]
            read_ = int((batch.positions[row] != PADDING).sum())
            assert batch.tokens[row][:read_].tolist() == [*sample.prompt.tolist(), *sample.answer.tolist()]
            assert (batch.targets[row][scored[:-1]] == batch.tokens[row][scored[:-1] + 1]).all()
            assert read_ <= 300


def test_shorter_rows_are_padded_behind_and_not_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Mqar.generate

    def cut(self: Mqar, seed: int, length: int, n: int, split: Split, *, first: int = 0) -> list[Sample]:
        """Rows that want 0, 4 or 8 of their last tokens."""
        (sample,), end = whole(self, seed, length, n, split, first=first), length - first % 3 * 4
        assert sample.targets is not None
        return [replace(sample, prompt=sample.prompt[:end], targets=sample.targets[:end])]

    monkeypatch.setattr(Mqar, "generate", cut)
    source = open_source(MQAR, seed=0, batch=2)
    for step in range(3):
        batch = source.batch(step)
        padding = batch.positions == PADDING
        longest = batch.tokens.shape[1]
        lengths = (~padding).sum(axis=1)
        assert sorted(lengths.tolist()) == sorted(longest - over for over in (0, abs(lengths[0] - lengths[1])))
        assert lengths[0] != lengths[1]
        assert (np.diff(padding.astype(int), axis=1) >= 0).all()
        assert (batch.targets[padding] == UNSCORED).all()
        assert (batch.tokens[padding] == source.tokenizer.end).all()


def test_batches_are_functions_of_seed_and_step_and_validation_of_neither() -> None:
    one, again, other = (open_source(MQAR, seed=seed, batch=4) for seed in (3, 3, 4))
    assert same(one.batch(7), again.batch(7))
    assert not same(one.batch(7), one.batch(8))
    assert not same(one.batch(7), other.batch(7))
    assert same(one.validation(1), other.validation(1))
    trained = {row.tobytes() for step in range(20) for row in one.batch(step).tokens}
    assert not trained & {row.tobytes() for index in range(4) for row in one.validation(index).tokens}


def test_mixture_is_kept() -> None:
    source = open_source(MQAR, seed=0, batch=1)
    assert isinstance(source, SuiteSource)
    lengths = [source.batch(step).tokens.shape[1] for step in range(400)]
    assert lengths.count(16) / 400 == pytest.approx(0.75, abs=0.07)
    assert source.tokens_per_batch == 32
    assert source.describe() == {
        "data": "suite recall",
        "tokenizer": "ids, 129 ids",
        "tasks": "mqar_2 16, mqar_4 32",
        "length": 32,
    }


def test_without_a_mixture_all_that_fits_comes_up() -> None:
    suite = RecallSuite(tasks=("mqar",), pairs=(2, 8), lengths=(16, 32))
    source = open_source(SuiteData(suite=suite, tokenizer=IdsConfig(vocabulary=129)), seed=0, batch=8)
    assert source.describe()["tasks"] == "mqar_2 16, mqar_2 32, mqar_8 32"
    seen = {
        (batch.tokens.shape[1], int(count))
        for batch in map(source.batch, range(20))
        for count in (batch.targets != UNSCORED).sum(axis=1)
    }
    assert seen == {(16, 2), (32, 2), (32, 8)}


@pytest.mark.parametrize(
    ("mapping", "line"),
    [
        (
            {"mixture": [{"task": "mqar_88", "length": 64}]},
            "data.mixture: unknown task 'mqar_88'. Did you mean 'mqar_8'? Known: mqar_4, mqar_8.",
        ),
        (
            {"mixture": [{"task": "mqar_8", "length": 30}]},
            "recall: mqar_8 needs four tokens for each of its 8 pairs: 32 is the least length, 30 is given. Give "
            "longer lengths or fewer pairs.",
        ),
        (
            {"tokenizer": {"kind": "ids", "vocabulary": 33}},
            "recall: mqar needs more ids than tokens, and there are 32 ids for a length of 64. Give shorter lengths, "
            "or a model with a vocabulary of 66 or more.",
        ),
    ],
)
def test_what_cannot_be_made_is_said_in_one_line(mapping: dict[str, object], line: str) -> None:
    suite = {"kind": "recall", "tasks": ["mqar"], "pairs": [4, 8], "lengths": [64]}
    config = read(SuiteData, {"suite": suite} | mapping, "data")
    with pytest.raises(ConfigError) as error:
        open_source(config, 0, 2)
    assert str(error.value) == line


def test_a_suite_that_measures_is_no_data() -> None:
    config = read(SuiteData, {"suite": {"kind": "efficiency", "lengths": [64]}}, "data")
    with pytest.raises(ConfigError) as error:
        open_source(config, 0, 2)
    assert str(error.value) == "data.suite: 'efficiency' measures, and asks nothing to learn from. Take one that asks."


def test_the_record_names_the_split_that_is_trained_on() -> None:
    for given in ({}, {"split": "test"}, {"split": "train"}):
        config = read(SuiteData, {"suite": {"kind": "needle", "lengths": [64]} | given})
        assert config.mapping()["suite"]["split"] == "train"
        assert read(SuiteData, config.mapping()) == config


def test_based_mixture_is_the_published_one() -> None:
    """Rows by length and pairs: 100,000 of (64, 4), 20,000 of each other; 8,192 ids; other seeds, not other pairs."""
    data = read(TrainSettings, compose("train", ["architecture=attention", "data=mqar_based"])).data
    assert isinstance(data, SuiteData)
    source = data.open(0, 64)
    tasks = {
        (length, task.labels["pairs"]): weight for length in source.lengths for task, weight in source.shares[length]
    }
    assert tasks == {(64, 4): 5, (128, 8): 1, (256, 16): 1, (256, 32): 1, (256, 64): 1}
    assert all(
        task == Mqar(8192, task.pairs, 0.01, "random", "seeds")
        for length in source.lengths
        for task, _ in source.shares[length]
        if isinstance(task, Mqar)
    )
    batches = [source.batch(step) for step in range(40)]
    assert {batch.tokens.shape[1] for batch in batches} == {64, 128, 256}
    assert max(int(batch.tokens.max()) for batch in batches) in range(8000, 8192)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["data.length=64"],
            "data: no key 'length'. Rows are as long as the suite's samples, data.suite.lengths=[512], or as "
            "data.mixture says.",
        ),
        (
            ["data.suite=rulr"],
            "data.suite: unknown kind 'rulr'. Did you mean 'ruler'? Known: babilong, efficiency, longdoc, "
            "lost_in_the_middle, needle, perplexity, recall, retrieval, ruler.",
        ),
        (["data.suite.sample=3"], "data.suite: unknown key 'sample'. Did you mean 'samples'?"),
        (["data.validation=x"], 'data.validation: "x" given. Input should be a valid integer.'),
        (["data.mixture=[{task: 3, length: 64}]"], "data.mixture.0.task: 3 given. Input should be a valid string."),
        (["data.suites=3"], "data: unknown key 'suites'. Did you mean 'suite'?"),
    ],
)
def test_mistakes_on_the_command_line_name_their_place(words: list[str], line: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(TrainSettings, compose("train", ["architecture=attention", "data=suite", *words]))
    assert str(error.value).startswith(line)


@pytest.mark.parametrize(
    "words",
    [
        ["data.suite=ruler", "data.suite.lengths=512"],
        ["data.suite.lengths=[512]", "data.suite=ruler"],
        ["data.suite={kind: ruler, lengths: [512]}"],
    ],
)
def test_a_suite_is_chosen_by_its_name_or_by_its_settings(words: list[str]) -> None:
    data = read(TrainSettings, compose("train", ["architecture=attention", "data=suite", *words])).data
    assert isinstance(data, SuiteData)
    assert data.suite == RulerSuite(lengths=(512,), split="train")
    assert data.open(0, 1).describe()["length"] == 512


@pytest.mark.parametrize("name", ["mqar", "mqar_based", "suite"])
def test_the_options_compose_and_come_back_from_a_record(name: str) -> None:
    words = ["architecture=attention", f"data={name}", "data.suite.samples=3"]
    settings = read(TrainSettings, compose("train", words))
    data: DataConfig = settings.data
    assert isinstance(data, SuiteData)
    assert read(TrainSettings, settings.mapping()) == settings
    assert data.open(0, 2).batch(0).tokens.shape[0] == 2
