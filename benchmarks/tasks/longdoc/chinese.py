"""Chinese text in words, as LongBench cuts it: by jieba, which nothing else needs and which is asked for when it is."""

from __future__ import annotations

import importlib

from farfield.benchmarks.tasks.sample import LackingError

__all__ = ["check_words", "cut_words"]


def check_words(name: str) -> None:
    """Raises LackingError, for the task `name`, if jieba is not installed."""
    try:
        importlib.import_module("jieba")
    except ImportError:
        raise LackingError(
            f"{name}: judged by the words that jieba finds, which is not installed: `pip install jieba`."
        ) from None


def cut_words(text: str) -> list[str]:
    """The words of `text`; spaces and punctuation are words too."""
    words: list[str] = importlib.import_module("jieba").lcut(text, cut_all=False)
    return words
