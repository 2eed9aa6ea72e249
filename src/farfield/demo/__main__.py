"""`make demo`: five small models trained, measured on needles, and one of them asked about documents.

    attention, longformer, retnet, longformer + memory ──train on recall──> needle grid, heat maps
    a reader                                           ──train on reading──┐
    the handbooks in documents/                        ──ingest──> index ──┴──> five answers with sources

Everything is done by commands that a user could type; they are printed. What is finished is not done again: an
interrupted demo goes on where it stopped. `python -m farfield.demo --fresh` begins anew.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from farfield.benchmarks.commands import report_command
from farfield.benchmarks.tasks.reading import exact
from farfield.config import FarfieldError
from farfield.demo.jobs import Job, run_all
from farfield.demo.reader import READER, unseen_score
from farfield.demo.recipe import DOCUMENTS, INDEX, LENGTHS, MODELS, RECALL, TRAINED, Choice
from farfield.generation import TextModel
from farfield.pretrained import load
from farfield.query import ask
from farfield.retrieval import Index, IngestConfig, ingest, open_index
from farfield.settings import ReportSettings
from farfield.training.metrics import FILE, read_metrics

__all__ = ["main"]


def main() -> int:
    """Run the demo; 0 if it came to its end, 2 on a mistake that can be mended, 130 on Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m farfield.demo", description="Everything once, small.")
    parser.add_argument("--fresh", action="store_true", help="throw away what an earlier demo made")
    parser.add_argument("--root", type=Path, default=Path("runs/demo"), help="where everything goes")
    given = parser.parse_args()
    try:
        if given.fresh:
            shutil.rmtree(given.root, ignore_errors=True)
        _demo(given.root)
    except FarfieldError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print("demo: stopped.", *stop.args, file=sys.stderr)
        return 130
    return 0


def _demo(root: Path) -> None:
    console, began = Console(width=120, highlight=False), time.monotonic()
    console.rule("1  Training five small models, and asking four of them for needles")
    recall = [_train(root, choice) for choice in MODELS] + [_evaluate(root, choice) for choice in MODELS]
    reader = _reader(root)
    results = run_all([recall, [reader]], root / "logs")
    console.rule("2  Needles: recall by depth and length")
    report = report_command(ReportSettings(results=(str(root / "results"),), out=str(root / "figures")))
    console.print(report["text"])
    console.rule("3  Asking the handbooks")
    answers = _answers(root, console)
    console.rule("Summary")
    table = _table(root, results, report)
    console.print(table)
    unseen = unseen_score(root / "reader")
    console.print(
        f"Reader: {unseen['right']} of {unseen['asked']} unseen questions exact "
        f"({unseen['right'] / unseen['asked']:.0%}); {answers['right']} of {answers['asked']} questions "
        "over the handbooks, the five above among them."
    )
    (root / "demo.json").write_text(
        json.dumps(
            {
                "train": results,
                "needle": {k: v for k, v in report.items() if k != "text"},
                "answers": answers,
                "unseen": unseen,
                "seconds": time.monotonic() - began,
            },
            indent=2,
        ),
        encoding="utf-8",
    )
    console.print("Pictures: " + ", ".join(path for path in report["written"] if not path.endswith(".jsonl")))
    console.print(f"All figures: {root / 'demo.json'}. Took {time.monotonic() - began:.0f} s.")


def _train(root: Path, choice: Choice) -> Job:
    place = (f"training.steps={choice.steps}", f"name={choice.name}", f"root={root}", "resume=true")
    words = ("train", *choice.words, *RECALL, *choice.schedule, *place)
    return Job(f"train {choice.name}", words, choice.steps, lambda: _steps(root / choice.name))


def _reader(root: Path) -> Job:
    words = ("train", *READER.words, "name=reader", f"root={root}", "resume=true")
    return Job("train reader", words, READER.steps, lambda: _steps(root / "reader"))


def _steps(run: Path) -> tuple[int, str]:
    """How far a run is, and its loss."""
    rows = [row for row in read_metrics(run / FILE) if "loss" in row]
    return (int(rows[-1]["step"]), f"loss {rows[-1]['loss']:.3f}") if rows else (0, "")


def _evaluate(root: Path, choice: Choice) -> Job:
    lengths = "[" + ",".join(map(str, LENGTHS)) + "]"
    grid = (f"suite.lengths={lengths}", "suite.depths=5", "suite.samples=20", "suite.needles=8")
    words = ("evaluate", f"model={root / choice.name}", f"name={choice.name}", f"root={root / 'results'}", *grid)
    file = root / "results" / choice.name / "needle.jsonl"
    return Job(f"needles {choice.name}", words, 5 * len(LENGTHS), lambda: (_cells(file), "cells"))


