"""Data: from files or from a task to batches of tokens, each a pure function of the seed and the step.

    source = open_source(TextData(path="books", length=1024), seed=0, batch=8)
    with Prefetch(source.batch, start=step) as batches:
        for batch in batches:                                   # tokens, targets, positions: (batch, time)
            inputs = to_tensors(batch, device)                  # farfield.data.tensors

In this folder, `batch` says what a batch is, `layout` how documents are packed, `store` what is kept on disk, `split`
what is held out, `settings` how a kind of data is added. Only `tensors` imports torch.
"""

from farfield.data.batch import PADDING, UNSCORED, Batch, Sets, Source
from farfield.data.facts import FactsData
from farfield.data.needle import NeedleData
from farfield.data.prefetch import Prefetch
from farfield.data.settings import DataConfig, open_source
from farfield.data.suite import SuiteData
from farfield.data.text import TextData

__all__ = [
    "PADDING",
    "UNSCORED",
    "Batch",
    "DataConfig",
    "FactsData",
    "NeedleData",
    "Prefetch",
    "Sets",
    "Source",
    "SuiteData",
    "TextData",
    "open_source",
]
