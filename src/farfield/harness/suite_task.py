"""A suite of Farfield as one task of lm-eval, built without a network.

    task: farfield_needle                                   the yaml file, in `farfield.harness.TASKS`
    class: !function farfield.harness.suite_task.SuiteTask
    metadata: {suite: needle, version: 1}

    --metadata '{"needle": {"lengths": [1024, 4096], "samples": 50}, "tokenizer": "models/llama"}'

The settings of a suite stand below its name. Samples are made for one tokenizer: that of `tokenizer`, a folder, or of
the model where `--model_args` names a run (path=...) or a folder of Hugging Face (pretrained=...).

A sample becomes requests, and its score is what the suite's own judge says of the answers:

    generate     one text to write, up to the task's stop texts and the sample's budget
    likelihood   a log-likelihood for each of its candidates or choices
    read         a log-likelihood for each target behind what is before it: whether it is the likeliest

Each task and length of the suite is a metric of its own: `needle_text@4096`. Controls are not asked here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
from datasets import Dataset
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

import farfield.harness.model as _registered  # noqa: F401  so that a file of ours among the tasks brings the model
from farfield.benchmarks.running.questions import samples_of, scoring_of
from farfield.benchmarks.settings import Suite
from farfield.benchmarks.suites.suite import AskedSuite
from farfield.benchmarks.tasks.sample import IGNORED, Ids, LackingError, Sample, Scoring, Task
from farfield.config import Config, ConfigError, DataError, nearest, read, unknown
from farfield.tokenizers import Tokenizer, load_tokenizer

__all__ = ["SuiteTask", "asking"]

LOG = logging.getLogger("farfield.harness")

RUN_TOKENIZER = "tokenizer"  # the folder in a run


class _One(Config):
    suite: Suite


class _Asked(NamedTuple):
    """A sample and what it belongs to."""

    task: Task
    sample: Sample
    length: int
    scoring: Scoring

    @property
    def metric(self) -> str:
        return f"{self.task.name}@{self.length}"


class SuiteTask(ConfigurableTask):  # type: ignore[misc]  # lm-eval has no types that hold
    """The samples of a suite, their requests and their judge."""

    def __init__(self, config: dict[str, Any]) -> None:
        """Makes the samples.

        Raises:
            ConfigError, DataError: a setting or the tokenizer cannot be used.
        """
        given = dict(config.get("metadata") or {})
        self.tokenizer = _tokenizer(given)
        self.asked = _samples(_suite(given), self.tokenizer)
        self._tell_changed()
        metrics = list(dict.fromkeys(one.metric for one in self.asked))
        fields = {
            "task": config["task"],
            "metadata": given,
            "test_split": "test",
            "output_type": "generate_until",
            "doc_to_text": "{{prompt}}",
            "doc_to_target": "{{answer}}",
            "process_results": _judged_here,
            "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in metrics],
            "generation_kwargs": {"until": [], "do_sample": False},
            "num_fewshot": 0,
        }
        super().__init__(config=fields)

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **given: Any) -> None:
        """One document a sample."""
        decode = self.tokenizer.decode
        rows = [
            {
                "number": number,
                "task": one.task.name,
                "length": one.length,
                "depth": one.sample.depths[0] if one.sample.depths else -1.0,
                "prompt": decode(one.sample.prompt.tolist()),
                "answer": ", ".join(one.sample.text_answers) or decode(one.sample.answer.tolist()),
            }
            for number, one in enumerate(self.asked)
        ]
        self.dataset = {"test": Dataset.from_list(rows)}

    def construct_requests(self, doc: dict[str, Any], ctx: str, **given: Any) -> Instance | list[Instance]:
        given.pop("apply_chat_template", None)
        given.pop("chat_template", None)
        one = self.asked[doc["number"]]
        if one.scoring == "generate":
            settings = {"until": list(one.task.stop), "max_gen_toks": one.sample.budget, "do_sample": False}
            return Instance("generate_until", doc=doc, arguments=(ctx, settings), idx=0, **given)
        pairs = self._read(one.sample) if one.scoring == "read" else [(ctx, text) for text in self._choices(one.sample)]
        return [
            Instance("loglikelihood", doc=doc, arguments=pair, idx=index, **given) for index, pair in enumerate(pairs)
        ]

    def process_results(self, doc: dict[str, Any], results: Sequence[Any]) -> dict[str, float]:
        one = self.asked[doc["number"]]
        return {one.metric: self._score(one, results)}

    def _score(self, one: _Asked, results: Sequence[Any]) -> float:
        task, sample = one.task, one.sample
        if one.scoring == "generate":
            return task.score([sample], [self.tokenizer.encode(results[0])[: sample.budget]])[0]
        if one.scoring == "read":
            targets = _targets(sample)
            wanted = targets[targets != IGNORED].tolist()
            found = [token if greedy else IGNORED for token, (_, greedy) in zip(wanted, results, strict=True)]
            return task.score([sample], [found])[0]
        logprobs = np.array([logprob for logprob, _ in results])
        if sample.candidates is not None:
            return task.score([sample], [[int(sample.candidates[int(logprobs.argmax())])]])[0]
        right = np.isin(np.arange(len(logprobs)), sample.right)
        best = np.lexsort((right, -logprobs))[: len(sample.right)]  # where two are equal, the wrong one counts
        return float(right[best].mean())

    def _choices(self, sample: Sample) -> list[str]:
        several = sample.choices if sample.candidates is None else [np.array([one]) for one in sample.candidates]
        return [self._continuation(one) for one in several]

    def _read(self, sample: Sample) -> list[tuple[str, str]]:
        targets, decode = _targets(sample), self.tokenizer.decode
        return [
            (decode(sample.prompt[: at + 1].tolist()), self._continuation(targets[at : at + 1]))
            for at in np.flatnonzero(targets != IGNORED)
        ]

    def _continuation(self, ids: Ids) -> str:
        """Ids as a text behind another: numbers that are ids need a space between."""
        return (" " if self.tokenizer.kind == "ids" else "") + self.tokenizer.decode(ids.tolist())

    def _tell_changed(self) -> None:
        """Says how many prompts are other ids than the task gave once they are texts: their pieces may merge."""
        prompts = (one.sample.prompt.tolist() for one in self.asked)
        changed = sum(self.tokenizer.encode(self.tokenizer.decode(prompt)) != prompt for prompt in prompts)
        if changed:
            LOG.warning(
                "%d of %d prompts are other ids as texts: their lengths are near, not exact.", changed, len(self.asked)
            )


def _suite(given: Mapping[str, Any]) -> AskedSuite:
    """The suite of `metadata`, which holds the arguments of the model too, with the settings below its name.

    Raises:
        ConfigError: a setting or a suite is unknown or of the wrong type, or the suite asks nothing.
    """
    _refuse_misspelt(given)
    name = str(given["suite"])
    settings = given.get(name, {})
    if not isinstance(settings, Mapping):
        raise ConfigError(f"metadata.{name}: {settings!r} given, a mapping of settings is needed.")
    suite = read(_One, {"suite": {"kind": name, **settings}}).suite
    if not isinstance(suite, AskedSuite):
        raise ConfigError(f"suite: {name} asks nothing, it measures. Run it by farfield evaluate.")
    fields = {field.alias or own for own, field in type(suite).model_fields.items()} - {"kind"}
    misplaced = sorted(fields & set(given) - {"seed"})  # lm-eval hands its own seed on
    if misplaced:
        raise ConfigError(f"metadata.{misplaced[0]}: settings of a suite stand below its name: {name}.{misplaced[0]}.")
    return suite


def _refuse_misspelt(given: Mapping[str, Any]) -> None:
    """Settings below a name that is nearly a suite's are meant for it.

    Others are let be: the arguments of the model, which may be mappings too, are in `metadata` with ours.

    Raises:
        ConfigError: there are some.
    """
    known = _kinds()
    for name, value in given.items():
        if isinstance(value, Mapping) and name not in known and nearest(name, known):
            raise ConfigError("metadata: " + unknown("unknown suite", name, known))


def _kinds() -> dict[str, type[Config]]:
    """All suites, by name."""
    union = get_args(get_args(Suite)[0]) or get_args(Suite)
    kinds = [kind for kind in union if isinstance(kind, type) and issubclass(kind, Config)]
    return {str(kind.model_fields["kind"].default): kind for kind in kinds}


def asking() -> dict[str, type[AskedSuite]]:
    """The suites that ask, by name."""
    return {name: kind for name, kind in _kinds().items() if issubclass(kind, AskedSuite)}


def _tokenizer(given: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that samples are made for."""
    named = next((str(given[key]) for key in ("tokenizer", "path", "pretrained") if given.get(key)), None)
    if named is None:
        raise ConfigError('metadata: no tokenizer. Add --metadata \'{"tokenizer": "<folder>"}\'.')
    folder = Path(named).expanduser()
    run = folder.parent.parent if folder.parent.name == "checkpoints" else folder.parent if folder.is_file() else folder
    inside = run / RUN_TOKENIZER
    try:
        return load_tokenizer(inside if inside.is_dir() else run)
    except OSError as error:
        raise DataError(f"{run}: {error.strerror}. Name a tokenizer's folder by --metadata.") from None


