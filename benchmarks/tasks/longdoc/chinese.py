"""Chinese text in words, as LongBench cuts it: by jieba, which nothing else needs and which is asked for when it is."""

from __future__ import annotations

import importlib

from farfield.config import ConfigError

__all__ = ["check_words", "cut_words"]


def check_words(name: str) -> None:
    """Raises ConfigError, for the data set `name`, if jieba is not installed."""
    try:
        importlib.import_module("jieba")
    except ImportError:
        raise ConfigError(
            f"suite.tasks: {name} is judged by the words that jieba finds, and it is not installed. "
            "`pip install jieba`, or name other tasks."
        ) from None


def cut_words(text: str) -> list[str]:
    """The words of `text`; spaces and punctuation are words too."""
    words: list[str] = importlib.import_module("jieba").lcut(text, cut_all=False)
    return words
