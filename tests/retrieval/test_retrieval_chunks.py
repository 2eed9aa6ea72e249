from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farfield.config import ConfigError, read
from farfield.retrieval.chunks import Chunk, cut
from farfield.retrieval.headings import markdown_headings
from farfield.retrieval.settings import ChunkConfig

PIECES = st.sampled_from(
    [
        "word",
        " ",
        "\n",
        "\n\n",
        ". ",
        "A sentence. ",
        "# Head\n",
        "## Sub\n\n",
        "```\n",
        "---\n",
        "\r\n",
        "é",
        "e\u0301",
    ]
    + ["東京都。", "🦁", "\ufeff", "\u2028", "\x00", "Dr. ", "- item\n", "x" * 30, "\t", "   \n  "]
)
TEXTS = st.lists(PIECES, max_size=60).map("".join) | st.text(max_size=200)


@st.composite
def chunk_settings(draw: st.DrawFn) -> ChunkConfig:
    size = draw(st.integers(1, 60))
    settings = {"size": size, "overlap": draw(st.integers(0, size // 2))}
    return ChunkConfig.model_validate(settings | {"unit": draw(st.sampled_from(["characters", "words"]))})


def units(text: str, start: int, end: int, unit: str) -> int:
    """Characters, or words that begin, from `start` to `end`: the definition."""
    if unit == "characters":
        return end - start
    return sum(not text[i].isspace() and (i == 0 or text[i - 1].isspace()) for i in range(start, end))


def heading_parts(text: str) -> list[tuple[int, int]]:
    """From the start of each heading to the first character of what follows it."""
    parts = []
    for heading in markdown_headings(text):
        body = heading.end
        while body < len(text) and text[body].isspace():
            body += 1
        parts.append((heading.start, body))
    return parts


@settings(max_examples=150, deadline=None)
@given(text=TEXTS, config=chunk_settings(), markdown=st.booleans())
def test_spans_are_exact_cover_everything_and_go_forward(text: str, config: ChunkConfig, markdown: bool) -> None:
    chunks = cut(text, config, markdown_headings(text) if markdown else ())
    assert all(text[chunk.start : chunk.end] == chunk.text for chunk in chunks)
    assert all(chunk.start < chunk.end for chunk in chunks)
    assert [chunk.start for chunk in chunks[:1]] + [chunk.end for chunk in chunks[-1:]] == (
        [0, len(text)] if text else []
    )
    for before, after in itertools.pairwise(chunks):
        assert before.start < after.start <= before.end < after.end


@settings(max_examples=150, deadline=None)
@given(text=TEXTS, config=chunk_settings())
def test_size_and_overlap_are_never_exceeded(text: str, config: ChunkConfig) -> None:
    chunks = cut(text, config)
    assert all(units(text, chunk.start, chunk.end, config.unit) <= config.size for chunk in chunks)
    for before, after in itertools.pairwise(chunks):
        assert units(text, after.start, before.end, config.unit) <= config.overlap


@settings(max_examples=150, deadline=None)
@given(text=TEXTS, config=chunk_settings())
def test_no_heading_ends_a_chunk_unless_nothing_follows(text: str, config: ChunkConfig) -> None:
    for chunk in cut(text, config, markdown_headings(text)):
        for start, body in heading_parts(text):
            assert not start < chunk.end <= body or chunk.end == len(text)


@settings(max_examples=80, deadline=None)
@given(text=TEXTS, config=chunk_settings())
def test_headings_add_at_most_another_size(text: str, config: ChunkConfig) -> None:
    parts = heading_parts(text)
    for chunk in cut(text, config, markdown_headings(text)):
        above = sum(
            units(text, max(a, chunk.start), min(b, chunk.end), config.unit) for a, b in parts if b > chunk.start
        )
        blank = chunk.start + len(chunk.text) - len(chunk.text.lstrip("\ufeff \t\r\n"))
        before = units(text, chunk.start, blank, config.unit)
        assert units(text, chunk.start, chunk.end, config.unit) <= config.size + max(above, 0) + before


def texts(chunks: list[Chunk]) -> list[str]:
    return [chunk.text for chunk in chunks]


def test_a_paragraph_border_wins_over_a_sentence_border() -> None:
    text = "One is short.\n\nTwo is a bit longer. Three goes on."
    assert texts(cut(text, ChunkConfig(size=40, overlap=0))) == [
        "One is short.\n\n",
        "Two is a bit longer. Three goes on.",
    ]


def test_a_sentence_border_wins_over_a_word_border() -> None:
    text = "Leave is signed here. The second sentence is a longer one."
    assert texts(cut(text, ChunkConfig(size=40, overlap=0)))[0] == "Leave is signed here. "


def test_abbreviations_and_initials_end_no_sentence() -> None:
    text = "We met Dr. Mary J. Smith there. She left."
    assert texts(cut(text, ChunkConfig(size=35, overlap=0)))[0] == "We met Dr. Mary J. Smith there. "


def test_chinese_and_japanese_sentences_need_no_space() -> None:
    text = "我来自北京。你从哪里来？他住在东京。"
    assert texts(cut(text, ChunkConfig(size=8, overlap=0))) == ["我来自北京。", "你从哪里来？", "他住在东京。"]


def test_a_list_is_cut_between_its_items() -> None:
    text = "Bring:\n- a tent\n- a lamp\n- two pans\n- a rope"
    assert all(chunk.text.startswith(("Bring", "- ")) for chunk in cut(text, ChunkConfig(size=20, overlap=0)))


def test_text_without_any_border_is_cut_by_size() -> None:
    chunks = cut("x" * 100, ChunkConfig(size=30, overlap=10))
    assert [(chunk.start, chunk.end) for chunk in chunks] == [(0, 30), (20, 50), (40, 70), (60, 90), (80, 100)]


def test_what_is_left_falls_into_even_parts() -> None:
    text = "a sentence of 24 letters. " * 5
    sizes = [len(chunk.text) for chunk in cut(text, ChunkConfig(size=len(text) - 10, overlap=0))]
    assert len(sizes) == 2
    assert min(sizes) > len(text) // 3


def test_overlap_begins_at_a_word() -> None:
    text = " ".join(f"word{number:03}" for number in range(40))
    chunks = cut(text, ChunkConfig(size=60, overlap=20))
    assert all(chunk.text.startswith("word") for chunk in chunks)
    assert all(after.start < before.end for before, after in itertools.pairwise(chunks))


def test_line_ends_of_windows_stay() -> None:
    text = "First paragraph.\r\n\r\nSecond paragraph.\r\n"
    assert texts(cut(text, ChunkConfig(size=25, overlap=0))) == ["First paragraph.\r\n\r\n", "Second paragraph.\r\n"]


def test_headings_become_the_context_of_their_sections() -> None:
    text = "Before.\n\n# A #\n\nOne.\n\n## B\n\nTwo.\n\n# C\n\n### D\nThree.\n"
    assert [(chunk.heading, chunk.text) for chunk in cut(text, ChunkConfig(), markdown_headings(text))] == [
        ("", "Before.\n\n"),
        ("A", "# A #\n\nOne.\n\n"),
        ("A > B", "## B\n\nTwo.\n\n"),
        ("C > D", "# C\n\n### D\nThree.\n"),
    ]


def test_a_heading_stays_with_a_paragraph_that_must_be_cut() -> None:
    text = "# A heading of some length\n\n" + "Words follow words here. " * 20
    first = cut(text, ChunkConfig(size=50, overlap=0), markdown_headings(text))[0]
    assert first.text == "# A heading of some length\n\nWords follow words here. "


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("# One\n", [(1, "One")]),
        ("###### Six\n", [(6, "Six")]),
        ("\ufeff# After a mark\n", [(1, "After a mark")]),
        ("# C#\n", [(1, "C#")]),
        ("# Closed ##\n", [(1, "Closed")]),
        ("#\n", [(1, "")]),
        ("Under\n=====\n\nlined\n---\n", [(1, "Under"), (2, "lined")]),
        ("#hashtag\n####### seven\n    # indented code\n", []),
        ("```\n# comment\n~~~\n```\n# Real\n", [(1, "Real")]),
        ("````\n```\n# comment\n````\n# Real\n", [(1, "Real")]),
        ("```inline```\n# Real\n", [(1, "Real")]),
        ("---\ntitle: front matter\n---\n", []),
        ("two lines\nof text\n---\n", []),
        ("| a | b |\n|---|---|\n", []),
    ],
)
def test_what_is_a_heading(text: str, found: list[tuple[int, str]]) -> None:
    assert [(heading.level, heading.title) for heading in markdown_headings(text)] == found


def test_hostile_texts_take_linear_time() -> None:
    for text in (
        "." * 50_000,
        "# " + " " * 50_000 + "x",
        "\n" * 50_000,
        "`" * 50_000,
        "#" * 50_000,
        "A. " * 20_000,
    ):
        assert cut(text, ChunkConfig(), markdown_headings(text))[-1].end == len(text)


def test_too_much_overlap_is_one_line() -> None:
    with pytest.raises(ConfigError) as error:
        read(ChunkConfig, {"size": 100, "overlap": 51}, "chunk")
    assert str(error.value) == "chunk: overlap=51 is more than half of size=100. Use at most 50."
