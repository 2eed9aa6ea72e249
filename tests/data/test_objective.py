"""Hidden tokens: a fresh choice for every batch, the same one for the same batch, in the shares that are asked for."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farfield.config import ConfigError, read
from farfield.data import PADDING, UNSCORED, Batch, NeedleData
from farfield.data.objective import MaskedConfig, MaskedSource, NextTokenConfig

VOCABULARY = 64
MASK = VOCABULARY


def source(seed: int = 3, length: int = 64, batch: int = 16, **settings: float) -> MaskedSource:
    inner = NeedleData(vocabulary=VOCABULARY, length=length, pairs=4).open(seed, batch)
    found = read(MaskedConfig, settings).source(inner, seed)
    assert isinstance(found, MaskedSource)
    return found


def hidden(batch: Batch) -> np.ndarray:
    return batch.targets != UNSCORED


def test_next_tokens_are_the_sources_own() -> None:
    inner = NeedleData(vocabulary=VOCABULARY, length=64, pairs=4).open(0, 2)
    assert NextTokenConfig().source(inner, 0) is inner
    assert NextTokenConfig().vocabulary(VOCABULARY) == VOCABULARY
    assert MaskedConfig().vocabulary(VOCABULARY) == VOCABULARY + 1


def test_what_is_hidden_is_what_stood_there() -> None:
    masked = source()
    for step in range(3):
        ours, plain = masked.batch(step), masked.inner.batch(step)
        chosen = hidden(ours)
        assert np.array_equal(ours.targets[chosen], plain.tokens[chosen])
        assert np.array_equal(ours.tokens[~chosen], plain.tokens[~chosen])
        assert np.array_equal(ours.positions, plain.positions)
        assert ours.tokens.max() == MASK
        assert ours.tokens.dtype == ours.targets.dtype == np.int64


def test_a_batch_is_a_function_of_seed_and_step_and_of_nothing_else() -> None:
    one, other = source(), source()
    other.batch(9)
    for step in (0, 5, 10**6):
        first, second = one.batch(step), other.batch(step)
        assert np.array_equal(first.tokens, second.tokens)
        assert np.array_equal(first.targets, second.targets)
    again = pickle.loads(pickle.dumps(one)).batch(5)
    assert np.array_equal(again.tokens, one.batch(5).tokens)


def test_masks_are_fresh_each_time_a_batch_is_drawn() -> None:
    """Other places in other steps, under other seeds, and in validation; validation's own stay."""
    masks = [hidden(source().batch(0)), hidden(source().batch(1)), hidden(source(seed=4).batch(0))]
    masks.append(hidden(source().validation(0)))
    for i, one in enumerate(masks):
        for other in masks[i + 1 :]:
            assert not np.array_equal(one, other)
    assert np.array_equal(hidden(source().validation(0)), masks[-1])


def test_shares_are_those_that_are_asked_for() -> None:
    masked = source(length=128, batch=64, share=0.3, mask=0.5, random=0.25)
    batches = [masked.batch(step) for step in range(8)]
    tokens, targets = (np.stack([getattr(batch, name) for batch in batches]) for name in ("tokens", "targets"))
    chosen = targets != UNSCORED
    total = chosen.sum()

    def near(count: int, of: int, share: float) -> bool:
        return abs(count - share * of) < 5 * np.sqrt(of * share * (1 - share))

    assert near(total, chosen.size, 0.3)
    assert near((tokens[chosen] == MASK).sum(), total, 0.5)
    kept = (tokens[chosen] == targets[chosen]).sum()
    assert near(kept, total, 0.25 + 0.25 / VOCABULARY)  # a random token may be the one that stood there
    others = tokens[chosen & (tokens != MASK) & (tokens != targets)]
    assert len(np.unique(others)) == VOCABULARY


@given(st.integers(1, 5), st.integers(0, 2**32), st.floats(0.001, 0.999))
def test_at_least_one_token_is_chosen_and_never_padding(real: int, seed: int, share: float) -> None:
    positions = np.where(np.arange(8) < real, np.arange(8), PADDING)[None].repeat(2, 0)
    tokens = np.full((2, 8), 7)
    masked = MaskedSource(MaskedConfig(share=share), source().inner, seed)
    found = masked._hidden(Batch(tokens, tokens, positions), (seed, 0, 0))
    assert hidden(found).any()
    assert not hidden(found)[positions == PADDING].any()
    assert (found.tokens[positions == PADDING] == 7).all()


def test_a_batch_of_nothing_but_padding_scores_nothing() -> None:
    nothing = np.full((2, 8), PADDING)
    found = source()._hidden(Batch(np.zeros((2, 8), np.int64), nothing, nothing), (0, 0, 0))
    assert not hidden(found).any()


def test_what_it_says_of_itself() -> None:
    masked = source()
    assert masked.describe()["hidden"] == "0.15 of the tokens, of which 0.8 masked and 0.1 random"
    assert masked.tokens_per_batch == 16 * 64
    assert masked.validation_batches == masked.inner.validation_batches
    assert masked.tokenizer is masked.inner.tokenizer


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"share": 0}, "objective.share: 0 given. Input should be greater than 0."),
        ({"share": 1}, "objective.share: 1 given. Input should be less than 1."),
        (
            {"mask": 0.8, "random": 0.3},
            "objective: mask 0.8 and random 0.3 are more than all chosen tokens (1.0).",
        ),
        ({"rate": 0.1}, "objective: unknown key 'rate'. Known: kind, mask, random, share."),
    ],
)
def test_mistakes_are_one_line(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError) as mistake:
        read(MaskedConfig, settings, "objective")
    assert str(mistake.value) == message
