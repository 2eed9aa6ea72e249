"""The two measurements of the store: what they count, and what they write."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from farfield.benchmarks import session_policies, session_reuse
from farfield.benchmarks.session_policies import Conversation, Machine, Workload, conversations, simulate
from farfield.memory.store import POLICIES

ROOMY = Machine(memory=10**9, disk=10**9)
SOME = conversations(Workload(conversations=150))


def talk(name: str, begins: float, turns: int, think: float) -> Conversation:
    """Of prompts and answers of ten tokens."""
    return Conversation(name, begins, (10,) * turns, (10,) * turns, (think,) * turns)


def test_conversations_are_like_those_they_stand_for() -> None:
    many = conversations(Workload(conversations=4000))
    turns = [len(one.prompts) for one in many]
    assert sum(turns) / len(turns) == pytest.approx(5.75, abs=0.25)
    assert sum(count > 1 for count in turns) / len(turns) == pytest.approx(0.73, abs=0.02)
    assert conversations(Workload(conversations=150)) == SOME
    assert conversations(Workload(conversations=150, seed=1)) != SOME


@pytest.mark.parametrize("policy", POLICIES)
def test_with_room_for_all_every_history_is_found_and_without_any_none(policy: str) -> None:
    all_found = simulate(SOME, ROOMY, policy)
    assert all_found.turns == sum(len(one.prompts) - 1 for one in SOME)
    assert (all_found.memory, all_found.disk) == (all_found.turns, 0)
    assert all_found.prefilled == sum(sum(one.prompts) for one in SOME)
    none_found = simulate(SOME, replace(ROOMY, memory=0, disk=0), policy)
    assert none_found.hits == 0
    assert none_found.prefilled == none_found.history == all_found.history


def test_what_waits_in_the_queue_is_spared_and_fetched() -> None:
    """One server, room for three states: b and c wait for their second turns while d and e come and go."""
    machine = Machine(prefill=1e9, decode=10, slots=1, memory=20, disk=40)
    some = [talk("b", 0.0, 2, 0.5), talk("c", 0.1, 2, 0.5), talk("d", 0.2, 1, 0.0), talk("e", 0.3, 1, 0.0)]
    found = {policy: simulate(some, machine, policy) for policy in POLICIES}
    assert {policy: (one.memory, one.disk) for policy, one in found.items()} == {
        "fifo": (0, 0),
        "lru": (0, 0),
        "scheduled": (2, 0),
    }


def test_a_table_picture_and_figures_of_policies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, picture = tmp_path / "policies.json", tmp_path / "policies.png"
    words = [
        "--conversations",
        "150",
        "--disks",
        "10000",
        "--warm",
        "20",
        "--json",
        str(file),
        "--picture",
        str(picture),
    ]
    assert session_policies.main(words) in (0, 1)
    rows = json.loads(file.read_text())["rows"]
    assert [row["policy"] for row in rows] == list(POLICIES)
    assert all(0 < row["hits"] < 1 and row["memory"] <= row["hits"] for row in rows)
    assert "scheduled" in capsys.readouterr().out
    assert picture.stat().st_size > 0


def test_a_table_picture_and_figures_of_reuse(tmp_path: Path) -> None:
    file, picture = tmp_path / "reuse.json", tmp_path / "reuse.png"
    sizes = ["--width", "32", "--depth", "1", "--lengths", "96", "--repeats", "1"]
    words = [*sizes, "--subjects", "attention", "retnet", "--json", str(file), "--picture", str(picture)]
    assert session_reuse.main(words) == 0
    rows = json.loads(file.read_text())["rows"]
    assert [(row["subject"], row["case"]) for row in rows] == [
        (name, case) for name in ("attention", "retnet") for case in ("returning", "question")
    ]
    assert all(set(row["seconds"]) == {"anew", "memory", "disk"} for row in rows)
    assert all(value > 0 for row in rows for value in row["seconds"].values())
    assert picture.stat().st_size > 0
