"""python -m farfield.benchmarks.session_reuse: how soon an answer begins, with what was read before and without.

    returning   a conversation of N tokens goes on with 64 more
    question    another question of 64 tokens about a document of N tokens

anew     the whole prompt is prefilled
memory   the state comes out of memory, and the 64 tokens are prefilled
disk     the state is read from files, layer by layer while the layers below compute, and checked. The files are in the
         page cache of the system: what is measured is reading and checking, not the disk

Each is the median of repeats until the first token is known, on one thread, the ways taken in turn. Before anything is
timed, the answers of all ways are compared: equal ids, or the run ends with an error. Fresh weights.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from farfield.api import build
from farfield.benchmarks.provenance import provenance
from farfield.benchmarks.reports.grid import short
from farfield.generation import GenerationConfig, TextModel, generate, prefill
from farfield.progress import Bar
from farfield.sessions import Reply, Sessions, SessionsConfig, open_sessions

__all__ = ["SUBJECTS", "main", "measure"]

SUBJECTS: Mapping[str, tuple[str, str | None]] = {
    "attention": ("attention", None),
    "retnet": ("retnet", None),
    "mamba2": ("mamba2", None),
    "longformer + knn": ("longformer", "knn"),
}
"""Architecture and memory by name."""

WAYS = ("anew", "memory", "disk")
NEW, ANSWER = 64, 16


@dataclass(frozen=True)
class Timed:
    """Of one subject, case and length: seconds until the first token by way, and bytes of the state's file."""

    subject: str
    case: str
    tokens: int
    seconds: dict[str, float]
    bytes: int


def measure(name: str, model: TextModel, tokens: int, repeats: int) -> Iterator[Timed]:
    """Both cases of one model at one length of history.

    Raises:
        AssertionError: answers differ.
    """
    text = "".join(chr(97 + n) for n in torch.randint(26, (tokens,), generator=_seeded(tokens)).tolist())
    new = "".join(chr(97 + n) for n in torch.randint(26, (NEW,), generator=_seeded(0)).tolist())
    with tempfile.TemporaryDirectory() as place:
        for case, asked in CASES.items():
            folder = Path(place) / case
            with open_sessions(folder, model) as sessions:  # what has been read before
                read = asked(sessions, text, "", 1)
                ids = list(text.encode()) + (list(read.ids) if case == "returning" else []) + list(new.encode())
            size = max(file.stat().st_size for file in (folder / "states").iterdir())
            ways = {
                "anew": partial(_anew, model, ids),
                "memory": partial(_again, model, folder, asked, text, new, True),
                "disk": partial(_again, model, folder, asked, text, new, False),
            }
            answers = {way: run(ANSWER)[1] for way, run in ways.items()}
            assert len(set(answers.values())) == 1, f"{name}, {case}, {tokens} tokens: answers differ: {answers}"
            taken: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(repeats):
                for way, run in ways.items():
                    taken[way].append(run(1)[0])
            yield Timed(name, case, tokens, {way: statistics.median(some) for way, some in taken.items()}, size)


Asked = Callable[[Sessions, str, str, int], Reply]
"""The reply of so many tokens to a new text (none yet, where it is empty) behind an old one."""


def _said(sessions: Sessions, old: str, new: str, tokens: int) -> Reply:
    return sessions.say("alice", new or old, GenerationConfig(tokens=tokens))


def _questioned(sessions: Sessions, old: str, new: str, tokens: int) -> Reply:
    return sessions.ask(old, new, GenerationConfig(tokens=tokens))


CASES: Mapping[str, Asked] = {"returning": _said, "question": _questioned}


def _anew(model: TextModel, ids: Sequence[int], tokens: int) -> tuple[float, tuple[int, ...]]:
    """The seconds until the first token is known, or of a longer answer its ids, with nothing read before."""
    if tokens > 1:
        (answer,) = generate(model.model, model.tokenizer, [ids], GenerationConfig(tokens=tokens))
        return 0.0, tuple(answer.ids)
    began = time.perf_counter()
    prefill(model.model, [ids])
    return time.perf_counter() - began, ()