def _samples(suite: AskedSuite, tokenizer: Tokenizer) -> list[_Asked]:
    """The grid of a suite: each task, length and depth. What cannot be made is left out.

    Raises:
        LackingError: none of them can be made.
    """
    found: list[_Asked] = []
    lacking: LackingError | None = None
    for task in suite.tasks(tokenizer):
        for length in suite.lengths:
            try:
                found += _row(suite, task, length)
            except LackingError as error:
                LOG.warning("%s", error)
                lacking = error
    if not found:
        raise lacking or ConfigError(f"suite: {suite.name} has no tasks.")
    return found


def _row(suite: AskedSuite, task: Task, length: int) -> list[_Asked]:
    """The samples of one task and length, at all depths."""
    scoring, count = scoring_of(suite, task), samples_of(suite, task, length)
    if scoring not in task.scorings:
        raise LackingError(f"suite.scoring: {task.name} has no {scoring}. It has {', '.join(task.scorings)}.")
    task.check(suite.seed, length, count, suite.split)
    found: list[_Asked] = []
    for depth in suite.places() if task.placed else (None,):
        made = task.generate(suite.seed, length, count, suite.split, depth=depth)
        found += [_Asked(task, sample, length, scoring) for sample in made]
    return found


def _targets(sample: Sample) -> Ids:
    assert sample.targets is not None, "a sample that is read has targets"
    return sample.targets


def _judged_here(doc: dict[str, Any], results: Sequence[Any]) -> dict[str, float]:
    """Stands in lm-eval's settings for `SuiteTask.process_results`, so that it looks for no metric of its own."""
    raise NotImplementedError
