"""What the commands are, and their help: read from the yaml files of `farfield.configs` alone, without Hydra and torch.

A line of a command's yaml file is one setting with its default and, behind `#`, what it is for; the first comment of an
option's file says what the option is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from farfield.config import ConfigError, unknown

__all__ = ["VERBS", "Setting", "Verb", "groups", "help_all", "help_verb", "options", "settings", "settings_of"]

CONFIGS = Path(__file__).parent / "configs"

LINE = re.compile(r"^(?P<indent> *)(?P<key>[\w-]+):(?: +(?P<value>(?!#).*?))?(?: +# *(?P<text>.*))?$")
MORE = re.compile(r"^ +# *(?P<text>.*)$")  # the text of the line above goes on
GROUP = re.compile(r"^ *- (?P<group>(?!override )\w+): (?P<default>\w+)(?: +# *(?P<text>.*))?$")


@dataclass(frozen=True)
class Verb:
    """A command: what it does, what it writes, examples, its settings class and the function that does the work.

    One that writes as it goes has a `live` function too, of its settings and standard output, for persons; `together`
    makes one result of those of a sweep's jobs. `completes` makes of what was composed what the settings are read from.
    """

    summary: str
    writes: str
    examples: tuple[str, ...]
    settings: str | None
    work: str
    live: str | None = None
    together: str | None = None
    completes: str | None = None


VERBS = {
    "train": Verb(
        "train a model",
        "runs/<name>/: config.yaml, metrics.csv, checkpoints/, figures",
        (
            "farfield train architecture=retnet size=tiny data=needle training.steps=200",
            "farfield train architecture=attention memory=knn memory.top=16 size=tiny data=needle",
            "farfield train -m architecture=retnet,longformer,attention size=tiny data=needle",
            "farfield train architecture=attention memory=mac size=tiny data=facts",
            "farfield train augmentation=neighbours augmentation.database=neighbours data=text data.path=books",
        ),
        "TrainSettings",
        "farfield.training:train",
        completes="farfield.training.beginning:completed",
    ),
    "evaluate": Verb(
        "run a suite on a model",
        "results/<name>/<suite>.jsonl, report.html",
        (
            "farfield evaluate model=runs/retnet-tiny-needle suite=needle",
            "farfield evaluate model=models/stories260k suite=needle suite.lengths=[256,512]",
            "farfield evaluate -m model=runs/longformer,runs/attention suite=needle,recall memory=none,knn",
            "farfield evaluate model=http://localhost:8000/v1 endpoint.key=API_KEY endpoint.chat=true suite=needle",
        ),
        "EvaluateSettings",
        "farfield.benchmarks:evaluate",
        together="farfield.benchmarks:evaluate_together",
    ),
    "speed": Verb(
        "measure time, memory and state against length, beside other libraries",
        "results/<name>/: speed.jsonl, speed.md and a picture",
        (
            "farfield speed what=[mixers] mixers=[window,retnet] lengths=[2048,8192] threads=[1]",
            "farfield speed what=[decoder] architectures=[retnet,attention] lengths=[1024,4096]",
            "farfield speed what=[step,decoding]",
        ),
        "SpeedSettings",
        "farfield.benchmarks.speed:speed",
    ),
    "ingest": Verb(
        "add documents to an index",
        "indexes/<index>/: documents, chunks and vectors",
        (
            "farfield ingest path=docs index=handbook",
            "farfield ingest path=docs index=handbook prune=true chunk.unit=sentences chunk.size=12 chunk.overlap=2",
            "farfield ingest remove=docs/old index=handbook",
        ),
        "IngestSettings",
        "farfield.api:ingest",
    ),
    "query": Verb(
        "ask a model, with an index",
        "sessions and a bank where told to, else nothing; prints the answer, its sources and what each stage took",
        (
            "farfield query 'Who signs for it?' model=runs/retnet-text index=handbook",
            "farfield query model=runs/retnet-text index=handbook",
            "farfield query 'Who is the count?' model=runs/retnet-text document=book.txt sessions=sessions",
            "farfield query 'Who signs for it?' model=models/qwen3 index=handbook",
            "farfield query 'Who signs for it?' model=runs/mac documents=handbook bank=handbook.safetensors",
        ),
        "QuerySettings",
        "farfield.query:query_command",
        "farfield.query:query_live",
    ),
    "export": Verb(
        "write a trained model for Hugging Face's libraries",
        "<to>/: config.json, model.safetensors, tokenizer.json",
        ("farfield export model=runs/attention to=models/mine", "farfield export model=models/a to=b precision=bf16"),
        "ExportSettings",
        "farfield.api:export",
    ),
    "report": Verb(
        "turn results into tables, pictures and a page",
        "report.html, report.csv, report.md and PNG pictures beside the results",
        (
            "farfield report results=[results/retnet,results/attention]",
            "farfield report compare=results/retnet,results/attention",
        ),
        "ReportSettings",
        "farfield.benchmarks:report_command",
    ),
    "models": Verb(
        "list architectures, memories and suites with their costs, or tell what a folder of Hugging Face gets",
        "nothing",
        ("farfield models", "farfield models --json", "farfield models models/stories260k"),
        None,
        "farfield.catalogue:models",
    ),
}

OPTIONS = """options
  --help             this page, or that of a verb
  --json             one machine-readable result on standard output; all else goes to standard error
  -m, --multirun     run every combination of comma-separated values, one after the other
  --ray ADDRESS      run them on a Ray cluster, several at a time; local: on this machine
  --cpus N, --gpus N what each of them gets there (1 and 0)
  --cfg job          print the composed settings and stop (--resolve, --package: as Hydra has them)
  --info [what]      print how Hydra composes them (defaults, defaults-tree, searchpath, config) and stop
  --config-dir DIR   a folder with groups of your own, as in DIR/architecture/mine.yaml
  --version          the version"""


@dataclass(frozen=True)
class Setting:
    """One line of a command's yaml file. `default` is empty for a section."""

    key: str
    default: str
    text: str


