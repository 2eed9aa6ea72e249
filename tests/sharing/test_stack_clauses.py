"""Every clause of the contract that is about answers and states, on stacks of layers that share keys.

The clauses are those of tests/contract with a stack in the place of a mixer: see there what each of them says.
"""

from __future__ import annotations

import inspect
import itertools
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from contract import test_rows, test_sizes, test_states, test_time
from contract.runs import assert_close, in_calls, sample, through, whole
from stacks import STACKS, Stack

Clause = Callable[..., None]

APART = {
    "test_3_forms_agree": "forms are settings of mixers",
    "test_10_a_state_that_is_said_to_be_constant_is": "of stacks without growing caches, which none here is",
    "test_10_memory_held_is_a_small_multiple_of_the_bytes": "the slack of a small ring beside a shared cache",
}
"""Clauses of mixers alone, and why."""

SPLITS = (
    "test_2_",
    "test_6_",
    "test_7_documents_that_run_on",
    "test_random_layouts",
    "test_many_random_layouts",
    "test_8_tensors",
    "test_two_continuations",
    "test_only_differences_of_phase",
)
"""Beginnings of the clauses that compare a split into calls with another one."""


def clauses(module: ModuleType) -> Iterator[Clause]:
    """Functions that are parametrized by a subject and further values."""
    for name, test in vars(module).items():
        if inspect.isfunction(test) and name.startswith("test_") and name not in APART:
            parameters = list(inspect.signature(test).parameters)
            if parameters[:1] == ["subject"] and test.__module__ == module.__name__:
                yield test


def combinations(test: Clause) -> list[dict[str, Any]]:
    """The values of a clause's further parameters, as its own parametrization names them."""
    found: list[dict[str, Any]] = []
    for mark in getattr(test, "pytestmark", ()):
        if mark.name == "parametrize":
            names = [mark.args[0]] if isinstance(mark.args[0], str) else list(mark.args[0])
            for case in mark.args[1]:
                values = dict(zip(names[1:], getattr(case, "values", (case,))[1:], strict=True))
                if values not in found:
                    found.append(values)
    return found or [{}]


def cases() -> Iterator[Any]:
    """Each clause on every third stack in the fast suite, with the next of its values; all of them in the whole one."""
    modules = (test_time, test_rows, test_states)
    tests = [*itertools.chain(*map(clauses, modules)), test_sizes.test_11_every_parameter_gets_a_finite_gradient]
    for test in tests:
        values, offset = combinations(test), zlib.crc32(test.__name__.encode())
        for index, name in enumerate(STACKS):
            stack = Stack(name)
            if test.__name__.startswith(SPLITS) and not stack.config.decoder.split_exact:
                continue
            for place, chosen in enumerate(values):
                fast = place == (index // 3 + offset) % len(values) and (index + offset) % 3 == 0
                fast = fast and not test.__name__.startswith("test_many")
                marks = () if fast else pytest.mark.contract_full
                told = "-".join(str(value).removeprefix("torch.") for value in chosen.values())
                yield pytest.param(stack, test, chosen, id=f"{name}-{test.__name__[5:]}-{told}", marks=marks)


@pytest.mark.parametrize(("subject", "test", "chosen"), list(cases()))
def test_clause(
    subject: Stack, test: Clause, chosen: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixtures = {"tmp_path": tmp_path, "monkeypatch": monkeypatch}
    more = {name: value for name, value in fixtures.items() if name in inspect.signature(test).parameters}
    test(subject, **chosen, **more)


@pytest.mark.parametrize("name", STACKS)
def test_parameters_are_as_many_as_the_settings_say(name: str) -> None:
    stack = Stack(name)
    assert sum(p.numel() for p in stack.build().parameters()) == stack.config.decoder.parameters()


@pytest.mark.parametrize("name", STACKS)
def test_what_is_declared_of_splits_is_so(name: str) -> None:
    stack = Stack(name)
    mixer, (x, _) = stack.build(), sample(2, 40, stack.width, torch.float64)
    with torch.no_grad():
        at_once, _ = through(mixer, x, whole(2, 40))
        by_token, _ = through(mixer, x, [torch.full((2, 1), time) for time in range(40)])
    off = float((at_once - by_token).abs().max())
    assert off < 1e-9 if stack.config.decoder.split_exact else off > 1e-6


@pytest.mark.parametrize("name", ["cla", "yoco", "lckv", "crossed", "published"])
def test_activations_computed_again_change_nothing(name: str) -> None:
    stack = Stack(name)
    mixer, (x, cotangent) = stack.build(), sample(2, 30, stack.width, torch.float64)
    expected = in_calls(mixer, x, cotangent, whole(2, 30))
    mixer.decoder.checkpointing = True
    found = in_calls(mixer, x, cotangent, whole(2, 30))
    for key, gradient in expected.gradients.items():
        assert_close(found.gradients[key], gradient, 1e-9, key)
