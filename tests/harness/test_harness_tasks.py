"""Our suites as tasks of lm-eval: built without a network, judged as by ourselves, run by its own command line."""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Sequence
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
import yaml
from twins import farfield_run

pytest.importorskip("lm_eval", reason="lm_eval is not installed")

import lm_eval
from lm_eval.__main__ import cli_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from farfield.benchmarks.suites.needle import NeedleSuite
from farfield.benchmarks.suites.suite import AskedSuite
from farfield.config import ConfigError
from farfield.harness import TASKS, __main__
from farfield.harness.suite_task import SuiteTask
from farfield.tokenizers import BytesTokenizer, IdsTokenizer
from farfield.usage import options


class Reader(LM):  # type: ignore[misc]  # lm-eval has no types that hold
    """Finds the number, or the value of the last key, in what it is given; a blind one never does."""

    def __init__(self, blind: bool = False) -> None:
        super().__init__()
        self.blind = blind

    def _answer(self, context: str) -> str:
        if self.blind:
            return ""
        if key := re.search(r" of ([a-z ]+) is$", context):
            (number,) = re.findall(rf"The secret number of {key[1]} is (\d+)\.", context)
            return f" {number}.\nMore"
        *before, last = context.split()
        return before[before.index(last) + 1]

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        return [self._answer(request.args[0]).split("\n")[0] for request in requests]

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        pairs = [request.args for request in requests]
        found = [self._answer(context) == continuation.strip() for context, continuation in pairs]
        return [(-0.5 if right else -9.0, right) for right in found]

    def loglikelihood_rolling(self, requests: Sequence[Instance]) -> list[float]:
        raise NotImplementedError


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where nothing goes out to a network."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    # What takes lm-eval its time: its own tasks, thousands of files, and asking pip for all that is installed.
    monkeypatch.setattr(TaskManager, "__init__", partialmethod(TaskManager.__init__, include_defaults=False))
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
    monkeypatch.chdir(tmp_path)
    BytesTokenizer().save(tmp_path / "bytes")
    IdsTokenizer(128).save(tmp_path / "ids")
    return tmp_path


def results(model: Any, metadata: dict[str, Any], name: str = "farfield_needle") -> dict[str, float]:
    """What lm-eval says of one of our tasks."""
    manager = TaskManager(include_path=str(TASKS), metadata=metadata)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = lm_eval.simple_evaluate(model, tasks=[name], task_manager=manager, bootstrap_iters=0)
    told = found["results"][name].items()
    return {key.removesuffix(",none"): value for key, value in told if key.endswith(",none") and "_stderr" not in key}


