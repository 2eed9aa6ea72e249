"""From the yaml files of `farfield.configs` and the words of a command line to one plain mapping: the only place that
knows Hydra.

    compose("train", ["architecture=retnet", "size=tiny", "training.steps=100"])     # {"name": "retnet-tiny-text", ...}
    option("architecture", "retnet", ["width=64"])                                   # {"width": 64, "depth": ...}

Hydra merges; it neither builds objects nor decides which keys exist. A key below a known top-level key may be set
although no yaml file names it (a default of the typed settings); what is really unknown is refused by
`farfield.config.read`, which knows all keys. Every mistake is a `ConfigError` of one line.
"""

from __future__ import annotations

import itertools
import json
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, MissingMandatoryValue, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]  # PyYAML has no types; OmegaConf raises its errors

from farfield.config import ConfigError, printable, unknown

__all__ = ["CONFIGS", "combinations", "compose", "group_options", "option", "show", "sized", "sweep"]

CONFIGS = Path(__file__).parent / "configs"
PACKAGE = "farfield.configs"
VERSION = "1.3"

# A run without a name is called by these choices, in this order.
TOLD = {
    "model",
    "memory",
    "context",
    "suite",
    "name",
    "label",
    "root",
}  # of an evaluation: its folder and file tell them
NAMING = ("architecture", "size", "memory", "context", "adapter", "augmentation", "data")

# What may be meant by a setting that is none, where a question can be asked.
ASKED = " A question with '=' in it is given as question='...'."

# The setting whose two values may stand without brackets.
PAIR = "compare"

# Settings told apart by their kind that are no group: a name alone is the kind.
KINDS = {"data.suite"}

# How a sweep writes that a group is left out.
NULL = "null"

# A sweep of more combinations than this is checked up to here before the first job starts.
CHECKED = 200


def compose(verb: str, words: Sequence[str] = (), folder: Path | None = None) -> dict[str, Any]:
    """The settings of a command as plain values: its yaml file, the chosen options, then `words` (`key=value`).

    Args:
        verb: a yaml file of `farfield.configs`: "train", "evaluate", ...
        words: overrides in Hydra's grammar.
        folder: a folder with groups of the user's own, beside ours.

    Raises:
        ConfigError: the first mistake, as one line.
    """
    with _hydra(verb, folder) as loader:
        return _compose(verb, _prepare(verb, words, loader, folder))


def option(group: str, name: str, words: Sequence[str] = ()) -> Any:
    """The settings of one option of a group, with `words` applied within it.

        option("architecture", "retnet", ["width=64", "layers.retnet.mixer.heads=4"])

    Raises:
        ConfigError: the first mistake, as one line.
    """
    if name not in group_options(group):
        raise ConfigError(f"{group}: " + unknown("unknown option", name, group_options(group)))
    within = [f"{'~' if word.startswith('~') else '++'}{group}.{word.lstrip('+~')}" for word in words]
    with _hydra(group):
        return _plain(group, hydra_compose(f"{group}/{name}", within), {}, ()).get(group)


def sized(architecture: dict[str, Any], size: str) -> dict[str, Any]:
    """The settings of an architecture (as `option` gives them) in one of the sizes."""
    content = OmegaConf.to_container(OmegaConf.load(CONFIGS / "size" / f"{size}.yaml"))
    assert isinstance(content, dict)
    mapping = {**architecture, **{str(key): value for key, value in content.items()}}
    _whole_patterns(mapping)
    return mapping


def combinations(verb: str, words: Sequence[str], folder: Path | None = None) -> list[dict[str, Any]]:
    """The settings of each combination of the comma-separated values among `words`, in the order of their jobs.

    Of very many combinations only the first; where a sweeper of another kind chooses them, none.
    """
    with _hydra(verb, folder) as loader:
        prepared = _prepare(verb, words, loader, folder, several=True)
        parts = [[_parse(word, loader) for word in part] for part in _parted(verb, prepared, loader)]
        products = [itertools.product(*map(_spelled, part)) for part in parts]
        chosen = itertools.islice(itertools.chain.from_iterable(products), CHECKED)
        return [_compose(verb, list(combination)) for combination in chosen]


