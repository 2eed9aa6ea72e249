"""The command line: what it imports, what goes where, and how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import farfield
from farfield import cli, usage
from farfield.config import Config, ModelError, TrainingError

HEAVY = {"torch", "lightning", "pytorch_lightning", "faiss", "transformers", "matplotlib", "tensorboard", "tokenizers"}


def imported(statement: str, tmp_path: Path) -> tuple[set[str], str]:
    """The heavy packages that a fresh interpreter holds after a statement, and what it wrote to standard error."""
    ending = f"import sys; print(*sorted({HEAVY!r} & set(sys.modules)), file=sys.stdout)"
    run = subprocess.run(
        [sys.executable, "-c", f"{statement}\n{ending}"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    return set(run.stdout.splitlines()[-1].split()), run.stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        ([], 0),
        (["--version"], 0),
        (["train", "--help"], 0),
        (["trian"], 2),
        (["train", "architecture=retnett"], 2),
        (["train", "nothing=1"], 2),
        (["train", "a==b"], 2),
        (["train"], 2),
        (["train", "--cfg", "job"], 0),
    ],
)
def test_help_and_hydras_errors_need_nothing_heavy(words: list[str], code: int, tmp_path: Path) -> None:
    heavy, _ = imported(f"from farfield.cli import main; assert main({words!r}) == {code}", tmp_path)
    assert heavy == set()


@pytest.mark.parametrize("word", ["training.steps=x", "architecture.layers.retnet.mixer.heads=5", "memory=knn"])
def test_errors_in_typed_values_come_before_lightning(word: str, tmp_path: Path) -> None:
    heavy, told = imported(
        f"from farfield.cli import main; assert main(['train', 'data.path=nowhere', {word!r}]) == 2", tmp_path
    )
    assert heavy & {"lightning", "pytorch_lightning", "faiss", "transformers", "matplotlib", "tensorboard"} == set()
    assert told.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_importing_farfield_is_light(tmp_path: Path) -> None:
    heavy, _ = imported("import farfield, farfield.config, farfield.compose, farfield.usage, farfield.cli", tmp_path)
    assert heavy == set()
    assert imported("import farfield; farfield.architectures.mixer_kinds()", tmp_path)[0] == {"torch"}


def test_training_waits_for_nothing_heavy_but_torch_and_lightning(tmp_path: Path) -> None:
    """What these bring themselves is theirs."""
    statement = f"""
