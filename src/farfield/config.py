"""Errors that a user can act on, and the strict reading of a mapping into typed settings.

Every mistake that a user can make is one of ours, printed as one line, with exit status 2 and no traceback:

    FarfieldError
    ├── ConfigError      a setting: unknown, of the wrong type, or one that does not fit another
    ├── DataError        a file or folder that cannot be used
    ├── ModelError       a trained model that cannot be loaded, or that cannot do what is asked
    ├── IndexingError    a document index that does not exist or cannot be used
    └── TrainingError    a run that cannot start or go on

A message says where, what was given, what is allowed, the nearest name, and what to do.

    class Attention(Config):
        heads: int = 4

    read(Attention, {"head": 4}, "architecture.layers.a.mixer")
    # ConfigError: architecture.layers.a.mixer: unknown key 'head'. Did you mean 'heads'? Known: heads.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import pydantic

__all__ = [
    "Config",
    "ConfigError",
    "DataError",
    "FarfieldError",
    "IndexingError",
    "ModelError",
    "StoreError",
    "TrainingError",
    "nearest",
    "printable",
    "read",
    "unknown",
]

MANY = 40  # names in one message


class FarfieldError(Exception):
    """A mistake that the user can mend. Its text is one line; the command line prints it and exits with 2."""


class ConfigError(FarfieldError):
    """A setting is unknown, has the wrong type, or does not fit another."""


class DataError(FarfieldError):
    """A file or a folder cannot be used."""


class ModelError(FarfieldError):
    """A trained model cannot be loaded, or cannot do what is asked of it."""


class IndexingError(FarfieldError):
    """A document index does not exist or cannot be used."""


class StoreError(FarfieldError):
    """A store of states cannot be used."""


class TrainingError(FarfieldError):
    """A run cannot start or cannot go on."""


class ClusterError(FarfieldError):
    """A cluster cannot do what is asked of it."""


class Config(pydantic.BaseModel):
    """Base of all settings: frozen, strict about types, and without room for unknown keys."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def mapping(self) -> dict[str, Any]:
        """These settings as plain values that `read` takes back: what a checkpoint stores."""
        return self.model_dump(mode="json")


