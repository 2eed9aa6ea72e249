"""python -m farfield.benchmarks.augmented neighbours | output: see the files of these names.

python -m farfield.benchmarks.augmented neighbours --books books                      # by the splits of its index.json
python -m farfield.benchmarks.augmented neighbours --books books --documents others
python -m farfield.benchmarks.augmented output --model runs/base --texts train --validation validation --test test
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from farfield.benchmarks.augmented import output
from farfield.benchmarks.augmented.neighbours import Task, compare, split_books
from farfield.benchmarks.augmented.pictures import draw_neighbours, draw_output, table_neighbours, table_output
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


OUTPUT_HELP = {
    "k": "the most neighbours of a token",
    "length": "tokens that are read of each text",
    "steps": "in which the weight is learned",
    "batch": "rows of a step",
    "seed": "of the training",
    "threads": "of the CPU",
}


def main(words: Sequence[str] | None = None) -> int:
    """0, or 2 after one line on what cannot be used."""
    given = _parser().parse_args(words)
    path, rows = given.json or given.out / f"{given.what}.json", []
    try:
        task = _task(given) if given.what == "neighbours" else _output_task(given)
        compared = compare(task, given.out / given.what) if isinstance(task, Task) else _output(task, given)
        for row in compared:
            rows.append(row)  # written as they come: a stopped comparison has told what it has measured
            write_rows(path, task, rows)
    except FarfieldError as error:
        sys.stderr.write(f"farfield: {error}\n")
        return 2
    _show(given.what, rows, path, given.picture or path.with_suffix(".png"))
    return 0


def _show(what: str, rows: Sequence[Any], path: Path, picture: Path) -> None:
    table, draw = (table_neighbours, draw_neighbours) if what == "neighbours" else (table_output, draw_output)
    draw(rows, picture)
    console = Console(width=160, highlight=False)
    console.print(table(rows))
    console.print(f"wrote {path} and {picture}")


def _output(task: output.Task, given: argparse.Namespace) -> Iterator[output.Row]:
    torch.set_num_threads(given.threads or torch.get_num_threads())
    return output.compare(task, given.out / "output")


def _output_task(given: argparse.Namespace) -> output.Task:
    """The defaults with what was given in their place.

    Raises:
        ConfigError: a number that is too small.
    """
    changed = {
        name: value
        for name in OUTPUT_HELP
        if name != "threads" and (value := getattr(given, name)) is not None and _least(name, value)
    }
    datastore = given.datastore or given.out / "datastore"
    return replace(output.Task(given.model, given.texts, given.validation, given.test, datastore), **changed)


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
    _add_output(verbs)
    return parser


def _add_output(verbs: Any) -> None:
    text = "bits a token with a datastore of the training texts, and the searches that its automaton saves"
    verb = verbs.add_parser("output", help=text, description=text)
    verb.add_argument("--model", type=Path, required=True, help="a run of data=text")
    verb.add_argument("--texts", type=Path, required=True, help="what it was trained on; the datastore is built of it")
    verb.add_argument("--validation", type=Path, required=True, help="texts on which weight and temperature are tuned")
    verb.add_argument("--test", type=Path, required=True, help="texts that are read")
    verb.add_argument("--datastore", type=Path, help="its folder; default: in --out")
    verb.add_argument("--out", type=Path, default=Path("results/augmented"), help="run, figures and picture")
    verb.add_argument("--json", type=Path, help="where the figures go; default: in --out")
    verb.add_argument("--picture", type=Path, help="where the picture goes; default: beside the figures")
    defaults = {field.name: field.default for field in fields(output.Task)}
    for number, what in OUTPUT_HELP.items():
        verb.add_argument(f"--{number}", type=int, metavar="N", help=f"{what}; default: {defaults.get(number, 'all')}")


if __name__ == "__main__":
    sys.exit(main())
