"""python -m farfield.benchmarks.augmented neighbours: see the file of this name.

python -m farfield.benchmarks.augmented neighbours --books books                      # by the splits of its index.json
python -m farfield.benchmarks.augmented neighbours --books books --documents others
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from farfield.benchmarks.augmented.neighbours import Read, Task, compare, split_books
from farfield.benchmarks.augmented.pictures import draw_neighbours, table_neighbours
from farfield.benchmarks.memories.results import write_rows
from farfield.compose import group_options
from farfield.config import ConfigError, FarfieldError, unknown

__all__ = ["main"]

HELP = {
    "length": "tokens that are read of each document",
    "steps": "of training, with neighbours and without",
    "more": "steps in which the frozen model learns to read neighbours",
    "width": "of the model",
    "depth": "layers of the model",
    "vocabulary": "ids of the tokenizer, which is trained on the books",
    "row": "tokens of a row of training",
    "batch": "rows of a step of training",
    "chunk": "tokens of a chunk",
    "passages": "of a chunk",
    "dimension": "of the vectors by which chunks are found",
    "threads": "of the CPU in training",
    "seed": "of training",
}


def main(words: Sequence[str] | None = None) -> int:
    """0, or 2 after one line on what cannot be used."""
    given = _parser().parse_args(words)
    path, rows = given.json or given.out / "neighbours.json", []
    try:
        task = _task(given)
        for row in compare(task, given.out / "neighbours"):
            rows.append(row)  # written as they come: a stopped comparison has told what it has measured
            write_rows(path, task, rows)
    except FarfieldError as error:
        sys.stderr.write(f"farfield: {error}\n")
        return 2
    _show(rows, path, given.picture or path.with_suffix(".png"))
    return 0


def _show(rows: Sequence[Read], path: Path, picture: Path) -> None:
    draw_neighbours(rows, picture)
    console = Console(width=160, highlight=False)
    console.print(table_neighbours(rows))
    console.print(f"wrote {path} and {picture}")


def _task(given: argparse.Namespace) -> Task:
    """The defaults with what was given in their place.

    Raises:
        ConfigError: a number that is too small, or no such architecture. DataError: books without splits.
    """
    known = group_options("architecture")
    if given.architecture is not None and given.architecture not in known:
        raise ConfigError("--architecture: " + unknown("unknown architecture", given.architecture, known))
    changed: dict[str, Any] = {
        name: value for name in HELP if (value := getattr(given, name)) is not None and _least(name, value)
    }
    changed |= {"architecture": given.architecture} if given.architecture else {}
    if given.overlaps is not None:
        changed["overlaps"] = tuple(sorted(given.overlaps, reverse=True))
    books, documents = given.books, given.documents
    if documents is None:
        books, documents = split_books(given.books, given.split, given.out / "books")
    return replace(Task(books, documents), **changed)


def _least(name: str, value: int) -> bool:
    """Raise ConfigError where a number is too small to mean anything."""
    least = {"seed": 0, "length": 2, "chunk": 2, "dimension": 16}.get(name, 1)
    if value < least:
        raise ConfigError(f"--{name}: {value} given. At least {least}.")
    return True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m farfield.benchmarks.augmented", description=__doc__)
    verbs = parser.add_subparsers(dest="what", required=True)
    text = "bits a token with neighbours and without, by overlap"
    verb = verbs.add_parser("neighbours", help=text, description=text)
    verb.add_argument(
        "--books", type=Path, required=True, help="a folder of texts to train on and to find neighbours in"
    )
    verb.add_argument("--documents", type=Path, help="a folder of texts to read; default: by index.json of the books")
    verb.add_argument("--split", default="test", help="of index.json that is read, where no documents are given")
    verb.add_argument("--architecture", metavar="NAME", help=f"default: {Task.architecture}")
    verb.add_argument("--overlaps", type=float, nargs="+", metavar="SHARE", help="longest runs that are allowed")
    verb.add_argument("--out", type=Path, default=Path("results/augmented"), help="runs, figures and picture")
    verb.add_argument("--json", type=Path, help="where the figures go; default: in --out")
    verb.add_argument("--picture", type=Path, help="where the picture goes; default: beside the figures")
    defaults = {field.name: field.default for field in fields(Task)}
    for number, what in HELP.items():
        verb.add_argument(f"--{number}", type=int, metavar="N", help=f"{what}; default: {defaults[number]}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
