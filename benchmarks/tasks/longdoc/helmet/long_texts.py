"""HELMET's questions about books and its summaries: NarrativeQA, InfiniteBench's books, and Multi-LexSum.

A text of any length is cut at its end, whatever the size of the others. Two examples stand before it without their
texts. The paper has GPT-4 judge NarrativeQA and the summaries; here they have its automatic metrics. InfiniteBench's
files are as its own: `longbook_qa_eng.jsonl`, `longbook_choice_eng.jsonl`, `longbook_sum_eng.jsonl`. The others are
files, as jsonl, json or csv, that `datasets` writes of the hub's data sets:

    deepmind/narrativeqa                    narrativeqa/test            document, question, answers
                                            narrativeqa/train           question, answers
    allenai/multi_lexsum, v20230518         multi_lexsum/validation     sources, summary/short
                                            multi_lexsum/train          summary/short

HELMET asks 100 questions of each, and takes NarrativeQA's as they come; its second version leaves out documents of
less than 128k tokens. A document stands in each row of its questions, so that a part of the test split is enough
(`.shuffle(seed=42).select(range(100))`), and examples need no document (`.select_columns`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from farfield.benchmarks.tasks import scoring
from farfield.benchmarks.tasks.longdoc.data_set import DataSet, Loader, Question, texts
from farfield.benchmarks.tasks.longdoc.examples import Example, Examples
from farfield.benchmarks.tasks.longdoc.helmet.outputs import either, said
from farfield.benchmarks.tasks.longdoc.infinitebench import asked_row, chosen_row
from farfield.benchmarks.tasks.longdoc.rows import Row
from farfield.benchmarks.tasks.rouge import rouge_l, rouge_l_sum

__all__ = ["LONG_TEXTS"]

MARK = " ... [the rest is left out]"
STORY = texts(
    "Read this story, and answer the question that follows in a few words.\n\n{examples}",
    "\n\nQuestion: {question}\nAnswer:",
) | {"example": "[a story]\nQuestion: {question}\nAnswer: {answer}\n\n"}
BOOK = texts(
    "Read this story, and answer the question that follows in a few words.\n\n{examples}",
    "\n\nQuestion: {input}\nAnswer:",
) | {"example": "[a story]\nQuestion: {input}\nAnswer: {answer}\n\n"}
OPTIONS = "Question: {input}\nOptions:\nA. {A}\nB. {B}\nC. {C}\nD. {D}\nAnswer:"
CHOICE = texts(
    "Read this story, and answer the question that follows with the letter of the right option.\n\n{examples}",
    f"\n\n{OPTIONS}",
) | {"example": f"[a story]\n{OPTIONS} {{answer}}\n\n"}
PLOT = texts(
    "Read this book, and then tell its plot and characters in 1000 to 1200 words, without your opinion.\n\n{examples}",
    "\n\nSum up the book.\n\nSummary:",
) | {"example": "[a book]\nSummary: {answer}\n\n"}
CASE = texts(
    "Read the documents of this lawsuit, and then sum it up in one paragraph of 200 to 250 words: background, parties "
    "and outcome.\n\n{examples}Documents:\n",
    "\n\nSum up the case.\n\nSummary:",
) | {"example": "Summary: {answer}\n\n"}
JUDGED = "GPT-4 judges it in the paper"
STEMS = "ROUGE compares words, and not their stems as there"
LETTER_A = "A is a letter, where the published rule takes it for an article, and an empty answer for A"
CERTAIN = ("yes", "no", "noanswer")


def _story(row: Row) -> Iterator[Question]:
    question = row.nested("question").text("text")
    document = row.nested("document").text("text")
    yield Question(document, {"question": question}, _answers(row), query=question, mark=MARK)


def _asked_story(row: Row) -> Iterator[Example]:
    question = row.nested("question").text("text")
    yield Example(question, {"question": question, "answer": _answers(row)[0]})


def _answers(row: Row) -> tuple[str, ...]:
    found = tuple(row.inner("answers", at, one).text("text") for at, one in enumerate(row.entries("answers")))
    if not found:
        raise row.error("answers", "is empty, an answer or more is needed")
    return found


def _book(row: Row) -> Iterator[Question]:
    for question in asked_row(row):
        yield replace(question, mark=MARK)


def _choice(row: Row) -> Iterator[Question]:
    for question in chosen_row(row):
        yield replace(question, mark=MARK)


def _summed_book(row: Row) -> Iterator[Question]:
    for question in asked_row(row):
        yield replace(question, fields={}, query="", mark=MARK)


def _case(row: Row) -> Iterator[Question]:
    """Some cases have no short summary, and are left out."""
    if row.value("summary/short") is not None:
        documents = "\n\n".join(row.texts("sources"))
        yield Question(documents, {}, (row.text("summary/short"),), mark=MARK)


def _summed_case(row: Row) -> Iterator[Example]:
    if row.value("summary/short") is not None:
        summary = row.text("summary/short")
        yield Example(summary, {"answer": summary})


def _of_others(file: str, load: Loader) -> Examples:
    """Examples of the same file, about other documents; the answer of a choice is its letter."""

    def shown(row: Row) -> Iterator[Example]:
        for one in load(row):
            answer = one.reference if isinstance(one.reference, str) else one.answers[0]
            yield Example(one.document, {"answer": answer, **one.fields})

    return Examples(file, shown)


def _f1(output: str, answer: str) -> float:
    """SQuAD's F1 of words, where yes and no are right or wrong as a whole."""
    given, wanted = scoring.normalised(output), scoring.normalised(answer)
    if given != wanted and (given in CERTAIN or wanted in CERTAIN):
        return 0.0
    return scoring.token_f1(output, answer)


