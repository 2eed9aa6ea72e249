"""The command `farfield <verb> group=name key=value`.

    words ──> line (flags, verb, question) ──> compose (Hydra) ──> typed settings ──> the verb's function ──> result
              no torch                         no torch            torch, no          lightning, data,        stdout
                                                                   lightning          weights

A mistake ends in one line on standard error and status 2, as early in that chain as it can be seen. While a verb works,
whatever it prints goes to standard error; standard output is for the result alone.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import errno
import json
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import farfield
from farfield import usage
from farfield.config import Config, ConfigError, FarfieldError, printable, read, unknown

__all__ = ["main"]

UNFINISHED = 1
FAILED = 2
INTERRUPTED = 130
PIPE_CLOSED = 141

# What --info can show.
SHOWN = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")

# key=value, +key=value, ~key, group@package=name; whatever else stands on the line is part of a question.
SETTING = re.compile(r"(\+{1,2}|~)?[\w.@:/$-]+=.*|~[\w.@:/-]+", re.DOTALL)

Result = Mapping[str, Any]


def main(words: Sequence[str] | None = None) -> int:
    """Run one command line; the exit status: 0, 1 where some of the work failed for now, 2 for a mistake of the user,
    130 for Ctrl-C, 141 for a closed pipe.
    """
    try:
        return _run(_line(sys.argv[1:] if words is None else words))
    except FarfieldError as error:
        print("farfield:", " ".join(str(error).split()), file=sys.stderr)
        return FAILED
    except KeyboardInterrupt as stop:
        print("farfield: stopped.", *stop.args, file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes standard output once more at its end, and nobody is left to read it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except (OSError, MemoryError, RuntimeError) as error:
        line = _refused(error)
        if line is None:
            raise  # a mistake of ours: the traceback is what it takes to mend it
        print("farfield:", line, file=sys.stderr)
        return FAILED


def _refused(error: Exception) -> str | None:
    """One line on what the machine refused: a file or a folder, or memory. None for anything else."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror or type(error).__name__}."
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "no space is left on the disk."
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text:
        return f"out of memory: {text[:160]}. Take a smaller model, batch or length."
    return None


