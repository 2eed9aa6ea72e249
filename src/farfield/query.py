"""A question to a model, with what an index finds for it.

index ──> passages ──> prompt ──> model ──> answer, with the passages it was given and what each stage took
  └──> nothing in it fits the question: that is the answer, and no model is asked

answer = ask(farfield.load("runs/reader"), farfield.open_index("handbook"), "Who signs for it?")
print(answer.text, answer.sources[0].path)
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, TextIO

from farfield.amortized import AmortizedBank
from farfield.answers import Answered, Source, explained, footer, shown_sources
from farfield.api import open_any, open_index
from farfield.asked_documents import open_bank, open_datastore, open_neighbours, read_document
from farfield.augmentation import OutputTraining
from farfield.benchmarks.subjects.hf_tokenizer import HubTokenizer, Template, answer_start, template_of
from farfield.borrowed import BorrowedModel
from farfield.config import ConfigError
from farfield.dialogue import Dialogue, typed
from farfield.generation import GenerationConfig, TextModel, clock, decode, written
from farfield.huggingface.loading import load_hub_tokenizer
from farfield.knn import KnnLM
from farfield.progress import say
from farfield.retrieval import Answer, Filter, Hit, Index, PromptConfig, build_prompt
from farfield.retrieval.neighbours import Database
from farfield.sessions import Reply, Sessions, open_sessions
from farfield.settings import WRITE_IT, QuerySettings

__all__ = ["Answered", "Source", "ask", "query_command", "query_live"]

TOO_LONG = "farfield: the prompt has {} tokens, and the model was trained on rows of {}. For fewer: {}."
FEWER_PASSAGES = "retrieval.k, prompt.tokens, or an index of smaller chunks (farfield ingest chunk.size=...)"

Told = Callable[[str], object]


def ask(
    model: TextModel | BorrowedModel | None,
    index: Index | None,
    question: str,
    *,
    k: int | None = None,
    where: Filter | None = None,
    explain: bool = False,
    prompt: PromptConfig | None = None,
    generation: GenerationConfig | None = None,
    document: str | None = None,
    sessions: Sessions | None = None,
    session: str | None = None,
    bank: AmortizedBank | None = None,
    neighbours: Database | None = None,
    datastore: KnnLM | None = None,
    template: Template | None = None,
    told: Told | None = None,
) -> Answered:
    """What `model` writes behind the question and the passages that `index` finds for it.

    Where the best passage does not match the question (`retrieval.least`), and neither a document nor a conversation
    may know better, nothing is written.

    Args:
        model: None: the passages alone are the answer. index: None: the question alone is the prompt.
        question: what is asked.
        k: passages looked for; the index's own setting if not given.
        where: which documents they may be from. explain: tell what each stage of the search found.
        prompt: the templates and the budget in tokens. generation: how the answer is written; one line by default.
        document: a text before the prompt, outside of its budget.
        sessions: of the same model, where it has read the document already, or talks on in the `session` of this name.
        bank: of documents that the model has amortized, which the prompt asks before it is read; without sessions.
        neighbours: what the model reads for each chunk of prompt and answer; without sessions.
        datastore: of the model, whose findings are mixed with each token's distribution; without sessions.
        template: of a chat, into which the prompt goes as the user's turn, outside of its budget; without sessions.
        told: is called with each piece of the answer as it is written.

    Raises:
        ConfigError: nothing is asked, or of nobody; the question alone is longer than the budget.
        ModelError: see `Sessions.say`; the bank is of another model; the model reads no such neighbours.
    """
    if model is None and index is None:
        raise ConfigError("ask: neither a model nor an index is given.")
    _check(question, sessions, bank, neighbours, datastore, template)
    found = Answer([], 0, {}) if index is None else index.answer(question, k, where, explain)
    asked = Answered(
        question, None, None, (), 0, 0, 0, 0, dict(found.seconds), found.found, found.notices, found.stages
    )
    if model is None or not (found.found or document or session):
        return replace(asked, sources=_sources(index, found.hits, question, ""))
    began = time.perf_counter()
    count = _counter(model)
    built = build_prompt(found.hits, question, count, prompt or PromptConfig())
    prompted = time.perf_counter()
    config = generation or GenerationConfig(stop=("\n",))
    found_by = bank, neighbours, datastore
    reply = _reply(model, sessions, session, document, built.text, config, *found_by, template, told)
    generated, read = time.perf_counter(), prompted + reply.seconds["first"]
    used = [hit for hit in found.hits if hit in built.used]
    return replace(
        asked,
        text=reply.text.strip(),
        reason=reply.reason,
        sources=_sources(index, used, question, reply.text),
        prompt_tokens=reply.reused + reply.prefilled,
        reused_tokens=reply.reused,
        prefilled_tokens=reply.prefilled,
        answer_tokens=len(reply.ids),
        seconds={**found.seconds, "prompt": read - began, "generate": generated - read},
        found=True,
    )


def _check(
    question: str,
    sessions: Sessions | None,
    bank: AmortizedBank | None,
    neighbours: Database | None,
    datastore: KnnLM | None,
    template: Template | None,
) -> None:
    """Raise ConfigError where nothing is asked, or sessions are to keep what they cannot."""
    if not question.strip():
        raise ConfigError("question: nothing is asked.")
    if bank is not None and sessions is not None:
        raise ConfigError("bank: given with sessions, which keep no banks. Ask the bank without them.")
    if neighbours is not None and sessions is not None:
        raise ConfigError("neighbours: given with sessions, which keep none. Ask without them.")
    if datastore is not None and sessions is not None:
        raise ConfigError("datastore: given with sessions, which mix nothing in. Ask without them.")
    if template is not None and sessions is not None:
        raise ConfigError("template: given with sessions, whose turns have none. Ask without them.")


def _counter(model: TextModel | BorrowedModel) -> Callable[[str], int]:
    return lambda text: len(model.tokenizer.encode(text))


def _reply(
    model: TextModel | BorrowedModel,
    sessions: Sessions | None,
    session: str | None,
    document: str | None,
    text: str,
    generation: GenerationConfig,
    bank: AmortizedBank | None,
    neighbours: Database | None,
    datastore: KnnLM | None,
    template: Template | None,
    told: Told | None,
) -> Reply:
    """What the model writes behind `text`, with what it has read before."""
    if sessions is None:
        began = time.perf_counter()
        ids = [*model.tokenizer.encode(document or ""), *model.tokenizer.encode(text)]
        ids = model.opened(ids) if template is None else template.wrap(ids, answer_start(model.tokenizer, ids))
        ids, neighbours = model.behind(ids, neighbours)
        decoding = model.begun([ids], generation, bank, neighbours, datastore)
        first = clock(model.device) - began
        (answer,) = written(decode(decoding, model.tokenizer, [ids]), told)
        seconds = {"first": first, "all": time.perf_counter() - began}
        return Reply(answer.text, tuple(answer.ids), answer.reason, 0, len(ids), None, seconds)
    if session is None:
        return sessions.ask(document or "", text, generation, told=told)
    return sessions.say(session, text, generation, document, told=told)


def _sources(index: Index | None, hits: list[Hit], question: str, answer: str) -> tuple[Source, ...]:
    """Passages with the sentence of each that supports the answer."""
    assert index is not None or not hits
    return tuple(
        Source(
            path=hit.source,
            heading=hit.heading or hit.title,
            start=hit.start,
            end=hit.end,
            score=hit.score,
            text=hit.text,
            match=hit.match,
            quote=None if index is None else index.quote(hit, question, answer),
            page=hit.page,
        )
        for hit in hits
    )


@dataclass(frozen=True)
class _Opened:
    """What a command asks: opened once, for any number of questions."""

    settings: QuerySettings
    model: TextModel | BorrowedModel | None
    index: Index | None
    sessions: Sessions | None
    bank: AmortizedBank | None
    neighbours: Database | None
    datastore: KnnLM | None
    document: str | None
    template: Template | None
    seconds: dict[str, float]

    def ask(self, question: str, told: Told | None = None) -> Answered:
        """The answer to one question, with what was to be noticed since the command began."""
        settings = self.settings
        answer = ask(
            self.model,
            self.index,
            question,
            where={name: list(one) if isinstance(one, tuple) else one for name, one in settings.where.items()},
            explain=settings.explain,
            prompt=settings.prompt,
            generation=settings.generation,
            document=self.document,
            sessions=self.sessions,
            session=settings.session,
            bank=self.bank,
            neighbours=self.neighbours,
            datastore=self.datastore,
            template=self.template,
            told=told,
        )
        self._warn(answer)
        index = () if self.index is None else self.index.notices
        return replace(answer, seconds={**self.seconds, **answer.seconds}, notices=(*index, *answer.notices))

    def _warn(self, answer: Answered) -> None:
        for notice in answer.notices:
            say(f"farfield: {notice}")
        trained = None if self.model is None else self.model.info["config"].get("data", {}).get("length")
        if isinstance(trained, int) and answer.prompt_tokens > trained and self.settings.context is None:
            ways = [] if self.document is None else ["a shorter document, which prompt.tokens does not count"]
            ways += [] if self.index is None else [FEWER_PASSAGES]
            say(TOO_LONG.format(answer.prompt_tokens, trained, "; ".join(ways or ["a shorter question"])))


@contextmanager
def _opened(settings: QuerySettings) -> Iterator[_Opened]:
    """What the settings name."""
    with ExitStack() as stack:
        index = None
        if settings.index is not None:
            index = stack.enter_context(open_index(settings.index, settings.root, settings.retrieval))
        began = time.perf_counter()
        model = None
        if settings.model:
            how = settings.remembered, settings.hf, settings.context, settings.adapter_file
            model = open_any(settings.model, settings.device, *how)
        seconds = {"load model": time.perf_counter() - began} if model is not None else {}
        own = _own(model, settings)
        bank, amortized = open_bank(own, settings.documents, settings.bank)
        neighbours, found = open_neighbours(own, settings.neighbours, settings.sessions is not None, index is not None)
        datastore, opened = open_datastore(own, settings.mixed, settings.sessions is not None)
        document = None if settings.document is None else read_document(settings.document)
        sessions = None
        if own is not None and settings.sessions is not None:
            sessions = stack.enter_context(open_sessions(settings.sessions, own, settings.store))
        taken = {**seconds, **amortized, **found, **opened}
        template = _template(model, settings) if settings.hf.chat else None
        yield _Opened(settings, model, index, sessions, bank, neighbours, datastore, document, template, taken)


def _template(model: TextModel | BorrowedModel | None, settings: QuerySettings) -> Template:
    """The chat template of the folder that is asked.

    Raises:
        ConfigError: it has none. ModelError: transformers is not installed.
    """
    assert model is not None, "see QuerySettings"
    path = str(settings.model)
    return template_of(HubTokenizer(load_hub_tokenizer(path), model.begin), settings.hf.system, model.begin)


def _own(model: TextModel | BorrowedModel | None, settings: QuerySettings) -> TextModel | None:
    """The model, if it is of our own layers.

    Raises:
        ConfigError: it is not, and something is asked for that they alone have.
    """
    if isinstance(model, BorrowedModel):
        asked = ("documents", "bank", "neighbours", "sessions", "session")
        told = [name for name in asked if getattr(settings, name) is not None]
        told += ["augmentation"] if isinstance(settings.mixed, OutputTraining) else []
        if told:
            raise ConfigError(f"{told[0]}: {settings.model} is run by transformers, and only our own layers have it.")
        return None
    return model


def query_command(settings: QuerySettings) -> dict[str, Any]:
    """`farfield query`: the answer as plain values.

    Raises:
        ConfigError: nothing is asked.
    """
    if settings.question is None:
        raise ConfigError(f"question: nothing is asked. {WRITE_IT}")
    with _opened(settings) as opened:
        answer = opened.ask(settings.question)
        found = {
            **_plain(settings, answer),
            "asked_documents": len(opened.bank or ()),
        }
    lines = [] if answer.text is None else [answer.text or NOTHING_WRITTEN]
    return {**found, "text": "\n".join([*lines, *_rest(settings, answer, len(opened.bank or ()))]).lstrip("\n")}


NOTHING_WRITTEN = "(the model wrote nothing)"


def query_live(settings: QuerySettings, out: TextIO) -> None:
    """`farfield query` for a person: the answer as it is written; without a question, a dialogue at a terminal.

    Raises:
        ConfigError: nothing is asked, and nobody is there to ask.
    """
    talks = settings.question is None
    if talks and not sys.stdin.isatty():
        raise ConfigError(f"question: nothing is asked. {WRITE_IT}")
    with _opened(settings) as opened:

        def answered(question: str) -> Answered:
            answer = opened.ask(question, _Written(out))
            if answer.text is not None:
                out.write("\n" if answer.text else f"{NOTHING_WRITTEN}\n")
            lines = _rest(settings, answer, len(opened.bank or ()))
            text = "\n".join(lines)
            out.write((text if answer.text is not None else text.lstrip("\n")) + "\n")
            out.flush()
            return answer

        if settings.question is not None:
            answered(settings.question)
        else:
            Dialogue(answered, typed(out), out).run()


class _Written:
    """Writes pieces of an answer as they come, without the white space in front of it."""

    def __init__(self, out: TextIO) -> None:
        self._out, self._begun = out, False

    def __call__(self, text: str) -> None:
        text = text if self._begun else text.lstrip()
        self._begun = self._begun or bool(text)
        self._out.write(text)
        self._out.flush()


def _rest(settings: QuerySettings, answer: Answered, asked_documents: int) -> list[str]:
    """Lines below an answer: its sources, what each stage found where that was asked for, and the times."""
    lines = []
    if settings.index is not None and not answer.found:
        lines += ["", "No answer was found in the index." + (" What came nearest:" if answer.sources else "")]
        lines += shown_sources(answer.sources)
    elif settings.index is not None:
        lines += ["", "sources", *shown_sources(answer.sources)]
    if answer.stages:
        lines += ["", *explained(answer.stages)]
    return [*lines, "", footer(answer, asked_documents)]


def _plain(settings: QuerySettings, answer: Answered) -> dict[str, Any]:
    """The answer as plain values."""
    return {
        "question": answer.question,
        "answer": answer.text,
        "found": answer.found,
        "reason": answer.reason,
        "sources": [asdict(source) for source in answer.sources],
        "notices": list(answer.notices),
        "model": settings.model,
        "index": settings.index,
        "document": settings.document,
        "documents": settings.documents,
        "bank": settings.bank,
        "neighbours": settings.neighbours,
        "datastore": None if settings.augmentation is None else settings.augmentation.datastore,
        "session": settings.session,
        "prompt_tokens": answer.prompt_tokens,
        "reused_tokens": answer.reused_tokens,
        "prefilled_tokens": answer.prefilled_tokens,
        "answer_tokens": answer.answer_tokens,
        "seconds": dict(answer.seconds),
        "stages": [asdict(stage) for stage in answer.stages],
    }
