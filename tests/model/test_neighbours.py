"""Neighbours against a plain loop over tokens; any rows, any split, any state; what they cost; what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from contract.runs import assert_close, cut, documents, positions_of
from hypothesis import given, settings
from models import MODELS, VOCABULARY, mapping
from models import model_of as plain
from neighbouring import AROUND, CHUNK, NEIGHBOURS, Loop, config_of, ends_of, found_for, model_of, settings_of
from test_model_answers import layouts
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from farfield.architectures.saved_state import load_state, save_state
from farfield.compose import group_options, option
from farfield.config import ConfigError, ModelError, read
from farfield.memory import Passages
from farfield.memory.neighbours import NeighboursConfig
from farfield.model import LanguageModel, ModelConfig, ModelState
from farfield.retrofit import retrofit
from farfield.truncation import check_truncation

LAYOUT = ("-4 9 20 1 -5 24", "63", "7 -1 40 15", "-63")


def tokens_like(positions: Tensor, seed: int = 0) -> Tensor:
    """Random ids; at padding, ids that no vocabulary has."""
    found = torch.randint(0, VOCABULARY, positions.shape, generator=torch.Generator().manual_seed(seed))
    return torch.where(positions < 0, 10**9, found)


def in_calls(
    model: LanguageModel, tokens: Tensor, calls: list[Tensor], state: ModelState | None = None
) -> tuple[Tensor, ModelState]:
    """Each call with the passages of the chunks that end in it."""
    outputs, at = [], 0
    for positions in calls:
        given = tokens[:, at : at + positions.shape[1]]
        found = Passages(found_for(given, positions, model))
        logits, state = model(given, state, positions=positions, passages=found)
        outputs.append(logits)
        at += positions.shape[1]
    assert state is not None
    return torch.cat(outputs, 1), state


def gradients(model: LanguageModel, loss: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, materialize_grads=True, allow_unused=True)
    return dict(zip(names, found, strict=True))


@pytest.mark.parametrize("name", ["retnet", "mixture", "memory-gated", "cla", "lckv"])
def test_it_is_the_plain_loop_for_documents_packed_and_padded(name: str) -> None:
    """Values and gradients; every weight of what reads gets one."""
    model, positions = model_of(name), positions_of("-1 9 6 -1 4", "16 -2 3", "-21")
    tokens = tokens_like(positions)
    found, _ = in_calls(model, tokens, [positions])
    expected = torch.zeros_like(found)
    for row, columns in documents(positions):
        own = tokens[row : row + 1, columns]
        given = found_for(own, positions[row : row + 1, columns], model)[0]
        expected[row, columns] = Loop(model, given).logits(own[0])
    assert not found[positions < 0].any()
    assert_close(found.detach(), expected.detach(), 1e-9)
    above = torch.randn_like(found)
    ours, theirs = (gradients(model, (logits * above).sum()) for logits in (found, expected))
    for weight in theirs:
        assert_close(ours[weight], theirs[weight], 1e-9, weight)
    assert [weight for weight in ours if weight.startswith("augmentation") and not ours[weight].any()] == []


@pytest.mark.parametrize("sizes", [[1], [2, 30, 5]], ids=str)
@pytest.mark.parametrize("name", ["retnet", "mixture", "memory", "memory-above", "yoco", "lckv"])
def test_any_split_is_the_whole_with_gradients(name: str, sizes: list[int]) -> None:
    model, positions = model_of(name), positions_of("40", "17 23", "-5 35")
    tokens = tokens_like(positions)
    expected, last = in_calls(model, tokens, [positions])
    found, state = in_calls(model, tokens, cut(positions, sizes))
    assert_close(found.detach(), expected.detach(), 1e-9)
    for key, value in state.layers[-1].tensors().items():
        assert_close(value.detach().double(), last.layers[-1].tensors()[key].detach().double(), 1e-9, key)
    if name in ("retnet", "lckv"):  # the rest of the graph is that of mixers, which have their own tests
        above = torch.randn_like(found)
        ours, theirs = (gradients(model, (logits * above).sum()) for logits in (found, expected))
        for weight in theirs:
            assert_close(ours[weight], theirs[weight], 1e-9, weight)


@settings(max_examples=15)
@given(layouts())
def test_any_calls_over_any_rows_answer_as_each_document_alone(calls: list[Tensor]) -> None:
    """Padding on every side and between documents, rows that have nothing in a call, chunks that end anywhere."""
    model, positions = model_of("mixture"), torch.cat(calls, 1)
    tokens = tokens_like(positions)
    with torch.no_grad():
        found, _ = in_calls(model, tokens, calls)
        expected = torch.zeros_like(found)
        for row, columns in documents(positions):
            own = positions[row : row + 1, columns]
            expected[row, columns] = in_calls(model, tokens[row : row + 1, columns], [own])[0][0]
    assert_close(found, expected, 1e-9)


@pytest.mark.parametrize("left", [1, 9])
def test_a_state_goes_on_behind_left_padding_saved_or_reordered(left: int, tmp_path: Path) -> None:
    """Rows that go on with more or less text, set flush right, one with nothing; then in another order."""
    model, lengths = model_of("mixture"), torch.tensor([9, 3, 0])
    first = torch.arange(12).expand(3, -1)
    rest = 12 + torch.arange(9 + left) - (9 + left - lengths)[:, None]
    rest = torch.where(rest >= 12, rest, -1)
    more = (12 + lengths)[:, None] + torch.arange(8)
    positions = torch.cat((first, rest, more), 1)
    tokens = tokens_like(positions)
    with torch.no_grad():
        found, state = in_calls(model, tokens, [first, rest])
        save_state(state, tmp_path / "state", "mine")
        state = load_state(tmp_path / "state", model.start(1), "mine")
        order = torch.tensor([2, 0, 1, 0])
        last, _ = in_calls(model, tokens[order, -8:], [more[order]], state.select(order))
        expected = torch.zeros(*tokens.shape, VOCABULARY, dtype=torch.float64)
        for row in range(3):
            own = positions[row] >= 0
            expected[row, own] = in_calls(model, tokens[row : row + 1, own], [positions[row : row + 1, own]])[0][0]
    assert_close(found, expected[:, :-8], 1e-9)
    assert_close(last, expected[order, -8:], 1e-9)


@pytest.mark.parametrize("name", [name for name in group_options("architecture") if "encoder" not in name])
def test_every_decoder_reads_neighbours_and_any_split_is_the_whole(name: str) -> None:
    """As configured, but small; with neighbours it says something else, and the same in pieces."""
    architecture = option("architecture", name, ["width=64"])
    architecture.pop("least", None)
    period = len(architecture["pattern"])
    architecture["depth"] = architecture.get("depth") or (period if period > 1 else 2)
    torch.manual_seed(0)
    augmentation = {**NEIGHBOURS, "layers": None, "chunk": 5, "heads": None}
    config = read(ModelConfig, {"architecture": architecture, "vocabulary": VOCABULARY, "augmentation": augmentation})
    model = LanguageModel(config).double().eval()
    torch.nn.init.normal_(model.augmentation.cross[next(iter(model.augmentation.cross))].attention.out.weight)  # type: ignore[union-attr]
    positions = positions_of("31", "12 19")
    tokens = tokens_like(positions)
    with torch.no_grad():
        expected, _ = in_calls(model, tokens, [positions])
        found, _ = in_calls(model, tokens, cut(positions, [3, 1, 11, 2]))
        without, _ = model(tokens, positions=positions)
    assert (expected - without).abs().max() > 1e-3
    assert_close(found, expected, 1e-9 if model.config.decoder.split_exact else 1e-2)
    assert sum(p.numel() for p in model.parameters()) == config.parameters()


@pytest.mark.parametrize("name", ["attention", "retnet", "yoco", "memory-above"])
def test_neighbours_of_a_chunk_change_nothing_before_its_last_token(name: str) -> None:
    """Bit for bit, whether they change, vanish or come; and its last token they do change."""
    model, positions = model_of(name, layers=[1]), positions_of("40", "40")
    tokens = tokens_like(positions)
    given = found_for(tokens, positions, model)
    with torch.no_grad():
        expected, _ = model(tokens, passages=Passages(given))
        for chunk in (0, 4, 9):
            for other in (-torch.ones_like(given[0, 0]), (given[0, chunk].clamp(min=0) + 1) % VOCABULARY):
                changed = given.clone()
                changed[0, chunk] = other
                found, _ = model(tokens, passages=Passages(changed))
                first = (chunk + 1) * CHUNK - 1
                assert torch.equal(found[0, :first], expected[0, :first])
                assert torch.equal(found[1], expected[1])
                assert (found[0, first] - expected[0, first]).abs().max() > 1e-6


def test_without_passages_it_answers_as_if_none_were_found() -> None:
    model, positions = model_of("mixture"), positions_of("23", "9 14")
    tokens = tokens_like(positions)
    none = -torch.ones_like(found_for(tokens, positions, model))
    with torch.no_grad():
        found, state = model(tokens, positions=positions)
        expected, other = model(tokens, positions=positions, passages=Passages(none))
        assert_close(found, expected, 1e-12)
        more = tokens_like(positions[:, :4], seed=1) % VOCABULARY
        assert_close(model(more, state)[0], model(more, other)[0], 1e-12)


@pytest.mark.parametrize("name", AROUND)
def test_a_fresh_model_is_the_one_without(name: str) -> None:
    """What they add begins at zero, whatever is found."""
    torch.manual_seed(5)
    bare = LanguageModel(read(ModelConfig, mapping(**MODELS[name]))).double()
    model = LanguageModel(config_of(name)).double()
    model.load_state_dict(bare.state_dict(), strict=False)
    positions = positions_of("23", "9 14")
    tokens = tokens_like(positions)
    found, _ = in_calls(model, tokens, [positions])
    assert torch.equal(found, bare(tokens, positions=positions)[0])


def test_weights_bytes_and_work_are_what_the_settings_say() -> None:
    """The work of a chunk's tokens together: its encoder runs with the last of them."""
    given = {**mapping(**MODELS["attention"], width=32), "augmentation": {**NEIGHBOURS, "layers": [0, 1]}}
    given["architecture"]["layers"]["attention"]["mixer"] |= {"conv": 0, "backend": "blocked"}
    config = read(ModelConfig, given)
    model = LanguageModel(config)
    assert sum(p.numel() for p in model.parameters()) == config.parameters()
    read_by, state = config.augmentation, model.start(2)
    assert read_by is not None
    tokens = torch.randint(0, VOCABULARY, (2, 30))
    with torch.no_grad():
        for at in range(30):
            assert state.bytes == 2 * config.state_bytes(at)
            _, state = model(tokens[:, at : at + 1], state)
        _, state = model(torch.randint(0, VOCABULARY, (1, 64)), passages=passages_of(model, 16))
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            for at in range(64, 68):
                _, state = model(tokens[:1, :1], state, passages=passages_of(model, int(at == 67)))
    assert counter.get_total_flops() == sum(config.flops(at) for at in range(64, 68))


