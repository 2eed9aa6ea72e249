from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
import torch

import farfield
from farfield.benchmarks.running.prefixes import Walk
from farfield.benchmarks.subjects import model_subject
from farfield.benchmarks.subjects.model_subject import ModelSubject
from farfield.benchmarks.tasks.sample import Ids

# A softmax, a recurrence, a delta rule, a window, and a window with a memory.
ARCHITECTURES = ("attention", "retnet", "mamba2", "gated_deltanet", "longformer", "longformer+knn")


@cache
def subject(name: str) -> ModelSubject:
    """A small model with fresh weights, in float64."""
    architecture, _, memory = name.partition("+")
    window = ["layers.longformer.mixer.window=32"] if architecture == "longformer" else []
    made = farfield.build(architecture, ["width=32", "depth=2", *window], memory=memory or None, seed=1)
    return ModelSubject(made.double(), name)


def ids(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape)


def one_by_one(model: ModelSubject, prompts: np.ndarray, choices: Sequence[Sequence[Ids]]) -> list[list[float]]:
    """The definition: the log-probability of each token of a choice behind its row's prompt and the tokens before."""
    found = []
    for prompt, several in zip(prompts, choices, strict=True):
        sums = []
        for choice in several:
            logits, _ = model.model(torch.as_tensor(np.concatenate([prompt, choice]))[None])
            logprobs = logits[0].log_softmax(-1)
            sums.append(sum(float(logprobs[len(prompt) - 1 + at, token]) for at, token in enumerate(choice)))
        found.append(sums)
    return found


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_choices_are_as_likely_together_as_one_by_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = subject(name), ids(3, 70)
    choices = [[ids(length, seed=length + row).astype(np.int32) for length in (1, 3, 9, 3, 1)] for row in range(3)]
    choices[1] = choices[1][:2]
    with torch.no_grad():
        expected = one_by_one(model, prompts, choices)
    known = model.prefill(prompts)
    for held, tokens in ((model_subject.HELD, model_subject.CHOSEN), (1, 1), (10**9, 20)):
        monkeypatch.setattr(model_subject, "HELD", held)
        monkeypatch.setattr(model_subject, "CHOSEN", tokens)
        got = model.choose(known, choices)
        for mine, theirs in zip(got, expected, strict=True):
            assert mine.tolist() == pytest.approx(theirs, abs=1e-9)


def test_many_choices_take_as_many_calls_as_there_are_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = subject("retnet"), []
    hidden = model.model.hidden
    monkeypatch.setattr(model.model, "hidden", lambda *given, **named: calls.append(0) or hidden(*given, **named))
    model.choose(model.prefill(ids(2, 20)), [[ids(4, seed=at).astype(np.int32) for at in range(200)]] * 2)
    assert len(calls) == 2


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_reading_in_pieces_is_reading_at_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = subject(name), ids(2, 90)
    targets = np.where(ids(2, 90, seed=1) < 128, ids(2, 90, seed=2), -100)
    with torch.no_grad():
        logits, _ = model.model(torch.as_tensor(tokens))
    logprobs = logits.log_softmax(-1).numpy()
    expected = np.take_along_axis(logprobs, np.maximum(targets, 0)[..., None], -1)[..., 0] * (targets >= 0)
    held: list[int] = []
    head = model.model.head

    def watched(hidden: torch.Tensor) -> torch.Tensor:
        found = head(hidden)
        held.append(found.numel())
        return found

    monkeypatch.setattr(model.model, "head", watched)
    monkeypatch.setattr(model_subject, "LOGITS", 7 * 257)
    monkeypatch.setattr(model, "piece", 31)
    reading = model.read(tokens[:, 40:], targets[:, 40:], model.prefill(tokens[:, :40]))
    assert max(held) <= 7 * 257
    assert reading.logprobs == pytest.approx(expected[:, 40:], abs=1e-9)
    assert (reading.likely == logits.argmax(-1).numpy()[:, 40:]).all()
    after, whole = (model.score(known, ids(2, 5)) for known in (reading.known, model.prefill(tokens)))
    assert after == pytest.approx(whole, abs=1e-9)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_rows_that_are_picked_go_on_as_if_they_had_been_read_so(name: str) -> None:
    model, prompts, more = subject(name), ids(3, 50), ids(4, 9, seed=3)
    rows, candidates = [2, 0, 0, 1], np.tile(np.arange(257), (4, 1))
    picked = model.prefill(more, model.select(model.prefill(prompts), rows))
    alone = model.prefill(np.concatenate([prompts[rows], more], 1))
    assert model.score(picked, candidates) == pytest.approx(model.score(alone, candidates), abs=1e-9)


def scripted(gap: float, dtype: torch.dtype) -> ModelSubject:
    """A model that reads nothing and whose logits are always 0 but for two, 4 and 4 + `gap`."""
    made = farfield.build("retnet", ["width=32", "depth=2"]).to(dtype)
    scores = torch.zeros(257, dtype=dtype)
    scores[5], scores[6] = 4.0, 4.0 + gap
    made.model.head = lambda hidden: scores.expand(*hidden.shape[:-1], -1)  # type: ignore[method-assign]
    return ModelSubject(made, "scripted")


@pytest.mark.parametrize(
    ("dtype", "gap", "tied"),
    [
        (torch.float32, 0.0, True),
        (torch.float32, 5e-5, True),
        (torch.float32, 2e-4, False),
        (torch.float64, 5e-9, True),
        (torch.float64, 2e-8, False),
        (torch.bfloat16, 0.03125, True),
        (torch.bfloat16, 0.25, False),
    ],
)
def test_steps_whose_best_two_differ_by_rounding_are_counted(dtype: torch.dtype, gap: float, tied: bool) -> None:
    model = scripted(gap, dtype)
    written = model.generate(model.prefill(ids(2, 5)), budget=3)
    assert written.ids == [[5 if gap == 0 else 6] * 3] * 2
    assert written.ties == [3 * tied] * 2
    targets = np.full((2, 5), -1)
    targets[0, 2] = targets[1, 4] = 7
    assert (model.read(ids(2, 5), targets).ties == tied * (targets >= 0)).all()  # whatever the target is
    # Half of the gap that is a tie, for each of two may be off.
    assert (gap <= 2 * model.rounding(model.prefill(ids(2, 5)))).tolist() == [tied] * 2


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_text_that_is_read_once_for_several_questions_is_known_as_if_read_for_each(name: str) -> None:
    model, text, other = subject(name), ids(90), ids(80, seed=1)
    rows = [np.concatenate([one, ids(end, seed=end)]) for one, end in ((text, 3), (text, 5), (other, 4), (text, 5))]
    candidates, seen, fresh = np.arange(257)[None], {}, []

    def leaf(some: Sequence[int], _: int, known: object, new: int) -> None:
        seen.update(zip(some, model.score(known, candidates.repeat(len(some), 0)), strict=True))
        fresh.append(new)

    Walk(model, leaf, 16, lambda tokens: None)([[row.astype(np.int32)] for row in rows])
    assert sum(fresh) <= 90 + 3 + 5 + 5 + 84
    for at, row in enumerate(rows):
        assert seen[at] == pytest.approx(model.score(model.prefill(row[None]), candidates)[0], abs=1e-9)
