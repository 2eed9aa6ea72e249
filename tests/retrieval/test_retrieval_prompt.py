from __future__ import annotations

import pytest

from farfield.config import ConfigError, read
from farfield.retrieval import Hit, PromptConfig, build_prompt


def hit(path: str, start: int, text: str, heading: str = "", title: str = "Title") -> Hit:
    return Hit(path, "", title, heading, start, start, start + len(text), text, 1.0, 1, None)


HITS = [hit("b.md", 50, "best\n", "Handbook > Leave"), hit("a.txt", 9, "second {braces}"), hit("b.md", 0, "third")]


def words(text: str) -> int:
    return len(text.split())


def test_the_best_stands_next_to_the_question() -> None:
    prompt = build_prompt(HITS, " Who signs? ", words, PromptConfig())
    assert prompt.text == (
        "[1] Title\nthird\n\n[2] Title\nsecond {braces}\n\n[3] Handbook > Leave\nbest\n\nQuestion: Who signs?\nAnswer:"
    )
    assert prompt.used == tuple(HITS[::-1])
    assert prompt.tokens == words(prompt.text)


def test_passages_in_the_order_of_the_documents() -> None:
    prompt = build_prompt(HITS, "Who?", words, PromptConfig(order="position"))
    assert prompt.used == (HITS[1], HITS[2], HITS[0])


def test_the_budget_is_never_exceeded_and_a_passage_too_long_gives_way() -> None:
    hits = [hit("a", 0, "one"), hit("a", 10, "far too long " * 20), hit("a", 500, "two")]
    for tokens in range(3, 60):
        prompt = build_prompt(hits, "Who?", words, PromptConfig(tokens=tokens))
        assert words(prompt.text) == prompt.tokens <= tokens
    assert prompt.used == (hits[2], hits[0])


def test_a_question_beyond_the_budget_is_one_line() -> None:
    with pytest.raises(ConfigError) as error:
        build_prompt(HITS, "What is this about?", words, PromptConfig(tokens=3))
    assert str(error.value) == "prompt.tokens: 3 given, but the question alone needs 6."


def test_all_fields() -> None:
    settings = PromptConfig(
        passage="{number}|{path}|{source}|{title}|{heading}|{label}|{text}|{{}}", prompt="{passages}{question}"
    )
    one = Hit("a.jsonl", "7", "T", "H", 1, 0, 1, "x", 1.0, 1, 1)
    assert build_prompt([one], "?", words, settings).text == "1|a.jsonl|a.jsonl#7|T|H|H|x|{}?"
    alone = PromptConfig(prompt="{question}!")
    assert build_prompt([], "Who", words, alone).text == "Who!"
    with pytest.raises(ConfigError, match=r"^prompt.prompt: the template lacks \{passages\}, which the index finds\.$"):
        build_prompt([one], "Who", words, alone)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"passage": "{txt}"},
            "query.passage: unknown field 'txt'. Did you mean 'text'?"
            " Known: heading, label, number, path, source, text, title.",
        ),
        ({"passage": "{text.__class__}"}, "query.passage: unknown field 'text.__class__'. Known: heading"),
        ({"passage": "{label}"}, "query.passage: the template lacks {text}."),
        ({"prompt": "{passages}"}, "query.prompt: the template lacks {question}."),
        ({"prompt": "{"}, "query.prompt: "),
    ],
)
def test_templates_are_checked(settings: dict[str, str], line: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(PromptConfig, settings, "query")
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)
