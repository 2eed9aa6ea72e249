"""A search from end to end: many questions at once, filters, stages that fail, and what an explanation tells."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from filling import Ingest

from farfield.config import ConfigError, IndexingError
from farfield.retrieval import (
    Embedder,
    EmbedderConfig,
    FunctionEmbedder,
    HashedTfIdf,
    Hit,
    Index,
    RerankConfig,
    RetrievalConfig,
    open_index,
)
from farfield.retrieval.embedders import Matrix

QUESTIONS = ["Who signs the leave?", "lions", "the coffee machine", "xylophone", "", "trips by train, lions and coffee"]


@pytest.fixture
def index(documents: Path, fill: Ingest, root: str) -> Iterator[Index]:
    fill(documents)
    with open_index("test", root) as opened:
        yield opened


def again(index: Index, **settings: object) -> Index:
    return open_index(index.folder, settings=RetrievalConfig.model_validate(settings))


@pytest.mark.parametrize("search", ["hybrid", "dense", "lexical"])
def test_many_questions_at_once_are_answered_as_each_alone(search: str, index: Index) -> None:
    with again(index, search=search, mmr=0.5) as opened:
        assert opened.search_batch(QUESTIONS, 3) == [opened.search(question, 3) for question in QUESTIONS]
        assert opened.answers([]) == []


def test_one_text_is_no_list_of_questions(index: Index) -> None:
    with pytest.raises(ConfigError, match=r"^questions: one text given, where a list is needed"):
        index.search_batch("lions")


@pytest.fixture
def shelves(tmp_path: Path, fill: Ingest, root: str) -> Iterator[Index]:
    """300 passages on lions, every tenth of them worse than all others."""
    lines = []
    for number in range(300):
        low = number % 10 == 0
        text = f"lions {'and other animals of the plain ' * 9}" if low else "lions lions lions"
        lines.append({"id": str(number), "text": f"{text} n{number}"})
    (tmp_path / "animals.jsonl").write_text("\n".join(map(json.dumps, lines)))
    fill(tmp_path / "animals.jsonl", size=1000)
    with open_index("test", root) as opened:
        yield opened


@pytest.mark.parametrize("search", ["hybrid", "dense", "lexical"])
def test_a_filter_lets_nothing_else_through_and_costs_no_passages(search: str, shelves: Index) -> None:
    low = [str(number) for number in range(0, 300, 10)]
    with again(shelves, search=search, candidates=20) as opened:
        assert not {hit.key for hit in opened.search("lions", 30)} & set(low)
        found = opened.search("lions", 30, where={"key": low})
        assert sorted(hit.key for hit in found) == sorted(low)
        assert opened.search("lions", 5, where={"key": low}) == found[:5]
        assert opened.search("lions", 5, where={"key": "none"}) == []


ODD = [
    '"',
    "' OR 1=1; DROP TABLE chunks; --",
    "lions AND (",
    "NEAR(lions sleep, 2)",
    "lions* ^sleep -day",
    "words:lions",
]
ODD += [
    "{lions}",
    "a" * 100_000,
    "lions " * 5000,
    "\x00\ud800"[:1],
    "🦁",
    "…",
    " ",
    "%s %d {0}",
    "NOT",
    "東京都",
    "lions\n\t",
]


@pytest.mark.parametrize("question", ODD, ids=range(len(ODD)))
@pytest.mark.parametrize("search", ["hybrid", "dense", "lexical"])
def test_no_question_is_an_error(question: str, search: str, index: Index) -> None:
    before = index.stats().chunks
    with again(index, search=search, mmr=0.5) as opened:
        answer = opened.answer(question, explain=True)
        assert len(answer.hits) <= 8
        assert answer.found <= bool(answer.hits)
        assert opened.stats().chunks == before


def test_an_explanation_tells_each_stage(index: Index) -> None:
    with again(index, mmr=0.5, k=2) as opened:
        answer = opened.answer("Who signs the leave? lions", explain=True)
        assert opened.answer("Who signs the leave? lions").stages == ()
    stages = {stage.name: stage for stage in answer.stages}
    assert list(stages) == ["dense", "lexical", "fuse", "diverse"]
    for stage in stages.values():
        assert [one.rank for one in stage.candidates] == list(range(1, len(stage.candidates) + 1))
        assert stage.seconds == answer.seconds[stage.name]
    for name in ("dense", "lexical", "fuse"):
        scores = [one.score for one in stages[name].candidates]
        assert scores == sorted(scores, reverse=True)
    ranks = {one.chunk: one.rank for one in stages["dense"].candidates}
    assert [(hit.chunk, hit.source, hit.start, hit.score) for hit in answer.hits] == [
        (one.chunk, one.source, one.start, one.score) for one in stages["diverse"].candidates[:2]
    ]
    assert [hit.dense for hit in answer.hits] == [ranks.get(hit.chunk) for hit in answer.hits]


class Built:
    """Builds what it was given."""

    def __init__(self, scores: Callable[[Sequence[str]], Sequence[float]]) -> None:
        self._scores = scores
        self.name, self.asked = "reader", list[Sequence[str]]()

    def embedder(self, config: EmbedderConfig) -> Embedder:
        return HashedTfIdf(2048)

    def reranker(self, config: RerankConfig, embedder: EmbedderConfig | None) -> Built:
        return self

    def scores(self, question: str, passages: Sequence[str]) -> Matrix:
        self.asked.append(passages)
        return np.array(self._scores(passages), np.float32)


def reranked(index: Index, built: Built, depth: int) -> Index:
    settings = RetrievalConfig(rerank=RerankConfig(kind="late", depth=depth), k=2)
    return open_index(index.folder, settings=settings, builder=built)


def test_the_first_passages_are_ordered_anew_by_who_reads_them(index: Index) -> None:
    question = "the leave, the trips, the coffee and lions"
    plain = index.search(question, 20)
    built = Built(lambda passages: [float(len(passage)) for passage in passages])
    with reranked(index, built, depth=4) as opened:
        found = opened.search(question, 4)
    assert sorted(hit.chunk for hit in found) == sorted(hit.chunk for hit in plain[:4])
    assert [hit.score for hit in found] == sorted(map(len, built.asked[0]), reverse=True)
    heads = [f"{hit.heading or hit.title}\n{hit.text}" for hit in plain[:4]]
    assert built.asked == [heads]


def test_a_reader_that_fails_leaves_the_order(index: Index) -> None:
    built = Built(lambda passages: [float("nan")] * len(passages))
    with reranked(index, built, depth=4) as opened:
        answer = opened.answer("Who signs the leave?")
    assert [hit.chunk for hit in answer.hits] == [hit.chunk for hit in index.search("Who signs the leave?", 2)]
    (notice,) = answer.notices
    count = len(built.asked[0])
    assert notice == (
        f"reader gave scores of shape ({count},) for {count} passages, or NaN. Answered without re-ranking."
    )


def test_diversity_without_vectors_leaves_the_order(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_yet(*given: object) -> None:
        return None

    with again(index, search="lexical") as opened:
        plain = opened.search("Who signs the leave? lions")
    with again(index, search="lexical", mmr=0.5) as opened:
        monkeypatch.setattr("farfield.retrieval.held.Held.current", none_yet)
        answer = opened.answer("Who signs the leave? lions")
    assert answer.hits == plain
    assert answer.notices[0].endswith("Answered without a look at what is alike.")


def letters(texts: Sequence[str]) -> list[list[float]]:
    return [[float(text.lower().count(letter)) for letter in "lzct"] for text in texts]


def test_an_embedder_that_fails_leaves_the_words(documents: Path, fill: Ingest, root: str) -> None:
    broken = FunctionEmbedder("letters 1", 4, letters, lambda texts: [[float("nan")] * 4] * len(texts))
    fill(documents, embedder=broken)
    with open_index("test", root, embedder=broken) as index:
        answer = index.answer("Who signs the leave?")
        assert answer.hits[0].heading == "Handbook > Leave"
        assert answer.hits[0].dense is None
        assert answer.notices[0].startswith("embedder 'letters 1' gave an array (1, 4) for 1 texts")
        assert answer.notices[0].endswith("Answered by words alone.")
    with (
        open_index("test", root, RetrievalConfig(search="dense"), broken) as index,
        pytest.raises(IndexingError, match="every number finite"),
    ):
        index.answer("Who signs the leave?")


@pytest.mark.parametrize(("least", "found"), [(0.0, True), (0.5, True), (1.0, False)])
def test_below_the_least_match_nothing_was_found(least: float, found: bool, index: Index) -> None:
    with again(index, least=least) as opened:
        answer = opened.answer("Who signs the leave of absence?")
    assert 0.5 < answer.match == answer.hits[0].match < 1
    assert answer.found is found


def test_no_passage_is_nothing_found(index: Index) -> None:
    with again(index, least=0.0) as opened:
        answer = opened.answer("xylophone quark")
    assert (answer.hits, answer.found, answer.match) == ([], False, 0.0)


def versioned(version: str, shift: float = 0.0, centred: bool = False) -> FunctionEmbedder:
    def embed(texts: Sequence[str]) -> Matrix:
        return np.array(letters(texts), np.float32) + shift

    return FunctionEmbedder("letters 1", 4, embed, version=version, centred=centred)


def dense(root: str, embedder: Embedder) -> Index:
    return open_index("test", root, RetrievalConfig(search="dense"), embedder)


def vector_of(hits: list[Hit]) -> list[tuple[str, int, float]]:
    return [(hit.path, hit.start, hit.score) for hit in hits]


def test_after_further_training_passages_are_embedded_anew(documents: Path, fill: Ingest, root: str) -> None:
    fill(documents, embedder=versioned("1"))
    with dense(root, versioned("2")) as index:
        assert index.search("zzz") == []
        assert index.notices[-1] == (
            "index 'test': 7 of 7 passages were embedded by other weights of the model, and are found by their words"
            " alone. The next ingest into it embeds them anew."
        )
    result = fill(documents, embedder=versioned("2"))
    assert (result.renewed, result.unchanged, result.notices) == (7, 4, ())
    assert fill(documents, embedder=versioned("2")).renewed == 0
    fill(documents, index="fresh", embedder=versioned("2"))
    with (
        dense(root, versioned("2")) as grown,
        open_index("fresh", root, RetrievalConfig(search="dense"), versioned("2")) as fresh,
    ):
        assert vector_of(grown.search("zzz")) == vector_of(fresh.search("zzz")) != []
        assert grown.notices == ()


def test_a_stopped_renewal_goes_on_and_searches_see_one_version(
    documents: Path, fill: Ingest, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("farfield.retrieval.ingestion.GROUP_DOCUMENTS", 3)
    fill(documents, embedder=versioned("1"))
    old = dense(root, versioned("1"))
    before = vector_of(old.search("zzz lions"))
    calls = []

    def once(texts: Sequence[str]) -> list[list[float]]:
        calls.append(len(texts))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return letters(texts)

    with pytest.raises(KeyboardInterrupt):
        fill(documents, embedder=FunctionEmbedder("letters 1", 4, once, version="2"))
    with dense(root, versioned("2")) as half:
        assert len(half.search("lions zebras coffee trips", 20)) == 3
    assert len(old.search("lions zebras coffee trips", 20)) == 4
    result = fill(documents, embedder=versioned("2"))
    assert result.renewed == 4
    with dense(root, versioned("2")) as renewed:
        assert vector_of(renewed.search("zzz lions")) == before
    old.close()


def test_a_centred_embedder_is_counted_from_the_mean(documents: Path, fill: Ingest, root: str) -> None:
    embedder = versioned("1", shift=100.0, centred=True)
    fill(documents / "handbook.md", embedder=embedder)
    fill(documents, embedder=embedder)
    settings = RetrievalConfig(search="dense")
    with open_index("test", root, settings, embedder) as index:
        with index._store.reading() as snapshot:
            every = snapshot.passages(snapshot.order("1").tolist())
        texts = [f"{one.heading or one.title}\n{one.text}" for one in every]
        raw = np.array(letters(texts)) + 100
        mean = raw.mean(axis=0)
        rows = (raw - mean) / np.linalg.norm(raw - mean, axis=1, keepdims=True)
        asked = np.array(letters(["lions zebras"])[0]) + 100 - mean
        cosine = rows @ (asked / np.linalg.norm(asked))
        expected = sorted((round(float(one), 4) for one in cosine if one > 1e-6), reverse=True)
        told = index.answer("lions zebras", 20, explain=True).stages[0].candidates
        assert [round(one.score, 4) for one in told] == pytest.approx(expected, abs=2e-4)
