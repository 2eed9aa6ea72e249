"""Which documents a filter means: conditions on where they lie, what they are, and their own metadata.

    {"path": "notes/*.md"}                       a file, a folder, or a pattern (`*` also stands for separators)
    {"kind": "pdf", "language": ["en", "de"]}    all keys must hold; of a list, any value

`path`, `key`, `title` and `kind` are of every document; all other keys are looked up in its metadata, where a list
holds each of its values. Values are compared with their type: `1` is `1.0`, but neither `"1"` nor `true`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from farfield.config import ConfigError
from farfield.retrieval.digests import digest

__all__ = ["SCALARS", "Filter", "Metadata", "Scalar", "Where", "condition", "facts"]

Scalar = str | int | float | bool
Filter = Mapping[str, Scalar | Sequence[Scalar]]
Metadata = Mapping[str, Scalar | Sequence[Scalar]]
Where = tuple[str, list[str]]
"""A condition of SQL on `documents` joined with `files`, and its parameters."""

SCALARS = str | int | float
COLUMNS = {"key": "documents.key", "title": "documents.title", "kind": "documents.kind"}
LONGEST = 200


def facts(metadata: Metadata) -> Iterator[tuple[str, str]]:
    """The (name, value) pairs by which a document with this metadata is found; each once."""
    for name, value in metadata.items():
        for one in dict.fromkeys(map(_fact, _values(value))):
            yield name, one


def condition(where: Filter) -> Where:
    """`where` as SQL. An empty filter holds for every document, an empty list for none.

    Raises:
        ConfigError: a value that is no string, number, truth value or list of them.
    """
    parts, parameters = ["1"], list[str]()
    for name, value in where.items():
        if not isinstance(value, SCALARS | list | tuple) or not all(isinstance(one, SCALARS) for one in _values(value)):
            raise ConfigError(
                f"where.{name}: {value!r} given. Use a string, a number, true or false, or a list of them."
            )
        sql, more = _one(name, _values(value))
        parts.append(sql)
        parameters += more
    return " AND ".join(parts), parameters


def _values(value: Scalar | Sequence[Scalar]) -> Sequence[Scalar]:
    return [value] if isinstance(value, SCALARS) else value


def _one(name: str, values: Sequence[Scalar]) -> Where:
    """The condition that any of `values` holds for `name`."""
    if name == "path":
        patterns = [pattern for value in values for pattern in _patterns(str(value))]
        return f"({' OR '.join(['0'] + ['files.path GLOB ?'] * len(patterns))})", patterns
    if name in COLUMNS:
        return f"{COLUMNS[name]} IN (SELECT value FROM json_each(?))", [json.dumps([str(value) for value in values])]
    listed = json.dumps([_fact(value) for value in values])
    return (
        "documents.id IN (SELECT document FROM facts WHERE name = ? AND value IN (SELECT value FROM json_each(?)))",
        [name, listed],
    )


def _patterns(path: str) -> tuple[str, ...]:
    """Patterns for a path and for all below it. One that does not begin at the root may begin at any folder."""
    plain = path.rstrip("/") or "/"
    anchored = plain if plain.startswith(("/", "*")) else f"*/{plain}"
    return (anchored, f"{anchored.rstrip('/')}/*") if not plain.endswith("*") else (anchored,)


def _fact(value: Scalar) -> str:
    """A value as it is compared: JSON, so that types differ; a long one by its digest."""
    whole = isinstance(value, float) and value.is_integer()
    text = json.dumps(int(value) if whole else value, ensure_ascii=False)
    return text if len(text) <= LONGEST else digest(text).hex()