def _cells(file: Path) -> int:
    return file.read_text(encoding="utf-8").count('"record": "cell"') if file.exists() else 0


def _answers(root: Path, console: Console) -> dict[str, Any]:
    """The handbooks ingested, all questions asked, and a table of what the reader wrote to five of them."""
    place = ("root=" + str(root / "indexes"), f"index={INDEX}")
    chunk = (f"chunk.size={READER.chunk.size}", f"chunk.overlap={READER.chunk.overlap}")
    console.print("$ farfield " + shlex.join(["ingest", f"path={DOCUMENTS}", *place, *chunk, "prune=true"]))
    ingest(IngestConfig(path=str(DOCUMENTS), index=INDEX, root=str(root / "indexes"), prune=True, chunk=READER.chunk))
    model = TextModel(*load(root / "reader"))
    questions = json.loads((DOCUMENTS.parent / "questions.json").read_text(encoding="utf-8"))
    with open_index(INDEX, root / "indexes", READER.retrieval) as index:
        shown, others = ([_asked(model, index, one) for one in questions[part]] for part in ("demo", "more"))
    words = ["query", shown[0]["question"], *place, f"model={root / 'reader'}", f"retrieval.k={READER.retrieval.k}"]
    console.print("$ farfield " + shlex.join(words))
    table = Table(
        "question", "generated answer", "right?", "source", "score", "s", title="Five questions, answered by the reader"
    )
    for one in shown:
        verdict, seconds = "yes" if one["right"] else f"no: {one['gold']}", sum(one["seconds"].values())
        table.add_row(one["question"], one["answer"], verdict, one["source"], f"{one['score']:.4f}", f"{seconds:.2f}")
    console.print(table)
    asked = [*shown, *others]
    return {"shown": shown, "others": others, "right": sum(one["right"] for one in asked), "asked": len(asked)}


def _asked(model: TextModel, index: Index, one: dict[str, str]) -> dict[str, Any]:
    """What the reader wrote to a question, and whether it is the answer."""
    answer = ask(model, index, one["question"], prompt=READER.prompt)
    source = answer.sources[0]
    return {
        "question": one["question"],
        "answer": answer.text,
        "gold": one["answer"],
        "right": exact(one["answer"], answer.text or ""),
        "source": f"{Path(source.path).name}:{source.start}-{source.end}",
        "score": source.score,
        "seconds": dict(answer.seconds),
    }


def _table(root: Path, results: dict[str, dict[str, Any]], report: dict[str, Any]) -> Table:
    """One line for each model: size, state against length, recall inside and beyond the training length, speed."""
    table = Table(title=f"Recall of one needle among eight, trained at {TRAINED} tokens")
    table.add_column("architecture")
    table.add_column("memory")
    shown = " / ".join(map(str, LENGTHS))
    beyond = f"recall {LENGTHS[1]} to {LENGTHS[-1]}"
    for column in (
        "steps",
        "parameters",
        f"state, KiB, at {shown}",
        f"recall at {TRAINED}",
        beyond,
        "trained, tokens/s",
    ):
        table.add_column(column, justify="right")
    rates = {one["model"]: one for one in report["results"]}
    for choice in MODELS:
        model = load(root / choice.name).model
        states = " / ".join(f"{model.config.state_bytes(length) / 1024:.0f}" for length in LENGTHS)
        inside = _mean(rates[choice.name], lambda length: length <= TRAINED)
        beyond = _mean(rates[choice.name], lambda length: length > TRAINED)
        speed = results[f"train {choice.name}"]["tokens_per_second"]
        memory = model.config.memory.name if model.config.memory else "-"
        shown = f"{speed:,.0f}" if speed else "-"
        table.add_row(
            choice.architecture,
            memory,
            str(choice.steps),
            f"{model.config.parameters():,}",
            states,
            inside,
            beyond,
            shown,
        )
    return table


def _mean(rates: dict[str, Any], chosen: Any) -> str:
    parts = [one for one in rates["lengths"] if chosen(one["length"])]
    hits, asked = sum(one["hits"] for one in parts), sum(one["samples"] for one in parts)
    return f"{hits / asked:.0%}" if asked else "-"


if __name__ == "__main__":
    sys.exit(main())
