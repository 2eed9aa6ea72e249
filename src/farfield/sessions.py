"""Conversations and documents that are read once: answers of a model on top of a store of its states.

    with open_sessions("sessions", farfield.load("runs/retnet-text")) as sessions:
        reply = sessions.say("alice", "Who wrote it?")          # prefills the words of this turn only
        reply = sessions.ask(book, "Who is the count?")         # reads the book, or takes the state behind it
        print(reply.text, reply.reused, reply.prefilled)

A prompt is a row of token ids: all that a session has read and written, then what is said now. The longest beginning of
it of which the store has a state is taken from there, and the rest is prefilled, so that an answer is that of the model
without a store, up to the rounding of a prefill that is cut elsewhere. A state that is read from the disk arrives layer
by layer while the layers below compute. What a session has read stays on record when its state has gone.

    say     history ──> [state] ──> text ──> answer ──> state stored, in the place of the session's last one
    ask     document ──> state stored, everybody's ──> question ──> answer
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from farfield.architectures.arriving import ArrivingStates
from farfield.architectures.saved_state import alike
from farfield.architectures.state import State
from farfield.config import ModelError
from farfield.generation import GenerationConfig, TextModel, clock, continuing, decode, prefill, written
from farfield.memory.store import DamagedError, Found, Part, Session, StateStore, StoreConfig, token_ids
from farfield.model import LanguageModel, ModelState, fingerprint
from farfield.truncation import check_truncation, truncated

__all__ = ["Reply", "Sessions", "SessionsConfig", "fingerprint", "open_sessions"]

S = TypeVar("S", bound=State)


class SessionsConfig(StoreConfig):
    """The store, and how long sessions get."""

    window: int | None = Field(
        None, ge=2, description="tokens of a session above which its older half is dropped; null: none are"
    )


@dataclass(frozen=True)
class Reply:
    """An answer: its text, ids and end, as `Generated`; and what it took.

    `reused` of the prompt's tokens came out of the store's `tier`, `prefilled` were read. Seconds: `first` until the
    prompt has been read, `all` until the last token was chosen.
    """

    text: str
    ids: tuple[int, ...]
    reason: Literal["end", "stop", "length"]
    reused: int
    prefilled: int
    tier: Literal["memory", "disk"] | None
    seconds: dict[str, float]


@dataclass(frozen=True, eq=False)
class _Reading:
    """A model behind some tokens: logits (1, V), state, how many of them came out of the store, and from where."""

    logits: Tensor
    state: ModelState
    reused: int
    tier: Literal["memory", "disk"] | None


class Sessions:
    """See the file's head. To be used from one thread."""

    def __init__(self, model: TextModel, store: StateStore, window: int | None = None) -> None:
        """Sessions with `model`, whose states `store` keeps.

        Raises:
            ModelError: a window is given, and the oldest tokens of the model's states cannot be dropped.
        """
        if window is not None:
            check_truncation(model.model)
        self.model, self.store, self.window = model, store, window
        self.fingerprint = fingerprint(model.model)

    def __enter__(self) -> Sessions:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Writes what waits; see `StateStore.close`."""
        self.store.close()

    def say(
        self,
        name: str,
        text: str,
        generation: GenerationConfig | None = None,
        document: str | None = None,
        *,
        told: Callable[[str], object] | None = None,
    ) -> Reply:
        """The model's answer to `text`, behind all that was said in the session before.

        Args:
            name: of the session, which begins with its first text.
            text: what is said now. generation: how the answer is written.
            document: what the session begins with, given again with every turn or with the first one.
            told: is called with each piece of the answer as it is written.

        Raises:
            ModelError: nothing is said, the session was held with another model, or it began without the document.
        """
        began = time.perf_counter()
        if not name:
            raise ModelError("session: an empty name. Name it, as in say('alice', ...).")
        before = self._session(name)
        head = self._head(before, document)
        ids = [*before.tokens.tolist(), *head, *self.model.tokenizer.encode(text)]
        before, ids = self._within(before, ids, (generation or GenerationConfig()).tokens)
        reply, read, reading = self._answer(began, before.seed, ids, len(head), generation, document is not None, told)
        # The record first: what was said is known, though its state may not have been written yet.
        self.store.record(replace(before, tokens=token_ids(read)))
        self._put(before.seed, read, reading, name)
        return reply

    def ask(
        self,
        document: str,
        question: str,
        generation: GenerationConfig | None = None,
        *,
        told: Callable[[str], object] | None = None,
    ) -> Reply:
        """The model's answer to `question`, behind `document`, whose state is kept for the next question.

        `told` is called with each piece of the answer as it is written.

        Raises:
            ModelError: there is neither a document nor a question.
        """
        began = time.perf_counter()
        head = self.model.opened(self.model.tokenizer.encode(document))
        ids = [*head, *self.model.tokenizer.encode(question)]
        return self._answer(began, self.fingerprint, ids, len(head), generation, True, told)[0]

    def _session(self, name: str) -> Session:
        """The session as it was left, or a new one."""
        found = self.store.session(name)
        if found is None:
            return Session(name, self.fingerprint, self.fingerprint, token_ids(()))
        if found.model != self.fingerprint:
            raise ModelError(
                f"session '{name}': held with another model ({found.model[:8]}, this one is {self.fingerprint[:8]}). "
                "Load that one, or name another session."
            )
        return found

    def _head(self, before: Session, document: str | None) -> list[int]:
        """The document's ids, where the session does not begin with it yet."""
        head = [] if document is None else self.model.tokenizer.encode(document)
        head = self.model.opened(head) if head or not len(before.tokens) else head
        if not len(before.tokens) or not head:
            return head
        if before.seed != before.model:  # it has left the window
            return []
        if before.tokens[: len(head)].tolist() != head:
            raise ModelError(
                f"session '{before.name}': it did not begin with this document. Go on without one, or name another "
                "session."
            )
        return []

    def _within(self, before: Session, ids: list[int], answer: int) -> tuple[Session, list[int]]:
        """The session and the prompt, without the older half of the history where the answer would leave the window."""
        kept = 0 if self.window is None else self.window // 2
        if self.window is None or len(ids) + answer <= self.window or len(before.tokens) <= kept:
            return before, ids
        history = before.tokens.tolist()
        reading = self._read(before.seed, history)
        state = truncated(self.model.model, reading.state, kept)
        # Its tokens alone do not say what this state has seen, so it is found by a seed of its own.
        seed = hashlib.sha256(f"{before.seed} {kept} {history}".encode()).hexdigest()
        cut = replace(before, seed=seed, tokens=before.tokens[-kept:])
        self._put(seed, cut.tokens.tolist(), replace(reading, state=state), before.name)
        return cut, ids[len(history) - kept :]

    def _answer(
        self,
        began: float,
        seed: str,
        ids: list[int],
        head: int,
        generation: GenerationConfig | None,
        document: bool,
        told: Callable[[str], object] | None,
    ) -> tuple[Reply, list[int], _Reading]:
        """The answer behind `ids`, all ids that were read, and the model behind them.

        The state behind the first `head` is kept for everybody where they are a document's. It `began` by the clock.
        """
        reading = self._read(seed, ids, head if document else 0)
        decoding = continuing(self.model.model, reading.logits, reading.state, generation or GenerationConfig())
        pieces = decode(decoding, self.model.tokenizer, [ids])
        first = clock(self.model.device) - began
        (answer,) = written(pieces, told)
        seconds = {"first": first, "all": time.perf_counter() - began}
        decoding.advance(set())  # the state has read the whole answer, its last token too
        reply = Reply(
            answer.text,
            tuple(answer.ids),
            answer.reason,
            reading.reused,
            len(ids) - reading.reused,
            reading.tier,
            seconds,
        )
        return reply, [*ids, *answer.ids], replace(reading, logits=decoding.logits, state=decoding.state)

    def _read(self, seed: str, ids: list[int], head: int = 0) -> _Reading:
        """The model behind `ids`: out of the store as far as it goes, prefilled from there on.

        The state behind the first `head` of them is kept, where the store has none that goes so far.
        """
        if not ids:
            raise ModelError("prompt: empty. A model needs at least one token to go on from.")
        while True:
            found = self.store.find(seed, ids)
            try:
                return self._go_on(seed, ids, head, found)
            except DamagedError as error:
                assert found is not None
                self.store.reject(found.key, error)

    def _go_on(self, seed: str, ids: list[int], head: int, found: Found | None) -> _Reading:
        reading = None if found is None else self._restored(found)
        count = 0 if found is None else found.count
        if count < head:
            reading = self._prefilled(reading, ids[count:head])
            self._put(seed, ids[:head], reading, None)
            count = head
        if count < len(ids):
            reading = self._prefilled(reading, ids[count:])
        assert reading is not None
        whole = ModelState(reading.state.position, tuple(reading.state.layers))  # what is damaged shows here at last
        return replace(reading, state=whole)

    def _prefilled(self, before: _Reading | None, ids: Sequence[int]) -> _Reading:
        """The model behind `ids` more."""
        if before is None:
            return _Reading(*prefill(self.model.model, [ids]), 0, None)
        logits, state = prefill(self.model.model, [ids], before.state)
        return replace(before, logits=logits, state=state)

    def _restored(self, found: Found) -> _Reading:
        """The model behind what a stored state has read; its layers may still be arriving."""
        model = self.model.model
        empty, head = model.start(1), found.part(0)

        def layer(index: int) -> State:
            state = _layer(empty.layers[index], found.part(1 + index), model)
            if not found.cut:
                return state
            cut = state.first(found.count)
            assert cut is not None, "a state that was stored as one that can be cut"
            return cut

        if found.parts != 1 + len(empty.layers) or set(head) != {"position", "logits"}:
            raise DamagedError("a stored state of other layers; prefill anew.")
        layers = ArrivingStates(empty.layers, layer)
        position = torch.full_like(empty.position, found.count) if found.cut else head["position"].to(model.device)
        return _Reading(head["logits"].to(model.device), ModelState(position, layers), found.count, found.tier)

    def _put(self, seed: str, ids: Sequence[int], reading: _Reading, session: str | None) -> None:
        """Keeps the state behind `ids`."""
        state = reading.state.detach()
        layers = [_tensors(layer) for layer in state.layers]
        head = {"position": _own(state.position), "logits": _own(reading.logits)}
        cuttable = state.first(1) is not None
        self.store.put(seed, ids, [head, *layers], cuttable=cuttable, session=session)


def open_sessions(
    folder: str | Path | None, model: TextModel, config: SessionsConfig | None = None, *, writing: bool = True
) -> Sessions:
    """Sessions with `model` in `folder`; without one, in memory as long as they are open.

    One process writes a folder at a time; with writing=False any number read it, and what they add is theirs alone.

    Raises:
        StoreError: another process writes there, there is nothing to read, or its index is damaged.
        ModelError: a window is given, and the oldest tokens of the model's states cannot be dropped.
    """
    config = config or SessionsConfig()
    place = None if folder is None else Path(folder).expanduser()
    store = StateStore(place, config, writing=writing)
    try:
        return Sessions(model, store, config.window)
    except BaseException:
        store.close()
        raise


def _layer(empty: S, part: Part, model: LanguageModel) -> S:
    """A layer's state of these tensors, where the model is."""
    wanted = empty.tensors()
    if set(wanted) != set(part) or not all(alike(wanted[name], part[name]) for name in wanted):
        raise DamagedError("a stored state of other layers; prefill anew.")
    return empty.restored({name: tensor.to(model.device) for name, tensor in part.items()})


def _tensors(state: State) -> Part:
    return {name: tensor.cpu().contiguous() for name, tensor in state.compact().tensors().items()}


def _own(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().clone()
