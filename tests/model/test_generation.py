"""Generation equals running the whole text again, whatever stands beside it in the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from farfield.api import build
from farfield.config import ConfigError, ModelError
from farfield.generation import GenerationConfig, Piece, TextModel, choose, generate, prefill, stream

PROMPTS = ["a", "The quick brown fox jumps over the lazy dog, and so on.", "Grüße"]
KINDS = [("attention", None), ("longformer", None), ("retnet", None), ("attention", "knn"), ("longformer", "knn")]
SMALL = {
    "attention": [],
    "longformer": ["layers.longformer.mixer.window=12", "layers.longformer.mixer.globals=2"],
    "retnet": [],
}


def small(architecture: str, memory: str | None) -> TextModel:
    """A model whose windows and segments are shorter than the prompts."""
    from farfield.compose import option
    from farfield.config import read
    from farfield.model import LanguageModel, ModelConfig
    from farfield.tokenizers import BytesTokenizer

    settings = None
    if memory:
        settings = {**option("memory", memory), "segment": 8, "top": 3, "capacity": 24}
    decoder = option("architecture", architecture, ["width=32", "depth=2", *SMALL[architecture]])
    config = read(ModelConfig, {"architecture": decoder, "memory": settings, "vocabulary": 257})
    torch.manual_seed(1)
    return TextModel(LanguageModel(config), BytesTokenizer()).double().eval()


@torch.no_grad()
def again(model: TextModel, prompt: Sequence[int], count: int) -> list[int]:
    """Greedy ids by running the whole text anew for each."""
    ids = list(prompt)
    for _ in range(count):
        logits, _ = model(torch.tensor([ids]))
        ids.append(int(logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize(("architecture", "memory"), KINDS)
def test_a_batch_of_prompts_of_different_lengths_equals_full_forwards(architecture: str, memory: str | None) -> None:
    model = small(architecture, memory)
    answers = generate(model.model, model.tokenizer, PROMPTS, GenerationConfig(tokens=24))
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        assert answer.ids == again(model, model.tokenizer.encode(prompt), len(answer.ids))
        assert answer.reason == ("end" if answer.ids[-1] == model.tokenizer.end else "length")


@pytest.mark.parametrize(("architecture", "memory"), KINDS)
def test_prefill_in_pieces_gives_the_logits_of_one_call(architecture: str, memory: str | None) -> None:
    model = small(architecture, memory)
    prompts = [model.tokenizer.encode(prompt) for prompt in PROMPTS]
    whole, _ = prefill(model.model, prompts)
    pieces, _ = prefill(model.model, prompts, piece=7)
    torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-12)


def test_prefill_goes_on_from_a_state() -> None:
    model = small("retnet", None)
    ids = model.tokenizer.encode(PROMPTS[1])
    _, state = prefill(model.model, [ids[:20]])
    later, _ = prefill(model.model, [ids[20:]], state)
    torch.testing.assert_close(later, prefill(model.model, [ids])[0], rtol=0, atol=1e-12)


def test_the_same_seed_draws_the_same_and_another_draws_other() -> None:
    model = small("attention", None)
    draw = [model.generate(PROMPTS, tokens=30, temperature=1.0, seed=seed) for seed in (3, 3, 4)]
    assert draw[0] == draw[1] != draw[2]


def test_what_a_row_draws_does_not_depend_on_the_rows_beside_it() -> None:
    model = small("attention", None)
    alone = model.generate([PROMPTS[0]], tokens=20, temperature=1.0, top_k=40, seed=5)
    assert model.generate(PROMPTS, tokens=20, temperature=1.0, top_k=40, seed=5)[0] == alone[0]


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [
        (GenerationConfig(temperature=1.0, top_k=2), {0, 1}),
        (GenerationConfig(temperature=1.0, top_p=0.6), {0, 1}),
        (GenerationConfig(temperature=1.0, top_p=0.5), {0}),
        (GenerationConfig(temperature=1e-3), {0}),
    ],
    ids=["top_k", "top_p", "top_p alone", "cold"],
)
def test_sampling_draws_only_what_it_may(settings: GenerationConfig, allowed: set[int]) -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    generator = torch.Generator().manual_seed(0)
    drawn = {int(choose(logits, settings, [generator])) for _ in range(300)}
    assert drawn == allowed


def test_sampling_follows_the_probabilities() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    generator = torch.Generator().manual_seed(0)
    drawn = torch.tensor([int(choose(logits, GenerationConfig(temperature=1.0), [generator])) for _ in range(4000)])
    shares = torch.bincount(drawn, minlength=4) / 4000
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.3, 0.15, 0.05]), rtol=0, atol=0.03)


def test_a_stop_text_ends_the_answer_and_is_not_part_of_it() -> None:
    model = small("attention", None)
    text = model.generate(PROMPTS[1], tokens=40, temperature=1.0, seed=8)
    stop = text[6:9]
    cut = model.generate(PROMPTS[1], tokens=40, temperature=1.0, seed=8, stop=[stop])
    assert cut == text[: text.index(stop)]


def test_pieces_joined_are_the_texts_and_never_hold_a_part_of_a_stop_text() -> None:
    model = small("attention", None)
    text = model.generate(PROMPTS[1], tokens=40, temperature=1.0, seed=8)
    settings = GenerationConfig(tokens=40, temperature=1.0, seed=8, stop=(text[8:12],))
    pieces: list[Piece] = []
    running = stream(model.model, model.tokenizer, [PROMPTS[1]], settings)
    while True:
        try:
            pieces.append(next(running))
        except StopIteration as end:
            (answer,) = end.value
            break
    assert "".join(piece.text for piece in pieces) == answer.text == text[: text.index(text[8:12])]
    assert answer.reason == "stop"


@pytest.mark.parametrize("prompts", [[], [""]], ids=["no prompt", "empty prompt"])
def test_an_empty_prompt_is_one_line(prompts: list[str]) -> None:
    model = small("retnet", None)
    with pytest.raises(ModelError, match=r"^prompt: empty\. A model needs at least one token to go on from\.$"):
        generate(model.model, model.tokenizer, prompts, GenerationConfig())


NEEDED = "Give a text, or a list whose every entry is a text or a row of ids, as in [[1, 2, 3]]."


@pytest.mark.parametrize(
    ("prompt", "line"),
    [
        ([1, 2, 3], f"prompt: 1 given in the place of a row of ids. {NEEDED}"),
        (5, f"prompt: 5 given. {NEEDED}"),
        ([["a", "b"]], f"prompt: 'a' given in the place of an id. {NEEDED}"),
        ([[1, 2.0]], f"prompt: 2.0 given in the place of an id. {NEEDED}"),
        (torch.tensor([1, 2]), f"prompt: tensor(1) given in the place of a row of ids. {NEEDED}"),
        (["a", [7, 257]], "prompt: id 257 given, and the model knows those from 0 to 256."),
        ([[-1, 3]], "prompt: id -1 given, and the model knows those from 0 to 256."),
        ([[True, False]], f"prompt: True given in the place of an id. {NEEDED}"),
        ([[torch.tensor(1.5)]], f"prompt: tensor(1.5000) given in the place of an id. {NEEDED}"),
        (["a", []], "prompt: empty. A model needs at least one token to go on from."),
    ],
    ids=["flat", "an id", "words", "floats", "flat tensor", "beyond", "below", "mask", "number", "empty row"],
)
def test_prompts_that_are_none_are_one_line(prompt: Any, line: str) -> None:
    with pytest.raises(ModelError) as raised:
        small("retnet", None).generate(prompt, tokens=1)
    assert str(raised.value) == line


@pytest.mark.parametrize("stop", ["\n", 5, ["a", 5]], ids=["a text", "a number", "numbers"])
def test_stops_that_are_no_texts_are_one_line(stop: Any) -> None:
    with pytest.raises(ModelError) as raised:
        small("retnet", None).generate("a", tokens=1, stop=stop)
    assert str(raised.value) == f"stop: {stop!r} given. Give a list of texts, as in ['\\n']."
    assert small("retnet", None).generate("a", tokens=1, stop={"a", "b"}) is not None


def test_rows_of_ids_may_be_a_tensor() -> None:
    model = small("retnet", None)
    assert model.generate(torch.tensor([[97, 98]]), tokens=9) == model.generate(["ab"], tokens=9)


def test_build_takes_a_name_and_overrides_and_the_seed_decides_the_weights() -> None:
    one, two, other = (build("retnet", ["width=32", "depth=2"], seed=seed) for seed in (0, 0, 1))
    assert one.config.architecture.width == 32
    assert torch.equal(one.model.embedding.weight, two.model.embedding.weight)
    assert not torch.equal(one.model.embedding.weight, other.model.embedding.weight)


def test_rows_of_different_lengths_are_decoded_in_place() -> None:
    """A cache that is copied for every token would cost as much as the attention."""
    model = small("attention", None)
    prompts = [list(range(30)), list(range(20))]
    with torch.no_grad():
        _, state = prefill(model.model, prompts)
        tokens = torch.zeros(2, 1, dtype=torch.int64)
        _, state = model(tokens, state)
        for _ in range(5):
            _, after = model(tokens, state)
            old, new = state.layers[0].near, after.layers[0].near  # type: ignore[attr-defined]  # attention's state
            assert new.keys.data_ptr() == old.keys.data_ptr()
            state = after


def test_settings_that_make_no_sense_are_one_line() -> None:
    model = small("retnet", None)
    with pytest.raises(ConfigError, match=r"^generate\.tokens: 0 given\."):
        model.generate("a", tokens=0)
    with pytest.raises(ConfigError, match=r"^generate\.top_p: 2\.0 given\."):
        model.generate("a", top_p=2.0)
