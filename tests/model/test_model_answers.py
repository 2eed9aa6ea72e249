"""The model on any rows: packed, padded on any side, cut anywhere, it answers as each document alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from contract.runs import assert_close, cut, documents, positions_of
from hypothesis import given, settings
from hypothesis import strategies as st
from models import MODELS, VOCABULARY, model_of
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from farfield.architectures.ops.cross_entropy import IGNORED
from farfield.model import LanguageModel, ModelState

LAYOUT = ("-4 9 20 1 -5 24", "63", "7 -1 40 15", "-63")


def tokens_like(positions: Tensor, seed: int = 0) -> Tensor:
    """Random ids; at padding, ids that no vocabulary has."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.randint(0, VOCABULARY, positions.shape, generator=generator)
    return torch.where(positions < 0, 10**9, found)


def in_calls(model: LanguageModel, tokens: Tensor, calls: list[Tensor]) -> tuple[Tensor, ModelState]:
    outputs, state, at = [], None, 0
    for positions in calls:
        logits, state = model(tokens[:, at : at + positions.shape[1]], state, positions=positions)
        outputs.append(logits)
        at += positions.shape[1]
    assert state is not None
    return torch.cat(outputs, 1), state


def alone(model: LanguageModel, tokens: Tensor, positions: Tensor) -> Tensor:
    """The logits of every document of the layout in a call of its own; zero at padding."""
    found = torch.zeros(*tokens.shape, VOCABULARY, dtype=torch.float64)
    for row, columns in documents(positions):
        found[row, columns] = model(tokens[row : row + 1, columns])[0][0]
    return found


