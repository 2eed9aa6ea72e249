"""What a search gives: passages, and on request what each of its stages found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from farfield.retrieval.filters import Metadata

__all__ = ["Answer", "Candidate", "Hit", "Stage"]


@dataclass(frozen=True)
class Hit:
    """A passage found: characters `start` to `end` of a document, and why it was found.

    Attributes:
        path: the file, as an absolute path.
        key: the document within it; empty where the file is the document.
        heading: the headings above it, `Handbook > Leave`.
        chunk: its id in the index.
        score: of the stage that ordered it last, fusion or the re-ranker; larger is better. It tells an order, not how
            good a passage is.
        match: how well it fits the question, from 0 to 1: the share of the question's words that it holds, weighed by
            how rare they are; with an embedder that reads, the mean of that and the cosine of the vectors.
        dense, lexical: its rank in each list, from 1; None where it is not in that list.
        page: on which it begins, from 1, of a document with pages.
        metadata: what is known of its document.
    """

    path: str
    key: str
    title: str
    heading: str
    chunk: int
    start: int
    end: int
    text: str
    score: float
    dense: int | None
    lexical: int | None
    match: float = 1.0
    page: int | None = None
    metadata: Metadata = field(default_factory=dict)

    @property
    def source(self) -> str:
        """The document in one word: `handbook.md`, or `corpus.jsonl#4983`."""
        return f"{self.path}#{self.key}" if self.key else self.path


@dataclass(frozen=True)
class Candidate:
    """A chunk in a stage, its document, the characters it spans begin at `start`, its rank from 1 and its score."""

    chunk: int
    source: str
    start: int
    score: float
    rank: int


@dataclass(frozen=True)
class Stage:
    """What a stage found, the best first, and the seconds that it took."""

    name: str
    seconds: float
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class Answer:
    """The passages found, the best first, the generation of the documents they are from, and seconds by stage.

    Attributes:
        found: whether the first of `hits` fits well enough (`RetrievalConfig.least`).
        match: how well it fits; 0 where there is none.
        notices: what went wrong, and was answered without.
        stages: each with its candidates, where an explanation was asked for.
    """

    hits: list[Hit]
    generation: int
    seconds: Mapping[str, float]
    found: bool = True
    match: float = 0.0
    notices: tuple[str, ...] = ()
    stages: tuple[Stage, ...] = ()