import sys, torch, lightning.pytorch
theirs = {HEAVY!r} & set(sys.modules)
import farfield.settings, farfield.training.run, farfield.training.fit
print(*sorted({HEAVY!r} & set(sys.modules) - theirs), file=sys.stderr)"""
    assert imported(statement, tmp_path)[1].split() == []


def test_names_of_the_package() -> None:
    assert {"build", "load", "FarfieldError", "open_index", "ask", "architectures", "__version__"} <= set(dir(farfield))
    with pytest.raises(AttributeError, match="module 'farfield' has no attribute 'biuld'"):
        farfield.biuld  # noqa: B018
    with pytest.raises(farfield.FarfieldError, match="nowhere: no such run or file"):
        farfield.load("nowhere")


def test_help_names_every_verb_and_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    told = capsys.readouterr().out
    for name, verb in usage.VERBS.items():
        assert f"  {name:<10} {verb.summary}\n" in told
        assert cli.main([name, "--help"]) == 0
        page = capsys.readouterr().out
        assert f"Writes {verb.writes}." in page
        assert all(example in page for example in verb.examples)
        for group in usage.groups(name) if verb.settings else []:
            assert f"{group.key}=<name>: {group.text} (default: {group.default})" in page
            assert all(f"  {option:<16} {text}\n" in page for option, text in usage.options(group.key).items())
        for setting in usage.settings(name) if verb.settings else []:
            assert f"  {setting.key}" in page


def test_a_page_of_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "--help"]) == 0
    assert capsys.readouterr().out == (
        "farfield report [group=name ...] [key=value ...]: turn results into tables, pictures and a page\n"
        "Writes report.html, report.csv, report.md and PNG pictures beside the results.\n"
        "\n"
        "settings (key=default)\n"
        "  results=[results]  result files, folders that hold them at any depth, and folders of runs\n"
        "  compare=null       two result files or folders, first,second: paired tests instead, on the same samples\n"
        "  out=null           where pictures and page go; null: the first of results, and nowhere with compare\n"
        "  threshold=0.856    what RULER's mean over tasks exceeds at an effective length (as published)\n"
        f"\n{usage.OPTIONS}\n"
        "\n"
        "examples\n"
        "  farfield report results=[results/retnet,results/attention]\n"
        "  farfield report compare=results/retnet,results/attention\n"
    )


def test_the_help_of_an_option_is_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", "--help"]) == 0
    assert "`farfield evaluate suite=babilong --help` lists them, --cfg job prints all." in capsys.readouterr().out
    assert cli.main(["evaluate", "suite=ruler", "model=runs/x", "--help"]) == 0
    page = capsys.readouterr().out
    assert page.startswith("suite=ruler: RULER: thirteen tasks of needles, chains, word counts and questions")
    assert "\nsettings (key=default)\n  suite.tasks=[] " in page
    assert "\n  suite.seed=0 " in page
    assert "suite.kind" not in page
    assert "model=" not in page


def test_the_help_of_every_option_has_all_keys_with_a_comment() -> None:
    for verb in usage.VERBS:
        for group in usage.groups(verb) if usage.VERBS[verb].settings else []:
            for option in usage.options(group.key):
                page = usage.help_verb(verb, [f"{group.key}={option}"])
                assert all(f"  {one.key}" in page for one in usage.settings_of(group.key, option))
    goes_on = usage.help_verb("evaluate", ["suite=longdoc"]).splitlines()
    assert any(
        line.startswith("  suite.tasks=[]") and line.endswith("none: all whose files are there") for line in goes_on
    )
    lacking = [one.key for name in usage.options("suite") for one in usage.settings_of("suite", name) if not one.text]
    assert lacking == []


def test_help_on_an_option_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", "suite=rular", "--help"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("farfield: suite: unknown option 'rular'. Did you mean 'ruler'? Known: babilong,")
    assert len(told.err.splitlines()) == 1


def test_examples_of_the_help_can_be_read() -> None:
    from farfield.compose import combinations
    from farfield.config import read

    for name, verb in usage.VERBS.items():
        for example in verb.examples:
            line = cli._line(shell_words(example)[1:])
            assert line.verb == name
            if verb.settings:
                data = ["data=needle"] if name == "train" else []
                for mapping in combinations(name, [*data, *line.settings]):
                    if line.question:
                        mapping["question"] = line.question
                    import farfield.settings

                    read(getattr(farfield.settings, verb.settings), mapping)


def shell_words(text: str) -> list[str]:
    import shlex

    return shlex.split(text)


class Work:
    """Stands in for what a verb does, as a module that the command line imports."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch

    def __call__(self, verb: str, work: Callable[..., Any]) -> None:
        module = ModuleType("farfield_work")
        module.work = work  # type: ignore[attr-defined]  # a module made for the test
        self.monkeypatch.setitem(sys.modules, "farfield_work", module)
        old = usage.VERBS[verb]
        new = usage.Verb(old.summary, old.writes, old.examples, old.settings, "farfield_work:work")
        self.monkeypatch.setitem(usage.VERBS, verb, new)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Work:
    monkeypatch.chdir(tmp_path)
    return Work(monkeypatch)


