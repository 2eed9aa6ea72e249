"""Models that read whole documents: padding, packing, losses, mistakes, and the text on top of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contract.runs import assert_close, error

import farfield
from farfield.architectures.encoders import encoder_kinds
from farfield.config import ConfigError, ModelError, read
from farfield.encoding import EncoderModel, TextEncoder
from farfield.model import LanguageModel, ModelConfig

VOCABULARY, WIDTH = 37, 32


def mapping(kind: str = "attention", **more: Any) -> dict[str, Any]:
    layer = {"mixer": {"kind": kind, "heads": 4}, "feedforward": {"kind": "gelu", "ratio": 2.0}}
    return {"bidirectional": True, "width": WIDTH, "depth": 2, "pattern": ["layer"], "layers": {"layer": layer}, **more}


def model(kind: str = "attention", **more: Any) -> EncoderModel:
    torch.manual_seed(0)
    config = read(ModelConfig, {"architecture": mapping(kind, **more), "vocabulary": VOCABULARY})
    return EncoderModel(config).double().eval()


@torch.no_grad()
@pytest.mark.parametrize("kind", encoder_kinds())
def test_documents_answer_as_if_alone_wherever_they_stand(kind: str) -> None:
    encoder = model(kind)
    first, second = torch.randint(0, VOCABULARY, (1, 13)), torch.randint(0, VOCABULARY, (1, 30))
    alone = torch.cat([encoder(first), encoder(second)], 1)
    packed = torch.cat((first, second), 1)
    positions = torch.cat((torch.arange(13), torch.arange(30)))[None]
    assert_close(encoder(packed, positions=positions), alone, 1e-9)
    gap = torch.zeros(1, 4, dtype=torch.int64)
    apart = torch.cat((gap, first, gap, second, gap), 1)
    pad = torch.full((1, 4), -1)
    places = torch.cat((pad, positions[:, :13], pad, positions[:, 13:], pad), 1)
    found = encoder.hidden(apart, positions=places)
    assert not found[places < 0].any()
    assert_close(encoder.head(found[places >= 0])[None], alone, 1e-9)


@torch.no_grad()
@pytest.mark.parametrize("kind", encoder_kinds())
def test_a_token_sees_what_comes_behind_it(kind: str) -> None:
    encoder = model(kind)
    tokens = torch.randint(0, VOCABULARY, (1, 12))
    other = tokens.clone()
    other[0, -1] = (other[0, -1] + 1) % VOCABULARY
    assert error(encoder(other)[:, :-1], encoder(tokens)[:, :-1]) > 1e-6


def test_the_loss_is_that_of_the_hidden_tokens() -> None:
    encoder = model()
    tokens = torch.randint(0, VOCABULARY, (3, 20))
    targets = torch.where(torch.rand(3, 20) < 0.3, tokens, -100)
    found = encoder.loss(tokens, targets)
    expected = torch.nn.functional.cross_entropy(encoder(tokens).flatten(0, 1), targets.flatten())
    assert_close(found.nll.detach(), expected.detach(), 1e-9)
    assert found.tokens == int((targets != -100).sum())
    assert found.state is None
    names, parameters = zip(*encoder.named_parameters(), strict=True)
    ours, theirs = (torch.autograd.grad(loss, parameters, retain_graph=True) for loss in (found.total, expected))
    for name, *pair in zip(names, ours, theirs, strict=True):
        assert_close(*pair, 1e-9, name)


def test_recomputed_activations_give_the_same_gradients() -> None:
    encoder, tokens = model(), torch.randint(0, VOCABULARY, (2, 9))
    plain = torch.autograd.grad(encoder.loss(tokens, tokens).total, encoder.embedding.weight)[0]
    encoder.stack.checkpointing = True
    assert_close(torch.autograd.grad(encoder.loss(tokens, tokens).total, encoder.embedding.weight)[0], plain, 1e-12)


def test_experts_tell_their_load() -> None:
    layers = {"layer": {"mixer": {"kind": "attention", "heads": 4}, "feedforward": {"kind": "moe", "experts": 4}}}
    encoder = model(layers=layers)
    tokens = torch.randint(0, VOCABULARY, (2, 9))
    loss = encoder.loss(tokens, tokens)
    assert set(loss.auxiliary) == {"balance"}
    assert set(loss.metrics) == {"0.load", "1.load"}
    assert_close(loss.total.detach(), (loss.nll + loss.auxiliary["balance"]).detach(), 1e-12)
    assert encoder.config.architecture.told() == ["balance", *(f"load.{i}.{e}" for i in range(2) for e in range(4))]


@pytest.mark.parametrize("kind", encoder_kinds())
def test_sizes_are_those_of_the_settings(kind: str) -> None:
    encoder = model(kind)
    assert encoder.config.parameters() == sum(parameter.numel() for parameter in encoder.parameters())
    assert encoder.config.state_bytes(100) == 0
    assert encoder.config.flops(16) > 2 * VOCABULARY * WIDTH


@torch.no_grad()
def test_tokens_that_are_marked_are_global() -> None:
    """A token far beyond the window is seen where it is marked."""
    layer = {"mixer": {"kind": "longformer", "heads": 4, "window": 2, "globals": 1}}
    encoder = model("longformer", depth=1, layers={"layer": layer})
    tokens = torch.randint(0, VOCABULARY, (1, 40))
    other = tokens.clone()
    other[0, 30] = (other[0, 30] + 1) % VOCABULARY
    marked = torch.zeros(1, 40, dtype=torch.bool)
    marked[0, 30] = True
    assert torch.equal(encoder(tokens)[:, 1:20], encoder(other)[:, 1:20])
    assert not torch.equal(encoder(tokens, marked=marked)[:, 1:20], encoder(other, marked=marked)[:, 1:20])
    shifted = torch.cat((torch.zeros(1, 3, dtype=torch.int64), tokens), 1)
    positions = torch.arange(-3, 40).clamp(min=-1)[None]
    marks = torch.nn.functional.pad(marked, (3, 0))
    assert_close(encoder(shifted, positions=positions, marked=marks)[:, 3:], encoder(tokens, marked=marked), 1e-9)


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "a document that does not begin": (
        {"tokens": torch.zeros(1, 3, dtype=torch.int64), "positions": torch.tensor([[1, 2, 3]])},
        "positions: within a document they rise by 1.",
    ),
    "an id that is not known": (
        {"tokens": torch.full((1, 3), VOCABULARY)},
        f"tokens: ids from 0 to {VOCABULARY - 1} are known",
    ),
    "no tokens": ({"tokens": torch.zeros(1, 0, dtype=torch.int64)}, "tokens: shape (1, 0) given"),
    "positions below -1": (
        {"tokens": torch.zeros(1, 3, dtype=torch.int64), "positions": torch.tensor([[0, 1, -2]])},
        "positions: -2 given; -1 is padding, and nothing is below it.",
    ),
    "marks of another shape": (
        {"tokens": torch.zeros(1, 3, dtype=torch.int64), "marked": torch.zeros(1, 2, dtype=torch.bool)},
        "marked: torch.bool of shape (1, 2) given",
    ),
}


def test_marks_are_for_layers_that_read_them() -> None:
    marked = torch.zeros(1, 3, dtype=torch.bool)
    with pytest.raises(ModelError, match=r"^marked: no layer of this encoder can be told"):
        model("bigbird")(torch.zeros(1, 3, dtype=torch.int64), marked=marked)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake: str) -> None:
    given, message = MISTAKES[mistake]
    with pytest.raises(ModelError) as raised:
        model("longformer")(**given)
    assert str(raised.value).startswith(message)


def test_an_encoder_is_no_language_model() -> None:
    config = read(ModelConfig, {"architecture": mapping(), "vocabulary": VOCABULARY})
    with pytest.raises(ModelError, match=r"^architecture\.bidirectional: true given"):
        LanguageModel(config)
    with pytest.raises(ModelError, match=r"^architecture\.bidirectional: false given"):
        farfield.build_encoder("retnet", ["width=64", "depth=1"])
    with pytest.raises(ModelError, match=r"farfield\.load_encoder"):
        farfield.build("attention_encoder", ["width=64", "depth=1"])
    with pytest.raises(ConfigError, match=r"^memory\.name: 'knn' keeps the past"):
        farfield.build("attention_encoder", ["width=64", "depth=1"], memory="knn")


def encoder() -> TextEncoder:
    return farfield.build_encoder("attention_encoder", ["width=64", "depth=2"])


def test_texts_are_encoded_each_as_if_alone() -> None:
    texts = ["The king", "The queen of spades", "é"]
    found = encoder().encode(texts)
    assert [len(one) for one in found] == [8, 19, 2]
    for text, one in zip(texts, found, strict=True):
        assert_close(one, encoder().encode([text])[0], 1e-5)


def test_masks_are_filled_with_a_token_each() -> None:
    filled = encoder().fill("The [MASK][MASK]ng of [MASK]")
    assert filled.startswith("The ")
    assert "MASK" not in filled
    assert encoder().fill("a?c", mask="?")[::2].startswith("a")


def test_nothing_to_fill_and_nothing_to_encode() -> None:
    with pytest.raises(ModelError, match=r"^fill: no \[MASK\] in the text"):
        encoder().fill("The king")
    with pytest.raises(ModelError, match=r"^encode: a text without tokens"):
        encoder().encode(["", "a"])
    with pytest.raises(ModelError, match=r"^encode: no texts\."):
        encoder().encode([])
    with pytest.raises(ModelError, match=r"^encode: a list of texts is needed"):
        encoder().encode("king")
    with pytest.raises(ModelError, match=r"^fill: an empty mask"):
        encoder().fill("The king", mask="")
    unmasked = encoder()
    unmasked.model.config = unmasked.config.model_copy(update={"vocabulary": 257})
    with pytest.raises(ModelError, match="objective=masked"):
        unmasked.fill("The [MASK]")
