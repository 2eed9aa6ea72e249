"""Libraries in C++: built once, kept whole, and done without wherever anything is not as it should be."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from farfield.architectures.ops.native import library as module
from farfield.architectures.ops.native.library import FUNCTIONS, library

COMPILER = next(filter(None, map(shutil.which, module.COMPILERS)), None)
needs_a_compiler = pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler here")

SOURCE = '#include "ask.h"\nextern "C" NUMBER answer() { return ASKED; }\n'


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small source in place of ours, and the folder where what is made of it is kept."""
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "question.cpp").write_text(SOURCE)
    (sources / "ask.h").write_text("#define ASKED 42\n")
    monkeypatch.setattr(module, "SOURCES", sources)
    monkeypatch.setattr(module, "FUNCTIONS", {"question": ("answer",)})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("FARFIELD_NATIVE", "CXX"):
        monkeypatch.delenv(name, raising=False)
    library.cache_clear()
    yield tmp_path / "cache" / "farfield" / "native"
    library.cache_clear()


def answer() -> int | None:
    """What the library says, as a process that has not asked before."""
    library.cache_clear()
    found = library("question", "int")
    return None if found is None else found.answer()


def no_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object, **__: object) -> None:
        pytest.fail("a compiler was run")

    monkeypatch.setattr(subprocess, "run", run)