class _Parser(argparse.ArgumentParser):
    """Flags between words, with mistakes raised instead of printed."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}. `farfield --help` lists the options.")


def _line(words: Sequence[str]) -> argparse.Namespace:
    """The parts of a command line: flags, `verb`, `settings` (key=value) and `question`.

    Raises:
        ConfigError: a word that is not UTF-8, an unknown flag, an unknown verb, a word that is no setting.
    """
    for word in words:
        if printable(word) != word:
            raise ConfigError(f"not UTF-8 text: '{printable(word)}'.")
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--version", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("--ray", metavar="ADDRESS")
    parser.add_argument("--cpus", type=float, default=1.0)
    parser.add_argument("--gpus", type=float, default=0.0)
    parser.add_argument("-c", "--cfg", choices=["job", "hydra", "all"])
    parser.add_argument("--resolve", action="store_true")
    parser.add_argument("-p", "--package")
    parser.add_argument("-i", "--info", nargs="?", const="all")
    parser.add_argument("--config-dir", type=Path)
    line, others = parser.parse_known_intermixed_args(list(words))
    if others:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        raise ConfigError(unknown("unknown option", others[0], flags) + " Settings are written key=value.")
    if line.info and line.info not in SHOWN:
        line.words, line.info = [*line.words, line.info], "all"  # `--info key=value`: the flag came without its word
    if (line.resolve or line.package) and not line.cfg:
        raise ConfigError("--resolve and --package go with --cfg.")
    if sum(map(bool, (line.multirun, line.cfg, line.info))) > 1:
        raise ConfigError("--multirun, --cfg and --info exclude one another.")
    if line.ray is not None and not line.multirun:
        raise ConfigError("--ray: runs the jobs of a sweep, and goes with -m.")
    line.verb, *rest = line.words or [None]
    if line.verb is not None and line.verb not in usage.VERBS:
        raise ConfigError(unknown("unknown verb", line.verb, usage.VERBS))
    line.settings = [word for word in rest if SETTING.fullmatch(word)]
    loose = [word for word in rest if not SETTING.fullmatch(word)]
    line.question = " ".join(loose) or None
    if line.verb == "models":
        line.model = _named_model(line, loose)
    elif loose and line.verb != "query":
        raise ConfigError(f"{line.verb}: '{loose[0]}' is not a setting. Write key=value or group=name.")
    return line


def _run(line: argparse.Namespace) -> int:
    if line.version:
        print(f"farfield {farfield.__version__}", flush=True)
        return 0
    if line.help or line.verb is None:
        chosen = [] if line.config_dir else line.settings  # whose options of one's own are not read here
        print(usage.help_verb(line.verb, chosen) if line.verb else usage.help_all(), flush=True)
        return 0
    if usage.VERBS[line.verb].settings is None:
        return _models(line)
    if line.cfg or line.info:
        return _show(line)
    return _sweep(line) if line.multirun else _single(line)


def _named_model(line: argparse.Namespace, loose: Sequence[str]) -> str | None:
    """The folder that `farfield models` is to tell of, as a word or as model=<folder>; None where none is named."""
    named = [*loose, *(word.removeprefix("model=") for word in line.settings if word.startswith("model="))]
    others = [word for word in line.settings if not word.startswith("model=")]
    if others or line.multirun or line.cfg or line.info:
        raise ConfigError("models takes no settings. It tells of the folder of a model: farfield models <folder>.")
    if len(named) > 1:
        raise ConfigError(f"models: '{named[1]}' given behind '{named[0]}'. It tells of one folder at a time.")
    return named[0] if named else None


def _models(line: argparse.Namespace) -> int:
    with contextlib.redirect_stdout(sys.stderr):
        result = _result(line.verb) if line.model is None else _called("farfield.catalogue:model_in")(line.model)
    return _print(result, line.json)


def _show(line: argparse.Namespace) -> int:
    """Hydra prints what it composes."""
    from farfield.compose import show

    flags = [f"--cfg={line.cfg}"] if line.cfg else [f"--info={line.info}"]
    flags += ["--resolve"] if line.resolve else []
    flags += [f"--package={line.package}"] if line.package else []
    show(line.verb, line.settings, flags, line.config_dir)
    return 0


def _single(line: argparse.Namespace) -> int:
    from farfield.compose import compose

    mapping = compose(line.verb, line.settings, line.config_dir)
    settings = _settings(line, mapping)
    live, out = usage.VERBS[line.verb].live, sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        if live and not line.json:
            module, name = live.split(":")
            getattr(import_module(module), name)(settings, out)
            return 0
        result = _result(line.verb, settings)
    _print(result, line.json)
    return _unfinished(result)


def _unfinished(result: Result) -> int:
    """The exit status of a verb that returned; where it left some of its work, its line goes to standard error."""
    if not result.get("unfinished"):
        return 0
    print("farfield:", result["unfinished"], file=sys.stderr)
    return UNFINISHED


def _sweep(line: argparse.Namespace) -> int:
    """Every combination, all read before the first one runs. One that fails is reported, and the others go on."""
    from farfield.compose import combinations, sweep

    for mapping in combinations(line.verb, line.settings, line.config_dir):
        _settings(line, mapping)
    results: list[dict[str, Any]] = []
    waiting: list[Job] = []

    def here(mapping: dict[str, Any]) -> None:
        print(f"farfield: job {len(results) + 1}: {_job(mapping) or line.verb}", file=sys.stderr)
        results.append(_done(Job(line, mapping)))

    def later(mapping: dict[str, Any]) -> None:
        waiting.append(Job(line, mapping))

    with contextlib.redirect_stdout(sys.stderr):
        sweep(line.verb, line.settings, here if line.ray is None else later, line.config_dir)
        if waiting:
            results += _on_cluster(line, waiting)
        together = usage.VERBS[line.verb].together
        joined = _called(together)(results) if together else {}
    _print({"jobs": results, **joined}, line.json)
    left = max(map(_unfinished, results), default=0)
    return FAILED if any("error" in one for one in results) else left


class Job(NamedTuple):
    """One combination of a sweep: the command line that it is of, and its settings."""

    line: argparse.Namespace
    mapping: dict[str, Any]


def _on_cluster(line: argparse.Namespace, jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """What the jobs return, in their order, from the workers of a Ray cluster."""
    from farfield.cluster import Cluster
    from farfield.progress import Bar

    with Cluster(line.ray, line.cpus, line.gpus) as cluster, Bar("sweep", total=len(jobs), unit="jobs") as bar:
        return cluster.map(_done, jobs, bar)


def _done(job: Job) -> dict[str, Any]:
    """What a job returns, or the line that says why it failed."""
    name = job.mapping.get("name")
    try:
        return {"name": name, **_result(job.line.verb, _settings(job.line, job.mapping))}
    except (FarfieldError, OSError, MemoryError, RuntimeError) as error:
        text = str(error) if isinstance(error, FarfieldError) else _refused(error)
        if text is None:
            raise
        print(f"farfield: {text}", file=sys.stderr)
        return {"name": name, "job": _job(job.mapping), "error": text}


def _job(mapping: Mapping[str, Any]) -> str:
    """What tells a combination from the others: its name; of an evaluation, which has none, what is asked of what."""
    words = [mapping.get("name")]
    if "suite" in mapping:
        kinds = {key: one.get("name") or one.get("kind") for key, one in mapping.items() if isinstance(one, dict)}
        told = {"model": mapping.get("model"), "suite": kinds.get("suite"), "memory": kinds.get("memory")}
        words += [f"{key}={value}" for key, value in told.items() if value]
    return " ".join(str(word) for word in words if word)


def _settings(line: argparse.Namespace, mapping: dict[str, Any]) -> Config:
    """The typed settings of a verb. What this imports may bring torch, never lightning."""
    if line.question is not None:
        mapping = {**mapping, "question": line.question}
    verb = usage.VERBS[line.verb]
    kind = getattr(import_module("farfield.settings"), str(verb.settings))
    settings = read(kind, _called(verb.completes)(mapping) if verb.completes else mapping)
    assert isinstance(settings, Config)
    return settings


def _called(function: str) -> Any:
    """The function that `module:name` stands for."""
    module, name = function.split(":")
    return getattr(import_module(module), name)


def _result(verb: str, *settings: Config) -> Result:
    """What the verb's function, `module:name`, returns for its settings: a mapping, or a dataclass read as one."""
    result = _called(usage.VERBS[verb].work)(*settings)
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        return dataclasses.asdict(result)
    return dict(result)


def _print(result: Result, as_json: bool) -> int:
    """One JSON document, or what a person reads: the result's `text` where it has one, else its values line by line."""
    if as_json:
        plain = _finite({key: value for key, value in result.items() if key != "text"})
        print(json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False), flush=True)
    else:
        print(result["text"] if "text" in result else "\n".join(_lines(result)), flush=True)
    return 0


def _lines(value: Any, indent: str = "") -> list[str]:
    """Nested values as indented lines."""
    lines = []
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value, start=1)
    for key, item in pairs:
        if isinstance(item, Mapping | list | tuple) and item:
            lines += [f"{indent}{key}:", *_lines(item, indent + "  ")]
        else:
            shown = f"{item:.4g}" if isinstance(item, float) else "none" if item in ((), [], {}, None) else item
            lines.append(f"{indent}{key}: {shown}")
    return lines


def _finite(value: Any) -> Any:
    """`value` as JSON has it: no number is infinite or undefined there."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
