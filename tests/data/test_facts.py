"""Sets of documents with a fact each: what they hold, what is asked, and how they are dealt to devices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from farfield.benchmarks.tasks.pairs import Pairs
from farfield.config import ConfigError, read
from farfield.data import PADDING, UNSCORED, Batch, FactsData, Sets, open_source
from farfield.data.tensors import to_tensors
from farfield.training.feed import shard

CONFIG = FactsData(vocabulary=128, documents=(3, 5), length=6, questions=2)


def sets_of(batch: Batch) -> Sets:
    assert batch.sets is not None
    return batch.sets


def same(one: Batch, other: Batch) -> bool:
    pairs = [(getattr(one, name), getattr(other, name)) for name in ("tokens", "targets", "positions")]
    pairs += [(getattr(sets_of(one), name), getattr(sets_of(other), name)) for name in ("tokens", "positions")]
    return all(np.array_equal(mine, theirs) for mine, theirs in pairs)


@pytest.mark.parametrize("split", ["train", "test"])
def test_each_question_is_answered_by_one_document_of_its_set(split: str) -> None:
    source, pairs = CONFIG.open(3, 4), Pairs(128)
    numbers = set()
    for step in range(4):
        batch = source.batch(step) if split == "train" else source.validation(step)
        sets = sets_of(batch)
        assert batch.tokens.shape == (8, 2)
        assert sets.tokens.shape == sets.positions.shape == (4, 5, 6)
        assert (batch.tokens[:, 0] == pairs.query).all()
        assert (batch.targets[:, 0] == UNSCORED).all()
        assert (sets.question == 2).all()
        keys, values = batch.tokens[:, 1].astype(np.int32), batch.targets[:, 1].astype(np.int32)
        assert pairs.within(keys, values, "train" if split == "train" else "test").all()
        there = (sets.positions != PADDING).all(2)
        assert (sets.positions[there] == np.arange(6)).all()
        assert (sets.positions[~there] == PADDING).all()
        numbers |= set(there.sum(1).tolist())
        for row, (key, value) in enumerate(zip(keys, values, strict=True)):
            documents = sets.tokens[row // 2][there[row // 2]]
            found = [(one[:-1] == key) & (one[1:] == value) for one in documents]
            assert sum(map(np.sum, found)) == 1
        assert all(len(set(keys[2 * one : 2 * one + 2].tolist())) == 2 for one in range(4))
        assert batch.read == int(there.sum()) * 6 + 16
    assert numbers == {3, 4, 5}


def test_batches_are_functions_of_seed_and_step() -> None:
    source = open_source(CONFIG, seed=3, batch=4)
    assert same(source.batch(4), open_source(CONFIG, seed=3, batch=4).batch(4))
    assert not same(source.batch(4), source.batch(5))
    assert not same(source.batch(4), open_source(CONFIG, seed=4, batch=4).batch(4))
    assert same(source.validation(1), open_source(CONFIG, seed=4, batch=4).validation(1))
    assert (source.tokens_per_batch, source.validation_batches) == (4 * 34, 4)
    assert source.describe()["documents"] == "3 to 5 of 6 tokens"


def test_a_device_gets_whole_sets_and_their_rows() -> None:
    batch = CONFIG.open(0, 4).batch(0)
    whole = to_tensors(batch)
    parts = [shard(batch, rank, 2) for rank in range(2)]
    assert torch.equal(torch.cat([part.tokens for part in parts]), whole.tokens)
    assert whole.sets is not None
    for name in ("tokens", "positions", "question"):
        assert torch.equal(torch.cat([getattr(part.sets, name) for part in parts]), getattr(whole.sets, name))
    assert [part.sets.tokens.shape for part in parts if part.sets] == [(2, 5, 6)] * 2
    assert sum(part.read for part in parts) == batch.read
    assert parts[0].to(torch.device("meta")).sets.tokens.is_meta  # type: ignore[union-attr]


def test_what_no_vocabulary_holds_is_refused() -> None:
    with pytest.raises(ConfigError, match="ids have room for"):
        read(FactsData, {"vocabulary": 64, "documents": [4, 16]})
