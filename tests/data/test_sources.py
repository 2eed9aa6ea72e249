from __future__ import annotations

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from writing import Write

from farfield.benchmarks.tasks.pairs import Pairs
from farfield.config import Config, ConfigError, DataError, read
from farfield.data import PADDING, UNSCORED, Batch, DataConfig, NeedleData, Prefetch, Source, TextData, open_source
from farfield.data.tensors import to_tensors
from farfield.tokenizers import BpeConfig

BOOKS = Path(__file__).parents[3] / "shared" / "data" / "books"
Order = Literal["shuffled", "streams"]


def same(one: Batch, other: Batch) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("tokens", "targets", "positions"))


def numbered(count: int) -> list[str]:
    """Texts that are all different, of different lengths."""
    return [f"document {number}: " + "word " * (number % 7) + chr(0x4E00 + number) for number in range(count)]


@pytest.fixture
def texts(write: Write, tmp_path: Path) -> TextData:
    path = write({"lines.jsonl": numbered(60)})
    return TextData(path=str(path), cache=str(tmp_path / "cache"), length=32, validation=0.2)


def runs(batches: list[Batch], row: int) -> list[tuple[list[int], list[int]]]:
    """Tokens and targets of a row over several batches, cut where positions are 0."""
    found: list[tuple[list[int], list[int]]] = []
    for batch in batches:
        for token, target, position in zip(
            batch.tokens[row].tolist(), batch.targets[row].tolist(), batch.positions[row].tolist(), strict=True
        ):
            if position == PADDING:
                assert target == UNSCORED
                continue
            if position == 0:
                found.append(([], []))
            found[-1][0].append(token)
            found[-1][1].append(target)
    return found


