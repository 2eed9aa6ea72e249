"""A search from end to end, for one question or many at once, within one generation of the database.

    question ─┬─> embed ──> dense ───┐
              └─> lexical ───────────┴─> fuse ──> rerank ──> diverse ──> fetch ──> hits

Each stage gives a ranking of (chunk, score); what each found is told where an explanation is asked for. A filter holds
in both lists before any cut, so that it costs no passages. Where an embedder or a re-ranker fails, the answer is made
without it, and says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from farfield.config import IndexingError
from farfield.retrieval.diversity import diverse
from farfield.retrieval.embedders import Embedder, Matrix
from farfield.retrieval.evidence import coverage, rarities
from farfield.retrieval.filters import Filter
from farfield.retrieval.fusion import Fused, best, fuse, ranked
from farfield.retrieval.hits import Answer, Candidate, Hit, Stage
from farfield.retrieval.making import Vectors
from farfield.retrieval.rerank import Reranker, checked_scores
from farfield.retrieval.settings import DENSE_WEIGHTS, LEAST, RetrievalConfig
from farfield.retrieval.store import Passage, Place, Snapshot, embedded
from farfield.retrieval.vector_store import Found, pairs
from farfield.retrieval.words import BAG, bag, words

__all__ = ["Clock", "Search", "Tools"]

Scored = list[tuple[int, float]]


@dataclass(frozen=True)
class Tools:
    """What a search works with; each is made when it is first needed."""

    embedder: Callable[[], Embedder]
    vectors: Callable[[Snapshot], Vectors]
    reranker: Callable[[], Reranker]


@dataclass
class Asked:
    """A question on its way through the stages."""

    text: str
    words: list[str]
    bag: bytes
    lists: dict[str, Scored] = field(default_factory=dict)
    fused: dict[int, Fused] = field(default_factory=dict)
    ranking: Scored = field(default_factory=list)
    vector: Matrix | None = None
    told: dict[str, Scored] = field(default_factory=dict)


class Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def stop(self, stage: str) -> None:
        """`stage` ends now; the next begins."""
        now = time.perf_counter()
        self.seconds[stage] = now - self._last
        self._last = now


class Search:
    """One search; `answers` is its result."""

    def __init__(self, snapshot: Snapshot, settings: RetrievalConfig, tools: Tools, k: int) -> None:
        self._snapshot, self._settings, self._tools = snapshot, settings, tools
        most = max(snapshot.state.chunks, 1)  # more than all cannot be found, and would be room for nothing
        self._k = min(k, most)
        self._count = min(max(k, settings.candidates), most)
        self._notices: list[str] = []
        self._clock = Clock()
        self._vectors: Vectors | None = None

    def answers(self, questions: Sequence[str], where: Filter | None = None, explain: bool = False) -> list[Answer]:
        """An answer for each question. The seconds of many are shared out evenly among them."""
        asked = [Asked(text, found := words(text), bag(found)) for text in questions]
        among = None
        if where:
            among = self._snapshot.matching(where)
            if not among.size:
                self._notices.append("where: the filter means no document of the index.")
            self._clock.stop("filter")
        if self._settings.search != "lexical":
            self._dense(asked, among)
        if self._settings.search != "dense" or not any(one.lists for one in asked):
            self._lexical(asked, among)
        places = self._fuse(asked)
        if self._settings.rerank.kind != "none":
            self._rerank(asked)
        if self._settings.mmr is not None:
            self._diversify(asked, self._settings.mmr)
        answers = self._fetch(asked, where or {})
        if not explain:
            return answers
        if where:
            named = self._snapshot.standing_in(places, where)
            places = {**places, **{chunk: Place(one.path, one.key, one.start) for chunk, one in named.items()}}
        return [self._explained(answer, one, places) for answer, one in zip(answers, asked, strict=True)]

    def _dense(self, asked: Sequence[Asked], among: npt.NDArray[np.int64] | None) -> None:
        """The dense list of each question, where their vectors can be had."""
        try:
            vectors = self._embed(asked)
        except IndexingError as error:
            if self._settings.search == "dense":
                raise
            self._notices.append(f"{error} Answered by words alone.")
            return
        assert self._vectors is not None
        store = self._vectors.store
        found = store.search(vectors, self._count + 1, among)
        for row, one in enumerate(asked):
            first = pairs(Found(found.scores[row : row + 1], found.ids[row : row + 1]))
            question = vectors[row : row + 1]

            def fetch(most: int, first: Scored = first, question: Matrix = question) -> Scored:
                return first if most == self._count + 1 else pairs(store.search(question, most, among))

            one.lists["dense"] = [(chunk, score) for chunk, score in best(fetch, self._count) if score > 0]
        self._clock.stop("dense")

    def _embed(self, asked: Sequence[Asked]) -> Matrix:
        """The vectors (questions, dimension), as the index's own are counted from."""
        embedder, self._vectors = self._tools.embedder(), self._tools.vectors(self._snapshot)
        self._clock.stop("load")
        terms = {int(term) for one in asked for term in np.frombuffer(one.bag, BAG)["term"]}
        frequencies = self._snapshot.frequencies(terms)
        given = embedder.questions([one.text for one in asked], [one.bag for one in asked], frequencies)
        vectors = self._vectors.aimed(given)
        for one, vector in zip(asked, vectors, strict=True):
            one.vector = vector
        self._clock.stop("embed")
        return vectors

    def _lexical(self, asked: Sequence[Asked], among: npt.NDArray[np.int64] | None) -> None:
        for one in asked:
            one.lists["lexical"] = best(
                lambda most, one=one: self._snapshot.lexical(one.words, most, among),  # type: ignore[misc]
                self._count,
            )
        self._clock.stop("lexical")

    def _fuse(self, asked: Sequence[Asked]) -> Mapping[int, Place]:
        """The ranking of each question, and where its chunks stand."""
        places = self._snapshot.places({chunk for one in asked for found in one.lists.values() for chunk, _ in found})
        weights = {"dense": self._weight(), "lexical": 1.0}
        for one in asked:
            lists = {name: ranked(found, places, self._count) for name, found in one.lists.items()}
            fused = fuse(lists, weights, places, self._settings.constant)
            one.fused = {each.chunk: each for each in fused}
            one.ranking = [(each.chunk, each.score) for each in fused[: self._count]]
            one.told = {**one.lists, "fuse": list(one.ranking)}
        self._clock.stop("fuse")
        return places

    def _weight(self) -> float:
        """The weight of the dense list."""
        if self._settings.dense_weight is not None:
            return self._settings.dense_weight
        return DENSE_WEIGHTS[self._vectors is not None and self._tools.embedder().reads]

    def _rerank(self, asked: Sequence[Asked]) -> None:
        """The first passages in the order of another reader; those behind stay behind."""
        depth = self._settings.rerank.depth
        try:
            reranker = self._tools.reranker()
            for one in asked:
                first = [chunk for chunk, _ in one.ranking[:depth]]
                texts = [_whole(passage) for passage in self._snapshot.passages(first)]
                scores = checked_scores(reranker, one.text, texts) if texts else np.zeros(0)
                order = np.argsort(-scores, kind="stable")
                one.told["rerank"] = [(first[place], float(scores[place])) for place in order]
                one.ranking[: len(first)] = one.told["rerank"]
        except IndexingError as error:
            self._notices.append(f"{error} Answered without re-ranking.")
        self._clock.stop("rerank")

    def _diversify(self, asked: Sequence[Asked], share: float) -> None:
        """The first `k` so chosen that they are not all alike, where vectors can be had."""
        try:
            for one in asked:
                compared = one.told.get("rerank", one.ranking)  # scores of one kind
                vectors = self._own([chunk for chunk, _ in compared])
                chosen = diverse([score for _, score in compared], vectors, share, self._k)
                one.told["diverse"] = [compared[place] for place in chosen]
                one.ranking = one.told["diverse"] + one.ranking[len(compared) :]
        except IndexingError as error:
            self._notices.append(f"{error} Answered without a look at what is alike.")
        self._clock.stop("diverse")

    def _own(self, chunks: Sequence[int]) -> Matrix:
        """The vectors (chunks, dimension) of chunks; zeros for those that other weights embedded."""
        embedder = self._tools.embedder()
        vectors = self._vectors or self._tools.vectors(self._snapshot)
        kept = self._snapshot.kept(chunks)
        terms = {int(term) for one in kept for term in np.frombuffer(one.bag, BAG)["term"]}
        fresh = [place for place, one in enumerate(kept) if one.version == embedder.version]
        out = np.zeros((len(chunks), embedder.dimension), np.float32)
        made = embedder.vectors([kept[place] for place in fresh], self._snapshot.frequencies(terms))
        out[fresh] = vectors.aimed(made)
        return out

    def _fetch(self, asked: Sequence[Asked], where: Filter) -> list[Answer]:
        """The passages themselves, and how well they fit. One that `where` means by a duplicate is the duplicate's."""
        chosen = [[chunk for chunk, _ in one.ranking[: self._k]] for one in asked]
        needed = list(dict.fromkeys(chunk for chunks in chosen for chunk in chunks))
        passages = dict(zip(needed, self._snapshot.passages(needed), strict=True))
        if where:
            passages.update(self._snapshot.standing_in(needed, where))
        hits = [
            [
                _hit(one.fused[chunk], score, passages[chunk], match)
                for (chunk, score), match in zip(one.ranking, self._matches(one, chunks, passages), strict=False)
            ]
            for one, chunks in zip(asked, chosen, strict=True)
        ]
        self._clock.stop("fetch")
        seconds = {stage: spent / len(asked) for stage, spent in self._clock.seconds.items()} if asked else {}
        generation, notices = self._snapshot.state.generation, tuple(self._notices)
        return [
            Answer(
                hits=found,
                generation=generation,
                seconds=seconds,
                found=bool(found) and found[0].match >= self._least(one),
                match=found[0].match if found else 0.0,
                notices=notices,
            )
            for one, found in zip(asked, hits, strict=True)
        ]

    def _matches(self, one: Asked, chunks: Sequence[int], passages: Mapping[int, Passage]) -> list[float]:
        """How well each of `chunks` fits the question."""
        if not chunks:
            return []
        rarity = rarities(one.words, self._snapshot.frequencies(np.frombuffer(one.bag, BAG)["term"].tolist()))
        covered = coverage(rarity, [_whole(passages[chunk]) for chunk in chunks])
        if one.vector is None or not self._tools.embedder().reads:
            return covered
        near = (self._own(chunks) @ one.vector).clip(0, 1)
        return [(share + float(cosine)) / 2 for share, cosine in zip(covered, near, strict=True)]

    def _least(self, one: Asked) -> float:
        given = self._settings.least
        return LEAST[one.vector is not None and self._tools.embedder().reads] if given is None else given

    def _explained(self, answer: Answer, one: Asked, places: Mapping[int, Place]) -> Answer:
        """The answer with what each stage found."""
        stages = [
            Stage(name, answer.seconds.get(name, 0.0), _candidates(found, places)) for name, found in one.told.items()
        ]
        return Answer(**{**vars(answer), "stages": tuple(stages)})


def _candidates(found: Scored, places: Mapping[int, Place]) -> tuple[Candidate, ...]:
    there = [(chunk, score, places[chunk]) for chunk, score in found if chunk in places]
    return tuple(
        Candidate(chunk, f"{place.path}#{place.key}" if place.key else place.path, place.start, score, rank)
        for rank, (chunk, score, place) in enumerate(there, start=1)
    )


def _whole(passage: Passage) -> str:
    return embedded(passage.heading, passage.title, passage.text)


def _hit(fused: Fused, score: float, passage: Passage, match: float) -> Hit:
    return Hit(
        path=passage.path,
        key=passage.key,
        title=passage.title,
        heading=passage.heading,
        chunk=fused.chunk,
        start=passage.start,
        end=passage.end,
        text=passage.text,
        score=score,
        dense=fused.ranks.get("dense"),
        lexical=fused.ranks.get("lexical"),
        match=match,
        page=passage.page,
        metadata=passage.metadata,
    )
