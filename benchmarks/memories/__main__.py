"""python -m farfield.benchmarks.memories perplexity | recall | cost | search: see the files of these names.

`show` joins what several processes have measured into one table and picture.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

from farfield.benchmarks.memories import cost, perplexity, pictures, recall, search
from farfield.benchmarks.memories.plan import chosen
from farfield.benchmarks.memories.results import joined, kind_of, write_joined, write_rows
from farfield.config import ConfigError, FarfieldError

__all__ = ["main"]


HELP = {
    "window": "tokens of the model's window",
    "length": "tokens that are read of each document",
    "steps": "of training",
    "more": "steps of training with a memory attached; 0: none",
    "width": "of the model",
    "depth": "layers of the model",
    "patterns": "of four layers in the model",
    "vocabulary": "ids of the tokenizer, which is trained on the books",
    "row": "tokens of a row of training; in recall: windows",
    "batch": "rows of a step of training",
    "samples": "haystacks of each length and depth",
    "repeats": "timings of each size, of which the least counts",
    "threads": "of the CPU in training",
    "seed": "of training and questions",
}


LEAST = {"more": 0, "seed": 0, "length": 2}
"""The least that an argument may be, where that is not 1."""


def main(words: Sequence[str] | None = None) -> int:
    """0, or 2 after one line on what cannot be used."""
    given = _parser().parse_args(words)
    try:
        rows, path = _joined(given) if given.what == "show" else _compared(given)
    except FarfieldError as error:
        sys.stderr.write(f"farfield: {error}\n")
        return 2
    kind, picture = KINDS[kind_of(rows)], given.picture or path.with_suffix(".png")
    kind.draw(rows, picture)
    console = Console(width=160, highlight=False)
    console.print(kind.table(rows))
    console.print(f"wrote {path} and {picture}")
    return 0


def _compared(given: argparse.Namespace) -> tuple[list[Any], Path]:
    """What is measured, and the file that it stands in."""
    kind, path, rows = KINDS[given.what], given.json or given.out / f"{given.what}.json", []
    task = _changed(kind.begun(given, chosen(getattr(given, "memories", ()))), given)
    for row in kind.compare(task, given.out / given.what):
        rows.append(row)  # written as they come: a stopped comparison has told what it has measured
        write_rows(path, task, rows)
    return rows, path


def _joined(given: argparse.Namespace) -> tuple[list[Any], Path]:
    """What was measured before."""
    rows = joined(given.files)
    path = given.json or given.files[0].with_name(f"{kind_of(rows)}-joined.json")
    write_joined(path, given.files, rows)
    return list(rows), path


@dataclass(frozen=True)
class Kind:
    """A comparison: its task with what must be given, its rows as they come, and how they are shown."""

    begun: Callable[[argparse.Namespace, tuple[str, ...]], Any]
    compare: Callable[[Any, Path], Iterable[Any]]
    draw: Callable[[Sequence[Any], Path], Path]
    table: Callable[[Sequence[Any]], Table]


def _read(given: argparse.Namespace, memories: tuple[str, ...]) -> perplexity.Task:
    return perplexity.Task(given.books, given.documents, memories, (512, 2048, 8192), cache=given.out / "data")


KINDS = {
    "perplexity": Kind(_read, perplexity.compare, pictures.draw_perplexity, pictures.table_perplexity),
    "recall": Kind(
        lambda given, memories: recall.Task(memories), recall.compare, pictures.draw_recall, pictures.table_recall
    ),
    "cost": Kind(
        lambda given, memories: cost.Task(memories),
        lambda task, out: cost.compare(task),
        pictures.draw_cost,
        pictures.table_cost,
    ),
    "search": Kind(
        lambda given, memories: search.Task(),
        lambda task, out: search.compare(task),
        pictures.draw_search,
        pictures.table_search,
    ),
}


T = TypeVar("T", perplexity.Task, recall.Task, cost.Task, search.Task)


def _changed(task: T, given: argparse.Namespace) -> T:
    """The task with what was given in the place of its defaults."""
    changed: dict[str, Any] = {}
    for name in vars(task):
        value = getattr(given, name, None)
        if value is not None and name not in ("memories", "cache"):
            changed[name] = tuple(value) if isinstance(value, list) else value
            _check_least(name, changed[name])
    return replace(task, **changed)


def _check_least(name: str, value: Any) -> None:
    """Raise ConfigError where a number is too small to mean anything."""
    least = LEAST.get(name, 1)
    for one in value if isinstance(value, tuple) else (value,):
        if isinstance(one, (int, float)) and (one <= 0 if isinstance(one, float) else one < least):
            raise ConfigError(f"--{name}: {one} given. {'Above 0' if isinstance(one, float) else f'At least {least}'}.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m farfield.benchmarks.memories", description=__doc__)
    verbs = parser.add_subparsers(dest="what", required=True)
    for name, task, text in (
        ("perplexity", perplexity.Task, "bits a token on long documents, by memory size and place"),
        ("recall", recall.Task, "needles and pairs at 1, 4, 16 and 64 windows"),
        ("cost", cost.Task, "time and bytes of a token, against memory size"),
        ("search", search.Task, "the exact search beside the product and top-k that it needs"),
    ):
        verb = verbs.add_parser(name, help=text, description=text)
        if name != "search":
            verb.add_argument("--memories", nargs="+", default=[], metavar="NAME", help="default: all there are")
        if name in ("perplexity", "recall"):
            verb.add_argument(
                "--set", dest="told", nargs="+", metavar="KEY=VALUE", help="further settings of the memories"
            )
        verb.add_argument("--sizes", type=int, nargs="+", metavar="TOKENS", help="tokens that memories hold")
        verb.add_argument("--out", type=Path, default=Path("results/memories"), help="runs, tables and pictures")
        verb.add_argument("--json", type=Path, help="where the figures go; default: in --out")
        verb.add_argument("--picture", type=Path, help="where the picture goes; default: beside the figures")
        if name == "perplexity":
            verb.add_argument("--books", type=Path, required=True, help="a folder of texts to train on")
            verb.add_argument("--documents", type=Path, required=True, help="a folder of long texts to read")
            verb.add_argument(
                "--rate", type=float, metavar="R", help="learning rate of training with a memory attached"
            )
        for number in sorted(HELP.keys() & {field.name for field in fields(task)}):
            verb.add_argument(f"--{number}", type=int, metavar="N", help=HELP[number])
    show = verbs.add_parser("show", help="join results into one table and picture", description="join results")
    show.add_argument("files", type=Path, nargs="+", metavar="FILE", help="of one comparison")
    show.add_argument("--json", type=Path, help="where the joined figures go; default: beside the first file")
    show.add_argument("--picture", type=Path, help="where the picture goes; default: beside the joined figures")
    return parser


if __name__ == "__main__":
    sys.exit(main())