def gradients(model: LanguageModel, loss: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(
        zip(names, torch.autograd.grad(loss, parameters, materialize_grads=True, allow_unused=True), strict=True)
    )


@pytest.mark.parametrize("name", MODELS)
def test_documents_answer_as_if_alone_with_gradients(name: str) -> None:
    model, positions = model_of(name), positions_of(*LAYOUT)
    tokens = tokens_like(positions)
    found, _ = model(tokens, positions=positions)
    expected = alone(model, tokens, positions)
    assert not found[positions < 0].any()
    assert_close(found.detach(), expected.detach(), 1e-9)
    above = torch.randn_like(found)
    ours, theirs = (gradients(model, (logits * above).sum()) for logits in (found, expected))
    for weight in theirs:
        assert_close(ours[weight], theirs[weight], 1e-9, weight)


@pytest.mark.parametrize("sizes", [[1], [2, 30, 5]], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_any_split_is_the_whole(name: str, sizes: list[int]) -> None:
    model, positions = model_of(name), positions_of("40", "20 20", "-5 35")
    tokens = tokens_like(positions)
    with torch.no_grad():
        expected, last = model(tokens, positions=positions)
        found, state = in_calls(model, tokens, cut(positions, sizes))
    assert_close(found, expected, 1e-9)
    assert torch.equal(state.position, last.position)
    assert state.position.tolist() == [40, 20, 35]


@pytest.mark.parametrize("name", MODELS)
def test_positions_go_on_from_the_state_where_they_are_not_given(name: str) -> None:
    model = model_of(name)
    first, rest = positions_of("20", "9 11", "13 -7"), torch.tensor([[20], [11], [13]]) + torch.arange(9)
    tokens = tokens_like(torch.cat((first, rest), 1))
    with torch.no_grad():
        _, state = model(tokens[:, :20], positions=first)
        expected, _ = model(tokens[:, 20:], state, positions=rest)
        found, after = model(tokens[:, 20:], state)
    assert torch.equal(found, expected)
    assert after.position.tolist() == [29, 20, 22]


@pytest.mark.parametrize("left", [1, 20])
@pytest.mark.parametrize("name", MODELS)
def test_a_state_goes_on_behind_left_padding(name: str, left: int) -> None:
    """Rows of a batch that go on with more or less text, set flush right; one of them has nothing to add."""
    model, lengths = model_of(name), torch.tensor([9, 5, 0])
    first = torch.arange(12).expand(3, -1)
    rest = 12 + torch.arange(9 + left) - (9 + left - lengths)[:, None]
    rest = torch.where(rest >= 12, rest, -1)
    more = torch.where(lengths > 0, 12 + lengths, 12)[:, None] + torch.arange(4)
    positions = torch.cat((first, rest, more), 1)
    tokens = tokens_like(positions)
    with torch.no_grad():
        found, state = in_calls(model, tokens, [first, rest])
        assert state.position.tolist() == [21, 17, 12]  # that of the row with nothing to add stays
        last, state = model(tokens[:, -4:], state)
        assert_close(torch.cat((found, last), 1), alone(model, tokens, positions), 1e-9)
    assert state.position.tolist() == [25, 21, 16]


@st.composite
def layouts(draw: st.DrawFn) -> list[Tensor]:
    """Calls over rows of random documents: in each call a row takes some tokens, with padding on both sides of them,
    and between documents.
    """
    lengths = draw(st.lists(st.lists(st.integers(1, 14), min_size=1, max_size=4), min_size=1, max_size=3))
    left = [[position for length in row for position in range(length)] for row in lengths]
    calls = []
    while any(left):
        call = []
        for place, row in enumerate(left):
            count = draw(st.sampled_from([40, 1, 0, 7]))
            taken, left[place] = row[:count], row[count:]
            run = [-1] * draw(st.integers(0, 3))
            for position in taken:
                run += [-1] * (draw(st.integers(0, 2)) if position == 0 else 0) + [position]
            call.append(run)
        longest = max(map(len, call))
        if any(position >= 0 for run in call for position in run):
            calls.append(torch.tensor([run + [-1] * (longest - len(run)) for run in call]))
    return calls


@pytest.mark.parametrize("name", ["mixture", "memory", "memory-gated"])
def test_random_layouts(name: str) -> None:
    model = model_of(name)

    @settings(max_examples=8)
    @given(layouts(), st.integers(0, 2**16))
    def holds(calls: list[Tensor], seed: int) -> None:
        positions = torch.cat(calls, 1)
        tokens = tokens_like(positions, seed)
        with torch.no_grad():
            found, _ = in_calls(model, tokens, calls)
            assert_close(found, alone(model, tokens, positions), 1e-9)

    holds()


@pytest.mark.parametrize("name", MODELS)
def test_a_state_is_saved_picked_and_shared(name: str, tmp_path: Path) -> None:
    model = model_of(name)
    positions = positions_of("30", "11 19", "25 -5")
    tokens = tokens_like(positions)
    more = torch.randint(0, VOCABULARY, (3, 9))
    with torch.no_grad():
        _, state = model(tokens, positions=positions)
        expected, _ = model(more, state)
        again, _ = model(more, state)
        save_file(state.compact().tensors(), tmp_path / "state.safetensors")
        loaded = model.start(1).restored(load_file(tmp_path / "state.safetensors"))
        found, _ = model(more, loaded)
        picked = torch.tensor([2, 0, 2])
        chosen, _ = model(more[picked], state.select(picked))
    assert_close(again, expected, 1e-12)
    assert_close(found, expected, 1e-9)
    assert_close(chosen, expected[picked], 1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_a_state_with_a_tensor_missing_is_not_restored(name: str) -> None:
    state = model_of(name).start(2)
    tensors = state.tensors()
    for missing in tensors:
        with pytest.raises(KeyError, match=missing.replace(".", r"\.")):
            state.restored({key: value for key, value in tensors.items() if key != missing})


# The loss


def scored(positions: Tensor) -> Tensor:
    """Targets with some that are not scored, among them all at padding."""
    targets = tokens_like(positions, seed=9)
    targets[:, ::5] = IGNORED
    return torch.where(positions < 0, IGNORED, targets)


EXPERTS = ("experts", "recurrent")
"""Models with a mixture of experts among their layers."""


@pytest.mark.parametrize("piece", [63, 1000])
@pytest.mark.parametrize("name", MODELS)
def test_loss_in_pieces_is_the_whole_loss_with_gradients(name: str, piece: int) -> None:
    model, positions = model_of(name), positions_of(*LAYOUT)
    tokens, targets = tokens_like(positions), scored(positions)
    loss = model.loss(tokens, targets, positions=positions, piece=piece)
    logits, _ = model(tokens, positions=positions)
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
    assert loss.tokens == int((targets != IGNORED).sum())
    assert_close(loss.nll.detach(), expected.detach(), 1e-10)
    assert torch.equal(loss.total, sum(loss.auxiliary.values(), loss.nll))
    assert set(loss.auxiliary) == ({"balance"} if name in EXPERTS else set())
    ours, theirs = gradients(model, loss.nll), gradients(model, expected)
    for weight in theirs:
        assert_close(ours[weight], theirs[weight], 1e-9, weight)


def test_nothing_scored_is_a_loss_of_zero() -> None:
    model, positions = model_of("mixture"), positions_of("9")
    loss = model.loss(tokens_like(positions), torch.full_like(positions, IGNORED))
    assert loss.total.item() == 0
    assert loss.tokens == 0
    assert not any(gradient.any() for gradient in gradients(model, loss.total).values())


class Largest(TorchDispatchMode):
    """The largest number of elements of any tensor that an operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return out


def test_the_loss_never_holds_logits_of_all_tokens() -> None:
    """A vocabulary that is larger than everything else: a piece of logits is the largest tensor."""
    torch.manual_seed(0)
    config = model_of("retnet").config.model_copy(update={"vocabulary": 1000})
    model = LanguageModel(config)
    tokens = torch.randint(0, 1000, (2, 130))
    with Largest() as largest:
        model.loss(tokens, tokens, piece=32).total.backward()
    assert largest.numbers == 32 * 1000
    with Largest() as largest:
        model(tokens)
    assert largest.numbers == 2 * 130 * 1000


@pytest.mark.parametrize("name", MODELS)
def test_checkpointing_changes_no_gradient(name: str) -> None:
    """Also from a state, whose buffers the layers see a second time in the backward."""
    model, positions = model_of(name), positions_of(*LAYOUT)
    tokens, targets = tokens_like(positions), scored(positions)
    results = []
    for checkpointing in (False, True):
        model.decoder.checkpointing = checkpointing
        first = model.loss(tokens, targets, positions=positions)
        second = model.loss(torch.zeros_like(tokens), torch.ones_like(tokens), first.state)
        third = model.loss(torch.zeros_like(tokens[:, :1]), torch.ones_like(tokens[:, :1]), second.state)
        results.append((second.total.detach(), gradients(model, first.total + second.total + third.total)))
    (plain, expected), (again, found) = results
    assert_close(again, plain, 1e-12)
    for weight in expected:
        assert_close(found[weight], expected[weight], 1e-9, weight)


@pytest.mark.parametrize("name", MODELS)
def test_truncated_backpropagation_stops_at_a_detached_state(name: str) -> None:
    model = model_of(name)
    tokens = torch.randint(0, VOCABULARY, (2, 40))
    _, state = model(tokens[:, :20])
    found = gradients(model, model.loss(tokens[:, 20:-1], tokens[:, 21:], state.detach()).total)
    with torch.no_grad():
        _, state = model(tokens[:, :20])
    expected = gradients(model, model.loss(tokens[:, 20:-1], tokens[:, 21:], state).total)
    for weight in expected:
        assert_close(found[weight], expected[weight], 1e-9, weight)


@pytest.mark.parametrize("name", MODELS)
def test_every_weight_learns(name: str) -> None:
    """A few steps on one batch lower its loss, and no weight stays without a gradient."""
    model = model_of(name, torch.float32)
    positions = positions_of(*LAYOUT[:3])
    tokens, targets = tokens_like(positions), scored(positions)
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=1e-2), []
    for _ in range(8):
        loss = model.loss(tokens, targets, positions=positions)
        optimizer.zero_grad()
        loss.total.backward()
        assert [weight for weight, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
        optimizer.step()
        losses.append(loss.nll.item())
    assert losses[-1] < losses[0] - 0.3


@pytest.mark.parametrize("name", MODELS)
def test_mixed_precision_trains_on_packed_rows_and_from_a_state(name: str) -> None:
    model, positions = model_of(name, torch.float32), positions_of(*LAYOUT)
    tokens, targets = tokens_like(positions), scored(positions)
    with torch.autocast("cpu", torch.bfloat16):
        first = model.loss(tokens, targets, positions=positions)
        second = model.loss(torch.zeros_like(tokens), torch.ones_like(tokens), first.state.detach())
    found = gradients(model, first.total + second.total)
    assert all(gradient.isfinite().all() and gradient.dtype == torch.float32 for gradient in found.values())
    assert first.nll.dtype == torch.float32
    assert_close(first.nll.detach(), model.loss(tokens, targets, positions=positions).nll.detach(), 2e-2)