def passages_of(model: LanguageModel, chunks: int) -> Passages:
    config = settings_of(model)
    return Passages(torch.randint(0, VOCABULARY, (1, chunks, config.passages, config.length)))


@pytest.mark.parametrize(
    ("depth", "layers"), [(1, (0,)), (2, (0,)), (4, (1,)), (6, (2, 5)), (8, (3, 6)), (12, (5, 8, 11))]
)
def test_every_third_layer_from_the_middle_up_reads(depth: int, layers: tuple[int, ...]) -> None:
    assert NeighboursConfig().places(depth) == layers


def test_it_learns_to_copy_what_passages_tell() -> None:
    """Random tokens, which nothing but the passages of the chunk before tells: its own with what comes behind it."""
    size, vocabulary = 8, 16
    given = mapping(**MODELS["attention"], width=64)
    augmentation = {"kind": "neighbours", "chunk": size, "passages": 1, "continuation": size, "encoder": 1, "heads": 2}
    torch.manual_seed(0)
    model = LanguageModel(read(ModelConfig, {**given, "vocabulary": vocabulary, "augmentation": augmentation}))
    optimizer, nats = torch.optim.AdamW(model.parameters(), lr=4e-3, betas=(0.9, 0.98)), math.inf
    for step in range(150):
        tokens = torch.randint(0, vocabulary, (24, 5 * size + 1))
        behind = torch.nn.functional.pad(tokens, (0, 2 * size), value=-1)
        found = Passages(torch.stack([behind[:, n * size : (n + 2) * size] for n in range(5)], 1)[:, :, None])
        loss = model.loss(tokens[:, :-1], tokens[:, 1:], passages=found)
        optimizer.zero_grad()
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = 4e-3 * min(1.0, (step + 2) / 50)
        optimizer.step()
        nats = loss.nll.item()
        if nats < 1.2:
            break
    assert nats < 1.2 < math.log(vocabulary) / 2


