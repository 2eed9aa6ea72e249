"""Wording of the user's own: a yaml file with a section for each task, and in it texts in the place of ours.

    needle:                                               the task
      question: "\\nWhat number belongs to {key}? It is"   one of its texts, with the fields that ours has

A text is a format string: fields are names in braces, and a brace that is meant is written twice. What a file does not
reword stays as it is. A published wording, typed in by somebody who has a copy of it, makes numbers comparable.
"""

from __future__ import annotations

import hashlib
import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml  # type: ignore[import-untyped]  # PyYAML has no types

from farfield.config import DataError, unknown

__all__ = ["Wording"]


@dataclass(frozen=True)
class Wording:
    """The texts of one task by name: `wording["question"].format(key="amber canyon")`."""

    texts: Mapping[str, str]

    @classmethod
    def of(cls, task: str, default: Mapping[str, str], path: str | None, known: Sequence[str] = ()) -> Wording:
        """The texts of `default`, and in their place those that the section `task` of the file at `path` has.

        known: the sections that the file may have beside this one: those of the suite's other tasks

        Raises:
            DataError: there is no such file, it is no yaml, or a section, a text or a field is not one of ours.
        """
        if path is None:
            return cls(dict(default))
        sections = _read(path)
        for section in sections:
            if section not in (task, *known):
                raise DataError(f"{path}: " + unknown("unknown section", section, {task, *known}))
        own = sections.get(task, {})
        if not isinstance(own, dict):
            raise DataError(f"{path}: {task}: {json.dumps(own, default=str)} given. A section holds texts by name.")
        for name, text in own.items():
            where = f"{path}: {task}.{name}"
            if name not in default:
                raise DataError(f"{path}: {task}: " + unknown("unknown text", str(name), default))
            if not isinstance(text, str):
                raise DataError(f"{where}: {json.dumps(text, default=str)} given, a text is needed. Put it in quotes.")
            _check_fields(where, text, default[name])
        return cls({**default, **own})

    def __getitem__(self, name: str) -> str:
        return self.texts[name]

    @property
    def fingerprint(self) -> str:
        """Equal for the same texts."""
        return hashlib.sha256(json.dumps(sorted(self.texts.items())).encode()).hexdigest()[:16]


def _read(path: str) -> dict[str, object]:
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"wording: {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"wording: {path} is not UTF-8 text: {error.reason} at byte {error.start}.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise DataError(f"{path}: {where}{reason}. This is no yaml.") from None
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise DataError(f"{path}: no section. A file of wording holds a section for each task, and texts in it.")
    return found


def _check_fields(where: str, text: str, default: str) -> None:
    """Raises DataError unless `text` has the fields of `default`, each once or more."""
    known, given = _fields(where, default), _fields(where, text)
    for field in given:
        if field not in known:
            raise DataError(f"{where}: " + unknown("unknown field", field, known))
    for field in known:
        if field not in given:
            raise DataError(f"{where}: the field {{{field}}} is missing. Its fields: {', '.join(known)}.")


def _fields(where: str, text: str) -> list[str]:
    """The names of the fields of a format string."""
    try:
        parts = [(field, spec, conversion) for _, field, spec, conversion in string.Formatter().parse(text)]
    except ValueError as error:
        raise DataError(f"{where}: {error}. A brace that is meant is written twice.") from None
    for field, spec, conversion in parts:
        if field is not None and (not field.isidentifier() or spec or conversion):
            raise DataError(f"{where}: a field is a name alone in braces, {{{field}}} is none. Write {{{{ for a brace.")
    return list(dict.fromkeys(field for field, *_ in parts if field is not None))