C = TypeVar("C", bound=pydantic.BaseModel)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` most likely stands for, if one is near enough."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)), None)


def unknown(what: str, given: str, known: Iterable[str]) -> str:
    """`what 'given'. Did you mean 'x'? Known: x, y.`: the end of every message about a name that is not there."""
    names = sorted(known)
    near = nearest(given, names)
    hint = f" Did you mean '{near}'?" if near else ""
    return f"{what} '{given}'.{hint} Known: {', '.join(_folded(names)) or 'none'}."


def _folded(names: Sequence[str]) -> Sequence[str]:
    """Sorted names; of many, those that differ in a number at their end as one: `nq_{20, 50, 105}`."""
    if len(names) <= MANY:
        return names
    numbers: dict[str, list[str]] = {}
    for name in names:
        found = re.fullmatch(r"(.*_)(\d+)", name)
        stem, last = (found[1], [found[2]]) if found else (name, [])
        numbers.setdefault(stem, []).extend(last)
    return [
        f"{stem}{{{', '.join(sorted(last, key=int))}}}" if len(last) > 1 else stem + "".join(last)
        for stem, last in numbers.items()
    ]


def printable(text: str) -> str:
    """`text` as it can be printed: itself, or a byte that is not UTF-8 spelled `\\xff`, half of a pair `\\ud83e`.

    It differs from `text` exactly where that, a word or a file's name as Python hands it out, is not UTF-8.
    """
    spelled = re.sub("[\udc80-\udcff]", lambda byte: f"\\x{ord(byte[0]) & 0xFF:02x}", text)
    return spelled.encode("utf-8", "backslashreplace").decode("utf-8")


def read(kind: type[C], mapping: Mapping[str, Any], path: str = "") -> C:
    """`mapping` as settings of class `kind`.

    The mapping goes through JSON: strict reading of Python values would refuse a list for a tuple and a text for an
    enumeration or a path.

    Raises:
        ConfigError: the first mistake, as one line that begins with its full path below `path`.
    """
    try:
        return kind.model_validate_json(json.dumps(mapping))
    except pydantic.ValidationError as error:
        raise ConfigError(_line(error.errors(), kind, mapping, path)) from None
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path or kind.__name__}: not plain values: {error}") from None


def _line(mistakes: Sequence[Any], kind: type[pydantic.BaseModel], mapping: Mapping[str, Any], path: str) -> str:
    """One line for the first of the mistakes that pydantic found."""
    mistake = mistakes[0]
    location, owner = _place(mistake["loc"], mapping, mistake["type"] in ("missing", "extra_forbidden"))
    where = ".".join([path] * bool(path) + location)
    parent = ".".join([path] * bool(path) + location[:-1]) or kind.__name__
    match mistake["type"]:
        case "extra_forbidden":
            return f"{parent}: " + _unknown_key(str(location[-1]), _nodes(kind, mistake["loc"][:-1]))
        case "missing" if isinstance(mistake["loc"][-1], int):  # one mistake for each value that a tuple lacks
            more = sum(one["type"] == "missing" and one["loc"][:-1] == mistake["loc"][:-1] for one in mistakes)
            return f"{where}: {_count(mistake['input'])} given, {len(mistake['input']) + more} are needed."
        case "missing":
            return f"{parent}: '{location[-1]}' is missing."
        case "too_short":
            return f"{where}: {_count(mistake['input'])} given, at least {mistake['ctx']['min_length']} is needed."
        case "too_long":
            return f"{where}: {_count(mistake['input'])} given, at most {mistake['ctx']['max_length']} are allowed."
        case "union_tag_invalid":
            tags = mistake["ctx"]["expected_tags"].replace("'", "").split(", ")
            return f"{where}: " + unknown("unknown kind", str(mistake["ctx"]["tag"]), tags)
        case "union_tag_not_found":
            return f"{where}: 'kind' is missing."
        case "literal_error" | "enum":
            choices = mistake["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
            return f"{where}: " + unknown("unknown choice", str(mistake["input"]), choices)
        case "value_error":
            text = str(mistake["ctx"]["error"])
            return f"{where}{text}".lstrip(".") if text.startswith(".") else f"{where or kind.__name__}: {text}"
        case _:
            given = json.dumps(owner, ensure_ascii=False)
            return f"{where}: {given} given. {mistake['msg']}."


def _count(values: Sequence[object]) -> str:
    return f"{len(values) or 'no'} value{'s' * (len(values) > 1)}"


def _place(location: tuple[int | str, ...], mapping: Any, named: bool) -> tuple[list[str], Any]:
    """The keys of the user's own mapping on the way to a mistake (pydantic adds the tags of unions), and the value.

    `named`: the last step names a key although it is not there.
    """
    names: list[str] = []
    value = mapping
    for number, step in enumerate(location):
        if isinstance(value, Mapping) and step in value and not _is_tag(step, location[number + 1 :], value):
            value = value[step]
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        elif isinstance(value, Mapping) and step == location[-1] and named:
            value = None
        else:
            continue
        names.append(str(step))
    return names, value


def _is_tag(step: int | str, behind: Sequence[int | str], value: Mapping[str, Any]) -> bool:
    """Whether a step into `value` is its kind, and not the key of the same name: a key of `value` comes behind it."""
    return value.get("kind") == step and bool(behind) and behind[0] in value


def _unknown_key(key: str, nodes: Sequence[dict[str, Any]]) -> str:
    """What a key that is not there could be: where it stands, if one of the classes tells, or the nearest."""
    told = [node["elsewhere"][key] for node in nodes if key in node.get("elsewhere", {})]
    known = {name for node in nodes for name in node.get("properties", {})}
    return f"no key '{key}'. {told[0]}" if told else unknown("unknown key", key, known)


def _nodes(kind: Any, location: tuple[int | str, ...]) -> list[dict[str, Any]]:
    """The JSON schemas of the classes that may stand at `location` below `kind`.

    A class names keys that are looked for in it and stand elsewhere as `elsewhere` in its schema.
    """
    schema = kind.model_json_schema()
    definitions = schema.get("$defs", {})

    def resolve(node: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in node:
            node = definitions[node["$ref"].rsplit("/", 1)[-1]]
        return node

    def descend(node: dict[str, Any], step: int | str) -> dict[str, Any]:
        node = resolve(node)
        for option in node.get("oneOf", []):  # a union whose tags are the names of its classes
            if option.get("$ref", "").endswith(f"/{step}"):
                return resolve(option)
        for option in node.get("anyOf", []):
            found = descend(option, step)
            if found:
                return found
        mapped = node.get("discriminator", {}).get("mapping", {})
        if step in mapped:
            return resolve({"$ref": mapped[step]})
        if step in node.get("properties", {}):
            return resolve(node["properties"][step])
        if isinstance(step, int):
            return resolve(node.get("items") or {})
        extra = node.get("additionalProperties")
        return resolve(extra) if isinstance(extra, dict) else {}

    def alternatives(node: dict[str, Any]) -> list[dict[str, Any]]:
        return [resolve(option) for option in node.get("anyOf", [node])]

    node = schema
    for step in location:
        node = descend(node, step) or node
    return alternatives(resolve(node))
