"""The settings of every suite, told apart by `kind`. A new suite is added to `Suite`, with a file in configs/suite."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import pydantic

from farfield.benchmarks.subjects.subject_settings import (
    EndpointConfig,
    HuggingFaceConfig,
    endpoint_mistake,
    kind_of,
    url_mistake,
    url_name,
)
from farfield.benchmarks.suites.babilong import BabilongSuite
from farfield.benchmarks.suites.efficiency import EfficiencySuite
from farfield.benchmarks.suites.longdoc import LongdocSuite
from farfield.benchmarks.suites.lost_in_the_middle import LostInTheMiddleSuite
from farfield.benchmarks.suites.needle import NeedleSuite
from farfield.benchmarks.suites.perplexity import PerplexitySuite
from farfield.benchmarks.suites.recall import RecallSuite
from farfield.benchmarks.suites.retrieval import RetrievalSuite
from farfield.benchmarks.suites.ruler import RulerSuite

__all__ = ["EndpointConfig", "HuggingFaceConfig", "Suite", "endpoint_mistake", "kind_of", "url_mistake", "url_name"]

Suite: TypeAlias = Annotated[
    BabilongSuite
    | EfficiencySuite
    | LongdocSuite
    | LostInTheMiddleSuite
    | NeedleSuite
    | PerplexitySuite
    | RecallSuite
    | RetrievalSuite
    | RulerSuite,
    pydantic.Field(discriminator="kind"),
]
