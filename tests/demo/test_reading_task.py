"""The generator of passages and questions: equal for equal arguments, disjoint between splits, answerable."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farfield.benchmarks.tasks.reading import PASSAGE, PROMPT, Draw, Shape, Split, exact, example, prompt, split_of
from farfield.benchmarks.tasks.reading_forms import RELATIONS, Relation
from farfield.retrieval import PromptConfig

SPLITS: tuple[Split, ...] = ("train", "test", "documents")
FEW = 400


@pytest.mark.parametrize("split", SPLITS)
def test_equal_arguments_give_equal_examples_and_others_give_others(split: Split) -> None:
    first = [example(3, index, split) for index in range(50)]
    assert first == [example(3, index, split) for index in range(50)]
    assert len({one.prompt for one in first}) == 50
    assert first != [example(4, index, split) for index in range(50)]


def test_an_example_is_what_it_was() -> None:
    """Held in words: a change of the generator changes what every reader learns."""
    one = example(0, 0, "train", Shape(facts=(1, 1), fillers=(0, 0), chunks=(1, 1), questions=1))
    assert one.passages.startswith("[1] ")
    assert one.passages.endswith("\n\n")
    assert one.prompt == f"{one.passages}Question: {one.question}\nAnswer:"


@given(seed=st.integers(0, 2**40), index=st.integers(0, 2**40), split=st.sampled_from(SPLITS))
def test_every_answer_stands_in_the_passages_behind_a_space(seed: int, index: int, split: Split) -> None:
    one = example(seed, index, split)
    for asked in one.questions:
        assert f" {asked.answer}" in one.passages
        assert asked.question.endswith("?")


@given(seed=st.integers(0, 2**40), split=st.sampled_from(SPLITS))
def test_a_name_and_a_value_belong_to_the_split_they_were_drawn_for(seed: int, split: Split) -> None:
    draw = Draw(seed, 0, split)
    for kind in sorted({relation.value for relation in RELATIONS}):
        value = draw.value(kind)
        assert {split_of(part) for part in (value.split() if kind == "person" else [value])} == {split}, kind


def test_no_two_splits_share_a_name_or_a_value() -> None:
    found = {split: names_and_values(split) for split in SPLITS}
    assert all(len(texts) > FEW for texts in found.values())
    assert not found["train"] & found["test"]
    assert not found["train"] & found["documents"]
    assert not found["test"] & found["documents"]


def names_and_values(split: Split) -> set[str]:
    found: set[str] = set()
    for index in range(FEW):
        for fact in Draw(1, index, split).facts(4, 0.4):
            found |= {fact.entity.split()[0].lower()}
            found |= set(fact.value.lower().split()) if fact.relation.value == "person" else {fact.value.lower()}
    return found


@given(seed=st.integers(0, 2**40), count=st.integers(1, 6))
def test_no_two_facts_of_a_passage_answer_one_question(seed: int, count: int) -> None:
    facts = Draw(seed, 0, "train").facts(count, 0.8)
    assert len(facts) == count
    assert len({(fact.relation.name, fact.entity.split()[0]) for fact in facts}) == count


@pytest.mark.parametrize("relation", RELATIONS, ids=lambda relation: relation.name)
def test_wordings_name_the_entity_and_never_begin_with_the_value(relation: Relation) -> None:
    for form in relation.statements:
        assert form.count("{e}") == form.count("{v}") == 1
        assert not form.startswith(("{v}", "{e}"))
    for form in relation.questions:
        assert form.count("{e}") == 1
        assert "{v}" not in form
    assert len(set(relation.statements)) == len(relation.statements)
    assert len(set(relation.questions)) == len(relation.questions)


def test_facts_are_asked_in_turn_and_then_again() -> None:
    one = example(5, 1, "train", Shape(facts=(2, 2), fillers=(0, 0), questions=4))
    answers = [asked.answer for asked in one.questions]
    assert len(answers) == 4
    assert answers[:2] == answers[2:]
    assert answers[0] != answers[1]


def test_the_prompt_is_the_one_that_a_query_builds() -> None:
    settings = PromptConfig()
    assert settings.prompt == PROMPT
    assert settings.passage == PASSAGE
    assert prompt("[1] a\nb\n\n", "Who?") == settings.prompt.format(passages="[1] a\nb\n\n", question="Who?")


@pytest.mark.parametrize(
    ("answer", "generated", "right"),
    [
        ("4719", " 4719", True),
        ("4719", " 4719.\nQuestion: What", True),
        ("Tavu Reko", "  tavu   reko ", True),
        ("Tavu Reko", " Tavu Rek", False),
        ("12 days", " 12", False),
        ("4719", " 47190", False),
        ("4719", "", False),
        ("4719", "\n", False),
    ],
)
def test_only_the_whole_answer_is_exact(answer: str, generated: str, right: bool) -> None:
    assert exact(answer, generated) is right


def test_chunks_are_numbered_and_headed() -> None:
    shape = Shape(facts=(4, 4), fillers=(2, 2), chunks=(3, 3))
    for index in range(20):
        labels = re.findall(r"^\[(\d)\] .+ > .+$", example(2, index, "train", shape).passages, re.MULTILINE)
        assert labels == ["1", "2", "3"]
