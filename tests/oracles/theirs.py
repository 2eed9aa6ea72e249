"""Loading other people's implementations: from the environment, or from a folder apart from it.

    installed("mambapy.mamba")                                  of the extra `oracles`, or of alone.txt
    apart("fla.ops.retention.naive")                            of apart.txt, run without its kernels

A test whose oracle is missing is skipped, with the line that installs it.
"""

from __future__ import annotations

import functools
import importlib
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import pytest

EXTRA = "pip install -e '.[oracles]'"
ALONE = "pip install --no-deps -c constraints.txt -r tests/oracles/alone.txt"
APART = Path(sys.prefix) / "apart"
KERNELS = (
    "triton",
    "triton.language",
    "selective_scan_cuda",
    "mamba_ssm.ops.triton.layer_norm",
    "mamba_ssm.utils.determinism",
)


def installed(name: str, *stubs: str) -> ModuleType:
    """The module, or a skipped test. `stubs`: modules that it imports for parts of it which are not run here."""
    line = EXTRA if name.partition(".")[0] in ("mambapy", "transformers", "yet_another_retnet") else ALONE
    try:
        with _standing({stub: _stub(stub) for stub in stubs}):
            return importlib.import_module(name)
    except ImportError as missing:
        pytest.skip(f"{missing}. `make test` installs it; by hand: {line}")


@functools.cache
def apart(name: str) -> ModuleType:
    """The module from the folder of apart.txt, or a skipped test.

    Its packages are bare: what their `__init__` imports are kernels. So is what the module itself imports of triton
    and CUDA, which its reference functions do not call.
    """
    *packages, _ = name.split(".")
    if not (APART / packages[0]).is_dir():
        pytest.skip(f"{packages[0]} is not in {APART}. `make test` installs it; by hand: see tests/oracles/apart.txt")
    bare = {stub: _stub(stub) for stub in KERNELS}
    for end in range(1, len(packages) + 1):
        package = ModuleType(".".join(packages[:end]))
        package.__path__ = [str(APART.joinpath(*packages[:end]))]
        bare[package.__name__] = package
    with _standing(bare):
        return importlib.import_module(name)


def _stub(name: str) -> ModuleType:
    """A module in which every name is a decorator, a type or a function, as it is needed."""
    stub = MagicMock(name=name, __version__="3.0.0")
    stub.autotune.return_value.return_value.configs = [MagicMock()]  # a kernel has a configuration, which one asks for
    return stub


@contextmanager
def _standing(stubs: Mapping[str, ModuleType]) -> Iterator[None]:
    """Within it, imports find `stubs` and warn of nothing: their warnings are not ours. Behind it, all is as it was."""
    tops = {name.partition(".")[0] for name in stubs}
    before = _without(tops)
    sys.modules.update(stubs)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        _without(tops)
        sys.modules.update(before)


def _without(tops: set[str]) -> dict[str, ModuleType]:
    """The modules of these packages, which are taken out of the interpreter's table."""
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in tops}
