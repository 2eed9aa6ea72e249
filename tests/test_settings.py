"""The yaml files and the typed settings say the same: every key, every default, a line of help for each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from pydantic import BaseModel, TypeAdapter

from farfield import settings, usage
from farfield.adapters import AdapterConfig
from farfield.architectures.architecture import ArchitectureConfig
from farfield.benchmarks.settings import Suite
from farfield.compose import CONFIGS, compose, group_options, option
from farfield.config import Config, ConfigError, read
from farfield.context import ContextConfig
from farfield.data import DataConfig
from farfield.data.objective import ObjectiveConfig
from farfield.memory import MemoryConfig

NEEDED = {
    "train": ["data=needle"],
    "evaluate": ["model=runs/x"],
    "speed": [],
    "ingest": ["path=docs", "index=handbook"],
    "query": ["question=why", "index=handbook"],
    "report": [],
    "export": ["model=runs/x", "to=models/x"],
}
VERBS = sorted(NEEDED)


def kind(verb: str) -> type[BaseModel]:
    found: type[BaseModel] = getattr(settings, str(usage.VERBS[verb].settings))
    return found


def test_every_verb_with_settings_is_here() -> None:
    assert {name for name, verb in usage.VERBS.items() if verb.settings} == set(NEEDED)


@pytest.mark.parametrize("verb", VERBS)
def test_top_level_keys_are_the_fields(verb: str) -> None:
    """So an unknown top-level key can be refused before torch is imported."""
    content = OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{verb}.yaml"))
    groups = {group.key for group in usage.groups(verb)} - {"size"}
    assert (set(content) - {"defaults", "hydra"}) | groups == set(kind(verb).model_fields)


@pytest.mark.parametrize("verb", VERBS)
def test_yaml_defaults_are_the_typed_defaults(verb: str) -> None:
    mapping = compose(verb, NEEDED[verb])
    given = {name for name, field in kind(verb).model_fields.items() if field.is_required()}
    given |= {"query": {"question", "index"}, "ingest": {"path"}, "evaluate": {"model"}}.get(verb, set())
    typed = read(kind(verb), {name: mapping[name] for name in given}).model_dump(mode="json")
    assert {name: mapping[name] for name in set(mapping) - given} == {
        name: typed[name] for name in set(typed) - given if name in mapping or typed[name] is not None
    }  # a group without a choice is not there


@pytest.mark.parametrize(
    ("group", "needed"),
    [("adapter", None), ("context", None), ("data", "path"), ("memory", None), ("objective", None), ("suite", None)],
)
def test_yaml_options_are_the_typed_defaults(group: str, needed: str | None) -> None:
    kinds = {
        "adapter": AdapterConfig,
        "context": ContextConfig,
        "data": DataConfig,
        "memory": MemoryConfig,
        "objective": ObjectiveConfig,
        "suite": Suite,
    }
    for name in sorted(set(group_options(group)) - {"none"}):
        told = option(group, name, ["path=x"] if name == "text" else [])
        if (
            group in ("adapter", "memory") or told["kind"] == "suite"
        ):  # several options are one kind: a file has what says something
            assert subset(told, TypeAdapter(kinds[group]).validate_json(json.dumps(told)).mapping()), name
            continue
        required = {"kind", needed, *(("suite", "tokenizer", "mixture") if told["kind"] == "suite" else ())}
        typed = TypeAdapter(kinds[group]).validate_json(json.dumps({key: told[key] for key in required & set(told)}))
        assert set(told) == set(typed.mapping()), name
        assert subset(told, typed.mapping()), name


class One(Config):
    architecture: ArchitectureConfig


@pytest.mark.parametrize("name", group_options("architecture"))
def test_architectures_are_read_as_they_are_told(name: str) -> None:
    told = {"architecture": option("architecture", name)}
    assert subset(told, read(One, told).mapping())


def subset(told: Any, typed: Any) -> bool:
    """What a yaml file tells is what was read."""
    if isinstance(told, dict):
        return all(key in typed and subset(value, typed[key]) for key, value in told.items())
    return bool(told == typed)


@pytest.mark.parametrize("architecture", group_options("architecture"))
@pytest.mark.parametrize("size", group_options("size"))
def test_every_architecture_takes_every_size_and_width_alone(architecture: str, size: str) -> None:
    for words in ([f"size={size}"], ["architecture.width=64"]):
        read(settings.TrainSettings, compose("train", ["data=needle", f"architecture={architecture}", *words]))


@pytest.mark.parametrize("architecture", ["attention", "longformer"])
@pytest.mark.parametrize("memory", group_options("memory"))
def test_every_memory_fits_the_softmax_architectures(architecture: str, memory: str) -> None:
    mapping = compose("train", ["data=needle", f"architecture={architecture}", f"memory={memory}"])
    if (architecture, memory) == ("longformer", "camelot"):
        with pytest.raises(ConfigError, match=r"^memory\.keep: merge would count tokens twice"):
            read(settings.TrainSettings, mapping)
    else:
        read(settings.TrainSettings, mapping)


@pytest.mark.parametrize("verb", VERBS)
def test_every_setting_has_a_line_of_help(verb: str) -> None:
    lines = usage.settings(verb)
    content = OmegaConf.load(CONFIGS / f"{verb}.yaml")
    assert len({line.key for line in lines}) == len(lines) > 0
    for line in lines:
        if line.default:
            assert line.text, line
            given = OmegaConf.create(f"value: {line.default}")
            assert OmegaConf.select(content, line.key) == given.value if line.default != "???" else True, line


@pytest.mark.parametrize("group", ["architecture", "size", "memory", "context", "adapter", "data", "suite"])
def test_every_option_has_a_line_of_help(group: str) -> None:
    told = usage.options(group)
    assert list(told) == group_options(group)
    assert all(text.endswith(".") for text in told.values()), told


def test_an_evaluation_is_called_as_its_model() -> None:
    def folder(**given: str) -> Path:
        mapping = compose("evaluate", [f"{key}={value}" for key, value in given.items()])
        return Path(read(settings.EvaluateSettings, mapping).folder)

    assert folder(model="runs/retnet-text/") == Path("results/retnet-text")
    assert folder(model="runs/a", name="b", root="c") == Path("c/b")
    adapted = folder(model="models/llama", adapter_file="runs/fine/adapter.safetensors", context="yarn")
    assert adapted == Path("results/llama-fine-adapter-yarn")
    assert folder(model="runs/a", label="wide") == Path("results/a-wide")
    assert folder(model="http://localhost:8000/v1") == Path("results/localhost-8000")
    assert folder(model="https://host/v1", **{"endpoint.model": "org/Model-7B:q4"}) == Path("results/org-Model-7B-q4")


def test_questions_are_stripped() -> None:
    assert read(settings.QuerySettings, {"question": "  why ", "index": "a"}).question == "why"
    with pytest.raises(ConfigError, match=r"^question: nothing is asked\."):
        read(settings.QuerySettings, {"question": "  ", "index": "a"})