def test_json_is_one_document_and_all_else_goes_to_standard_error(
    work: Work, capsys: pytest.CaptureFixture[str]
) -> None:
    def done(settings: Config) -> dict[str, Any]:
        print("a notice")
        return {"path": Path("a"), "loss": float("nan"), "list": [1, float("inf")], "text": "for a person"}

    work("report", done)
    assert cli.main(["report", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"path": "a", "loss": None, "list": [1, None]}
    assert err == "a notice\n"


def test_a_person_gets_the_text_or_the_values(work: Work, capsys: pytest.CaptureFixture[str]) -> None:
    work("report", lambda settings: {"text": "a table", "rows": 3})
    assert cli.main(["report"]) == 0
    assert capsys.readouterr().out == "a table\n"
    work("report", lambda settings: {"rows": 3, "files": ["a", "b"], "best": {"loss": 0.123456}, "skipped": []})
    assert cli.main(["report"]) == 0
    assert capsys.readouterr().out == "rows: 3\nfiles:\n  1: a\n  2: b\nbest:\n  loss: 0.1235\nskipped: none\n"


@pytest.mark.parametrize(
    ("words", "question"),
    [
        (["Who signs for it?", "index=x"], "Who signs for it?"),
        (["index=x", "Who", "signs", "for", "it?"], "Who signs for it?"),
        (["is a = b?", "index=x"], "is a = b?"),
        (["question='e=mc2?'", "index=x"], "e=mc2?"),
    ],
)
def test_the_question_never_reaches_hydra(
    work: Work, words: list[str], question: str, capsys: pytest.CaptureFixture[str]
) -> None:
    work("query", lambda settings: {"question": settings.question, "index": settings.index})
    assert cli.main(["query", *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"question": question, "index": "x"}


def test_bytes_of_a_word_that_are_not_utf8_are_told_in_one_line(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "farfield", "query", b"gate \xff", "index=hb"],
        cwd=tmp_path, env={**os.environ, "PYTHONUTF8": "1"}, capture_output=True, check=False,
    )  # fmt: skip
    assert (run.returncode, run.stdout, run.stderr) == (2, b"", b"farfield: not UTF-8 text: 'gate \\xff'.\n")


def test_a_sweep_runs_every_combination_and_goes_on_after_a_failure(
    work: Work, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(settings: Any) -> dict[str, Any]:
        if settings.seed == 1:
            raise TrainingError("seed 1 is unlucky")
        if settings.seed == 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return {"seed": settings.seed}

    work("train", train)
    assert cli.main(["train", "-m", "data=needle", "size=tiny", "seed=0,1,2,3", "--json"]) == 2
    out, err = capsys.readouterr()
    name = "retnet-tiny-needle-seed="
    refused = "out of memory: DefaultCPUAllocator: can't allocate memory. Take a smaller model, batch or length."
    assert json.loads(out) == {
        "jobs": [
            {"name": f"{name}0", "seed": 0},
            {"name": f"{name}1", "job": f"{name}1", "error": "seed 1 is unlucky"},
            {"name": f"{name}2", "job": f"{name}2", "error": refused},
            {"name": f"{name}3", "seed": 3},
        ]
    }
    assert err == (
        f"farfield: job 1: {name}0\nfarfield: job 2: {name}1\nfarfield: seed 1 is unlucky\n"
        f"farfield: job 3: {name}2\nfarfield: {refused}\nfarfield: job 4: {name}3\n"
    )
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["multirun.yaml"]


def test_a_failed_evaluation_of_a_sweep_says_which_it_was(work: Work, capsys: pytest.CaptureFixture[str]) -> None:
    def evaluate(settings: Any) -> dict[str, Any]:
        raise ModelError("nothing there")

    work("evaluate", evaluate)
    words = ["evaluate", "-m", "model=runs/a,runs/b", "suite=needle,recall", "memory=knn"]
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert "job: model=runs/b suite=recall memory=knn\n    error: nothing there\n" in out
    assert "farfield: job 2: model=runs/a suite=recall memory=knn\n" in err


def test_a_sweep_is_checked_before_its_first_job(work: Work, capsys: pytest.CaptureFixture[str]) -> None:
    jobs: list[Any] = []
    work("train", lambda settings: jobs.append(settings) or {})
    assert cli.main(["train", "-m", "data=needle", "training.steps=5,0"]) == 2
    assert jobs == []
    assert capsys.readouterr().err.startswith("farfield: training.steps: 0 given.")


@pytest.mark.parametrize("flags", [[], ["-m"]])
def test_an_interrupt_says_how_to_go_on(flags: list[str], work: Work, capsys: pytest.CaptureFixture[str]) -> None:
    def stopped(settings: Config) -> dict[str, Any]:
        raise KeyboardInterrupt("The same command with resume=true goes on.")

    work("report", stopped)
    assert cli.main(["report", *flags]) == 130
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1] == "farfield: stopped. The same command with resume=true goes on."


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    run = subprocess.run(
        [sys.executable, "-m", "farfield", "train", "--help"],
        cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(writing)
    assert (run.returncode, run.stderr) == (141, "")


def test_models_as_json_and_for_a_person(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["architectures", "encoders", "memories", "suites"]
    assert sorted(one["name"] for key in ("architectures", "encoders") for one in found[key]) == list(
        usage.options("architecture")
    )
    assert all(one["name"].endswith("_encoder") and "state_bytes" not in one for one in found["encoders"])
    assert {one["name"] for one in found["memories"]} == set(usage.options("memory")) - {"none"}
    by_name = {one["name"]: one for one in found["architectures"]}
    assert len(set(by_name["retnet"]["state_bytes"].values())) == 1
    assert len(set(by_name["attention"]["state_bytes"].values())) == 2
    assert cli.main(["models"]) == 0
    told = capsys.readouterr().out
    lines = [line.split()[0] for line in told.splitlines() if line]
    assert all(lines.count(one["name"]) >= 1 for group in found.values() for one in group)
    assert all(one["summary"] in told for group in ("memories", "suites") for one in found[group])
    line = {name: next(line for line in told.splitlines() if line.startswith(f"{name} ")) for name in by_name}
    assert line["jamba"].endswith("arxiv.org/abs/2403.19887")
    assert line["retnet_hybrid"].count("arxiv.org") == 2
    assert "active" in line["glam"]
    for one in found["architectures"] + found["encoders"]:
        weights = [one["sizes"][size]["active_parameters"] for size in ("tiny", "small", "base")]
        assert weights == sorted(weights)
        assert 20e6 < weights[1] < 40e6
        shares = len(set(one.get("keys_from", range(one["depth"])))) < one["depth"]
        assert (60e6 if shares else 75e6) < weights[2] < 175e6


def test_it_prints_what_hydra_composes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "size=tiny", "--cfg", "job", "--package", "architecture"]) == 0
    assert "width: 64\n" in capsys.readouterr().out
    for words in (["--info", "searchpath"], ["--info", "size=tiny"], ["size=tiny", "--info"]):
        assert cli.main(["train", *words]) == 0
        assert "pkg://farfield.configs" in capsys.readouterr().out


def test_the_installed_command_and_the_module_are_one(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "farfield", "--version"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert run.stdout == f"farfield {farfield.__version__}\n"
