"""What a model is trained on: one of the kinds of data.

A new kind is one file and one place in the union. The file has the settings, a `Config` with a literal `kind`, a
`length` and

    def open(self, seed: int, batch: int) -> Source

and the source it returns. Nothing here may import torch.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from farfield.config import read
from farfield.data.batch import Source
from farfield.data.facts import FactsData
from farfield.data.needle import NeedleData
from farfield.data.reading import ReadingData
from farfield.data.suite import SuiteData
from farfield.data.text import TextData

__all__ = ["DataConfig", "open_source"]

DataConfig = Annotated[TextData | NeedleData | ReadingData | FactsData | SuiteData, Field(discriminator="kind")]


def open_source(config: DataConfig, seed: int, batch: int, length: int | None = None) -> Source:
    """The source of a run with this `seed` (0 or more) and `batch` rows; `length` replaces that of `config`.

    Raises:
        DataError: the data cannot be used.
        ConfigError: the length does not fit the other settings.
    """
    if length is not None:
        config = read(type(config), config.mapping() | {"length": length}, "data")
    return config.open(seed, batch)
