"""What a store finds, and what it holds: against a plain dictionary, over random sequences of puts and finds."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stored import SEED, parts_of, read_all, same, size_of, text

from farfield.memory.store import StateStore, StoreConfig
from farfield.memory.store.chain import BLOCK, chain, shared, token_ids, whole

# Pieces of texts, such that texts part within blocks and at their borders.
PIECES = [list(range(BLOCK)), [7] * BLOCK, [5], list(range(10)), list(range(40, 40 + BLOCK + 6))]
TEXTS = st.lists(st.integers(0, len(PIECES) - 1), min_size=1, max_size=4).map(
    lambda some: [token for one in some for token in PIECES[one]]
)
PUT = st.tuples(st.just("put"), st.sampled_from(["model", "other"]), TEXTS, st.booleans())
FIND = st.tuples(st.just("find"), st.sampled_from(["model", "other"]), TEXTS, st.booleans())


@pytest.fixture(params=["memory", "disk", "both"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StateStore]:
    folder = None if request.param == "memory" else tmp_path
    with StateStore(folder, StoreConfig(memory=0 if request.param == "disk" else 2**20)) as opened:
        yield opened


def expected(held: dict[tuple[str, tuple[int, ...]], bool], seed: str, prompt: list[int]) -> int:
    """The tokens that the best state has read of the prompt: the definition, over all that is held."""
    best = 0
    for (owner, tokens), cuttable in held.items():
        common = shared(np.array(tokens), np.array(prompt))
        if owner != seed:
            continue
        if common == len(tokens):
            best = max(best, common)
        elif cuttable and common >= BLOCK:
            best = max(best, min(common, len(prompt) - 1))
    return best


@settings(max_examples=60)
@given(st.lists(PUT | FIND, max_size=12), st.booleans())
def test_a_store_finds_what_a_dictionary_finds(steps: list[tuple[str, str, list[int], bool]], disk: bool) -> None:
    held: dict[tuple[str, tuple[int, ...]], bool] = {}
    with tempfile.TemporaryDirectory() as folder:
        config = StoreConfig(memory=0 if disk else 2**30)
        with StateStore(Path(folder) if disk else None, config) as store:
            for kind, seed, tokens, cuttable in steps:
                if kind == "put":
                    store.put(seed, tokens, parts_of(tokens), cuttable=cuttable)
                    held.setdefault((seed, tuple(tokens)), cuttable)
                    continue
                found, best = store.find(seed, tokens), expected(held, seed, tokens)
                assert (0 if found is None else found.count) == best
                if found is not None:
                    (stored,) = {
                        other for owner, other in held if owner == seed and same(read_all(found), parts_of(other))
                    }
                    assert list(stored[:best]) == tokens[:best]
                    assert found.cut == (len(stored) > best)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 7)), max_size=40), st.integers(0, 4))
def test_a_full_store_gives_up_what_was_used_longest_ago(steps: list[tuple[bool, int]], room: int) -> None:
    texts = [text(number, 10 + number) for number in range(8)]
    budget, ticks, held = room * size_of(texts[3]), count(), dict[int, int]()  # by number: when it was used
    with StateStore(None, StoreConfig(memory=budget), clock=lambda: float(next(ticks))) as store:
        for time, (putting, number) in enumerate(steps):
            if putting:
                store.put(SEED, texts[number], parts_of(texts[number]))
                if size_of(texts[number]) <= budget:
                    while number not in held and sum(size_of(texts[one]) for one in {*held, number}) > budget:
                        del held[min(held, key=held.__getitem__)]
                    held[number] = time
            else:
                found = store.find(SEED, texts[number])
                assert (found is not None) == (number in held)
                if found is not None:
                    held[number] = time
            assert store.held["memory"] == sum(size_of(texts[one]) for one in held) <= budget


def test_no_state_of_another_model_is_found(store: StateStore) -> None:
    store.put("one", text(0), parts_of(text(0)), cuttable=True)
    assert store.find("another", text(0)) is None
    assert store.find("one", text(0)) is not None


def test_a_session_keeps_its_newest_state_and_shares_what_others_need(store: StateStore) -> None:
    store.put(SEED, text(0, 70), parts_of(text(0, 70)), session="alice")
    store.put(SEED, text(0, 90), parts_of(text(0, 90)), session="alice")
    store.flush()
    assert store.find(SEED, text(0, 80)) is None
    store.put(SEED, text(0, 90), parts_of(text(0, 90)), session="bob")
    store.put(SEED, text(0, 95), parts_of(text(0, 95)), session="alice")
    found = store.find(SEED, text(0, 92))
    assert found is not None
    assert found.count == 90


def test_digests_part_where_texts_part() -> None:
    first, second = token_ids(range(3 * BLOCK)), token_ids([*range(2 * BLOCK), *range(BLOCK)])
    links, others = chain("a", first), chain("a", second)
    assert [one == other for one, other in zip(links, others, strict=True)] == [True, True, True, False]
    assert not set(links) & set(chain("b", first))
    for length in (0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK):
        assert whole(links, first, length) == whole(chain("a", first[:length]), first[:length], length)
    assert len({whole(links, first, length) for length in range(3 * BLOCK)}) == 3 * BLOCK


def test_what_is_read_from_the_disk_stays_in_memory(tmp_path: Path) -> None:
    with StateStore(tmp_path) as store:
        store.put(SEED, text(0), parts_of(text(0)))
    with StateStore(tmp_path) as store:
        tiers = []
        for _ in range(2):
            found = store.find(SEED, text(0))
            assert found is not None
            assert same(read_all(found), parts_of(text(0)))
            tiers.append(found.tier)
            store._pools["read"].submit(int).result()
    assert tiers == ["disk", "memory"]
