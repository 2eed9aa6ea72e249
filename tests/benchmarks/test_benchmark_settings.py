from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from oracle import Bytes, Numbers

from farfield.benchmarks.settings import Suite
from farfield.benchmarks.suites.needle import NeedleSuite
from farfield.config import Config, ConfigError, FarfieldError, read


def test_defaults_are_a_suite_for_every_tokenizer() -> None:
    suite: Suite = NeedleSuite()
    assert [task.name for task in suite.tasks(Numbers())] == ["needle_tokens"]
    assert [task.name for task in suite.tasks(Bytes())] == ["needle_text"]
    assert suite.places() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1])
    assert read(NeedleSuite, suite.mapping()) == suite
    for tokenizer in (Numbers(), Bytes()):
        for length in suite.lengths:
            suite.tasks(tokenizer)[0].check(0, length, 20, "test")


def test_no_task_named_is_every_task_that_fits() -> None:
    kinds = ["needle", "multi_key", "multi_value", "multi_query", "passkey"]
    suite = read(NeedleSuite, {"tasks": []})
    assert [task.name for task in suite.tasks(Numbers())] == [f"{kind}_tokens" for kind in kinds]
    assert [task.name for task in suite.tasks(Bytes())] == [f"{kind}_text" for kind in [*kinds, "no_literal"]]
    among = read(NeedleSuite, {"tasks": [], "haystack": "needles"}).tasks(Numbers())
    assert [task.name for task in among] == [f"{kind}_tokens" for kind in kinds[:-1]]


class One(Config):
    suite: Suite


LISTS = {
    "babilong": {"tasks": "qa1", "lengths": 256, "controls": "no_context"},
    "efficiency": {"lengths": 256},
    "longdoc": {"tasks": "trec", "lengths": 256, "controls": "memory_off", "readings": "retrieved"},
    "lost_in_the_middle": {"tasks": "kv", "lengths": 256, "controls": "no_context", "depths": 0.25},
    "needle": {"tasks": "passkey", "lengths": 256, "controls": "no_context", "depths": 0.25},
    "perplexity": {"protocols": "block", "near": 64, "lengths": 256, "controls": "memory_off"},
    "recall": {"tasks": "mqar", "pairs": 4, "lengths": 256, "controls": "no_context"},
    "retrieval": {"collections": "a", "methods": "lexical", "lengths": 5},
    "ruler": {"tasks": "vt", "lengths": 256, "controls": "no_context"},
}


@pytest.mark.parametrize("kind", LISTS)
def test_one_of_a_list_may_stand_without_brackets(kind: str) -> None:
    alone = read(One, {"suite": {"kind": kind} | LISTS[kind]})
    assert alone == read(One, {"suite": {"kind": kind} | {name: [value] for name, value in LISTS[kind].items()}})
    listed = {
        field.alias or name
        for name, field in type(alone.suite).model_fields.items()
        if isinstance(getattr(alone.suite, name), tuple) and name != "window"  # it has two ends
    }
    assert listed == LISTS[kind].keys()  # all that there are