def settings(verb: str) -> list[Setting]:
    """The settings of a command in the order of its yaml file, by path: `training.steps`."""
    return _settings(CONFIGS / f"{verb}.yaml")


def settings_of(group: str, option: str) -> list[Setting]:
    """Those of an option of a group, by path: `suite.lengths`."""
    found = _settings(CONFIGS / group / f"{option}.yaml")
    return [Setting(f"{group}.{one.key}", one.default, one.text) for one in found if one.key != "kind"]


def _settings(file: Path) -> list[Setting]:
    found: list[Setting] = []
    path: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        match, more = LINE.match(line), MORE.match(line)
        if more is not None and found:
            found[-1] = replace(found[-1], text=f"{found[-1].text} {more['text']}")
        if match is None:
            continue
        path[len(match["indent"]) // 2 :] = [match["key"]]
        if path[0] not in ("defaults", "hydra"):
            found.append(Setting(".".join(path), match["value"] or "", match["text"] or ""))
    return found


def groups(verb: str) -> list[Setting]:
    """The groups of a command with their default options."""
    lines = (CONFIGS / f"{verb}.yaml").read_text(encoding="utf-8").splitlines()
    matches = [match for match in map(GROUP.match, lines) if match]
    return [Setting(match["group"], match["default"], match["text"] or "") for match in matches]


def options(group: str) -> dict[str, str]:
    """The options of a group, each with the first comment of its yaml file."""
    files = sorted((CONFIGS / group).glob("*.yaml"))
    return {file.stem: _first_comment(file) for file in files}


def help_all() -> str:
    """The help of the whole command."""
    verbs = [f"  {name:<10} {verb.summary}" for name, verb in VERBS.items()]
    examples = [f"  {verb.examples[0]}" for verb in VERBS.values()]
    usage = "farfield <verb> [group=name ...] [key=value ...]: a research platform for long context"
    more = "`farfield <verb> --help` lists the groups and settings of a verb."
    return "\n".join([usage, "", "verbs", *verbs, "", OPTIONS, "", "examples", *examples, "", more])


def help_verb(name: str, words: Sequence[str] = ()) -> str:
    """The help of one verb: its groups with their options, its settings with their defaults, examples.

    Of the options that `words` choose (`suite=ruler`) there is no more than their settings.

    Raises:
        ConfigError: there is no such option.
    """
    chosen = _chosen(name, words) if VERBS[name].settings else []
    if chosen:
        return "\n\n".join(_option_page(group, option) for group, option in chosen)
    verb = VERBS[name]
    examples = ["examples", *(f"  {example}" for example in verb.examples)]
    writes = f"Writes {verb.writes}."
    if verb.settings is None:
        return "\n".join([f"farfield {name} [folder] [--json]: {verb.summary}", writes, "", *examples])
    question = "[question] " if name == "query" else ""
    lines = [f"farfield {name} {question}[group=name ...] [key=value ...]: {verb.summary}", writes]
    lines += _group_lines(name) + _setting_lines(settings(name))
    return "\n".join([*lines, "", OPTIONS, "", *examples])


def _group_lines(verb: str) -> list[str]:
    lines = []
    for group in groups(verb):
        lines += ["", f"{group.key}=<name>: {group.text} (default: {group.default})"]
        lines += [f"  {name:<16} {text}" for name, text in options(group.key).items()]
    if lines:
        first = groups(verb)[0].key
        option = next(iter(options(first)))
        lines += [
            "",
            f"Settings of an option are set by path, as {first}.<key>=value: `farfield {verb} {first}={option} --help` "
            "lists them, --cfg job prints all.",
        ]
    return lines


def _chosen(verb: str, words: Sequence[str]) -> list[tuple[str, str]]:
    """The options that are named in `words`, each with its group."""
    known = {group.key: options(group.key) for group in groups(verb)}
    found = []
    for word in words:
        group, _, named = word.partition("=")
        for option in named.split(",") if group in known and named != "null" else ():
            if option not in known[group]:
                raise ConfigError(unknown(f"{group}: unknown option", option, known[group]))
            found.append((group, option))
    return found


def _option_page(group: str, option: str) -> str:
    found = settings_of(group, option)
    return "\n".join([f"{group}={option}: {options(group)[option]}", *_setting_lines(found)])


def _setting_lines(found: Sequence[Setting]) -> list[str]:
    rows = [(f"{one.key}={one.default}" if one.default else f"{one.key}:", one.text) for one in found]
    width = max((len(left) for left, _ in rows), default=0)
    return ["", "settings (key=default)", *(f"  {left:<{width}}  {text}".rstrip() for left, text in rows)]


def _first_comment(file: Path) -> str:
    comments = [line[1:].strip() for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    return next((comment for comment in comments if not comment.startswith("@package")), "")