def test_frozen_trains_nothing_else() -> None:
    model = model_of("mixture", freeze=True).train()
    learns = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learns == {name for name, _ in model.named_parameters() if name.startswith("augmentation.")}
    positions = positions_of("23")
    tokens = tokens_like(positions)
    found = Passages(found_for(tokens, positions, model))
    model.loss(tokens, tokens, positions=positions, passages=found).total.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.augmentation.parameters())  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["mixture", "lckv", "memory"])
def test_checkpointing_and_a_detached_state_change_no_gradient(name: str) -> None:
    model, positions = model_of(name), positions_of(*LAYOUT)
    tokens = tokens_like(positions)
    targets = torch.where(positions < 0, -100, tokens)
    given, results = Passages(found_for(tokens, positions, model)), []
    for checkpointing in (False, True):
        model.decoder.checkpointing = checkpointing
        first = model.loss(tokens, targets, positions=positions, passages=given)
        assert first.state is not None
        second = model.loss(torch.zeros_like(tokens[:, :3]), torch.ones_like(tokens[:, :3]), first.state)
        results.append(gradients(model, first.total + second.total))
    for weight, expected in results[0].items():
        assert_close(results[1][weight], expected, 1e-9, weight)


def test_mixed_precision_learns_from_a_state() -> None:
    model, positions = model_of("mixture", torch.float32), positions_of(*LAYOUT)
    tokens = tokens_like(positions)
    targets, given = torch.where(positions < 0, -100, tokens), Passages(found_for(tokens, positions, model))
    with torch.autocast("cpu", torch.bfloat16):
        first = model.loss(tokens, targets, positions=positions, passages=given)
        assert first.state is not None
        state, ids = first.state.detach(), torch.zeros_like(tokens)
        at = state.position[:, None] + torch.arange(tokens.shape[1])
        second = model.loss(ids, ids, state, passages=Passages(found_for(ids, at, model)))
    found = gradients(model, first.total + second.total)
    assert all(gradient.isfinite().all() and gradient.dtype == torch.float32 for gradient in found.values())
    exact = model.loss(tokens, targets, positions=positions, passages=given)
    assert_close(first.nll.detach(), exact.nll.detach(), 2e-2)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda t: t[:, :-1], "passages: for 6 chunks given, and 7 of 4 tokens end in this call at most."),
        (lambda t: t[..., :-1], "passages: shape (2, 7, 2, 4) given, (2, chunks, 2, 5) is needed."),
        (lambda t: t.int(), "passages: torch.int32 given, int64 is needed."),
        (lambda t: t + VOCABULARY, "passages: ids from 0 to 30 are known, and -1 for none; others were given."),
        (lambda t: t.flip(0), "passages: for 7 chunks given, and 7 of 4 tokens end in this call at most."),
    ],
)
def test_passages_that_do_not_fit_are_one_line(make: Any, text: str) -> None:
    model, positions = model_of("retnet"), positions_of("30", "22 -8")
    tokens = tokens_like(positions)
    given = found_for(tokens, positions, model)
    assert ends_of(positions).sum(1).tolist() == [7, 5]
    with pytest.raises(ModelError) as mistake:
        model(tokens, positions=positions, passages=Passages(make(given)))
    assert str(mistake.value).startswith(text)


