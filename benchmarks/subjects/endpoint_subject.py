"""A model behind an OpenAI-compatible endpoint, as the runner sees it.

It has no state: what is "prefilled" is kept here, and sent as one text when it is asked. Prompts are made of ids of a
tokenizer on this side, the model's own where the settings name its folder. Without one a token is a byte: a token of
the model holds at least a byte, so that a prompt of n bytes is at most n of its tokens, and a budget of n bytes is
never cut short by asking for n tokens. Lengths are then in bytes, about four to a token of English.

Ids that do not come back from their text are another prompt to the model than the task made: such prompts are counted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farfield.benchmarks.subjects.endpoint import Client, written_tokens
from farfield.benchmarks.subjects.subject import Capability, Prefilled, Reading, Written, incapable
from farfield.benchmarks.subjects.subject_settings import EndpointConfig
from farfield.benchmarks.tasks.sample import Ids, Turn
from farfield.config import DataError, ModelError
from farfield.tokenizers import BytesTokenizer, Tokenizer, fingerprint, load_tokenizer
from farfield.tokenizers.protocol import read_json

__all__ = ["USAGE", "EndpointSubject", "add_usage", "open_endpoint"]

STOPS = 4  # texts that an endpoint takes
USAGE = "usage.json"  # beside the results: what all runs together have asked


def open_endpoint(url: str, settings: EndpointConfig, name: str) -> EndpointSubject:
    """The endpoint's model, after a look at what it serves.

    Raises:
        ModelError: nothing answers, or there is no such model. ConfigError: a variable or a name is missing.
        DataError: there is no tokenizer where the settings say.
    """
    tokenizer: Tokenizer = BytesTokenizer()
    if settings.tokenizer is not None:
        try:
            tokenizer = load_tokenizer(Path(settings.tokenizer).expanduser())
        except DataError as error:
            raise DataError(f"endpoint.tokenizer: {error}") from None
    client = Client(url, settings)
    return EndpointSubject(client, client.model(), tokenizer, name)


def add_usage(file: Path, used: Mapping[str, int]) -> None:
    """Adds the counts of a run to those of earlier ones in `file`."""
    before = read_json(file) if file.is_file() else {}
    counts = {name: count + (old if isinstance(old := before.get(name), int) else 0) for name, count in used.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(counts, indent=2) + "\n", encoding="utf-8")


class EndpointSubject:
    """A model that is asked in texts.

    changed: prompts whose text has other ids than the task gave
    """

    def __init__(self, client: Client, model: str, tokenizer: Tokenizer, name: str) -> None:
        self.client, self.model, self._tokenizer, self._name = client, model, tokenizer, name
        self.changed = 0

    @property
    def name(self) -> str:
        return self._name

    @property
    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    @property
    def capabilities(self) -> frozenset[Capability]:
        return frozenset(("generate", "score") if self.client.settings.logprobs else ("generate",))

    def describe(self) -> Mapping[str, object]:
        """Where it is, what it is called there, how it is asked, and how tokens are counted. Never the key."""
        return {
            "name": self.name,
            "architecture": "endpoint",
            "memory": None,
            "url": self.client.url,
            "model": self.model,
            "chat": self.client.settings.chat,
            "body": self.client.settings.body,
            "extra_tokens": self.client.settings.extra_tokens,
            "tokenizer": fingerprint(self.tokenizer),
            "trained_length": None,
        }

    def state_bytes(self, length: int) -> int:
        return 0

    def usage(self) -> dict[str, int]:
        """Requests, retries, tokens as the endpoint counts them, and prompts that are others to it."""
        return {**asdict(self.client.usage), "changed_prompts": self.changed}

    def prefill(self, tokens: NDArray[np.int64], after: Prefilled | None = None) -> Prefilled:
        return tokens if after is None else np.concatenate([_rows(after), tokens], axis=1)

    def select(self, prefilled: Prefilled, rows: Sequence[int]) -> Prefilled:
        return _rows(prefilled)[list(rows)]

    def generate(self, prefilled: Prefilled, budget: int, stop: tuple[str, ...] = ()) -> Written:
        texts = self._texts(prefilled)
        found = self._all(lambda text: self._answer(text, budget, stop), texts)
        ids = [self.tokenizer.encode(text or "")[:budget] for text, _ in found]
        silent = frozenset(row for row, (text, _) in enumerate(found) if text is None)
        return Written(ids, [0] * len(ids), silent, tuple(count for _, count in found))

    def score(self, prefilled: Prefilled, candidates: NDArray[np.int64]) -> NDArray[np.floating]:
        choices = [[np.array([one], np.int32) for one in row] for row in candidates.tolist()]
        return np.stack(self.choose(prefilled, choices))

    def choose(self, prefilled: Prefilled, choices: Sequence[Sequence[Ids]]) -> list[NDArray[np.float64]]:
        if "score" not in self.capabilities:
            raise incapable(self, "score")
        texts = self._texts(prefilled)
        asked = [
            (text, self.tokenizer.decode(choice.tolist()))
            for text, row in zip(texts, choices, strict=True)
            for choice in row
        ]
        found = iter(self._all(lambda pair: self._likelihood(*pair), asked))
        return [np.array([next(found) for _ in row]) for row in choices]

    def rounding(self, prefilled: Prefilled) -> NDArray[np.float64]:
        return np.zeros(len(_rows(prefilled)))

    def read(self, tokens: NDArray[np.int64], targets: NDArray[np.int64], after: Prefilled | None = None) -> Reading:
        raise incapable(self, "read")

    @property
    def turns(self) -> frozenset[Turn]:
        """The template is on the other side: nothing stands behind the assistant's tag, or without one."""
        return frozenset(("whole",) if self.client.settings.chat else ())

    def taking(self, turn: Turn) -> EndpointSubject:
        return self

    def without_memory(self) -> EndpointSubject:
        raise incapable(self, "memory")

    def shuffled(self, prefilled: Prefilled, seed: int) -> Prefilled:
        raise incapable(self, "memory")

    def _texts(self, prefilled: Prefilled) -> list[str]:
        texts = []
        for row in _rows(prefilled).tolist():
            text = self.tokenizer.decode(row)
            self.changed += self.tokenizer.encode(text) != row
            texts.append(text)
        return texts

    def _all(self, ask: Callable[[Any], Any], things: Sequence[Any]) -> list[Any]:
        """The answers, in order, several requests on their way at once; the first that fails ends it."""
        with ThreadPoolExecutor(self.client.settings.concurrency) as pool:
            futures = [pool.submit(ask, one) for one in things]
            try:
                return [future.result() for future in futures]
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _answer(self, text: str, budget: int, stop: tuple[str, ...]) -> tuple[str | None, int | None]:
        """What the model writes behind `text`; None where it is nothing but thoughts, or a refusal.

        And how many tokens it wrote, thoughts too, as the endpoint counts them; None if it does not.
        """
        chat = self.client.settings.chat
        asked = {"messages": [{"role": "user", "content": text}]} if chat else {"prompt": text}
        body = {
            "model": self.model,
            **asked,
            "max_tokens": budget + self.client.settings.extra_tokens,
            "temperature": 0,
            "seed": 0,
        }
        if stop:
            body["stop"] = list(stop[:STOPS])
        body = {name: value for name, value in (body | self.client.settings.body).items() if value is not None}
        route = "chat/completions" if chat else "completions"
        told = self.client.post(route, body)
        choice, count = self._choice(route, told), 1 if body.get("max_tokens") == 1 else written_tokens(told)
        written = choice.get("message") if chat else choice
        place = "choices[0].message.content" if chat else "choices[0].text"
        if not isinstance(written, dict) or ("content" if chat else "text") not in written:
            raise self._nonsense(route, f"has no {place}")
        found = written["content" if chat else "text"]
        if chat and (found is None or (found == "" and choice.get("finish_reason") == "length")):
            return None, count
        if not isinstance(found, str):
            raise self._nonsense(route, f"has {_kind(found)} for {place}, a text is needed")
        return found, count

    def _likelihood(self, text: str, choice: str) -> float:
        """Log-probability of `choice` behind `text`, of the tokens in which it ends, in nats."""
        body = {"model": self.model, "prompt": text + choice, "max_tokens": 0, "echo": True, "logprobs": 1, "seed": 0}
        told = self._choice("completions", self.client.post("completions", body)).get("logprobs")
        told = told if isinstance(told, dict) else {}
        offsets, logprobs = told.get("text_offset"), told.get("token_logprobs")
        if not isinstance(offsets, list) or not isinstance(logprobs, list) or len(offsets) != len(logprobs):
            raise self._nonsense("completions", "has no logprobs of the prompt. Set endpoint.logprobs=false")
        # A token that begins in the prompt and ends in the choice belongs to the choice; some endpoints add one more.
        last = len(text) + len(choice)
        spans = zip(logprobs, offsets, [*offsets[1:], last], strict=True)
        inside = [one for one, begin, end in spans if end > len(text) and begin < last]
        if not inside or not all(isinstance(one, float | int) for one in inside):
            raise self._nonsense("completions", "has no logprobs of the continuation. Set endpoint.logprobs=false")
        return float(sum(inside))

    def _choice(self, route: str, answer: Mapping[str, Any]) -> dict[str, Any]:
        choices = answer.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise self._nonsense(route, "has no choices")
        return choices[0]

    def _nonsense(self, route: str, what: str) -> ModelError:
        return ModelError(f"{self.client.url}/{route}: the answer {what}.")


def _kind(value: object) -> str:
    """What kind of JSON value it is."""
    kinds = {type(None): "null", bool: "true or false", list: "a list", dict: "an object"}
    return kinds.get(type(value), "a number")


def _rows(prefilled: Prefilled) -> NDArray[np.int64]:
    assert isinstance(prefilled, np.ndarray)
    return prefilled