def sweep(verb: str, words: Sequence[str], run: Callable[[dict[str, Any]], None], folder: Path | None = None) -> None:
    """Call `run` with the settings of every combination, one after the other, each under a name of its own."""
    with _hydra(verb, folder) as loader:
        prepared = _prepare(verb, words, loader, folder, several=True)
        parsed = [_parse(word, loader) for word in prepared]
        parts = _parted(verb, prepared, loader)
    swept = [override.key_or_group for override in parsed if override.is_sweep_override()]
    used: set[str] = set()

    def job(config: DictConfig) -> None:
        words = list(HydraConfig.get().overrides.task)
        settings = _plain(verb, config, HydraConfig.get().runtime.choices, words)
        if "name" in settings:
            fresh = "name" in swept or config.name is None
            settings["name"] = _job_name(settings["name"], swept, words, fresh, used)
            if settings["name"] is None and settings.get("label", "") is None:  # a name follows from the choices there
                settings["label"] = "-".join(_apart(swept, words, TOLD)) or None
        run(settings)

    for part in parts:
        _hydra_main(verb, [*part, "--multirun"], job)


def show(verb: str, words: Sequence[str], flags: Sequence[str], folder: Path | None = None) -> None:
    """Let Hydra print what it composes; `flags` are those of its own command line (`--cfg=job`, `--info=defaults`)."""
    with _hydra(verb, folder) as loader:
        prepared = _prepare(verb, words, loader, folder)
        config = hydra_compose(verb, prepared)
        if "--resolve" in flags:
            OmegaConf.to_container(config, resolve=True)  # a mistake in here is ours to tell
    _hydra_main(verb, [*prepared, *flags], lambda config: None)


def group_options(group: str, folder: Path | None = None) -> list[str]:
    """The names of the yaml files of a group, ours and those in `folder`; empty where there is no such group."""
    homes = [home / group for home in (CONFIGS, folder) if home]
    return sorted(
        {file.relative_to(home).with_suffix("").as_posix() for home in homes for file in home.rglob("*.yaml")}
    )


@contextmanager
def _hydra(verb: str, folder: Path | None = None) -> Iterator[ConfigLoader]:
    """Hydra, started for one use and left as it was found, with its mistakes as ours."""
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with _mistakes(verb, folder), initialize_config_module(PACKAGE, job_name="farfield", version_base=VERSION):
            yield GlobalHydra.instance().config_loader()
    finally:
        GlobalHydra.instance().hydra = outer


@contextmanager
def _mistakes(verb: str, folder: Path | None = None) -> Iterator[None]:
    """Hydra's and OmegaConf's errors, and those of yaml files of the user's own in `folder`, as one line of ours."""
    try:
        yield
    except OverrideParseException as error:
        advice = "Write key=value, and quote a value with special characters: key='\"a, b\"'."
        raise ConfigError(f"{error.override}: not a setting. {advice}") from None
    except MissingMandatoryValue as error:
        key = error.full_key or error.key
        raise ConfigError(f"{verb}: '{key}' is missing. Add {key}=...") from None
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key or verb}: {error.msg or error}".splitlines()[0]) from None
    except YAMLError as error:
        raise ConfigError("not yaml: " + " ".join(str(error).split())) from None
    except HydraException as error:
        text = str(error).split("Config search path:")[0]
        cause = f"{error.__cause__}".splitlines()[0] if error.__cause__ else ""
        raise ConfigError(f"{verb}: " + " ".join([*text.split(), cause]).strip()) from None
    except (UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the system's own, which names its file
        what = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else "a single value, not lines of key: value"
        names = ", ".join(_failing(folder, type(error))) if folder else ""
        raise ConfigError(f"{names or verb}: {what}.") from None


def _failing(folder: Path, kind: type[Exception]) -> Iterator[str]:
    """The yaml files below `folder` that cannot be loaded for an error of `kind`, which does not name them."""
    for file in sorted(folder.rglob("*.yaml")):
        try:
            OmegaConf.load(file)
        except kind:
            yield printable(str(file))
        except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException):
            continue


def _parse(word: str, loader: ConfigLoader) -> Override:
    return OverridesParser.create(config_loader=loader).parse_overrides([word])[0]


