"""Chunks measured in sentences and tokens, and by sections."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farfield.chunking import TokenStarts
from farfield.config import ConfigError, DataError, read
from farfield.retrieval import ChunkConfig, IngestConfig, cut, ingest, open_index
from farfield.retrieval.headings import markdown_headings
from farfield.tokenizers import BytesTokenizer, IdsTokenizer, train_bpe

PIECES = ["word ", "A sentence. ", "Two more! And so. ", "\n\n", "\n", "東京都。", "🦁", "é", "x" * 40, "- item\n", " "]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=60).map("".join) | st.text(max_size=100)


class Thirds:
    """Three tokens for each character that is not ASCII, and one for three others."""

    name = "thirds"

    def __call__(self, text: str) -> Iterable[int]:
        for place, sign in enumerate(text):
            yield from [place] * (3 if sign > "\x7f" else place % 3 == 0)


@st.composite
def sizes(draw: st.DrawFn) -> dict[str, int]:
    size = draw(st.integers(3, 40))
    return {"size": size, "overlap": draw(st.integers(0, size // 2))}


@settings(max_examples=200, deadline=None)
@given(text=TEXTS, size=sizes(), unit=st.sampled_from(["sentences", "tokens"]))
def test_spans_are_exact_cover_everything_go_forward_and_keep_to_their_size(
    text: str, size: dict[str, int], unit: str
) -> None:
    tokens = {"tokenizer": "t"} if unit == "tokens" else {}
    config = ChunkConfig.model_validate(size | {"unit": unit} | tokens)
    chunks = cut(text, config, offsets=Thirds())
    assert all(text[chunk.start : chunk.end] == chunk.text for chunk in chunks)
    assert [chunk.start for chunk in chunks[:1]] + [chunk.end for chunk in chunks[-1:]] == (
        [0, len(text)] if text else []
    )
    for before, after in itertools.pairwise(chunks):
        assert before.start < after.start <= before.end < after.end
    if unit == "tokens":
        starts = list(Thirds()(text))
        assert all(count(starts, chunk.start, chunk.end) <= config.size for chunk in chunks)
        for before, after in itertools.pairwise(chunks):
            assert count(starts, after.start, before.end) <= config.overlap


def count(starts: list[int], start: int, end: int) -> int:
    return sum(start <= place < end for place in starts)


def test_a_sign_of_more_tokens_than_a_chunk_may_have_is_a_chunk() -> None:
    config = ChunkConfig(size=2, overlap=0, unit="tokens", tokenizer="t")
    assert [chunk.text for chunk in cut("é東🦁", config, offsets=Thirds())] == ["é", "東", "🦁"]


def test_so_many_sentences_a_chunk() -> None:
    text = "One is here. Two is too. Three follows. Four ends. Five is last."
    config = ChunkConfig(size=2, overlap=0, unit="sentences")
    assert [chunk.text for chunk in cut(text, config)] == [
        "One is here. Two is too. ",
        "Three follows. Four ends. ",
        "Five is last.",
    ]
    config = ChunkConfig(size=2, overlap=1, unit="sentences")
    assert [chunk.text for chunk in cut(text, config)][:2] == [
        "One is here. Two is too. ",
        "Two is too. Three follows. ",
    ]


@pytest.mark.parametrize("unit", ["words", "sentences"])
def test_what_has_no_border_is_cut_all_the_same(unit: str) -> None:
    config = ChunkConfig.model_validate({"size": 2, "overlap": 0, "unit": unit})
    longest = max(len(chunk.text) for chunk in cut("x" * 100_000, config))
    assert longest == 2 * {"words": 1_000, "sentences": 5_000}[unit]


def test_sections_down_to_a_level() -> None:
    text = "# A\n\nOne.\n\n## B\n\nTwo.\n\n### C\n\nThree.\n\n# D\n\nFour.\n"

    def found(deepest: int, size: int = 1000) -> list[tuple[str, str]]:
        chunks = cut(text, ChunkConfig(headings=deepest, size=size, overlap=0), markdown_headings(text))
        return [(chunk.heading, chunk.text.split("\n")[0]) for chunk in chunks]

    assert found(1) == [("A", "# A"), ("D", "# D")]
    assert found(2) == [("A", "# A"), ("A > B", "## B"), ("D", "# D")]
    assert found(6) == [("A", "# A"), ("A > B", "## B"), ("A > B > C", "### C"), ("D", "# D")]
    assert found(0) == [("", "# A")]


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run's folder, as far as its tokenizer goes."""
    run = tmp_path_factory.mktemp("run")
    (run / "tokenizer").mkdir()
    train_bpe(["the lions sleep and the zebras stand " * 50], 300).save(run / "tokenizer")
    return str(run)


