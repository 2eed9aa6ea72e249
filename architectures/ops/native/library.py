"""Sources of this folder, built on first use where a C++ compiler is, and kept.

    kernels = library("retention", "float")
    if kernels is None:            # no compiler, another kind of machine, or switched off: the form in Python
        ...

A built library is kept in `$XDG_CACHE_HOME/farfield/native` (or `~/.cache`, or `~/Library/Caches`), which nobody but
its owner may write. Its name says what it was made of (sources, compiler, flags, processor) and its own digest: one
that was cut short or changed is built again. Several processes may build at once: each writes a file of its own and
renames it. What no process has loaded for a month goes when another one is built.

`FARFIELD_NATIVE=0` in the environment: nothing is built nor loaded. `CXX`: the command of the compiler.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import platform
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import MappingProxyType

__all__ = ["library"]

log = logging.getLogger(__name__)

SOURCES = Path(__file__).parent
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fPIC", "-shared", "-pthread")
COMPILERS = ("c++", "g++", "clang++")
OFF = ("0", "false", "off", "no")
PATIENCE = 120.0  # seconds; a build takes two to five
UNUSED = 30 * 86400.0  # seconds after which a library is not kept for another installation that may want it

# What each library is asked for: a compiler may make something else without failing.
FUNCTIONS = MappingProxyType(
    {
        "decoding": ("few_rows", "one_query", "norm", "turn"),
        "passes": ("gate", "gate_backward", "norm", "norm_backward", "norm_blocks", "shares", "heads"),
        "retention": ("retention_kept", "retention_forward", "retention_backward"),
    }
)


@functools.cache
def library(name: str, number: str) -> ctypes.CDLL | None:
    """`name`.cpp for numbers of the C type `number`; None where it cannot be had, and the log says why, once."""
    if os.environ.get("FARFIELD_NATIVE", "1").lower() in OFF or sys.platform not in ("linux", "darwin"):
        return None
    try:
        compiler = _compiler()
        if compiler is None:
            log.info("no C++ compiler was found: %s stays in Python.", name)
            return None
        return _loaded(name, number, compiler)
    except (OSError, ValueError, subprocess.SubprocessError) as error:  # ValueError: quotes of CXX that do not close
        log.info("%s could not be built and stays in Python: %s", name, _said(error))
        return None


def _compiler() -> tuple[str, ...] | None:
    """The command of `$CXX`, such as `ccache g++`, or of the first that there is, by its path."""
    given = shlex.split(os.environ.get("CXX", ""))
    for first, *more in [given] if given else [[one] for one in COMPILERS]:
        path = shutil.which(first)
        if path is not None:
            return path, *more
    return None


def _loaded(name: str, number: str, compiler: tuple[str, ...]) -> ctypes.CDLL:
    """The kept library, or a new one; kept where the folder can be written, else in memory alone.

    Raises:
        OSError: the compiler or what it made cannot be run. subprocess.SubprocessError: it failed.
    """
    key, folder = _key(name, number, compiler), _folder()
    kept = None if folder is None else _kept(folder, name, f"{name}-{number}-{key}")
    if kept is not None:
        return kept
    log.info("building %s for %s with %s, once ...", name, number, " ".join(compiler))
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="farfield-") as scratch:
        made = Path(scratch) / "made.so"
        command = [*compiler, *FLAGS, f"-DNUMBER={number}", str(SOURCES / f"{name}.cpp"), "-o", str(made)]
        said = subprocess.run(command, capture_output=True, timeout=PATIENCE, stdin=subprocess.DEVNULL)
        if said.returncode:
            words = said.stderr.decode("utf-8", "replace")
            raise subprocess.CalledProcessError(said.returncode, command, stderr=words)
        loaded = _opened(made, name)  # stays loaded when its file is gone
        log.info("built %s in %.1f s.", name, time.monotonic() - began)
        if folder is not None:
            _keep(made, folder, f"{name}-{number}-{key}")
    return loaded


def _opened(path: Path, name: str) -> ctypes.CDLL:
    """The library in a file.

    Raises:
        OSError: it is none, or it lacks a function of `name`.
    """
    found = ctypes.CDLL(str(path))
    lacking = [function for function in FUNCTIONS[name] if not hasattr(found, function)]
    if lacking:
        raise OSError(f"the library has no function '{lacking[0]}'.")
    return found


def _key(name: str, number: str, compiler: tuple[str, ...]) -> str:
    """Digest of all that the build depends on."""
    found = Path(compiler[0]).resolve()
    about = found.stat()
    parts: list[object] = [
        FLAGS,
        number,
        str(found),
        compiler[1:],
        about.st_size,
        about.st_mtime_ns,
        sys.platform,
        _processor(),
    ]
    parts += [(path.name, path.read_bytes()) for path in sorted(SOURCES.glob("*.h"))]
    parts.append((SOURCES / f"{name}.cpp").read_bytes())
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    """What `-march=native` looks at: the processor's model and what it can do."""
    about = [platform.machine(), platform.processor()]
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0].splitlines()
    except OSError:
        return " ".join(about)
    names = ("model name", "flags", "Features", "CPU part")
    return "\n".join([*about, *(line for line in lines if line.startswith(names))])


def _folder() -> Path | None:
    """Where built libraries are kept; None where there is no such folder that its owner alone may write."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        home = (
            Path(base)
            if base and Path(base).is_absolute()
            else Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
        )
        folder = home / "farfield" / "native"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = folder.stat()
    except (OSError, RuntimeError):  # nothing can be written there; there is no home
        return None
    private = about.st_uid == os.getuid() and not about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not private:
        log.warning("%s may be written by others: what is built is not kept there.", folder)
    return folder if private else None


def _kept(folder: Path, name: str, stem: str) -> ctypes.CDLL | None:
    """The kept library of this stem whose digest is right; others of the stem are removed."""
    for path in sorted(folder.glob(f"{stem}-*.so")):
        try:
            if path.stem == f"{stem}-{_digest(path)}":
                found = _opened(path, name)
                with contextlib.suppress(OSError):
                    os.utime(path)  # when it was used last
                return found
        except OSError as error:
            log.info("%s cannot be loaded: %s", path, error)
        log.warning("%s is damaged and is built again.", path)
        with contextlib.suppress(OSError):
            path.unlink()
    return None


def _keep(made: Path, folder: Path, stem: str) -> None:
    """The library under its name, whole or not at all; a folder that cannot be written keeps nothing."""
    try:
        handle, own = tempfile.mkstemp(dir=folder, prefix="building-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(made.read_bytes())
            Path(own).replace(folder / f"{stem}-{_digest(made)}.so")
        except BaseException:
            Path(own).unlink(missing_ok=True)
            raise
    except OSError as error:
        log.info("%s is not kept: %s", made.name, error)
    else:
        _remove_unused(folder)


def _remove_unused(folder: Path) -> None:
    """Removes libraries, and what was left of builds, that nobody has used for long.

    Those of older sources may be another installation's, with which this one shares the folder: they stay as long as
    they are used. A process that has one loaded keeps it when its file is gone.
    """
    ours, long_ago = re.compile(r"\w+-\w+-[0-9a-f]{16}-[0-9a-f]{32}\.so|building-\w+"), time.time() - UNUSED
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            if ours.fullmatch(path.name) and path.lstat().st_mtime < long_ago:
                path.unlink()


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:32]


def _said(error: Exception) -> str:
    """One line of what went wrong: the compiler's first, if it said any."""
    lines = [line for line in str(getattr(error, "stderr", None) or error).splitlines() if line.strip()]
    return next((line for line in lines if "error" in line), lines[0] if lines else type(error).__name__)