def _again(
    model: TextModel, folder: Path, asked: Asked, old: str, new: str, near: bool, tokens: int
) -> tuple[float, tuple[int, ...]]:
    """As `_anew`, with what is stored in `folder`, which stays as it is; where `near`, out of memory."""
    config = SessionsConfig(memory=2**32 if near else 0)
    with open_sessions(folder, model, config, writing=False) as sessions:
        if near:
            sessions.store.warm()
        reply = asked(sessions, old, new, tokens)
    assert reply.tier == ("memory" if near else "disk"), "the state was not where it was put"
    assert reply.prefilled == NEW, "more was read than what is new"
    return reply.seconds["first"], reply.ids


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def main(words: Sequence[str] | None = None) -> int:
    """The table, and with --json and --picture the figures as files."""
    parser = argparse.ArgumentParser(
        prog="python -m farfield.benchmarks.session_reuse",
        description="Time to first token of what comes back, against prefilling it again.",
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096, 16384], help="tokens of history")
    parser.add_argument("--subjects", nargs="+", default=list(SUBJECTS), choices=list(SUBJECTS), metavar="NAME")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where to write the figures, with the versions")
    parser.add_argument("--picture", type=Path, help="where to draw them, as PNG")
    given = parser.parse_args(words)
    torch.set_num_threads(1)
    rows: list[Timed] = []
    with Bar("session reuse", total=len(given.subjects) * len(given.lengths), unit="lengths") as bar:
        for name in given.subjects:
            architecture, memory = SUBJECTS[name]
            model = build(architecture, [f"width={given.width}", f"depth={given.depth}"], memory=memory)
            for tokens in given.lengths:
                rows += measure(name, model, tokens, given.repeats)
                bar.step(note=f"{name} {short(tokens)}")
    Console(width=120).print(_table(rows))
    if given.json:
        told = {**provenance(), "width": given.width, "depth": given.depth, "threads": 1, "repeats": given.repeats}
        given.json.parent.mkdir(parents=True, exist_ok=True)
        found = {**told, "new": NEW, "rows": [asdict(row) for row in rows]}
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if given.picture:
        _draw(rows, given.picture)
    return 0


def _table(rows: Sequence[Timed]) -> Table:
    table = Table("model", "case", title=f"Time to first token, with {NEW} tokens that are new; equal answers")
    for column in ("history", "state, MiB", "anew, ms", "memory, ms", "disk, ms", "memory, of anew", "disk, of anew"):
        table.add_column(column, justify="right")
    for row in rows:
        times = [1e3 * row.seconds[way] for way in WAYS]
        shown = [f"{value:,.0f}" if value >= 10 else f"{value:.1f}" for value in times]
        shares = [f"{value / times[0]:.1%}" for value in times[1:]]
        table.add_row(row.subject, row.case, short(row.tokens), f"{row.bytes / 2**20:,.1f}", *shown, *shares)
    return table


def _draw(rows: Sequence[Timed], path: Path) -> None:
    # The object interface: no window, no state that outlives the figure.
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row.subject for row in rows))
    figure = Figure(figsize=(2.6 * len(names) + 0.8, 3.4), layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for panel, name in zip(panels, names, strict=True):
        for number, way in enumerate(WAYS):
            points = [(row.tokens, row.seconds[way]) for row in rows if (row.subject, row.case) == (name, "returning")]
            panel.plot(*zip(*points, strict=True), marker="osD"[number], label=way)
        ticks = [tokens for tokens, _ in points]
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xticks(ticks, labels=[short(tick) for tick in ticks], minor=False)
        panel.set(title=name, xlabel="history, tokens")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("time to first token, seconds")
    panels[0].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=150)


if __name__ == "__main__":
    sys.exit(main())
