"""Shared by all tests: one thread, a fixed seed, uninitialised memory full of NaN, and the count of contract cases."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("farfield", deadline=None, derandomize=True, print_blob=False)
settings.load_profile("farfield")


@pytest.fixture(autouse=True)
def _same_for_all() -> Iterator[None]:
    """Only where torch is there already: tests of what needs no torch stay light."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "use_deterministic_algorithms"):
        yield
        return
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    # With this on, torch.empty and its kin are filled with NaN: what is read before it is written shows.
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(deterministic)
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _absl_closes_no_capture() -> Iterator[None]:
    """What absl took for standard error when it was imported is a capture here: Hydra would have it closed."""
    yield
    absl = sys.modules.get("absl.logging")
    if absl is not None:
        absl.get_absl_handler().python_handler.stream = sys.__stderr__


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Cases that are marked contract_full, three quarters of all, are made only where they may run."""
    if "not contract_full" not in metafunc.config.getoption("markexpr"):
        return
    markers = metafunc.definition.own_markers
    for place, mark in enumerate(markers):
        if mark.name == "parametrize" and isinstance(mark.args[-1], list):
            names, cases = mark.args
            fast = [case for case in cases if not any(m.name == "contract_full" for m in getattr(case, "marks", ()))]
            if fast:  # a test without a case would be a skipped one
                markers[place] = pytest.mark.parametrize(names, fast, **mark.kwargs).mark


def pytest_collection_finish() -> None:
    """What was collected stays until the end: without this, every later garbage collection would look at all of it."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Names the kind of each contract case for the count, and makes `-m contract_full` the whole suite, fast cases too.

    A contract case has a `subject` with a `group`: see `contract.subjects` and `encoders.subjects`.
    """
    everything = config.getoption("markexpr").strip() == "contract_full"
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        group = getattr(parameters.get("subject"), "group", None)
        if group is not None:
            item.user_properties.append(("contract", group))
            if everything:
                item.add_marker(pytest.mark.contract_full)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many contract cases ran for each mixer, and how far ours are from other implementations."""
    contract = Counter(_recorded(terminalreporter, "contract"))
    if contract:
        terminalreporter.write_line("contract: " + ", ".join(f"{name} {contract[name]}" for name in sorted(contract)))
    worst: dict[str, float] = {}
    for value in _recorded(terminalreporter, "parity"):
        pair, _, figure = value.rpartition(": ")
        worst[pair] = max(worst.get(pair, 0.0), float(figure))
    if worst:
        terminalreporter.write_line("parity: the largest difference of values and gradients, relative to the largest")
    for pair in sorted(worst):
        terminalreporter.write_line(f"    {pair:60} {worst[pair]:.1e}")


def _recorded(reporter: pytest.TerminalReporter, name: str) -> list[str]:
    """What all tests that ran recorded under `name`."""
    outcomes = ("passed", "failed", "xfailed", "xpassed")
    properties = [
        one for outcome in outcomes for report in reporter.getreports(outcome) for one in report.user_properties
    ]
    return [str(value) for key, value in properties if key == name]
