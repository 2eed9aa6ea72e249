"""Composing: what Hydra merges, under which names, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from farfield.compose import CONFIGS, combinations, compose, group_options, option, show, sweep
from farfield.config import ConfigError

DATA = "data=needle"


def test_plain_values() -> None:
    mapping = compose("train", [DATA, "architecture=retnet", "size=tiny"])
    assert json.loads(json.dumps(mapping)) == mapping
    assert type(mapping["architecture"]["layers"]) is dict
    assert mapping["architecture"]["pattern"] == ["retnet"]


def test_size_is_laid_over_the_architecture() -> None:
    alone, tiny = compose("train", [DATA]), compose("train", [DATA, "size=tiny"])
    assert (tiny["architecture"]["width"], tiny["architecture"]["depth"]) == (64, 2)
    assert alone["architecture"]["width"] != 64
    assert tiny["architecture"]["layers"] == alone["architecture"]["layers"]
    assert compose("train", [DATA, "size=tiny", "architecture.width=96"])["architecture"]["width"] == 96
    assert compose("train", [DATA, "size=tiny", "architecture.depth=5"])["architecture"]["depth"] == 5


@pytest.mark.parametrize(("length", "depth"), [(1, 12), (3, 12), (5, 15), (8, 16)])
def test_a_size_has_whole_patterns(length: int, depth: int) -> None:
    pattern = f"architecture.pattern=[{','.join(['retnet'] * length)}]"
    architecture = compose("train", [DATA, "size=base", pattern])["architecture"]
    assert architecture["depth"] == depth
    assert "least" not in architecture


def test_a_key_that_no_yaml_file_names_may_be_set() -> None:
    for word in ("architecture.layers.retnet.mixer.chunk=32", "+architecture.layers.retnet.mixer.chunk=32"):
        assert compose("train", [DATA, word])["architecture"]["layers"]["retnet"]["mixer"]["chunk"] == 32


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ([], "retnet-needle"),
        (["architecture=attention", "size=tiny", "memory=knn"], "attention-tiny-knn-needle"),
        (["name=mine", "size=tiny"], "mine"),
    ],
)
def test_a_run_is_called_by_its_choices(words: list[str], name: str) -> None:
    assert compose("train", [DATA, *words])["name"] == name


def test_null_leaves_a_group_out() -> None:
    assert compose("train", [DATA, "size=null"]) == compose("train", [DATA])
    assert "memory" not in compose("train", [DATA, "memory=null"])


def test_an_option_alone() -> None:
    found = option("architecture", "retnet", ["width=64", "layers.retnet.mixer.heads=4"])
    assert found["width"] == 64
    assert found["layers"]["retnet"]["mixer"]["heads"] == 4
    assert option("memory", "none") is None


def test_a_folder_of_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "architecture").mkdir()
    (tmp_path / "architecture" / "mine.yaml").write_text("width: 7\n")
    assert compose("train", [DATA, "architecture=mine"], tmp_path)["architecture"] == {"width": 7}
    assert group_options("architecture", tmp_path) == sorted([*group_options("architecture"), "mine"])
    with pytest.raises(ConfigError, match=r"^architecture: unknown option 'mine'\."):
        compose("train", [DATA, "architecture=mine"])
    with pytest.raises(ConfigError, match=r"no such folder\.$"):
        compose("train", [DATA], tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("width: [1\n", r"^not yaml: while parsing a flow sequence in \".*mine\.yaml\", line 1, column 8 expected"),
        ("defaults: [nothing]\n", r"^train: In 'architecture/mine': Could not load 'architecture/nothing'"),
        ("width: 1\nwidth: 2\n", r"^not yaml: .*found duplicate key width"),
    ],
)
def test_a_broken_file_of_the_users_own(tmp_path: Path, text: str, message: str) -> None:
    home = tmp_path / "a folder, with [signs]"
    (home / "architecture").mkdir(parents=True)
    (home / "architecture" / "mine.yaml").write_text("width: 7\n")
    assert compose("train", [DATA, "architecture=mine"], home)["architecture"] == {"width": 7}
    (home / "architecture" / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        compose("train", [DATA, "architecture=mine"], home)


@pytest.mark.parametrize(
    ("data", "what"),
    [(b"width: \xff\n", "not UTF-8 text"), (b"5\n", "a single value, not lines of key: value")],
)
@pytest.mark.parametrize("chosen", ["mine", "above"])
def test_a_file_without_settings_is_named(tmp_path: Path, data: bytes, what: str, chosen: str) -> None:
    home = tmp_path / "architecture"
    home.mkdir()
    (home / "above.yaml").write_text("defaults: [mine]\n")
    (home / "broken.yaml").write_text("width: [1\n")
    (home / "mine.yaml").write_bytes(data)
    for read in (compose, combinations, lambda *given: show(*given[:2], ["--cfg=job"], given[2])):
        with pytest.raises(ConfigError) as error:
            read("train", [DATA, f"architecture={chosen}"], tmp_path)
        assert str(error.value) == f"{home / 'mine.yaml'}: {what}."


def test_a_file_that_the_system_does_not_hand_out_is_told_by_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = OmegaConf.load

    def load(file: Any) -> object:
        if str(getattr(file, "name", file)).endswith("mine.yaml"):
            raise PermissionError(13, "Permission denied", "mine.yaml")
        return loaded(file)

    (tmp_path / "architecture").mkdir()
    (tmp_path / "architecture" / "mine.yaml").write_text("width: 7\n")
    monkeypatch.setattr(OmegaConf, "load", load)
    with pytest.raises(PermissionError):
        compose("train", [DATA, "architecture=mine"], tmp_path)


def test_hydra_is_left_as_it_was_found() -> None:
    GlobalHydra.instance().clear()
    compose("train", [DATA])
    assert not GlobalHydra.instance().is_initialized()
    with pytest.raises(ConfigError):
        compose("train", [DATA, "architecture=nothing"])
    assert not GlobalHydra.instance().is_initialized()


def test_combinations_come_in_the_order_of_the_words() -> None:
    words = [DATA, "architecture=retnet,attention", "training.steps=range(1,3)", "seed=5"]
    found = [(one["name"], one["training"]["steps"], one["seed"]) for one in combinations("train", words)]
    assert found == [
        ("retnet-needle", 1, 5),
        ("retnet-needle", 2, 5),
        ("attention-needle", 1, 5),
        ("attention-needle", 2, 5),
    ]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["architecture=retnet,attention"], ["retnet-needle", "attention-needle"]),
        (["architecture=retnet,attention", "name=x"], ["x-architecture=retnet", "x-architecture=attention"]),
        (
            ["training.optimizer.learning_rate=0.1,0.2"],
            ["retnet-needle-learning_rate=0.1", "retnet-needle-learning_rate=0.2"],
        ),
        (["name=a,b"], ["a", "b"]),
        (["architecture.pattern=[a b],[a_b]"], ["retnet-needle-pattern=_a_b_", "retnet-needle-pattern=_a_b_-2"]),
    ],
)
def test_every_job_of_a_sweep_has_a_name_of_its_own(tmp_path: Path, words: list[str], names: list[str]) -> None:
    seen: list[str] = []
    sweep("train", [DATA, *words, f"root={tmp_path}"], lambda mapping: seen.append(mapping["name"]))
    assert seen == names


@pytest.mark.parametrize(
    ("words", "labels"),
    [
        (["model=a,b", "memory=none,knn"], [None] * 4),
        (["model=a", "suite.samples=4,8"], ["samples=4", "samples=8"]),
        (["model=a,b", "suite.depths=3", "memory=knn", "memory.top=4,8"], ["top=4", "top=8"] * 2),
        (["model=a", "name=mine", "suite.samples=4,8"], [None] * 2),
    ],
)
def test_jobs_of_an_evaluation_are_told_apart_by_what_its_folder_does_not_tell(
    tmp_path: Path, words: list[str], labels: list[str | None]
) -> None:
    seen: list[tuple[object, object]] = []
    sweep("evaluate", [*words, f"root={tmp_path}"], lambda mapping: seen.append((mapping["name"], mapping["label"])))
    assert [label for _, label in seen] == labels
    assert len({name for name, _ in seen}) == (2 if "name=mine" in words else 1)


def test_a_sweep_leaves_one_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sweep("train", [DATA, "seed=1,2"], lambda mapping: None)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["multirun.yaml"]
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a_single_composition_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    compose("train", [DATA])
    assert not list(tmp_path.iterdir())


def test_hydra_shows_what_it_composes(capsys: pytest.CaptureFixture[str]) -> None:
    show("train", [DATA, "size=tiny"], ["--cfg=job", "--package=architecture"])
    shown = OmegaConf.create(capsys.readouterr().out)
    assert shown.width == 64


@pytest.mark.parametrize("group", ["architecture", "size", "memory", "context", "adapter", "data", "suite"])
def test_every_option_composes(group: str) -> None:
    verb = "evaluate" if group == "suite" else "train"
    needed = "model=x" if verb == "evaluate" else "data.path=x"
    options = group_options(group)
    assert options
    for name in options:
        compose(verb, [f"{group}={name}", needed])


def test_yaml_files_end_in_a_newline_and_open_with_a_comment() -> None:
    files = sorted(CONFIGS.rglob("*.yaml"))
    assert len(files) > 15
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert text.startswith("# "), file
        assert text.endswith("\n"), file


def test_a_sweep_takes_null_among_the_options_of_a_group() -> None:
    def jobs(*words: str) -> list[tuple[Any, int]]:
        """The memory, as it will be told from one that is not given, and the seed."""
        swept: list[dict[str, Any]] = []
        given = ["model=runs/a", "suite=needle", *words]
        sweep("evaluate", given, swept.append)
        checked = combinations("evaluate", given)
        assert [one["suite"]["seed"] for one in checked] == [one["suite"]["seed"] for one in swept]
        assert [one.get("memory", "trained") for one in checked] == [one.get("memory", "trained") for one in swept]
        memories = [one.get("memory", "trained") for one in swept]
        return [
            (memory["name"] if isinstance(memory, dict) else memory, one["suite"]["seed"])
            for memory, one in zip(memories, swept, strict=True)
        ]

    assert jobs("memory=null,none") == [("trained", 0), (None, 0)]
    assert jobs("suite.seed=1,2", "memory=knn,null") == [("knn", 1), ("knn", 2), ("trained", 1), ("trained", 2)]
    with pytest.raises(ConfigError, match=r"^memory: unknown option 'nul'"):
        combinations("evaluate", ["model=runs/a", "memory=nul,none"])
