"""`farfield models`: what can be chosen, with one line each and what it costs.

Costs are computed from the settings, nothing is built: weights, bytes of one row's state and work of decoding one token
after so many tokens, for float32 and a vocabulary of bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from farfield.architectures.architecture import ArchitectureConfig
from farfield.architectures.encoders.stack import EncoderConfig
from farfield.benchmarks.suites.suite import AskedSuite
from farfield.borrowed import check_borrowed
from farfield.compose import compose, group_options, option, sized
from farfield.config import Config, ModelError, read
from farfield.huggingface.given import Given, UncoveredError
from farfield.huggingface.reading import is_folder, open_folder, uncovered
from farfield.huggingface.vocabularies import folder_tokenizer
from farfield.memory import MemoryConfig
from farfield.model import ModelConfig
from farfield.settings import EvaluateSettings
from farfield.usage import options

__all__ = ["model_in", "models"]

LENGTHS = (4096, 131072)
VOCABULARY = 257
HOST = "attention"  # the architecture around which memories are told


class _One(Config):
    architecture: ArchitectureConfig


class _Memory(Config):
    memory: MemoryConfig


def models() -> dict[str, Any]:
    """Architectures, encoders, memories and suites, by the names that the command line takes."""
    told = [_architecture(name, text) for name, text in options("architecture").items()]
    found: dict[str, Any] = {
        "architectures": [one for one in told if "state_bytes" in one],
        "encoders": [one for one in told if "state_bytes" not in one],
        "memories": [_memory(name, text) for name, text in options("memory").items() if name != "none"],
        "suites": [_suite(name, text) for name, text in options("suite").items()],
    }
    return {**found, "text": _text(found)}


def model_in(path: str) -> dict[str, Any]:
    """What a folder of Hugging Face gets: our layers or those of transformers, and what it costs or why not.

    It is what `farfield.load` would do, as far as it shows from settings, tokenizer and headers of weights; of weights
    no more is read than a head that is said to be the embedding.

    Raises:
        ModelError: no such folder, or its config.json cannot be read.
    """
    folder = Path(path).expanduser()
    if not is_folder(folder):
        raise ModelError(f"{path}: no folder of Hugging Face: it has no config.json.")
    said = Given.of(folder / "config.json").values
    told: dict[str, Any] = {"model": path, "family": said.get("model_type")}
    try:
        reason = uncovered(folder)
        if reason is not None:
            return {**told, **_borrowed(path, reason)}
        found = open_folder(folder)
        folder_tokenizer(folder, found.config.vocabulary, found.ends())
        found.check_tied()
    except ModelError as error:
        return {**told, "layers": None, "reason": str(error), "text": f"{path} cannot be read: {error}"}
    element = found.dtype.itemsize
    told |= {
        "layers": "farfield",
        "mixers": sorted({str(getattr(mixer, "kind", "?")) for mixer in found.config.decoder.mixers()}),
        "dtype": str(found.dtype).removeprefix("torch."),
        "trained_length": found.longest,
        "parameters": found.config.parameters(),
        "active_parameters": found.config.active(),
        "state_bytes": {str(length): found.config.state_bytes(length, element) for length in LENGTHS},
        "flops_per_token": {str(length): found.config.flops(length) for length in LENGTHS},
    }
    return {**told, "text": _told(told)}


def _borrowed(path: str, reason: UncoveredError) -> dict[str, Any]:
    """What is said of a folder that our layers do not read, for a `reason`.

    Raises:
        ModelError: transformers does not read it either.
    """
    said = f"{reason} It is not installed: pip install 'farfield[hf]'."
    if find_spec("transformers") is not None:
        check_borrowed(path)
        said = str(reason)
    return {"layers": "transformers", "reason": said, "text": f"{path} is run by transformers: {said}"}


def _told(one: Mapping[str, Any]) -> str:
    """A folder that our layers read, in lines."""
    weights, states, work = _cost_cells(one)
    length = "not said" if one["trained_length"] is None else f"{one['trained_length']:,} tokens"
    rows = [
        ["layers", f"ours: {', '.join(one['mixers'])}, of the family {one['family']}"],
        ["weights", f"{weights}, {one['dtype']}"],
        ["trained for", length],
        ["state at 4k, 128k", states],
        ["work a token", work],
    ]
    return f"{one['model']}\n{_aligned(rows)}"


def _read(mapping: dict[str, Any]) -> ArchitectureConfig:
    return read(_One, {"architecture": mapping}).architecture


def _architecture(name: str, text: str) -> dict[str, Any]:
    mapping = option("architecture", name)
    config = _read(mapping)
    chosen = [config.layers[layer] for layer in config.pattern]
    mixers = {layer.mixer.kind: layer.mixer for layer in chosen}
    if isinstance(config, EncoderConfig):
        own: dict[str, Any] = {"longest": config.longest}
    else:
        own = {"keys_from": list(config.keepers()), "split_exact": config.split_exact}
    return {
        "name": name,
        "summary": text,
        "pattern": list(config.pattern),
        "mixers": sorted(mixers),
        "kinds": [layer.mixer.kind for layer in chosen],
        "feedforwards": [layer.feedforward.kind for layer in chosen],
        "forms": {kind: mixer.computed for kind, mixer in mixers.items()},
        "source": config.source,
        "sources": {kind: mixer.published for kind, mixer in mixers.items()},
        "sizes": {size: _weights(mapping, size) for size in group_options("size")},
        "width": config.width,
        "depth": config.depth,
        **own,
        **_costs(ModelConfig(architecture=config, vocabulary=VOCABULARY)),
    }


def _weights(mapping: dict[str, Any], size: str) -> dict[str, int]:
    """Weights of an architecture in one of the sizes, and those that a token meets."""
    model = ModelConfig(architecture=_read(sized(mapping, size)), vocabulary=VOCABULARY)
    return {"parameters": model.parameters(), "active_parameters": model.active()}


def _memory(name: str, text: str) -> dict[str, Any]:
    host = _read(option("architecture", HOST))
    memory = read(_Memory, {"memory": option("memory", name)}).memory
    declared = {"causal": memory.causal, "split_exact": memory.split_exact, "row_independent": memory.row_independent}
    costs = _costs(ModelConfig(architecture=host, memory=memory, vocabulary=VOCABULARY))
    return {"name": name, "summary": text, "around": HOST, "source": memory.published, **declared, **costs}


def _suite(name: str, text: str) -> dict[str, Any]:
    suite = read(EvaluateSettings, compose("evaluate", [f"suite={name}", "model=none"])).suite
    told = {"name": name, "summary": text, "lengths": list(suite.lengths), "cells": len(suite.lengths)}
    if isinstance(suite, AskedSuite):
        cells = len(suite.lengths) * len(suite.places())
        told |= {"cells": cells, "samples": cells * suite.samples}
    return told


def _asked(suite: Mapping[str, Any]) -> str:
    return f"{suite['samples']:,} samples a task" if "samples" in suite else ""


def _a_task(cells: int) -> str:
    return f"{cells} cell{'s' * (cells != 1)} a task"


def _costs(model: ModelConfig) -> dict[str, Any]:
    """An encoder has no state, and reads no document longer than it can."""
    told: dict[str, Any] = {"parameters": model.parameters(), "active_parameters": model.active()}
    longest = model.architecture.longest if isinstance(model.architecture, EncoderConfig) else None
    lengths = sorted({length if longest is None else min(length, longest) for length in LENGTHS})
    if not isinstance(model.architecture, EncoderConfig):
        told["state_bytes"] = {str(length): model.state_bytes(length) for length in lengths}
    return {**told, "flops_per_token": {str(length): model.flops(length) for length in lengths}}


def _text(found: Mapping[str, list[dict[str, Any]]]) -> str:
    """The same for a person: a line each."""
    parts = []
    for group in ("architectures", "encoders"):
        head = [group, "mixers", "weights", "tiny, small, base", "state at 4k, 128k", "work a token", "computed as"]
        head.append("source")
        head = [column for column in head if group == "architectures" or not column.startswith("state")]
        parts.append(_aligned([head, *(_cells(one) for one in found[group])]))
    head = ["memories", "weights", "state at 4k, 128k", "work a token", "source", ""]
    rows = [
        [one["name"], *_cost_cells(one), one["source"], f"around {one['around']}: {one['summary']}"]
        for one in found["memories"]
    ]
    parts.append(_aligned([head, *rows]))
    suites = [[one["name"], _a_task(one["cells"]), _asked(one), one["summary"]] for one in found["suites"]]
    parts.append(_aligned([["suites", "", "", ""], *suites]))
    parts.append(
        "Chosen by architecture=name (architectures and encoders), memory=name, suite=name; what each is says\n"
        "`farfield train --help`. Weights are those of the architecture as its file has it and, in the three sizes,\n"
        "those that a token meets; with a vocabulary of bytes. State and work are those of one row after 4k and after\n"
        "128k tokens, in float32; of encoders, the work for one token of a document of so many, or of the longest."
    )
    return "\n\n".join(parts)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, the last one ragged."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _cells(one: Mapping[str, Any]) -> list[str]:
    """Name, mixers of the pattern, costs, how each mixer is computed, where it was published."""
    weights, *costs = _cost_cells(one)
    return [
        one["name"],
        _mixers(one),
        weights,
        ", ".join(_count(size["active_parameters"]) for size in _by_weight(one["sizes"])),
        *costs,
        "; ".join(dict.fromkeys(one["forms"].values())),
        one["source"] or ", ".join(dict.fromkeys(one["sources"].values())),
    ]


def _by_weight(sizes: Mapping[str, Mapping[str, int]]) -> list[Mapping[str, int]]:
    """The sizes from the smallest on."""
    return sorted(sizes.values(), key=lambda size: size["parameters"])


def _mixers(one: Mapping[str, Any]) -> str:
    """How often the pattern has each: `7 mamba : 1 attention, 4 of 8 moe`."""
    counts = Counter(one["kinds"])
    mixed = " : ".join(f"{count} {kind}" for kind, count in counts.items()) if len(counts) > 1 else one["kinds"][0]
    experts = one["feedforwards"].count("moe")
    return f"{mixed}, {experts} of {len(one['kinds'])} moe" if experts else mixed


def _cost_cells(one: Mapping[str, Any]) -> list[str]:
    """Weights, bytes of state where there is one, work."""
    states = [_scaled(value, 1024, ("Ki", "Mi", "Gi")) + "B" for value in one.get("state_bytes", {}).values()]
    work = [_scaled(value, 1000, ("k", "M", "G", "T")) + "FLOP" for value in one["flops_per_token"].values()]
    limit = f" (at most {one['longest']:,} tokens)" if one.get("longest") else ""
    weights, active = (_count(one[key]) for key in ("parameters", "active_parameters"))
    weights = weights if weights == active else f"{weights} ({active} active)"
    return [weights, *([", ".join(states)] if states else []), ", ".join(work) + limit]


def _count(value: float) -> str:
    return _scaled(value, 1000, ("k", "M", "G", "T"))


def _scaled(value: float, step: int, units: tuple[str, ...]) -> str:
    """A number with three digits and its unit: 1.5 M."""
    unit = ""
    for bigger in units:
        if value < step:
            break
        value, unit = value / step, bigger
    return f"{value:.3g} {unit}"