def test_a_model_that_reads_none_refuses_them() -> None:
    with pytest.raises(ModelError) as mistake:
        plain("retnet")(torch.zeros(1, 5, dtype=torch.int64), passages=Passages(torch.zeros(1, 1, 2, 5).long()))
    assert str(mistake.value) == ("passages: given, but this model reads none. Train one with augmentation=neighbours.")


@pytest.mark.parametrize(
    ("name", "changes", "text"),
    [
        (
            "recurrent",
            {},
            "augmentation.kind: 'neighbours' counts chunks from a document's start, and the layers in memory 'rmt' "
            "count from that of a segment. Use memory=none, or a memory around single layers.",
        ),
        ("retnet", {"layers": [2]}, "augmentation.layers: 2 given, but the model has layers 0 to 1."),
        ("retnet", {"layers": []}, "augmentation.layers: none given. Name layers, or write null."),
        ("retnet", {"heads": 3}, "augmentation.heads: 3 does not divide the width 16. Nearest that does: 2."),
        (
            "retnet",
            {"heads": 16},
            "augmentation.heads: 16 heads have a width of 1 each, which rotations need to be even.",
        ),
    ],
)
def test_settings_that_do_not_fit_are_one_line(name: str, changes: dict[str, Any], text: str) -> None:
    given = {**mapping(**MODELS[name]), "augmentation": {**NEIGHBOURS, **changes}}
    with pytest.raises(ConfigError) as mistake:
        read(ModelConfig, given)
    assert str(mistake.value) == text


