"""Every benchmark by name, and how its files become tasks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from farfield.benchmarks.tasks.longdoc.data_set import Benchmark, DataSet, Questions, merged
from farfield.benchmarks.tasks.longdoc.helmet import HELMET
from farfield.benchmarks.tasks.longdoc.hotpotqa import HOTPOTQA
from farfield.benchmarks.tasks.longdoc.infinitebench import INFINITEBENCH
from farfield.benchmarks.tasks.longdoc.leval import LEVAL
from farfield.benchmarks.tasks.longdoc.longbench import LONGBENCH_V1, LONGBENCH_V2
from farfield.benchmarks.tasks.longdoc.loogle import LOOGLE
from farfield.benchmarks.tasks.longdoc.rows import find, require, rows
from farfield.benchmarks.tasks.longdoc.task import DocumentTask, Finder
from farfield.benchmarks.tasks.longdoc.zero_scrolls import ZERO_SCROLLS
from farfield.benchmarks.tasks.sample import Tokenizer
from farfield.benchmarks.tasks.wording_file import Wording
from farfield.config import DataError

__all__ = ["BENCHMARKS", "chosen_sets", "document_tasks", "notes_of", "questions_of"]

BENCHMARKS: dict[str, Benchmark] = {
    one.name: one for one in (LONGBENCH_V1, LONGBENCH_V2, LOOGLE, LEVAL, INFINITEBENCH, ZERO_SCROLLS, HELMET, HOTPOTQA)
}


class NoQuestionError(DataError):
    """A file that is there, with no question of the data set."""


def chosen_sets(benchmark: Benchmark, names: Sequence[str], folder: Path) -> list[DataSet]:
    """The data sets of these names; without names, all whose files are in `folder`.

    Raises:
        DataError: there is no file of any.
    """
    usual = [one for one in benchmark.data_sets if not one.apart]
    found = [one for one in benchmark.data_sets if one.name in names] or (
        [] if names else [one for one in usual if find(folder, one.file)]
    )
    if not found:
        files = ", ".join(dict.fromkeys(one.file for one in benchmark.data_sets[:4]))
        other = _other(benchmark, folder)
        hint = f" Its files are those of {other}: give suite.benchmark={other}." if other else ""
        raise DataError(f"suite.source: {folder} has no file of {benchmark.name}. It looks for {files}, ...{hint}")
    return found


def _other(benchmark: Benchmark, folder: Path) -> str:
    """The benchmark that has most files in `folder`, if any but this one has some."""
    found = {
        one.name: sum(find(folder, file) is not None for file in {data_set.file for data_set in one.data_sets})
        for one in BENCHMARKS.values()
        if one is not benchmark
    }
    name = max(found, key=found.__getitem__)
    return name if found[name] else ""


def questions_of(data_set: DataSet, folder: Path) -> Questions:
    """The questions of a data set whose file lies in `folder`.

    Raises:
        DataError: there is no such file, it has another schema, or no question.
    """
    place = require(folder, data_set.file)
    questions = merged([question for row in rows(place) for question in data_set.load(row)])
    if not questions:
        raise NoQuestionError(f"{place}: no question of {data_set.name} in it.")
    beside = data_set.beside
    if beside is None:
        return questions
    second = require(folder, beside.file) if beside.needed else find(folder, beside.file)
    return beside.put(questions, list(rows(second))) if second else questions


def notes_of(benchmark: Benchmark, sets: Sequence[DataSet], folder: Path | None) -> tuple[str, ...]:
    """What tells the scores of these data sets from published ones, a line for each reason.

    folder: where a second file may be missing; None where all files are there
    """
    found: dict[str, list[str]] = {}
    for one in sets:
        name = f"{benchmark.name}_{one.name}"
        if one.differs:
            found.setdefault(one.differs, []).append(name)
        if folder and one.beside and find(folder, one.beside.file) is None:
            reason = f"no examples stand before its questions, for {one.beside.file} is not in the folder"
            found.setdefault(reason, []).append(name)
    return tuple(f"{', '.join(names)}: {reason}." for reason, names in found.items())


def document_tasks(
    benchmark: Benchmark,
    names: Sequence[str],
    folder: Path,
    tokenizer: Tokenizer,
    wording: str | None,
    finder: Finder | None,
) -> list[DocumentTask]:
    """A task for each data set that is chosen.

    Where none is chosen, a data set whose file has rows of others alone is left out.
    """
    sets = chosen_sets(benchmark, names, folder)
    sections = [f"{benchmark.name}_{one.name}" for one in benchmark.data_sets]
    made: list[DocumentTask] = []
    empty: list[tuple[str, NoQuestionError]] = []
    for one in sets:
        try:
            questions = questions_of(one, folder)
        except NoQuestionError as nothing:
            empty.append((one.file, nothing))
            continue
        texts = Wording.of(f"{benchmark.name}_{one.name}", one.texts, wording, sections)
        made.append(DocumentTask(benchmark.name, one, questions, tokenizer, texts, finder))
    there = {task.data_set.file for task in made}
    for file, error in empty:
        if names or file not in there:
            raise error
    return made
