"""Prompts in windows side by side: what is cut, and what a state of windows keeps of the contract."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import VOCABULARY, model_of
from test_context import context_of, small, tokens

from farfield.architectures.saved_state import load_state, save_state
from farfield.config import ConfigError, read
from farfield.context import stretched
from farfield.generation import prefill
from farfield.model import LanguageModel
from farfield.windows import ParallelWindows


def prompts(*lengths: int) -> list[list[int]]:
    return [tokens(1, length)[0].tolist() for length in lengths]


def windowed(model: LanguageModel | None = None, window: int = 12, task: int = 5, shared: int = 0) -> LanguageModel:
    return stretched(model or small(), context_of("parallel", window=window, task=task, shared=shared))


@given(
    st.integers(1, 200), st.integers(2, 40), st.integers(1, 30), st.integers(0, 3).filter(lambda shared: shared != 2)
)
def test_cut(count: int, window: int, task: int, shared: int) -> None:
    """Every token once, but for what is shared; as few windows as hold them, nearly equally long; the task behind."""
    shared = min(shared, window - 1)
    prompt = list(range(count))
    windows, rest = ParallelWindows(window=window, task=task, shared=shared).cut(prompt)
    assert rest
    if not windows:
        assert rest == prompt
        return
    assert len(rest) == min(task, max(1, count - shared))
    assert all(one[:shared] == prompt[:shared] for one in windows)
    assert [*prompt[:shared], *(token for one in windows for token in one[shared:]), *rest] == prompt
    sizes = [len(one) for one in windows]
    assert max(sizes) <= window
    assert max(sizes) - min(sizes) <= 1
    assert len(windows) == -(-(count - shared - len(rest)) // (window - shared))


@torch.no_grad()
def test_one_window_is_plain_reading() -> None:
    model = small()
    for shared in (0, 2):
        found, state = prefill(windowed(model, 40, 5, shared), prompts(40))
        plain, before = prefill(model, prompts(40))
        torch.testing.assert_close(found, plain, rtol=0, atol=1e-12)
        assert state.position.tolist() == before.position.tolist() == [40]
        assert state.ahead is not None
        assert state.ahead.tolist() == [0]


@pytest.mark.parametrize("name", ["plain", "nope", "dropped"])
@torch.no_grad()
def test_rows_do_not_depend_on_each_other(name: str) -> None:
    """Prompts of no window, of one and of many, together as each alone, and on from there."""
    model = windowed(small(position="none" if name == "nope" else "rope"), shared=2 if name == "dropped" else 0)
    several = prompts(1, 4, 16, 63, 30)
    logits, state = prefill(model, several)
    more = tokens(5, 3)
    after, state = model(more, state)
    for row, prompt in enumerate(several):
        alone, its = prefill(model, [prompt])
        torch.testing.assert_close(logits[row], alone[0], rtol=0, atol=1e-12)
        torch.testing.assert_close(after[row], model(more[row : row + 1], its)[0][0], rtol=0, atol=1e-12)
    assert state.position.tolist() == [len(prompt) + 3 for prompt in several]


@torch.no_grad()
def test_the_order_of_windows_does_not_matter() -> None:
    """Where they are equally long: none of them stands before another."""
    model, (prompt,) = windowed(window=10, task=5), prompts(45)
    swapped = [*prompt[20:40], *prompt[:20], *prompt[40:]]
    torch.testing.assert_close(prefill(model, [prompt])[0], prefill(model, [swapped])[0], rtol=0, atol=1e-12)
    other = [*prompt[:5], *reversed(prompt[5:40]), *prompt[40:]]
    assert (prefill(model, [prompt])[0] - prefill(model, [other])[0]).abs().max() > 1e-4


@torch.no_grad()
def test_a_state_of_windows_is_a_state(tmp_path: Path) -> None:
    """Saved and picked it goes on as if never stopped; a document that starts behind it knows nothing of it."""
    model, (prompt, other) = windowed(), prompts(50, 33)
    _, state = prefill(model, [prompt, other])
    more = tokens(2, 6)
    expected, _ = model(more, state)
    save_state(state, tmp_path / "state.safetensors")
    saved = load_state(tmp_path / "state.safetensors", model.start(1))
    assert torch.equal(model(more, saved)[0], expected)
    picked, _ = model(more[[1]], state.select(torch.tensor([1])))
    torch.testing.assert_close(picked, expected[[1]], rtol=0, atol=1e-12)
    assert state.first(10) is None
    counts = 2 * 8 * (2 + model.config.architecture.depth)  # of rows that differ: position, how far ahead, each layer's
    assert state.bytes == model.config.state_bytes(50, 8) + model.config.state_bytes(33, 8) + counts
    positions = torch.tensor([[50, 51, 0, 1, 2, 3], [33, 34, 35, 36, 37, 38]])
    found, behind = model(more, state, positions=positions)
    torch.testing.assert_close(found[0, :2], expected[0, :2], rtol=0, atol=1e-12)
    torch.testing.assert_close(found[0, 2:], model(more[:1, 2:])[0][0], rtol=0, atol=1e-12)
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=1e-12)
    assert behind.ahead is not None
    assert behind.ahead[0] == 0 < behind.ahead[1]


@torch.no_grad()
def test_layers_that_share_keys_share_those_of_windows() -> None:
    mapping = model_of("cla").config.mapping()
    mapping["architecture"]["layers"]["attention"]["mixer"]["conv"] = 0
    torch.manual_seed(0)
    model = LanguageModel(read(type(model_of("cla").config), mapping)).double()
    found, state = prefill(windowed(model), prompts(50))
    assert state.position.tolist() == [50]
    again, _ = prefill(windowed(model), [*prompts(50), *prompts(9)])
    torch.testing.assert_close(again[0], found[0], rtol=0, atol=1e-12)
    assert found.shape[1] == VOCABULARY


def test_what_windows_share_leaves_room() -> None:
    with pytest.raises(ConfigError) as mistake:
        stretched(small(), context_of("parallel", window=4, shared=4))
    assert str(mistake.value) == "context.shared: 4 given, less than window = 4 is needed."