def test_one_row_of_streams_is_whole_documents_with_their_ends(texts: TextData) -> None:
    source = open_source(texts.model_copy(update={"order": "streams"}), seed=0, batch=1)
    per_epoch = -(-int(source.describe()["training tokens"]) // 32)
    trained = runs([source.batch(step) for step in range(per_epoch + 1)], 0)[:-1]
    held = runs([source.validation(index) for index in range(source.validation_batches)], 0)
    for tokens, targets in held + trained[:-10]:
        assert targets == [*tokens[1:], source.tokenizer.end]  # aligned, and never across a border
    decoded = {source.tokenizer.decode(tokens) for tokens, _ in trained}
    validation = {source.tokenizer.decode(tokens) for tokens, _ in held}
    assert decoded | validation == set(numbered(60))
    assert decoded.isdisjoint(validation)
    assert 4 < len(validation) < 22


@pytest.mark.parametrize("tokenizer", [{"kind": "bytes"}, {"kind": "bpe", "vocabulary": 270}])
def test_an_epoch_predicts_every_token_of_every_document(texts: TextData, tokenizer: dict[str, object]) -> None:
    config = read(TextData, texts.mapping() | {"tokenizer": tokenizer, "validation": 0})
    source = open_source(config, seed=5, batch=1)
    seen: list[tuple[int, int]] = []
    for step in range(int(source.describe()["steps per epoch"])):
        batch = source.batch(step)
        used = batch.positions != PADDING
        assert (batch.targets[~used] == UNSCORED).all()
        seen.extend(zip(batch.tokens[used].tolist(), batch.targets[used].tolist(), strict=True))
    ids = [[*source.tokenizer.encode(text), source.tokenizer.end] for text in numbered(60)]
    assert sorted(seen) == sorted(pair for document in ids for pair in pairwise(document))


@pytest.mark.parametrize("order", ["shuffled", "streams"])
def test_a_batch_is_a_function_of_seed_and_step(texts: TextData, order: Order) -> None:
    config = texts.model_copy(update={"order": order})
    first = [open_source(config, seed=1, batch=3).batch(step) for step in range(40)]
    source = open_source(config, seed=1, batch=3)
    assert all(same(source.batch(step), first[step]) for step in reversed(range(40)))
    copied = pickle.loads(pickle.dumps(source))
    assert all(same(copied.batch(step), first[step]) for step in (39, 0))
    with ThreadPoolExecutor(4) as pool:
        assert all(map(same, pool.map(open_source(config, seed=1, batch=3).batch, range(40)), first))
    other = open_source(config, seed=2, batch=3)
    assert not any(same(other.batch(step), first[step]) for step in range(10))
    assert all(same(other.validation(index), source.validation(index)) for index in range(other.validation_batches))


def test_a_resumed_run_sees_what_it_would_have_seen(texts: TextData) -> None:
    with Prefetch(open_source(texts, seed=1, batch=3).batch, stop=30) as batches:
        whole = list(batches)
    with Prefetch(open_source(texts, seed=1, batch=3).batch, start=17, stop=30) as batches:
        assert all(map(same, batches, whole[17:]))


def test_a_pickled_source_does_not_carry_the_tokens(write: Write, tmp_path: Path) -> None:
    path = write({"a.txt": "x" * 200_000})
    source = open_source(TextData(path=str(path), cache=str(tmp_path / "cache")), seed=0, batch=2)
    source.batch(0)
    assert len(pickle.dumps(source)) < 2000


def test_shapes_counts_and_description(texts: TextData) -> None:
    source: Source = open_source(texts, seed=0, batch=3, length=50)
    batch = source.batch(0)
    assert source.tokens_per_batch == 150
    for array in (batch.tokens, batch.targets, batch.positions):
        assert array.shape == (3, 50)
        assert array.dtype == np.int64
        assert array.flags.writeable
    assert batch.scored == batch.read == (batch.positions >= 0).sum()
    described = source.describe()
    assert described["documents"] == 60
    assert described["length"] == 50
    assert described["tokenizer"] == "bytes, 257 ids"
    assert str(described["validation"]).endswith(" of 60 documents")
    padded = source.validation(source.validation_batches - 1)
    assert 0 < padded.read < 150


def test_a_single_document_says_that_its_last_part_is_held_out(write: Write, tmp_path: Path) -> None:
    path = write({"novel.txt": "".join(chr(97 + number % 26) for number in range(999)), "bad.txt": b"\xff"})
    config = TextData(path=str(path), cache=str(tmp_path / "cache"), length=10, validation=0.1)
    source = open_source(config, seed=0, batch=2)
    assert source.describe()["validation"] == "the last 10.0% of the only document"
    assert source.describe()["left out, not UTF-8"] == "bad.txt"
    held = runs([source.validation(index) for index in range(source.validation_batches)], 0)
    assert held[0][0][0] == 97 + 900 % 26
    assert open_source(read(TextData, config.mapping() | {"validation": 0}), 0, 2).validation_batches == 0


def test_too_little_text_is_an_error_of_one_line(write: Write, tmp_path: Path) -> None:
    path = write({"a.txt": "ab"})
    config = TextData(path=str(path), cache=str(tmp_path / "cache"), order="streams", validation=0)
    with pytest.raises(DataError, match=r"^data.path: '.*texts' has 2 training tokens for 3 streams\.$"):
        open_source(config, seed=0, batch=3)
    assert open_source(config, seed=0, batch=2).batch(7).positions.tolist() == [[0] * 512] * 2


class Holder(Config):
    data: DataConfig


def test_settings_are_read_by_kind_and_mistakes_are_named() -> None:
    mapping = {"data": {"kind": "text", "path": "x", "tokenizer": {"kind": "bpe"}, "order": "streams"}}
    found = read(Holder, mapping).data
    assert isinstance(found, TextData)
    assert found.tokenizer == BpeConfig()
    assert read(Holder, read(Holder, mapping).mapping()) == read(Holder, mapping)
    for wrong, message in {
        '{"kind": "texts"}': (
            "data: unknown kind 'texts'. Did you mean 'text'? Known: facts, needle, reading, suite, text."
        ),
        '{"kind": "text"}': "data: 'path' is missing.",
        '{"kind": "text", "path": "x", "order": "stream"}': (
            "data.order: unknown choice 'stream'. Did you mean 'streams'? Known: shuffled, streams."
        ),
    }.items():
        with pytest.raises(ConfigError) as raised:
            read(Holder, {"data": json.loads(wrong)})
        assert str(raised.value) == message


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"length": 8}, "recall: 8 pairs and a question need 18 tokens, the length is 8."),
        ({"vocabulary": 64, "pairs": 16, "disjoint": "pairs"}, "64 ids have room for"),
        ({"vocabulary": 64, "pairs": 16, "disjoint": "ids"}, "64 ids have room for"),
    ],
)
def test_needle_settings_that_leave_no_room_are_refused_when_read(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(Holder, {"data": {"kind": "needle"} | wrong})
    assert str(raised.value).startswith("data")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_needle_batches_are_the_suites_own_and_never_those_it_asks_about() -> None:
    config = NeedleData(vocabulary=128, length=48, pairs=4)
    source = open_source(config, seed=3, batch=5)
    pairs = Pairs(128)
    assert (source.tokenizer.kind, source.tokenizer.vocabulary, source.tokens_per_batch) == ("ids", 128, 240)
    assert source.validation_batches == 4
    made = [(source.batch(step), "train") for step in range(6)] + [(source.validation(i), "test") for i in range(4)]
    for batch, split in made:
        assert batch.tokens.shape == (5, 48)
        assert (batch.positions == np.arange(48)).all()
        row, at = np.nonzero(batch.targets != UNSCORED)
        assert len(row) >= 5
        asked, answers = batch.tokens[row, at].astype(np.int32), batch.targets[row, at].astype(np.int32)
        assert pairs.within(asked, answers, "train" if split == "train" else "test").all()
    assert same(source.batch(4), open_source(config, seed=3, batch=5).batch(4))
    assert not same(source.batch(4), source.batch(5))
    assert not same(source.batch(4), open_source(config, seed=4, batch=5).batch(4))
    assert same(source.validation(1), open_source(config, seed=4, batch=5).validation(1))


def test_a_length_that_replaces_another_is_checked_too() -> None:
    assert open_source(NeedleData(), 0, 2, length=32).batch(0).tokens.shape == (2, 32)
    with pytest.raises(ConfigError) as raised:
        open_source(NeedleData(), 0, 2, length=16)
    assert str(raised.value) == "data: recall: 8 pairs and a question need 18 tokens, the length is 16."


def test_tensors_share_the_batch(texts: TextData) -> None:
    batch = open_source(texts, seed=0, batch=2).batch(0)
    tensors = to_tensors(batch)
    for name in ("tokens", "targets", "positions"):
        tensor = getattr(tensors, name)
        assert tensor.dtype == torch.int64
        assert np.shares_memory(tensor.numpy(), getattr(batch, name))


@pytest.mark.skipif(not BOOKS.is_dir(), reason="the sample books are not there (../shared/data/books)")
def test_real_books_stream_on_across_steps(tmp_path: Path) -> None:
    config = TextData(path=str(BOOKS), cache=str(tmp_path), length=4096, order="streams")
    source = open_source(config, seed=0, batch=4)
    one, two = source.batch(10), source.batch(11)
    assert (two.positions[:, 0] == one.positions[:, -1] + 1).all()
    assert (one.targets[:, -1] == two.tokens[:, 0]).all()
    assert (one.targets[:, :-1] == one.tokens[:, 1:]).all()
    assert " the " in source.tokenizer.decode(one.tokens[0].tolist())
