"""What goes first, by policy; what the queue spares and fetches; what is unused for too long."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stored import SEED, parts_of, size_of, text

from farfield.memory.store import POLICIES, Held, StateStore, StoreConfig, ahead, victims

HELD = st.lists(
    st.tuples(st.sampled_from([None, *"abcdef"]), st.integers(0, 50), st.integers(0, 9), st.integers(0, 9)), max_size=8
).map(lambda rows: [Held(str(key), *row) for key, row in enumerate(rows)])
QUEUE = st.lists(st.sampled_from("abcdefgh"), max_size=6)


def held(*rows: tuple[str | None, float, float]) -> list[Held]:
    """Of (session, stored, used), ten bytes each; the key is the place."""
    return [Held(str(key), session, 10, stored, used) for key, (session, stored, used) in enumerate(rows)]


SOME = held(("a", 0, 9), ("b", 1, 4), (None, 2, 5), ("c", 3, 6), ("d", 4, 3))


@pytest.mark.parametrize(
    ("policy", "queue", "order"),
    [
        ("fifo", "", "01234"),
        ("lru", "", "41230"),
        ("lru", "dba", "41230"),
        ("scheduled", "", "41230"),
        ("scheduled", "dba", "23014"),  # nobody asks for 2 and 3; then a, b, d from the queue's tail
        ("scheduled", "ada", "12340"),  # the first turn of a session counts
    ],
)
def test_the_order_in_which_states_go(policy: str, queue: str, order: str) -> None:
    assert "".join(one.key for one in POLICIES[policy](SOME, queue)) == order


@pytest.mark.parametrize("policy", POLICIES)
@given(HELD, QUEUE, st.integers(0, 60), st.integers(60, 200))
def test_as_few_go_as_the_order_allows(
    policy: str, held: list[Held], queue: Sequence[str], need: int, budget: int
) -> None:
    gone = victims(held, need, budget, POLICIES[policy], queue)
    left = sum(one.bytes for one in held) - sum(one.bytes for one in gone)
    assert gone == POLICIES[policy](held, queue)[: len(gone)]
    assert left + need <= budget
    assert not gone or left + gone[-1].bytes + need > budget


def test_what_cannot_fit_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"61 bytes do not fit into a budget of 60\."):
        victims([], 61, 60, POLICIES["lru"])


def test_the_window_is_as_long_as_there_is_room() -> None:
    assert ahead("abab", SOME, 20) == ["a", "b"]
    assert ahead("xab", SOME, 25) == ["x", "a"]  # one of unknown size counts as the mean
    assert ahead("ab", [], 0) == ["a", "b"]
    assert ahead("ab", SOME, 9) == []


def test_expected_sessions_are_fetched_and_spared(tmp_path: Path) -> None:
    size = size_of(text(0))
    config = StoreConfig(memory=3 * size - 1, policy="scheduled")  # room for two, with the heads of their files
    ticks = iter(range(10**6))
    with StateStore(tmp_path, config, clock=lambda: float(next(ticks))) as store:
        for number in range(4):
            store.put(SEED, text(number), parts_of(text(number)), session=str(number))
        store.flush()
        store.expect(["1", "0", "3", "2"])
        store.fetched()
        for number, tier in ((1, "memory"), (0, "memory")):
            found = store.find(SEED, text(number))
            assert found is not None
            assert found.tier == tier
        store.put(SEED, text(9), parts_of(text(9)), session="9")  # the tail of the window gives way
        assert sorted(str(one.session) for one in store._memory.catalogue.held()) == ["1", "9"]


def test_what_is_unused_for_too_long_goes(tmp_path: Path) -> None:
    now = 0.0
    with StateStore(tmp_path, StoreConfig(ttl=10), clock=lambda: now) as store:
        for number in range(2):
            store.put(SEED, text(number), parts_of(text(number)))
        store.flush()
        now = 8.0
        assert store.find(SEED, text(1)) is not None
        now = 12.0
        assert store.find(SEED, text(0)) is None
        assert store.find(SEED, text(1)) is not None
        store.put(SEED, text(2), parts_of(text(2)))
        store.flush()
        assert len(list((tmp_path / "states").iterdir())) == 2