def test_tokens_begin_where_the_tokenizer_says(bpe: str, tmp_path: Path) -> None:
    text = "the lions sleep, é東🦁 and more"
    tokenizer = TokenStarts(bpe)
    starts = list(tokenizer(text))
    assert starts == sorted(starts)
    assert len(starts) > len(set(starts)) > 8
    BytesTokenizer().save(tmp_path)
    expected = [place for place, sign in enumerate(text) for _ in sign.encode()]
    assert list(TokenStarts(str(tmp_path))(text)) == expected
    numbers = tmp_path / "numbers"
    numbers.mkdir()
    IdsTokenizer(10).save(numbers)
    assert list(TokenStarts(str(numbers))("1 22  3")) == [0, 2, 6]
    assert len({tokenizer.name, TokenStarts(str(tmp_path)).name, TokenStarts(str(numbers)).name}) == 3


def test_a_long_text_has_the_tokens_of_its_pieces(bpe: str) -> None:
    text = " the zebras stand" * 20_000
    starts = list(TokenStarts(bpe)(text))
    assert starts[-1] < len(text)
    assert len(starts) == 20_000 * len(list(TokenStarts(bpe)(" the zebras stand")))


@pytest.mark.parametrize("workers", [1, 2])
def test_documents_are_cut_by_tokens(workers: int, bpe: str, tmp_path: Path, root: str) -> None:
    file = tmp_path / "a.txt"
    file.write_text("the lions sleep and the zebras stand. " * 40)
    chunk = ChunkConfig(size=20, overlap=0, unit="tokens", tokenizer=bpe)
    settings = IngestConfig(path=str(file), index="test", root=root, chunk=chunk, workers=workers)
    starts = list(TokenStarts(bpe)(file.read_text()))
    ingest(settings, offsets=TokenStarts(bpe))
    with open_index("test", root) as index:
        hits = index.search("lions", k=200)
    assert len(hits) > 10
    assert max(count(starts, hit.start, hit.end) for hit in hits) <= 20
    assert ingest(settings, offsets=TokenStarts(bpe)).unchanged == 1


@pytest.mark.parametrize("settings", [{"unit": "tokens"}, {"tokenizer": "runs/x"}])
def test_tokens_and_tokenizer_belong_together(settings: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as error:
        read(ChunkConfig, settings, "chunk")
    assert str(error.value) == "chunk: unit=tokens and tokenizer=<a run, or a tokenizer's folder> belong together."


def test_tokens_without_anybody_who_knows_them(tmp_path: Path, root: str) -> None:
    (tmp_path / "a.txt").write_text("text")
    chunk = ChunkConfig(unit="tokens", tokenizer="runs/x")
    with pytest.raises(ConfigError, match=r"^chunk\.unit=tokens: nobody says where tokens begin\."):
        ingest(IngestConfig(path=str(tmp_path), index="test", root=root, chunk=chunk))
    with pytest.raises(DataError, match="no tokenizer there"):
        ingest(IngestConfig(path=str(tmp_path), index="test", root=root, chunk=chunk), offsets=TokenStarts("runs/x"))