@needs_a_compiler
def test_it_is_built_once_and_kept(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert answer() == 42
    assert f"building question for int with {COMPILER}, once ..." in caplog.messages
    (kept,) = cache.iterdir()
    assert kept.name.startswith("question-int-")
    assert cache.stat().st_mode & 0o777 == 0o700
    no_builds(monkeypatch)
    assert answer() == 42


@needs_a_compiler
def test_another_source_is_another_library(cache: Path) -> None:
    assert answer() == 42
    (module.SOURCES / "ask.h").write_text("#define ASKED 43\n")
    assert answer() == 43
    assert len(list(cache.iterdir())) == 2


@needs_a_compiler
@pytest.mark.parametrize("damage", ["cut short", "a flipped byte", "empty"])
def test_a_damaged_one_is_built_again(damage: str, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert answer() == 42
    (kept,) = cache.iterdir()
    whole = kept.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    kept.unlink()  # the library that is loaded is another file from here on
    kept.write_bytes({"cut short": whole[:middle], "a flipped byte": flipped, "empty": b""}[damage])
    assert answer() == 42
    assert f"{kept} is damaged and is built again." in caplog.messages
    assert [path.read_bytes() for path in cache.iterdir()] == [whole]


def test_without_a_compiler_there_is_none(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert answer() is None
    assert not list(cache.glob("*"))


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'x.cpp:1: error: what is this?' >&2; exit 1", "x.cpp:1: error: what is this?"),
        ("exit 3", "exit status 3"),
        (r"printf '\377' >&2; exit 1", "\ufffd"),  # words of no known encoding
        ("exit 0", "cannot open shared object file"),  # nothing was made
        ('for last; do :; done; echo nonsense > "$last"', "file too short"),
    ],
    ids=["errors", "fails", "says nonsense", "makes nothing", "makes nonsense"],
)
@pytest.mark.skipif(sys.platform != "linux", reason="the words are those of Linux")
def test_a_broken_compiler_leaves_python_to_it(
    script: str,
    said: str,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    compiler = tmp_path / "broken"
    compiler.write_text(f"#!/bin/sh\n{script}\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with caplog.at_level(logging.INFO):
        assert answer() is None
    assert caplog.messages[-1].startswith("question could not be built and stays in Python: ")
    assert said in caplog.messages[-1]
    assert not list(cache.glob("*"))


@needs_a_compiler
def test_a_library_without_our_functions_is_none(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A compiler that makes something else has failed; what was kept of one is built again."""
    other = tmp_path / "other.cpp"
    other.write_text('extern "C" int something_else() { return 1; }\n')
    compiler = tmp_path / "odd"
    compiler.write_text(f'#!/bin/sh\nfor last; do :; done; exec {COMPILER} -shared -fPIC {other} -o "$last"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with caplog.at_level(logging.INFO):
        assert answer() is None
    assert caplog.messages[-1] == (
        "question could not be built and stays in Python: the library has no function 'answer'."
    )
    assert not list(cache.iterdir())
    with monkeypatch.context() as before:
        before.setattr(module, "FUNCTIONS", {"question": ()})
        library("question", "int")
        library.cache_clear()
        assert library("question", "int") is not None
    assert len(list(cache.iterdir())) == 1
    assert answer() is None
    assert not list(cache.iterdir())


@needs_a_compiler
def test_what_nobody_uses_goes_when_another_is_built(cache: Path) -> None:
    """Whatever it was made of: but not what is used, nor what has another kind of name."""
    assert answer() == 42
    (kept,) = cache.iterdir()
    superseded = cache / f"question-int-{'0' * 16}-{'0' * 32}.so"
    others = [cache / name for name in ("building-a1_b2", "notes.so", f"other-{'0' * 32}.so", "question-int.so")]
    for path in (superseded, *others):
        path.write_text("")
    recent = cache / f"question-int-{'1' * 16}-{'0' * 32}.so"
    recent.write_text("")
    long_ago = time.time() - module.UNUSED - 60
    for path in (kept, superseded, *others):
        os.utime(path, (long_ago, long_ago))
    assert answer() == 42  # which uses it
    assert superseded.exists()
    (module.SOURCES / "ask.h").write_text("#define ASKED 43\n")
    assert answer() == 43
    left = {path.name for path in cache.iterdir()}
    assert left >= {kept.name, recent.name, *(path.name for path in others[1:])}
    assert len(left) == 6  # and the new one


def test_what_a_library_is_asked_for_is_in_its_source() -> None:
    sources = Path(module.__file__).parent
    assert set(FUNCTIONS) == {path.stem for path in sources.glob("*.cpp")}
    for name, functions in FUNCTIONS.items():
        text = (sources / f"{name}.cpp").read_text()
        exported = text[text.index('extern "C" {') :]
        assert set(functions) == set(re.findall(r"^\w+ (\w+)\(", exported, re.M))


@needs_a_compiler
def test_a_compiler_that_takes_forever_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "slow"
    compiler.write_text("#!/bin/sh\nexec sleep 60\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    assert answer() is None


@needs_a_compiler
def test_where_nothing_can_be_kept_it_is_built_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for _ in range(2):
        with caplog.at_level(logging.INFO):
            assert answer() == 42
    assert sum(message.startswith("built question") for message in caplog.messages) == 2


@needs_a_compiler
def test_a_folder_that_cannot_be_written_keeps_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Read-only file system")

    monkeypatch.setattr(module.tempfile, "mkstemp", refuse)  # the superuser, who runs some tests, may write anywhere
    with caplog.at_level(logging.INFO):
        assert answer() == 42
    assert "Read-only file system" in caplog.messages[-1]
    assert not list(cache.iterdir())


@needs_a_compiler
def test_what_others_may_write_is_not_loaded(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert answer() == 42
    cache.chmod(0o777)
    with caplog.at_level(logging.INFO):
        assert answer() == 42
    assert f"{cache} may be written by others: what is built is not kept there." in caplog.messages
    assert any(message.startswith("built question") for message in caplog.messages)


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    no_builds(monkeypatch)
    monkeypatch.setenv("FARFIELD_NATIVE", "0")
    assert answer() is None


@needs_a_compiler
def test_processes_may_build_at_once(cache: Path) -> None:
    asks = "\n".join(
        [
            "from importlib.util import module_from_spec, spec_from_file_location",
            "from pathlib import Path",
            f"spec = spec_from_file_location('library', {module.__file__!r})  # alone: without torch",
            "module = module_from_spec(spec)",
            "spec.loader.exec_module(module)",
            f"module.SOURCES = Path({str(module.SOURCES)!r})",
            "module.FUNCTIONS = {'question': ('answer',)}",
            "print(module.library('question', 'int').answer())",
        ]
    )
    command = [sys.executable, "-c", asks]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) for _ in range(3)]
    assert [run.communicate(timeout=120)[0] for run in runs] == ["42\n"] * 3
    assert len(list(cache.iterdir())) == 1


def test_quotes_that_do_not_close_leave_python_to_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", 'g++ "')
    with caplog.at_level(logging.INFO):
        assert answer() is None
    assert caplog.messages[-1] == "question could not be built and stays in Python: No closing quotation"