GRID = {"lengths": [256, 512], "depths": 3, "samples": 2}
CASES: dict[str, tuple[str, str, dict[str, Any], set[str]]] = {
    "texts": ("bytes", "needle", GRID, {"needle_text@256", "needle_text@512"}),
    "ids": ("ids", "needle", GRID, {"needle_tokens@256", "needle_tokens@512"}),
    "likelihood": ("ids", "needle", {**GRID, "scoring": "likelihood", "lengths": [256]}, {"needle_tokens@256"}),
    "read": (
        "ids",
        "recall",
        {"tasks": ["mqar"], "lengths": [64], "pairs": [4, 8], "samples": 2},
        {"mqar_4@64", "mqar_8@64"},
    ),
    "ruler": ("ids", "ruler", {"tasks": ["niah_single_1"], "lengths": [256], "samples": 3}, {"niah_single_1@256"}),
    "pairs": ("ids", "lost_in_the_middle", {"lengths": [256], "depths": 3, "samples": 2}, {"kv_tokens@256"}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_reader_answers_and_a_blind_one_does_not(place: Path, case: str) -> None:
    tokenizer, suite, settings, metrics = CASES[case]
    metadata = {"tokenizer": tokenizer, suite: settings}
    assert results(Reader(), metadata, f"farfield_{suite}") == dict.fromkeys(metrics, 1.0)
    if case != "likelihood":  # where all candidates are alike, the first one is taken
        assert results(Reader(blind=True), metadata, f"farfield_{suite}") == dict.fromkeys(metrics, 0.0)


def test_samples_are_those_of_the_suite(place: Path) -> None:
    metadata = {"suite": "needle", "version": 1, "tokenizer": "bytes", "needle": GRID}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        task = SuiteTask({"task": "farfield_needle", "metadata": metadata})
    suite, tokenizer = NeedleSuite(lengths=(256, 512), depths=3, samples=2), BytesTokenizer()
    (ours,) = suite.tasks(tokenizer)
    expected = [
        tokenizer.decode(sample.prompt.tolist())
        for length in suite.lengths
        for depth in suite.places()
        for sample in ours.generate(0, length, 2, "test", depth=depth)
    ]
    assert [task.doc_to_text(doc) for doc in task.test_docs()] == expected
    (request,) = [task.construct_requests(task.test_docs()[0], "a prompt", metadata=("farfield_needle", 0, 1))]
    assert request.args[1]["until"] == ["\n"]
    assert request.args[1]["max_gen_toks"] == ours.generate(0, 256, 1, "test", depth=0.0)[0].budget


def test_every_suite_that_asks_is_a_task() -> None:
    from farfield.harness.suite_task import asking

    files = {
        yaml.safe_load(re.sub("!function ", "", file.read_text()))["metadata"]["suite"] for file in TASKS.iterdir()
    }
    assert files == set(asking())
    assert files <= set(options("suite"))
    assert all(issubclass(kind, AskedSuite) for kind in asking().values())


@pytest.mark.parametrize(
    ("metadata", "line"),
    [
        ({"needle": {}}, 'metadata: no tokenizer. Add --metadata \'{"tokenizer": "<folder>"}\'.'),
        (
            {"tokenizer": "bytes", "needle": {"lenghts": [3]}},
            "suite: unknown key 'lenghts'. Did you mean 'lengths'? Known: ",
        ),
        (
            {"tokenizer": "bytes", "needel": {"lengths": [256]}},
            "metadata: unknown suite 'needel'. Did you mean 'needle'? Known: ",
        ),
        (
            {"tokenizer": "bytes", "lengths": [256], "needle": {}},
            "metadata.lengths: settings of a suite stand below its name: needle.lengths.",
        ),
        ({"tokenizer": "bytes", "needle": 3}, "metadata.needle: 3 given, a mapping of settings is needed."),
    ],
)
def test_mistakes_are_one_line(place: Path, metadata: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as error:
        SuiteTask({"task": "farfield_needle", "metadata": {"suite": "needle", **metadata}})
    assert str(error.value).startswith(line)


def test_mappings_that_are_the_models_arguments_are_let_be(place: Path) -> None:
    given = {"suite": "needle", "tokenizer": "bytes", "needle": GRID, "quantization_config": {"bits": 4}, "ruler": {}}
    assert SuiteTask({"task": "farfield_needle", "metadata": given}).asked


LOCAL = """
task: local_choice
dataset_path: json
dataset_kwargs: {data_files: {test: local.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_target: "{{choices.index(answer)}}"
doc_to_choice: "{{choices}}"
target_delimiter: ""
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


def test_lm_evals_own_command_line_runs_a_checkpoint_offline(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a task of a local file, and on our needle, whose file brings the model with it."""
    farfield_run(place / "runs" / "llama")
    (place / "mine").mkdir()
    (place / "mine" / "local.yaml").write_text(LOCAL)
    document = {"question": "The ferry leaves at", "answer": " noon", "choices": [" noon", " night"]}
    (place / "local.jsonl").write_text(json.dumps(document) + "\n")
    words = ["--model", "farfield", "--model_args", "path=runs/llama,precision=fp64", "--batch_size", "4"]
    words += ["--tasks", f"{TASKS}/farfield_needle.yaml,local_choice", "--include_path", "mine"]
    words += ["--metadata", json.dumps({"needle": {"lengths": [256], "depths": 2, "samples": 1}})]
    monkeypatch.setattr(sys, "argv", ["lm_eval", "run", *words, "--output_path", "out.json", "--seed", "0"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cli_evaluate()
    (file,) = place.glob("out*.json")
    told = json.loads(file.read_text())
    assert told["results"]["farfield_needle"]["needle_text@256,none"] in (0.0, 0.5, 1.0)
    assert told["results"]["local_choice"]["acc,none"] in (0.0, 1.0)
    assert told["config"]["farfield_architecture"] == "attention"


def test_our_command_line_hands_over_to_lm_evals(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[list[str]] = []

    def taken() -> None:
        seen.append(sys.argv[1:])
        if "--broken" in sys.argv:
            raise ConfigError("one\n  line")
        if "--tasks=nowhere_to_be_found" in sys.argv:
            raise ValueError("Tasks not found: nowhere_to_be_found")

    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", taken)
    for words in (["run", "--tasks", "a"], ["run", "--tasks", "a", "--include_path", "mine"], ["ls", "tasks"], ["run"]):
        monkeypatch.setattr(sys, "argv", ["farfield.harness", *words])
        assert __main__.main() == 0
    ours = ["--include_path", str(TASKS)]
    assert seen[0] == ["run", "--tasks", "a", *ours]
    assert seen[1] == ["run", "--tasks", "a", "--include_path", "mine"]
    assert seen[2] == ["ls", "tasks", *ours]
    assert seen[3] == ["run"]
    for words, line in (
        (["--broken"], "one line"),
        (
            ["--tasks", "arc_easy,farfield_nedle"],
            "--tasks: unknown task 'farfield_nedle'. Did you mean 'farfield_needle'?",
        ),
        (["--tasks=nowhere_to_be_found"], "Tasks not found: nowhere"),
    ):
        monkeypatch.setattr(sys, "argv", ["farfield.harness", "run", *words])
        assert __main__.main() == 2
        err = capsys.readouterr().err
        assert err.startswith(f"farfield: {line}")
        assert err.count("\n") == 1