def test_an_encoder_reads_no_neighbours() -> None:
    given = {"architecture": option("architecture", "attention_encoder", ["width=32"]), "vocabulary": 9}
    given["architecture"]["depth"] = 2
    with pytest.raises(ConfigError) as mistake:
        read(ModelConfig, {**given, "augmentation": NEIGHBOURS})
    assert str(mistake.value) == (
        "augmentation.kind: 'neighbours' is read from left to right, and a bidirectional architecture reads whole "
        "documents. Use augmentation=none."
    )


def test_the_oldest_tokens_of_its_state_cannot_be_dropped() -> None:
    with pytest.raises(ModelError) as mistake:
        check_truncation(model_of("attention"))
    assert str(mistake.value) == (
        "augmentation 'neighbours': chunks are counted from a document's start, so that the oldest tokens cannot be "
        "dropped. Use a model without."
    )


def test_a_trained_model_learns_to_read_and_keeps_what_it_has_learnt() -> None:
    """Fresh weights for what reads change no answer yet; what has learnt to read keeps its weights, or drops it."""
    bare, positions = plain("mixture"), positions_of("23")
    tokens = tokens_like(positions)
    config = config_of("mixture", freeze=True).augmentation
    model = retrofit(bare, None, fresh=True, augmentation=config)
    assert model.config.augmentation == config
    assert torch.equal(in_calls(model, tokens, [positions])[0], bare(tokens)[0])
    trained = model_of("mixture")
    again = retrofit(trained, None)
    assert torch.equal(in_calls(again, tokens, [positions])[0], in_calls(trained, tokens, [positions])[0])
    without = retrofit(trained, None, augmentation=None)
    assert without.config.augmentation is None
    assert set(without.state_dict()) == {name for name in trained.state_dict() if not name.startswith("augmentation.")}