def _prepare(
    verb: str, words: Sequence[str], loader: ConfigLoader, folder: Path | None, several: bool = False
) -> list[str]:
    """`words` as Hydra is to read them, after the names of groups, options and top-level keys were checked."""
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"--config-dir {folder}: no such folder.")
    keys, groups = _known(verb)
    search = [f"hydra.searchpath=[{json.dumps(f'file://{folder.resolve()}', ensure_ascii=False)}]"] if folder else []
    chosen = {re.split(r"[@=]", word.lstrip("+~"))[0] for word in words}
    for word in map(_spelled_out, words):
        _require_known(verb, word, keys | groups.keys())
        override = _parse(word, loader)
        _require_chosen(word, override, groups, chosen, folder)
        if override.is_sweep_override() and not several:
            raise ConfigError(f"{word}: several values. Add -m to run each; [a,b] is a list, and quotes make a text.")
        if override.is_hydra_override():
            search.append(word)
        elif override.key_or_group in groups:
            search += _chosen(word, override, groups[override.key_or_group], folder)
        else:
            search.append(word if override.is_delete() else "++" + word.lstrip("+"))
    return [*search, *_following(words, groups)]


def _following(words: Sequence[str], groups: Mapping[str, object]) -> list[str]:
    """What leaves the architecture to the model that a run starts from, where no other one is named.

    Raises:
        ConfigError: a size, which that model has.
    """
    given = {key.lstrip("+~"): value for key, _, value in (word.partition("=") for word in words)}
    if given.get("start", NULL) in (NULL, "") or "architecture" in given or "architecture" not in groups:
        return []
    if given.get("size", NULL) != NULL:
        raise ConfigError(
            f"size={given['size']}: the model that start names has a size. Leave it out, or name an architecture."
        )
    return ["~architecture"]


def _spelled_out(word: str) -> str:
    """`compare=a,b` as `compare=[a,b]`: it always takes two; and `data.suite=ruler` as `data.suite.kind=ruler`."""
    key, _, value = word.partition("=")
    if key.lstrip("+") in KINDS and re.fullmatch(r"[a-z][\w,]*", value) and value != NULL:
        return f"{key}.kind={value}"
    return f"{key}=[{value}]" if key == PAIR and "," in value and not value.startswith(("[", "'", '"')) else word


def _require_known(verb: str, word: str, known: Set[str]) -> None:
    """Raises a ConfigError if `word` sets a key that neither the command nor Hydra has, whatever its value."""
    key = re.split(r"[./@:=]", word.lstrip("+~"))[0]
    if key not in known and not re.match(r"[+~]*hydra[./]", word):
        raise ConfigError(f"{verb}: " + unknown("unknown key", key, known) + ASKED * ("question" in known))


def _require_chosen(
    word: str, override: Override, groups: Mapping[str, object], chosen: Set[str], folder: Path | None
) -> None:
    """Raises a ConfigError if `word` sets a key of a group that has no option by default, and none was chosen."""
    group, _, key = override.key_or_group.partition(".")
    if key and key != "kind" and group in groups and groups[group] is None and not chosen & {group, f"{group}.kind"}:
        options = group_options(group, folder)
        raise ConfigError(f"{word}: no {group} is chosen. Add {group}=<name>. Known: {', '.join(options)}.")


def _chosen(word: str, override: Override, default: object, folder: Path | None) -> list[str]:
    """The choice of an option as Hydra is to read it; `null` leaves the group out.

    Raises:
        ConfigError: no yaml file of the group has that name.
    """
    group, value = override.key_or_group, override.value()
    options = group_options(group, folder)
    if value is None and not override.is_delete():
        return [] if default is None else [f"~{group}"]
    if isinstance(value, list):
        raise ConfigError(f"{word}: one option at a time. Known: {', '.join(options)}.")
    for name in override.sweep_string_iterator() if override.is_sweep_override() else [value]:
        if name not in (None, NULL) and name not in options:
            raise ConfigError(f"{group}: " + unknown("unknown option", str(name), options))
    return [word]


def _parted(verb: str, prepared: Sequence[str], loader: ConfigLoader) -> list[list[str]]:
    """The words of several sweeps in the place of one, where a group is swept over null too, which Hydra refuses.

    Each is without null: the group's other options are one sweep, and the group left out is another, in their order.
    """
    _, groups = _known(verb)
    parts: list[list[str]] = [[]]
    for word in prepared:
        override = _parse(word, loader)
        group, several = override.key_or_group, override.is_discrete_sweep()
        names = list(override.sweep_string_iterator()) if several and group in groups else []
        ways = [[word]]
        if NULL in names:
            rest = ",".join(name for name in names if name != NULL)
            ways = [[] if groups[group] is None else [f"~{group}"], *([[f"{group}={rest}"]] if rest else [])]
            ways = ways if names[0] == NULL else ways[::-1]
        parts = [[*part, *way] for part in parts for way in ways]
    return parts


