"""What the settings of commands name."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

__all__ = ["Name", "Text"]


def _name(name: str) -> str:
    """A name that is one folder below another, wherever it comes from."""
    if not re.fullmatch(r"\w[\w.=+,-]{0,199}", name):
        raise ValueError(
            f"'{name}' names no folder. Use letters, digits, '_', '-', '.', '=', beginning with a letter or digit."
        )
    return name


def _spelled(name: object) -> object:
    """A name that reads as a number, 2026, is a name."""
    return str(name) if type(name) is int else name


Name = Annotated[str, BeforeValidator(_spelled), AfterValidator(_name)]
Text = Annotated[str, Field(min_length=1)]