def _rouge(output: str, answer: str) -> float:
    return rouge_l(output, answer).f1


def _rouge_sum(output: str, answer: str) -> float:
    return rouge_l_sum(output, answer).f1


def _letter(output: str, question: Question) -> float:
    """The letter alone, or with its option as "B. text", alone or, written like that, anywhere.

    The published rule takes the letter A for an article: an empty answer, or the option without its letter, are right
    there where A is. Here A is a letter.
    """
    letter, text = str(question.reference), question.answers[0]
    if f"{letter}. {text}".lower() in output.lower():
        return 1.0
    for one in (output, said(output, "Answer:")):
        first, *rest = one.translate(scoring.PUNCTUATION).split() or [""]
        if first.upper() == letter and (not rest or scoring.exact_match(" ".join(rest), text)):
            return 1.0
    return 0.0


def _set(name: str, load: Loader, prompt: dict[str, str], budget: int) -> DataSet:
    """InfiniteBench's: `longbook_<name>.jsonl`."""
    file = f"longbook_{name}.jsonl"
    examples = _of_others(file, load)
    rule, metric = either(_rouge), "ROUGE-L"
    return DataSet(
        f"infbench_{name}", file, load, rule, metric, prompt, budget, cut="end", beside=examples, differs=STEMS
    )


LONG_TEXTS = (
    DataSet(
        "narrativeqa",
        "narrativeqa/test.*",
        _story,
        either(_f1),
        "F1 (automatic)",
        STORY,
        100,
        cut="end",
        beside=Examples("narrativeqa/train.*", _asked_story),
        differs=JUDGED,
    ),
    _set("qa_eng", _book, BOOK, 10),
    replace(_set("choice_eng", _choice, CHOICE, 10), rule=_letter, metric="accuracy", differs=LETTER_A),
    replace(
        _set("sum_eng", _summed_book, PLOT, 1200),
        rule=either(_rouge_sum, "Summary:"),
        metric="ROUGE-Lsum (automatic)",
        compare=False,
        differs=f"{JUDGED}; {STEMS}",
    ),
    DataSet(
        "multi_lexsum",
        "multi_lexsum/validation.*",
        _case,
        either(_rouge_sum, "Summary:"),
        "ROUGE-Lsum (automatic)",
        CASE,
        400,
        cut="end",
        compare=False,
        beside=Examples("multi_lexsum/train.*", _summed_case),
        differs=f"{JUDGED}; {STEMS}",
    ),
)
