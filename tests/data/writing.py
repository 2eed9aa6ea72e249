"""The type of the fixture that writes collections of text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

Files: TypeAlias = Mapping[str, "str | bytes | list[str]"]
Write: TypeAlias = Callable[[Files], Path]
