"""The thirteen tasks by name, for a tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from farfield.benchmarks.tasks.haystack import Haystack, load_haystack
from farfield.benchmarks.tasks.pairs import Pairs
from farfield.benchmarks.tasks.ruler.assembly import Pieces, reworded
from farfield.benchmarks.tasks.ruler.common_words import CWE, CommonWords
from farfield.benchmarks.tasks.ruler.documents import read_hotpot, read_squad
from farfield.benchmarks.tasks.ruler.frequent_words import FWE, FrequentWords
from farfield.benchmarks.tasks.ruler.niah import NIAH, SPECS, Niah
from farfield.benchmarks.tasks.ruler.question_answering import QA, QuestionAnswering
from farfield.benchmarks.tasks.ruler.scoring import match_all, match_part
from farfield.benchmarks.tasks.ruler.task import Absent, Judge, Recipe, RulerTask
from farfield.benchmarks.tasks.ruler.token_niah import TokenNiah
from farfield.benchmarks.tasks.ruler.tokens import (
    TokenCommonWords,
    TokenFrequentWords,
    TokenVariableTracking,
    judge_ids,
)
from farfield.benchmarks.tasks.ruler.variable_tracking import VT, VariableTracking
from farfield.benchmarks.tasks.ruler.words import load_words
from farfield.benchmarks.tasks.sample import Sample, Tokenizer
from farfield.benchmarks.tasks.wording_file import Wording
from farfield.config import DataError

__all__ = ["NAMES", "Sources", "text_tasks", "token_tasks"]

NAMES = (*SPECS, "vt", "cwe", "fwe", "qa_1", "qa_2")
TEXTS: Mapping[str, Mapping[str, str]] = {"niah": NIAH, "vt": VT, "cwe": CWE, "fwe": FWE, "qa": QA}
ALL, PART = "string_match_all", "string_match_part"


@dataclass(frozen=True)
class Sources:
    """Files of the user's: text for the essay, SQuAD, HotpotQA, words to count, and wording."""

    essay: str | None = None
    squad: str | None = None
    hotpot: str | None = None
    words: str | None = None
    wording: str | None = None


def text_tasks(names: Sequence[str], tokenizer: Tokenizer, sources: Sources) -> list[RulerTask]:
    """The tasks of `names` as texts. What `sources` lacks makes a task whose cells are skipped with the reason.

    Raises:
        DataError: a file cannot be used.
    """
    pieces = Pieces(tokenizer)
    worded = {name: Wording.of(name, texts, sources.wording, tuple(TEXTS)) for name, texts in TEXTS.items()}
    essay = _essay(tokenizer, sources)
    made: dict[str, Callable[[], Recipe]] = {
        "vt": lambda: VariableTracking(pieces, worded["vt"]),
        "cwe": lambda: CommonWords(pieces, worded["cwe"], load_words(sources.words)),
        "fwe": lambda: FrequentWords(pieces, worded["fwe"]),
        "qa_1": lambda: _squad(pieces, worded["qa"], sources.squad),
        "qa_2": lambda: _hotpot(pieces, worded["qa"], sources.hotpot),
    }
    tasks = []
    for name in names:
        recipe = Niah(SPECS[name], pieces, worded["niah"], essay) if name in SPECS else made[name]()
        metric = PART if name.startswith("qa") else ALL
        tasks.append(RulerTask(name, metric, recipe, _judge(tokenizer, match_part if metric == PART else match_all)))
    return tasks


def token_tasks(names: Sequence[str], pairs: Pairs) -> list[RulerTask]:
    """The tasks of `names` as single ids. Those that ask about documents are skipped with the reason."""
    absent = Absent("asks about documents of text, and the ids tokenizer reads none. Take a model of text for it.")
    made: dict[str, Recipe] = {
        "vt": TokenVariableTracking(pairs),
        "cwe": TokenCommonWords(pairs),
        "fwe": TokenFrequentWords(pairs),
        "qa_1": absent,
        "qa_2": absent,
    }
    recipes = {name: TokenNiah(SPECS[name], pairs) if name in SPECS else made[name] for name in names}
    return [RulerTask(name, ALL, recipe, judge_ids) for name, recipe in recipes.items()]


def _judge(tokenizer: Tokenizer, rule: Callable[[str, Sequence[str]], float]) -> Judge:
    """The published rule on texts. Gold is spelled as the tokenizer would write it: some lose case and spaces."""

    def judge(sample: Sample, output: Sequence[int]) -> float:
        gold = [reworded(tokenizer, text) or text for text in sample.text_answers]
        return rule(tokenizer.decode(list(output)), gold)

    return judge


def _essay(tokenizer: Tokenizer, sources: Sources) -> Haystack:
    """The user's text, from its beginning again where it is too short; our sentences of noise where there is none."""
    if sources.essay is None:
        return load_haystack("noise", tokenizer)
    try:
        return load_haystack(sources.essay, tokenizer, repeat=True)
    except DataError as error:
        raise DataError(f"suite.essay: {error}") from None


def _squad(pieces: Pieces, wording: Wording, path: str | None) -> Recipe:
    if path is None:
        return Absent("needs the questions of SQuAD. Give suite.squad=<dev-v2.0.json, or a folder of such files>.")
    return QuestionAnswering(pieces, wording, read_squad(path))


def _hotpot(pieces: Pieces, wording: Wording, path: str | None) -> Recipe:
    if path is None:
        return Absent(
            "needs the questions of HotpotQA. Give suite.hotpot=<hotpot_dev_distractor_v1.json, or a folder>."
        )
    return QuestionAnswering(pieces, wording, read_hotpot(path))