@pytest.mark.parametrize(
    ("mapping", "line"),
    [
        ({"lengths": "many"}, 'suite.lengths: "many" given. Input should be a valid integer.'),
        ({"lengths": True}, "suite.lengths: true given. Input should be a valid array."),
        ({"lengths": 0}, "suite.lengths: 0 given. Input should be greater than or equal to 1."),
        ({"tasks": "vtt"}, "suite.tasks: ruler has no task 'vtt'. Did you mean 'vt'?"),
        ({"tasks": 3}, "suite.tasks: 3 given. Input should be a valid string."),
        ({"controls": "no_contxt"}, "suite.controls: unknown choice 'no_contxt'. Did you mean 'no_context'?"),
    ],
)
def test_what_cannot_be_one_of_a_list_is_said_in_one_line(mapping: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(One, {"suite": {"kind": "ruler"} | mapping})
    assert str(error.value).startswith(line)


def test_depths_are_a_number_or_a_list() -> None:
    assert read(NeedleSuite, {"depths": 3}).places() == (0, 0.5, 1)
    assert read(NeedleSuite, {"depths": [0, 0.25]}).places() == (0, 0.25)
    assert read(NeedleSuite, {"depths": 3, "spacing": "sigmoid"}).places() == (0, 0.5, 1)


@pytest.mark.parametrize(
    ("mapping", "line"),
    [
        ({"lengths": []}, "suite.lengths: [] given. Give one or more lengths in rising order, each once."),
        (
            {"lengths": [512, 256]},
            "suite.lengths: [512, 256] given. Give one or more lengths in rising order, each once.",
        ),
        (
            {"depths": [0.5, 2]},
            "suite.depths: [0.5, 2.0] given. Give a number of depths, or depths from 0 to 1 in rising order.",
        ),
        ({"queries": 2}, "suite: queries=2 asks for more than the needles=1 there are."),
        (
            {"mode": "tokens", "haystack": "books"},
            "suite: haystack=books is text, and mode=tokens has none. Take noise, repeat, needles.",
        ),
        (
            {"tasks": ["pass_key"]},
            "suite.tasks: needle has no task 'pass_key'. Did you mean 'passkey'? Known: multi_key, multi_query, "
            "multi_value, needle, no_literal, passkey.",
        ),
        (
            {"tasks": ["no_literal"], "mode": "tokens"},
            "suite: no_literal asks what words mean, and mode=tokens has none. Leave it out of suite.tasks.",
        ),
        (
            {"tasks": ["passkey"], "haystack": "needles", "mode": "text"},
            "suite: passkey hides the only password there is, haystack=needles would hide more. Take another haystack.",
        ),
        ({"several": 1}, "suite.several: 1 given. Input should be greater than or equal to 2."),
        ({"mode": "token"}, "suite.mode: unknown choice 'token'. Did you mean 'tokens'? Known: auto, text, tokens."),
        (
            {"lenghts": [3]},
            "suite: unknown key 'lenghts'. Did you mean 'lengths'? Known: batch, batch_tokens, cell_seconds, "
            "controls, depths, disjoint, haystack, kind, lengths, mode, needles, queries, repeat, samples, scoring, "
            "seed, several, spacing, split, tasks, wording.",
        ),
        ({"samples": 0}, "suite.samples: 0 given. Input should be greater than or equal to 1."),
    ],
)
def test_settings_that_do_not_fit_are_said_in_one_line(mapping: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(NeedleSuite, mapping, "suite")
    assert str(error.value) == line


@pytest.mark.parametrize(
    ("mapping", "tokenizer", "line"),
    [
        (
            {"mode": "tokens"},
            Bytes(),
            "needle: mode=tokens does not fit a model of the bytes tokenizer. Take mode=text.",
        ),
        ({"mode": "text"}, Numbers(), "needle: mode=text does not fit a model of the ids tokenizer. Take mode=tokens."),
        (
            {"haystack": "books"},
            Numbers(),
            "needle: haystack=books is text, and mode=tokens has none. Take noise, repeat, needles.",
        ),
        (
            {"tasks": ["needle", "no_literal"]},
            Numbers(),
            "needle: no_literal asks what words mean, and mode=tokens has none. Leave it out of suite.tasks.",
        ),
        (
            {"wording": "no.yaml"},
            Numbers(),
            "suite.wording: text, and a model of the ids tokenizer reads none. Leave it out.",
        ),
        ({"wording": "no.yaml"}, Bytes(), "wording: no.yaml cannot be read: No such file or directory."),
        (
            {"haystack": "books"},
            Bytes(),
            "haystack: 'books' is no file and no folder. Known: noise, repeat, needles, or a path.",
        ),
    ],
)
def test_what_auto_settles_is_checked_against_the_model(
    mapping: dict[str, Any], tokenizer: Bytes | Numbers, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FarfieldError) as error:
        read(NeedleSuite, mapping).tasks(tokenizer)
    assert str(error.value) == line
