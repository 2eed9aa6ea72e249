"""Endpoints by URL: what they are asked, what is made of good answers, and one line for each bad one."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from endpoint_server import Answer, Answering, serving

from farfield import cli
from farfield.benchmarks.subjects.endpoint import Client
from farfield.benchmarks.subjects.endpoint_subject import EndpointSubject, open_endpoint
from farfield.benchmarks.subjects.subject import IncapableError, Refused, TemporaryError
from farfield.benchmarks.subjects.subject_settings import EndpointConfig
from farfield.config import ConfigError, DataError, FarfieldError, ModelError
from farfield.tokenizers import BytesTokenizer, train_bpe


def says(text: Any, **more: Any) -> Answer:
    return 200, {"choices": [{"text": text}], "usage": {"prompt_tokens": 7, "completion_tokens": 2}, **more}


def ids(*texts: str) -> Any:
    return np.array([BytesTokenizer().encode(text) for text in texts])


def subject(url: str, **settings: Any) -> EndpointSubject:
    """One that does not wait."""
    given = EndpointConfig(**{"timeout": 5.0, **settings})
    client = Client(url, given, sleep=lambda seconds: None)
    return EndpointSubject(client, client.model(), BytesTokenizer(), "endpoint")


def test_a_prompt_is_sent_as_text_and_the_answer_comes_back_as_ids() -> None:
    with serving(lambda route, body, count: says(body["prompt"][-3:] + "!" * 50)) as server:
        asked = subject(server.url)
        known = asked.prefill(ids(" one?", " two?"), asked.prefill(ids("Größe", "Maßöl")))
        written = asked.generate(known, 8, ("\n", "a", "b", "c", "d"))
    assert [BytesTokenizer().decode(row) for row in written.ids] == ["ne?!!!!!", "wo?!!!!!"]
    assert written.ties == [0, 0]
    assert (written.made, written.steps) == ((2, 2), 2)
    route, body, headers = server.asked[-1]
    assert route == "completions"
    assert {one["prompt"] for one in server.bodies} == {"Größe one?", "Maßöl two?"}
    assert {**body, "prompt": ""} == {
        "model": "small",
        "prompt": "",
        "max_tokens": 8,
        "temperature": 0,
        "seed": 0,
        "stop": ["\n", "a", "b", "c"],
    }
    assert "Authorization" not in headers
    assert asked.usage() == {
        "requests": 2,
        "retries": 0,
        "prompt_tokens": 14,
        "completion_tokens": 4,
        "changed_prompts": 0,
    }


def test_a_chat_is_asked_as_a_user_would() -> None:
    answer = {"choices": [{"message": {"role": "assistant", "content": "seven"}}]}
    with serving(lambda route, body, count: (200, answer)) as server:
        asked = subject(server.url, chat=True)
        written = asked.generate(asked.prefill(ids("Which?")), 20)
    assert BytesTokenizer().decode(written.ids[0]) == "seven"
    assert server.asked[-1][0] == "chat/completions"
    assert server.bodies[0]["messages"] == [{"role": "user", "content": "Which?"}]
    assert "prompt" not in server.bodies[0]
    assert asked.describe()["chat"] is True


def test_answers_are_in_order_and_several_are_waited_for_at_once() -> None:
    def slow(route: str, body: dict[str, Any], count: int) -> Answer:
        at = int(body["prompt"])
        running.append(at)
        together.append(len(running))
        time.sleep(0.05 if at % 2 else 0.1)
        running.remove(at)
        return says(f"answer {at}")

    running: list[int] = []
    together: list[int] = []
    with serving(slow) as server:
        asked = subject(server.url, concurrency=3)
        written = asked.generate(asked.prefill(ids(*map(str, range(7)))), 20)
    assert [BytesTokenizer().decode(row) for row in written.ids] == [f"answer {at}" for at in range(7)]
    assert 1 < max(together) <= 3


def test_the_key_comes_from_its_variable_and_goes_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "secret-123")
    with serving(lambda route, body, count: says("a")) as elsewhere:
        moved = (307, {}, {"Location": f"{elsewhere.url}/completions"})
        with serving(lambda route, body, count: says("a") if count == 0 else moved) as server:
            asked = subject(server.url, key="SOME_KEY")
            known = asked.prefill(ids("x"))
            asked.generate(known, 1)
            with pytest.raises(ModelError, match="307 Temporary Redirect"):
                asked.generate(known, 1)
    assert all(headers["Authorization"] == "Bearer secret-123" for _, _, headers in server.asked)
    assert not elsewhere.asked
    assert "secret" not in json.dumps([dict(asked.describe()), asked.usage()])
    monkeypatch.delenv("SOME_KEY")
    with pytest.raises(ConfigError, match=r"endpoint\.key: the environment variable SOME_KEY is not set\."):
        subject(server.url, key="SOME_KEY")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_fails_for_a_while_is_asked_again(status: int) -> None:
    waited: list[float] = []
    busy = (status, {"error": {"message": "later"}}, {"Retry-After": "0.25"})
    with serving(lambda route, body, count: busy if count < 2 else says("now")) as server:
        client = Client(server.url, EndpointConfig(retries=2), sleep=waited.append)
        asked = EndpointSubject(client, "small", BytesTokenizer(), "endpoint")
        assert BytesTokenizer().decode(asked.generate(asked.prefill(ids("x")), 9).ids[0]) == "now"
    assert waited == [0.25, 0.25]
    assert asked.usage()["retries"] == 2
    with serving(lambda route, body, count: (status, b"")) as server:
        waited.clear()
        client = Client(server.url, EndpointConfig(retries=3), sleep=waited.append)
        asked = EndpointSubject(client, "small", BytesTokenizer(), "endpoint")
        with pytest.raises(TemporaryError, match=rf"/completions: {status} .*, 4 times\."):
            asked.generate(asked.prefill(ids("x")), 9)
    assert waited == [0.5, 1, 2]
    assert (asked.usage()["requests"], asked.usage()["retries"]) == (1, 3)


def test_a_timeout_and_a_broken_connection_are_temporary() -> None:
    def slow(route: str, body: dict[str, Any], count: int) -> Answer:
        time.sleep(0.5)
        return says("late")

    with serving(slow) as server:
        asked = subject(server.url, timeout=0.1, retries=0)
        with pytest.raises(TemporaryError, match=r"/completions: no answer within 0\.1 s, 1 times\."):
            asked.generate(asked.prefill(ids("x")), 9)
    with serving(lambda route, body, count: (200, None)) as server:
        asked = subject(server.url, retries=1)
        with pytest.raises(TemporaryError, match=r"/completions: nothing answers: .*, 2 times\."):
            asked.generate(asked.prefill(ids("x")), 9)
    with pytest.raises(TemporaryError, match="nothing answers: Connection refused, 2 times"):
        asked.generate(asked.prefill(ids("x")), 9)


def test_a_prompt_that_is_refused_is_a_reason_to_skip() -> None:
    refused = (400, {"error": {"message": "This model's maximum context length is 4096 tokens."}})
    with serving(lambda route, body, count: refused) as server:
        asked = subject(server.url)
        with pytest.raises(Refused, match=r"refuses it: 400 Bad Request: This model's maximum context length is 4096"):
            asked.generate(asked.prefill(ids("x")), 9)
    assert len(server.bodies) == asked.usage()["requests"] == 1


NONSENSE: dict[str, tuple[Answer, str]] = {
    "no JSON": ((200, b"<!doctype html>\n<p>Hello"), "answers no JSON: '<!doctype html> <p>Hello'"),
    "nothing": ((200, b""), "answers no JSON: nothing"),
    "a list": ((200, [1]), "answers '[1]', a JSON object is needed."),
    "no choices": ((200, {"object": "x"}), "the answer has no choices."),
    "empty choices": ((200, {"choices": []}), "the answer has no choices."),
    "choices of another type": ((200, {"choices": ["a"]}), "the answer has no choices."),
    "no text": ((200, {"choices": [{}]}), "the answer has no choices[0].text."),
    "a number": (says(7), "the answer has a number for choices[0].text, a text is needed."),
    "a number with a point": (says(7.5), "the answer has a number for choices[0].text, a text is needed."),
    "null": (says(None), "the answer has null for choices[0].text, a text is needed."),
    "true": (says(True), "the answer has true or false for choices[0].text, a text is needed."),
    "an object": (says({}), "the answer has an object for choices[0].text, a text is needed."),
    "another path": ((404, b"not here"), "404 Not Found"),
    "another model": ((404, {"error": {"message": "no model small"}}), "404 Not Found: no model small"),
}


@pytest.mark.parametrize("case", NONSENSE)
def test_nonsense_is_told_in_one_line(case: str) -> None:
    answer, line = NONSENSE[case]
    with serving(lambda route, body, count: answer) as server:
        asked = subject(server.url)
        with pytest.raises(ModelError) as error:
            asked.generate(asked.prefill(ids("x")), 9)
    assert str(error.value) == f"{server.url}/completions: {line}"


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ({"choices": [{"text": "a"}]}, "has no choices[0].message.content."),
        ({"choices": [{"message": "a"}]}, "has no choices[0].message.content."),
        (
            {"choices": [{"message": {"content": ["a"]}}]},
            "has a list for choices[0].message.content, a text is needed.",
        ),
    ],
)
def test_nonsense_in_a_chat(answer: dict[str, Any], line: str) -> None:
    with serving(lambda route, body, count: (200, answer)) as server:
        asked = subject(server.url, chat=True)
        with pytest.raises(ModelError) as error:
            asked.generate(asked.prefill(ids("x")), 9)
    assert str(error.value) == f"{server.url}/chat/completions: the answer {line}"


def test_what_an_endpoint_cannot_do_is_a_mistake_in_one_line() -> None:
    with serving(lambda route, body, count: says("x")) as server:
        asked = subject(server.url)
    known = asked.prefill(ids("x"))
    asks: dict[str, Callable[[], object]] = {
        "read": lambda: asked.read(ids("x"), ids("x")),
        "memory": lambda: asked.without_memory(),
        "score": lambda: asked.choose(known, [[ids("y")[0]]]),
    }
    for capability, ask in (*asks.items(), ("memory", lambda: asked.shuffled(known, 0))):
        with pytest.raises(IncapableError) as error:
            ask()
        said = f"endpoint: asked for '{capability}', which it cannot do. Its capabilities: generate."
        assert str(error.value) == said
    assert not server.bodies


def thoughtful(route: str, body: dict[str, Any], count: int) -> Answer:
    """Thinks for forty tokens, which are not told, and answers by what is left."""
    room = max(0, body["max_tokens"] - 40)
    content = "seven. Or eight?"[:room] or None
    return 200, {"choices": [{"message": {"content": content}, "finish_reason": "length"}]}


def test_an_answer_of_thoughts_alone_is_empty_and_told() -> None:
    with serving(thoughtful) as server:
        asked = subject(server.url, chat=True)
        written = asked.generate(asked.prefill(ids("x", "y")), 9)
        assert (written.ids, written.silent) == ([[], []], {0, 1})
        assert (written.made, written.steps) == ((None, None), None)
        assert asked.generate(asked.prefill(ids("x", "y")), 1).made == (1, 1)  # whoever counts
        assert asked.describe()["extra_tokens"] == 0
        roomy = subject(server.url, chat=True, extra_tokens=45)
        written = roomy.generate(roomy.prefill(ids("x")), 5)
    assert server.bodies[-1]["max_tokens"] == 50
    assert server.bodies[-1]["temperature"] == 0
    assert (BytesTokenizer().decode(written.ids[0]), written.silent) == ("seven", frozenset())
    for content, ended, silent in ((None, "stop", {0}), ("", "length", {0}), ("", "stop", set())):
        choice = {"message": {"content": content}, "finish_reason": ended}
        with serving(lambda route, body, count, choice=choice: (200, {"choices": [choice]})) as server:
            asked = subject(server.url, chat=True)
            written = asked.generate(asked.prefill(ids("x")), 9)
            assert (written.ids, written.silent) == ([[]], silent)


def test_fields_of_a_request_are_the_users() -> None:
    """Models that think refuse max_tokens and temperature."""
    with serving(thoughtful_elsewhere) as server:
        asked = subject(
            server.url, chat=True, body={"temperature": None, "max_tokens": None, "max_completion_tokens": 9}
        )
        asked.generate(asked.prefill(ids("x")), 5)
    assert server.bodies[-1].keys() == {"model", "messages", "seed", "max_completion_tokens"}
    assert asked.describe()["body"] == {"temperature": None, "max_tokens": None, "max_completion_tokens": 9}


def thoughtful_elsewhere(route: str, body: dict[str, Any], count: int) -> Answer:
    return 200, {"choices": [{"message": {"content": "seven"}, "finish_reason": "stop"}]}


def test_the_command_line_counts_answers_without_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    once = ["suite.lengths=[512]", "suite.controls=[]", "suite.batch=1", "endpoint.chat=true"]
    assert evaluated(thoughtful, tmp_path, monkeypatch, *once)[0] == 0
    assert (
        "answers without text: 4; a model that thinks first needs endpoint.extra_tokens=..." in capsys.readouterr().out
    )
    lines = [json.loads(line) for line in (tmp_path / "results/it/needle.jsonl").read_text().splitlines()]
    assert [line["silent"] for line in lines if line["record"] == "cell"] == [2, 2]
    assert evaluated(thoughtful, tmp_path, monkeypatch, *once, "endpoint.extra_tokens=60", "--json")[0] == 0
    assert json.loads(capsys.readouterr().out)["counts"]["silent"] == 0


def likely(route: str, body: dict[str, Any], count: int) -> Answer:
    """Tokens of three characters, each as likely as its place says, and one more that was not asked for."""
    text, at = body["prompt"], range(0, len(body["prompt"]), 3)
    told = {"text_offset": [*at, len(text)], "token_logprobs": [None, *(-float(one) for one in at[1:]), -99.0]}
    return 200, {"choices": [{"text": text, "logprobs": told}]}


def test_likelihoods_are_those_of_the_tokens_that_end_in_the_choice() -> None:
    with serving(likely) as server:
        asked = subject(server.url, logprobs=True)
        assert asked.capabilities == {"generate", "score"}
        known = asked.prefill(ids("12345678", "abcdefgh"))
        choices = [[np.array(list(text), np.int32) for text in row] for row in ([b"9", b"9ABC"], [b"i", b"ijk"])]
        found = asked.choose(known, choices)
        assert asked.score(known, ids("xy", "zw")).tolist() == [[-6, -6], [-6, -6]]
    assert [row.tolist() for row in found] == [[-6, -15], [-6, -15]]
    assert server.bodies[0]["echo"] is True
    assert server.bodies[0]["max_tokens"] == 0
    with serving(lambda route, body, count: says("x")) as server:
        asked = subject(server.url, logprobs=True)
        with pytest.raises(ModelError, match=r"has no logprobs of the prompt\. Set endpoint\.logprobs=false\."):
            asked.choose(asked.prefill(ids("x")), [[np.array([65], np.int32)]])
    assert subject_capabilities() == {"generate"}


def subject_capabilities() -> frozenset[str]:
    client = Client("http://localhost/v1", EndpointConfig())
    return EndpointSubject(client, "small", BytesTokenizer(), "endpoint").capabilities


def test_prompts_that_are_others_as_text_are_counted(tmp_path: Path) -> None:
    tokenizer = train_bpe(["the cat sat on the mat the cat"] * 3, 300)
    tokenizer.save(tmp_path / "tokenizer")
    with serving(lambda route, body, count: says("ok")) as server:
        asked = open_endpoint(server.url, EndpointConfig(tokenizer=str(tmp_path / "tokenizer")), "endpoint")
        joined = tokenizer.encode("the cat")
        apart = [token for letter in "the cat" for token in tokenizer.encode(letter)]
        assert len(joined) < len(apart)
        asked.generate(asked.prefill(np.array([joined])), 3)
        assert asked.usage()["changed_prompts"] == 0
        asked.generate(asked.prefill(np.array([apart])), 3)
        assert asked.usage()["changed_prompts"] == 1
        assert server.bodies[0]["prompt"] == server.bodies[1]["prompt"] == "the cat"
    with pytest.raises(DataError, match=r"^endpoint\.tokenizer: .*no tokenizer there"):
        open_endpoint(server.url, EndpointConfig(tokenizer=str(tmp_path)), "endpoint")


def silent(route: str, body: dict[str, Any], count: int) -> Answer:
    return says("")


@pytest.mark.parametrize(
    ("models", "settings", "line"),
    [
        (
            (200, {"data": [{"id": "small-7b"}, {"id": "large"}]}),
            {"model": "smal-7b"},
            "endpoint.model: URL serves no model 'smal-7b'. Did you mean 'small-7b'? Known: large, small-7b.",
        ),
        (
            (200, {"data": [{"id": "a"}, {"id": "b"}]}),
            {},
            "endpoint.model: null given, and URL serves several. Known: a, b.",
        ),
        ((404, b""), {}, "endpoint.model: null given, and URL does not say what it serves. Name the model."),
        ((200, {"data": "x"}), {}, "endpoint.model: null given, and URL does not say what it serves. Name the model."),
        ((200, b"<html>"), {}, "URL/models: answers no JSON: '<html>'"),
        ((401, {"error": "no key"}), {}, "URL: 401 Unauthorized: no key; set endpoint.key."),
        ((503, b""), {}, "URL: 503 Service Unavailable. Is the server running?"),
    ],
)
def test_what_cannot_be_opened_is_told_in_one_line(models: Answer, settings: dict[str, Any], line: str) -> None:
    with serving(silent, models) as server, pytest.raises(FarfieldError) as error:
        open_endpoint(server.url, EndpointConfig(**settings), "endpoint")
    assert str(error.value).replace(server.url, "URL") == line


def test_a_model_is_taken_at_its_word_where_nothing_is_listed() -> None:
    with serving(silent, (404, b"")) as server:
        assert open_endpoint(server.url, EndpointConfig(model="mine"), "endpoint").model == "mine"
    with serving(silent) as server:
        assert open_endpoint(server.url + "/", EndpointConfig(), "endpoint").model == "small"
    with pytest.raises(ModelError, match=r"^http://127.0.0.1:\d+/v1: nothing answers: Connection refused\. Is the "):
        open_endpoint(server.url, EndpointConfig(), "endpoint")


def needle(route: str, body: dict[str, Any], count: int) -> Answer:
    """Reads the prompt and answers."""
    key = body["prompt"].rsplit(" of ", 1)[-1].removesuffix(" is")
    found = re.search(rf"The secret number of {key} is (\d+)\.", body["prompt"])
    return says(f" {found[1]}." if found else " I do not know.")


def evaluated(answer: Answering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str]:
    monkeypatch.chdir(tmp_path)
    grid = ["suite.lengths=[512,1024]", "suite.depths=2", "suite.samples=2", "name=it"]
    with serving(answer) as server:
        return cli.main(["evaluate", f"model={server.url}", *grid, *words]), server.url


def test_the_command_line_asks_an_endpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluated(needle, tmp_path, monkeypatch)[0] == 0
    told = capsys.readouterr().out
    assert (
        "asked the endpoint: requests 16, retries 0, prompt tokens 112, completion tokens 32, changed prompts 0" in told
    )
    lines = [json.loads(line) for line in (tmp_path / "results/it/needle.jsonl").read_text().splitlines()]
    cells = [line for line in lines if line["record"] == "cell"]
    full = [cell for cell in cells if cell["condition"] == "full"]
    assert [cell["score"] for cell in full] == [1.0] * 4
    assert {cell["score"] for cell in cells if cell["condition"] == "no_context"} == {0.0}
    assert lines[0]["model"]["capabilities"] == ["generate"]
    usage = json.loads((tmp_path / "results/it/usage.json").read_text())
    assert usage["requests"] == 16


def test_the_command_line_tells_nonsense_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, url = evaluated(lambda route, body, count: (200, {"choice": 1}), tmp_path, monkeypatch)
    assert status == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"farfield: {url}/completions: the answer has no choices."
    status, url = evaluated(needle, tmp_path, monkeypatch, "suite.scoring=likelihood", "suite.lengths=[8]")
    assert status == 2


def test_what_was_refused_is_asked_for_once_again_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def short(route: str, body: dict[str, Any], count: int) -> Answer:
        if len(body["prompt"]) > longest[0]:
            return 400, {"error": {"message": "too long"}}
        return needle(route, body, count)

    longest = [600]
    monkeypatch.chdir(tmp_path)
    grid = ["suite.lengths=[512,1024]", "suite.depths=2", "suite.samples=1", "suite.controls=[no_context]", "name=it"]
    words = ["evaluate", "model=", *grid, "endpoint.concurrency=1", "--json"]
    found = []
    with serving(short) as server:
        words[1] = f"model={server.url}"
        for longest[0] in (600, 600, 9999, 9999):
            before = len(server.bodies)
            assert cli.main(words) == 0
            counts = json.loads(capsys.readouterr().out)["counts"]
            found.append((counts["skipped"], counts["refused"], counts["failed"], len(server.bodies) - before))
        # One request for a row that is refused, none for what is answered.
        assert found == [(2, 2, 0, 5), (2, 2, 0, 1), (0, 0, 0, 2), (0, 0, 0, 0)]
        longest[0] = 600
        assert cli.main([*words[:-1], "name=other"]) == 0
    assert "cells that were refused: 2; the same command asks for them once again" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ((500, b""), "farfield: cells that failed for now: 3; the same command tries them again."),
        ((400, b""), "farfield: all cells were refused (3): nothing was evaluated."),
    ],
)
def test_an_evaluation_that_is_not_done_ends_with_status_1(
    answer: Answer, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    once = ["suite.lengths=[512]", "suite.controls=[no_context]", "retries=0", "endpoint.retries=0"]
    assert evaluated(lambda route, body, count: answer, tmp_path, monkeypatch, *once)[0] == 1
    assert capsys.readouterr().err.splitlines()[-1] == line

    def half(route: str, body: dict[str, Any], count: int) -> Answer:
        return (500, b"") if len(body["prompt"]) < 200 else needle(route, body, count)

    assert evaluated(half, tmp_path, monkeypatch, *once, "--json")[0] == 1
    told = capsys.readouterr()
    assert json.loads(told.out)["counts"]["failed"] == 1
    assert told.err.splitlines()[-1] == "farfield: cells that failed for now: 1; the same command tries them again."
    # In a sweep too, and a job that has an error is the worse one.
    assert evaluated(half, tmp_path, monkeypatch, *once, "-m", "suite.seed=0,1")[0] == 1
    assert evaluated(half, tmp_path, monkeypatch, *once, "-m", "endpoint.model=small,none")[0] == 2
