"""Result files as large suites write them, with scores that fall with length: what reports are drawn from in tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from farfield.benchmarks.running.results import (
    FORMAT,
    Answers,
    Curve,
    Measured,
    Result,
    identity,
    read_result,
    record_of,
)

RULER = (
    *("niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multikey_2", "niah_multikey_3"),
    *("niah_multivalue", "niah_multiquery", "vt", "cwe", "fwe", "qa_1", "qa_2"),
)
LENGTHS = (256, 512, 1024, 2048, 4096)
FRACTIONAL = ("niah_multivalue", "niah_multiquery", "vt", "cwe", "fwe", "qa_1", "qa_2")


def head(suite: str, model: str, tasks: Mapping[str, Mapping[str, Any]], **changes: Any) -> dict[str, Any]:
    about = {
        name: {"fingerprint": f"{name} 1", "metric": "recall", "labels": {}, "placed": False, **task}
        for name, task in tasks.items()
    }
    settings = {"kind": suite, "lengths": list(LENGTHS), "seed": 0, **changes.pop("settings", {})}
    described = {"name": model, "architecture": "lookup", "trained_length": 1024, "capabilities": ["generate"]}
    provenance = {"commit": "0123456789abcdef" * 2, "dirty": False, "python": "3.11", "packages": {"numpy": "2"}}
    return {
        "format": FORMAT,
        "suite": suite,
        "settings": settings,
        "settings_hash": identity([settings, about]),
        "tasks": about,
        "model": described,
        "model_hash": identity(described),
        "seed": 0,
        "lengths": list(LENGTHS),
        "depths": [None],
        "provenance": provenance,
        **changes,
    }


def answers(scores: Sequence[float], length: int, depth: float | None = None, **changes: Any) -> Answers:
    """Answers with these scores, two excerpts alike in form to those of the runner where they are not full."""
    n = len(scores)
    golds = [f"{7_000_000 + 7919 * at % 999_999}" for at in range(n)]
    filling = {
        "first": 0,
        "count": n,
        "scoring": "generate",
        "scores": list(scores),
        "lengths": [length] * n,
        "depths": [[0.5 if depth is None else depth]] * n,
        "outputs": [gold if score == 1 else f" {gold[::-1]}" for gold, score in zip(golds, scores, strict=True)],
        "answers": golds,
        "logprobs": [],
        "excerpts": [
            "" if score == 1 else f"The sky is blue. ⟦The number of key-{at} is {gold}.⟧ The sun is [...] What is it?"
            for at, (gold, score) in enumerate(zip(golds, scores, strict=True))
        ],
        "ties": 0,
        "unfilled": "",
        "capped": False,
        "prefilled": 60 * n,
        "naive": 100 * n,
        "seconds": 0.1,
    }
    return Answers(**{**filling, **changes})


def write(path: Path, head: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> Result:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [{"record": "head", **head}, *records]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return read_result(path)


def cell(task: str, got: Answers, length: int, depth: float | None = None, condition: str = "full") -> dict[str, Any]:
    place = {"task": task, "grid_length": length, "grid_depth": depth, "condition": condition}
    return {"record": "cell", **place, **record_of(got)}


def measured(task: str, got: Measured, length: int, condition: str = "full") -> dict[str, Any]:
    place = {"task": task, "grid_length": length, "grid_depth": None, "condition": condition}
    return {"record": "measured", **place, **asdict(got)}


def skip(task: str, length: int, reason: str, condition: str = "full") -> dict[str, Any]:
    place = {"task": task, "grid_length": length, "grid_depth": None, "condition": condition}
    return {"record": "skip", **place, "reason": reason}


def drawn(rng: np.random.Generator, mean: float, n: int, parts: int = 1) -> list[float]:
    return (rng.binomial(parts, min(max(mean, 0.0), 1.0), n) / parts).tolist()


def ruler(
    folder: Path, model: str, strength: float, samples: int = 20, tasks: Sequence[str] = RULER, seed: int = 0
) -> Result:
    """All tasks at five lengths, with two controls; the first task of questions is too long for the shortest."""
    rng = np.random.default_rng([seed, round(100 * strength)])
    records = []
    for number, task in enumerate(tasks):
        for at, length in enumerate(LENGTHS):
            if task == "qa_1" and length == LENGTHS[0]:
                records.append(skip(task, length, "qa_1: 256 tokens are too short: 512 is the least."))
                continue
            mean = strength - 0.02 * number - (0.9 - 0.6 * strength) * at / 4
            parts = 4 if task in FRACTIONAL else 1
            changes = {"ties": 2} if task == "niah_multikey_1" else {}
            records.append(cell(task, answers(drawn(rng, mean, samples, parts), length, **changes), length))
            for condition, other in (("no_context", 0.04), ("gold_only", 0.97)):
                records.append(cell(task, answers(drawn(rng, other, samples, parts), length), length, None, condition))
    about = {task: {"scoring": "generate", "metric": "part" if task[:2] == "qa" else "all"} for task in tasks}
    return write(folder / model / "ruler.jsonl", head("ruler", model, about), records)


def recall(folder: Path, model: str, room: int) -> Result:
    """MQAR by number of pairs: a state with room for so many of them."""
    rng = np.random.default_rng([7, room])
    counts = (4, 8, 16, 32, 64)
    tasks = {f"mqar_{pairs}": {"scoring": "read", "metric": "accuracy", "labels": {"pairs": pairs}} for pairs in counts}
    records = [
        cell(f"mqar_{pairs}", answers(drawn(rng, min(1.0, room / pairs), 40, pairs), length), length)
        for pairs in counts
        for length in (256, 512, 1024)
    ]
    changes = {"lengths": [256, 512, 1024]}
    return write(folder / model / "recall.jsonl", head("recall", model, tasks, **changes), records)


def perplexity(folder: Path, model: str, gain: float) -> Result:
    records = []
    for protocol in ("block", "streaming"):
        for at, length in enumerate(LENGTHS):
            for condition in ("full", "memory_off"):
                bits = 2.1 - gain * at * (condition == "full") + 0.1 * (protocol == "block")
                positions = [float(2**power) for power in range(5, 13) if 2**power <= length]
                loss = [2.0 - 0.6 * (gain if condition == "full" else 0.03) * step for step in range(len(positions))]
                near = [2.0 - 0.2 * gain * min(step, 4) for step in range(len(positions))]
                curves = {
                    "loss_by_position": Curve(positions, loss, [0.03] * len(loss), "position, tokens", "nats a token"),
                    "context_gain": Curve(
                        positions, [b - a for a, b in zip(loss, near, strict=True)], [], "position, tokens", "nats"
                    ),
                }
                each = (bits + np.linspace(-0.2, 0.2, 6)).tolist()
                got = Measured(
                    {"bits_per_byte": bits, "word_perplexity": 2 ** (5.4 * bits)},
                    {"bits_per_byte": 0.04},
                    {},
                    each,
                    curves,
                    ["Documents shorter than the window are read whole."] if length == 4096 else [],
                )
                records.append(measured(protocol, got, length, condition))
    return write(
        folder / model / "perplexity.jsonl", head("perplexity", model, {"block": {}, "streaming": {}}), records
    )


def efficiency(folder: Path, model: str, growth: float) -> Result:
    units = {"prefill": "tokens/s", "decode": "ms/token", "peak_memory": "bytes", "state": "bytes"}
    records = []
    for length in LENGTHS:
        values = {
            "prefill": 9000 / (1 + growth * length / 1000),
            "decode": 3 + growth * length / 500,
            "peak_memory": 3e8 + growth * 4e4 * length,
            "state": 1e6 + growth * 2048 * length,
        }
        got = Measured(values, {"prefill": 150.0, "decode": 0.2}, units, [values["prefill"]] * 5)
        records.append(measured("cost", got, length))
    return write(folder / model / "efficiency.jsonl", head("efficiency", model, {"cost": {}}), records)


def retrieval(folder: Path, engine: str, quality: float) -> Result:
    collections = ("scifact", "cranfield", "hotpotqa_dev500")
    records = [
        measured(
            name,
            Measured(
                {"ndcg_at_10": quality - 0.08 * at, "recall_at_10": quality, "mrr": quality - 0.05}, {"mrr": 0.03}
            ),
            10,
        )
        for at, name in enumerate(collections)
    ]
    return write(
        folder / engine / "retrieval.jsonl",
        head("retrieval", engine, {name: {} for name in collections}, lengths=[10]),
        records,
    )


def needle(folder: Path, model: str, reach: float, samples: int = 20, depths: int = 11) -> Result:
    """A grid of depths by lengths that is full where the needle is near enough to the end."""
    rng = np.random.default_rng([3, round(1000 * reach)])
    places = np.linspace(0, 1, depths).tolist()
    records = []
    for length in LENGTHS:
        for depth in places:
            near = (1 - depth) * length <= reach * 1024
            scores = drawn(rng, 0.96 if near else 0.1, samples)
            records.append(cell("single", answers(scores, length, depth), length, depth))
        for condition, mean in (("no_context", 0.0), ("gold_only", 1.0), ("memory_off", 0.3)):
            records.append(cell("single", answers(drawn(rng, mean, samples), length), length, None, condition))
    tasks = {"single": {"scoring": "generate", "placed": True}}
    return write(folder / model / "needle.jsonl", head("needle", model, tasks, depths=places), records)


def everything(folder: Path) -> list[Result]:
    """Three models on every kind of suite, and two engines of retrieval."""
    found: list[Result] = []
    for name, strength in (("attention", 0.99), ("gated_deltanet", 0.9), ("retnet", 0.75)):
        found += [needle(folder, name, 6 * strength**4), ruler(folder, name, strength)]
        found += [recall(folder, name, round(40 * strength**3)), perplexity(folder, name, 0.1 * strength)]
        found += [efficiency(folder, name, strength**8)]
    return [*found, retrieval(folder, "lexical", 0.68), retrieval(folder, "hybrid", 0.74)]
