"""The settings of `farfield report`."""

from __future__ import annotations

from pydantic import Field, field_validator

from farfield.config import Config
from farfield.settings.names import Text

__all__ = ["ReportSettings"]


class ReportSettings(Config):
    """`farfield report`."""

    results: tuple[Text, ...] = Field(("results",), min_length=1)
    compare: tuple[Text, Text] | None = None
    out: Text | None = None
    threshold: float = Field(0.856, ge=0, le=1)

    @field_validator("results", mode="before")
    @classmethod
    def _listed(cls, given: object) -> object:
        """One place is a list of one; a tuple in any case, for JSON has none."""
        return (given,) if isinstance(given, str) else tuple(given) if isinstance(given, list) else given

    @field_validator("compare", mode="before")
    @classmethod
    def _two(cls, given: object) -> object:
        places = (given,) if isinstance(given, str) else given
        if isinstance(places, list | tuple) and len(places) != 2:
            said = f"{len(places) or 'no'} value{'s' * (len(places) > 1)}"
            raise ValueError(f"{said} given. Give two: compare=first,second.")
        return tuple(places) if isinstance(places, list) else places
