"""Files of data sets from the Hugging Face hub, as they were published.

Files, and not rows by the `datasets` library: LongBench, L-Eval and ZeroSCROLLS come with loading scripts, which
`datasets` has not run since version 4, and the files are what a folder of one's own holds too.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

from farfield.config import DataError

__all__ = ["fetch"]


def fetch(name: str, patterns: Sequence[str]) -> Path:
    """The folder with the files of the data set `name` that fit the patterns, fetched once and kept by the hub's cache.

    Raises:
        DataError: huggingface_hub is not installed, or the hub cannot be reached, or has no such data set.
    """
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError:
        raise DataError(
            "suite.source: the hub needs huggingface_hub: `pip install 'farfield[hf]'`, or give a folder."
        ) from None
    try:
        return Path(hub.snapshot_download(name, repo_type="dataset", allow_patterns=list(patterns)))
    except OSError as error:  # what huggingface_hub raises, of the network and of the hub, are all of this kind
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"suite.source: {name} cannot be fetched: {reason} Give the folder of your own copy.") from None
