"""An OpenAI-compatible endpoint, spoken to by the standard library: /models, /completions, /chat/completions.

    client = Client("http://localhost:8000/v1", EndpointConfig())
    answer = client.post("completions", {"prompt": "Once", "max_tokens": 8, "temperature": 0})

What fails for a while (429, 5xx, a timeout, a broken connection) is sent again after a growing pause, or after the
one that the endpoint asks for; then it is a `TemporaryError`. What the endpoint refuses for its content (400, 413, 422:
most often a prompt that is too long) is `Refused`: the cell is skipped with its reason, and asked again by the next
run. All else is a `ModelError`.
"""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from farfield.benchmarks.subjects.subject import Refused, TemporaryError
from farfield.benchmarks.subjects.subject_settings import EndpointConfig
from farfield.config import ConfigError, ModelError, unknown

__all__ = ["Client", "Usage", "written_tokens"]

BUSY = (408, 409, 425, 429, 500, 502, 503, 504, 529)
REFUSED = (400, 413, 422)
PAUSE, LONGEST = 0.5, 60.0  # seconds before a request is sent again: doubled each time, never longer than this
BROKEN = (OSError, http.client.HTTPException)  # of a connection; urllib.error.URLError and timeouts are OSErrors


@dataclass
class Usage:
    """What was asked, whatever came of it, and the tokens that the endpoint says it took."""

    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Busy(Exception):  # noqa: N818  not an error: a reason to ask again
    """The endpoint cannot answer now. `after` is how long it says that takes, in seconds."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: the key goes to the host that the user named, and nowhere else."""

    def redirect_request(self, *given: Any, **named: Any) -> None:
        return None


def written_tokens(found: Mapping[str, Any]) -> int | None:
    """How many tokens an answer took, thoughts too, as the endpoint counts them; None if it does not."""
    told = found.get("usage")
    count = told.get("completion_tokens") if isinstance(told, dict) else None
    return count if isinstance(count, int) else None


class Client:
    """Requests to one endpoint. Threads may share it."""

    def __init__(self, url: str, settings: EndpointConfig, sleep: Callable[[float], None] = time.sleep) -> None:
        """Raises a ConfigError where the variable of the key is not set."""
        self.url, self.settings, self.sleep = url.rstrip("/"), settings, sleep
        self.usage, self._lock = Usage(), threading.Lock()
        self._opener = urllib.request.build_opener(_Stay)
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if settings.key is not None:
            key = os.environ.get(settings.key)
            if not key:
                raise ConfigError(f"endpoint.key: the environment variable {settings.key} is not set.")
            self._headers["Authorization"] = f"Bearer {key}"

    def models(self) -> list[str] | None:
        """The names of the models it serves; None where it does not say.

        Raises:
            ModelError: nothing answers, or the key is refused.
        """
        try:
            found = self._send("models", None)
        except _Busy as reason:
            raise ModelError(f"{self.url}: {reason}. Is the server running?") from None
        except (_Unknown, Refused):
            return None
        listed = found.get("data")
        entries = listed if isinstance(listed, list) else []
        names = [one["id"] for one in entries if isinstance(one, dict) and isinstance(one.get("id"), str)]
        return names or None

    def model(self) -> str:
        """The model that is asked: the one of the settings, or the only one that there is.

        Raises:
            ModelError: there is no such model, or there are several and none is named.
        """
        known, given = self.models(), self.settings.model
        if known is None and given is None:
            raise ConfigError(
                f"endpoint.model: null given, and {self.url} does not say what it serves. Name the model."
            )
        if given is None:
            assert known is not None
            if len(known) > 1:
                raise ConfigError(f"endpoint.model: null given, and {self.url} serves several. Known: {_some(known)}.")
            return known[0]
        if known is not None and given not in known and len(known) < 200:
            raise ModelError(f"endpoint.model: {self.url} serves no {unknown('model', given, known)}")
        return given

    def post(self, route: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a request, sent again as often as the settings allow.

        Raises:
            TemporaryError: it failed for a while each time. Refused: for its content. ModelError: all else.
        """
        with self._lock:
            self.usage.requests += 1
        for attempt in range(self.settings.retries + 1):
            try:
                found = self._send(route, body)
                self._count(found)
                return found
            except _Unknown as reason:
                raise ModelError(f"{self.url}/{route}: {reason}") from None
            except _Busy as reason:
                if attempt == self.settings.retries:
                    raise TemporaryError(f"{self.url}/{route}: {reason}, {attempt + 1} times.") from None
                with self._lock:
                    self.usage.retries += 1
                self.sleep(min(LONGEST, reason.after if reason.after is not None else PAUSE * 2**attempt))
        raise AssertionError("a request is sent at least once")

    def _count(self, found: Mapping[str, Any]) -> None:
        told = found.get("usage")
        counts = told if isinstance(told, dict) else {}
        with self._lock:
            for name in ("prompt_tokens", "completion_tokens"):
                count = counts.get(name)
                setattr(self.usage, name, getattr(self.usage, name) + (count if isinstance(count, int) else 0))

    def _send(self, route: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        """One request and its answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/{route}", data, self._headers)
        try:
            with self._opener.open(request, timeout=self.settings.timeout) as answer:
                content = answer.read()
        except urllib.error.HTTPError as error:
            raise self._refusal(route, error) from None
        except TimeoutError:
            raise _Busy(f"no answer within {self.settings.timeout:g} s") from None
        except BROKEN as error:
            cause = getattr(error, "reason", error)
            if isinstance(cause, TimeoutError):
                raise _Busy(f"no answer within {self.settings.timeout:g} s") from None
            said = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
            raise _Busy(f"nothing answers: {said}") from None
        return self._read(route, content)

    def _refusal(self, route: str, error: urllib.error.HTTPError) -> Exception:
        """What an answer with an error's status means."""
        with error:
            try:
                said = _message(error.read())
            except BROKEN:
                said = ""
        line = f"{error.code} {error.reason}" + (f": {said}" if said else "")
        if error.code in BUSY:
            return _Busy(line, _seconds(error.headers.get("Retry-After")))
        if error.code in REFUSED:
            return Refused(f"the endpoint refuses it: {line}")
        if error.code in (401, 403):
            how = f"the key in {self.settings.key} is refused" if self.settings.key else "set endpoint.key"
            return ModelError(f"{self.url}: {line}; {how}.")
        return _Unknown(line)

    def _read(self, route: str, content: bytes) -> dict[str, Any]:
        try:
            found = json.loads(content)
        except ValueError:
            raise ModelError(f"{self.url}/{route}: answers no JSON: {_short(content)}") from None
        if not isinstance(found, dict):
            raise ModelError(f"{self.url}/{route}: answers {_short(content)}, a JSON object is needed.")
        return found


class _Unknown(Exception):  # noqa: N818  the caller says what it means
    """There is nothing at this route, or it answers with a status that nobody expects."""


def _message(content: bytes) -> str:
    """What an answer with an error says, as most servers write it."""
    try:
        found = json.loads(content)
    except ValueError:
        return ""
    told = found.get("error", found.get("detail", found)) if isinstance(found, dict) else None
    text = told.get("message") if isinstance(told, dict) else told
    return " ".join(text.split())[:200] if isinstance(text, str) else ""


def _short(content: bytes) -> str:
    text = " ".join(content[:400].decode("utf-8", "replace").split())
    return repr(text[:80]) if text else "nothing"


def _seconds(header: str | None) -> float | None:
    """Of a Retry-After that is a number; dates are not waited for."""
    try:
        return max(0.0, float(header)) if header is not None else None
    except ValueError:
        return None


def _some(names: list[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