def _known(verb: str) -> tuple[set[str], dict[str, object]]:
    """The top-level keys of a command, and its groups with their default options."""
    content = OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{verb}.yaml"))
    assert isinstance(content, dict)
    entries = [entry for entry in content.get("defaults", []) if isinstance(entry, dict)]
    groups = {str(group): default for entry in entries for group, default in entry.items()}
    return {str(key) for key in content} - {"defaults", "hydra"}, groups


def _compose(verb: str, prepared: Sequence[str]) -> dict[str, Any]:
    config = hydra_compose(verb, list(prepared), return_hydra_config=True)
    choices = dict(config.hydra.runtime.choices)
    OmegaConf.set_struct(config, False)
    del config["hydra"]  # not ours to resolve
    return _plain(verb, config, choices, prepared)


def _plain(verb: str, config: DictConfig, choices: Mapping[Any, Any], words: Sequence[str]) -> dict[str, Any]:
    """Plain values, and a name made of the choices where the command has one and none was given.

    What a run leaves to the model that it starts from is not there, or null.
    """
    with _mistakes(verb):
        settings: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    if isinstance(settings.get("architecture"), dict):
        _whole_patterns(settings["architecture"])
    parts = [str(choices[group]) for group in NAMING if choices.get(group) not in (None, "none")]
    follows = bool(settings.get("start")) and "architecture" not in choices
    if follows:
        parts = [_called(str(settings["start"])), *parts]
        if settings.get("data", {}).get("tokenizer") and not any(re.match(r"\W*data\.tokenizer", one) for one in words):
            settings["data"]["tokenizer"] = None
    if settings.get("name", "") is None and parts and (follows or "architecture" in choices):
        settings["name"] = "-".join(parts).replace("/", "-")
    return dict(settings)


def _called(start: str) -> str:
    """What a trained model is called by the path of its folder, or of a file in it."""
    path = Path(start)
    if path.suffix in (".ckpt", ".safetensors"):
        path = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    return re.sub(r"[^\w.=+,-]+", "_", path.name) or "start"


def _whole_patterns(architecture: dict[str, Any]) -> None:
    """The depth that `least` stands for where none is given: a pattern of eight layers has no size of two."""
    least, pattern = architecture.pop("least", None), architecture.get("pattern")
    if architecture.get("depth") is None and isinstance(least, int) and isinstance(pattern, list) and pattern:
        architecture["depth"] = -(-least // len(pattern)) * len(pattern)


def _spelled(override: Override) -> list[str]:
    """The words that one word of a sweep stands for; itself, where it is no sweep."""
    if not override.is_sweep_override():
        return [str(override.input_line)]
    if not override.is_discrete_sweep():
        return []
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]


def _job_name(name: str | None, swept: list[str], words: list[str], fresh: bool, used: set[str]) -> str | None:
    """`name` and what sets this job apart: `retnet-text-learning_rate=0.01`, `mine-architecture=retnet`.

    `fresh` is true for a name that this job made or was given by itself: it tells the choices apart already.
    """
    if name is None:
        return None
    told = {"name", *NAMING} if fresh else {"name"}
    unique = name = "-".join([name, *_apart(swept, words, told)])
    for number in itertools.count(2):
        if unique not in used:
            break
        unique = f"{name}-{number}"
    used.add(unique)
    return unique


def _apart(swept: list[str], words: list[str], told: Set[str]) -> list[str]:
    """What sets a job apart: the settings that were swept over, but for those that are `told` already."""
    pairs = [word.lstrip("+").split("=", 1) for word in words]
    apart = [f"{key.rsplit('.', 1)[-1]}={value}" for key, value in pairs if key in swept and key not in told]
    return [re.sub(r"[^\w.=+]+", "_", part) for part in apart]


def _hydra_main(verb: str, words: Sequence[str], task: Callable[[DictConfig], None]) -> None:
    """Hydra's own entry point, which reads its words from `sys.argv` and sets up logging for a whole program."""
    given, root = sys.argv, logging.getLogger()
    handlers, level = list(root.handlers), root.level
    sys.argv = [f"farfield {verb}", *words]
    try:
        hydra.main(version_base=VERSION, config_path=f"pkg://{PACKAGE}", config_name=verb)(task)()
    finally:
        sys.argv = given
        root.handlers[:] = handlers
        root.setLevel(level)
