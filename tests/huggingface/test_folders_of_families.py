"""Folders that transformers writes, read by our layers, and written back: logits, greedy texts, states, weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hub_folders import CASES, ENDS, STORIES, VOCABULARY, needs_stories, silence, theirs, written
from torch import Tensor

import farfield
from farfield import cli
from farfield.benchmarks.speed.held import tensors_of
from farfield.generation import GenerationConfig, TextModel, generate, prefill

pytest.importorskip("transformers", reason="pip install 'farfield[hf]'")

CLOSE = 1e-4  # of logits in float32


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("folders")
    return {name: written(place / name, case) for name, case in CASES.items()}


def ours(folder: Path, dtype: torch.dtype | None = None) -> TextModel:
    return farfield.load(folder, dtype=dtype, layers="farfield")


def logits(model: Any, tokens: Tensor) -> Tensor:
    with torch.no_grad(), silence():
        return model(tokens).logits


@pytest.mark.parametrize("name", CASES)
def test_logits_are_transformers(name: str, folders: dict[str, Path]) -> None:
    """Of a whole row, in pieces, and behind padding on the left; whatever the weights are stored in."""
    model, other = ours(folders[name], torch.float32), theirs(folders[name], torch.float32)
    tokens = torch.randint(VOCABULARY, (2, 130))
    expected = logits(other, tokens)
    with torch.no_grad():
        found, _ = model(tokens)
        parts, state = [], None
        for part in tokens.split([63, 1, 66], 1):
            one, state = model(part, state)
            parts.append(one)
        positions = torch.arange(130) - torch.tensor([[0], [9]])
        positions = torch.where(positions >= 0, positions, -1)
        padded, _ = model(tokens, positions=positions)
    assert expected.std() > 0.5  # a model that says the same of everything would pass
    for one in (found, torch.cat(parts, 1)):
        torch.testing.assert_close(one, expected, rtol=0, atol=CLOSE)
    torch.testing.assert_close(padded[1, 9:], logits(other, tokens[1:, 9:])[0], rtol=0, atol=CLOSE)


@pytest.mark.parametrize("name", CASES)
def test_greedy_texts_are_transformers(name: str, folders: dict[str, Path]) -> None:
    """Up to any of the ends that generation_config.json names."""
    model, other = ours(folders[name], torch.float32), theirs(folders[name], torch.float32)
    config, reasons = GenerationConfig(tokens=16), set()
    for seed in range(16):
        if "end" in reasons and seed > 1:
            break
        prompt = torch.randint(VOCABULARY, (1, 11), generator=torch.Generator().manual_seed(seed))
        how = {"attention_mask": prompt.new_ones(1, 11), "use_cache": CASES[name].steps}
        with silence():
            expected = other.generate(prompt, max_new_tokens=16, do_sample=False, **how)
        (answer,) = generate(model.model, model.tokenizer, prompt.tolist(), config)
        assert answer.ids == expected[0, 11:].tolist()
        reasons.add(answer.reason)
    assert "end" in reasons
    assert model.tokenizer.ends == set(ENDS)


@pytest.mark.parametrize("name", CASES)
def test_states_are_no_larger_than_their_caches(name: str, folders: dict[str, Path]) -> None:
    """Of rows that are alike, whatever their number; how many tokens were read is one number, with both."""
    model, other = ours(folders[name], torch.float32), theirs(folders[name], torch.float32)
    tokens = torch.randint(VOCABULARY, (3, 100))
    with torch.no_grad():
        _, state = model(tokens)
    assert 3 * model.config.state_bytes(100) == state.bytes
    assert 0 < state.bytes <= held(other, tokens)


@pytest.mark.parametrize("name", CASES)
def test_states_of_rows_that_differ_are_smaller_than_their_caches(name: str, folders: dict[str, Path]) -> None:
    """The counts of tokens that ours has of each row stand against a mask of theirs, and padding that is kept."""
    model, other = ours(folders[name], torch.float32), theirs(folders[name], torch.float32)
    tokens = torch.randint(VOCABULARY, (2, 100))
    _, state = prefill(model.model, [tokens[0].tolist(), tokens[1, 9:].tolist()])
    mask = torch.ones_like(tokens)
    mask[1, :9] = 0
    assert state.bytes < held(other, tokens, mask) + mask.nbytes


def held(model: Any, tokens: Tensor, mask: Tensor | None = None) -> int:
    """Bytes of the tensors in the cache that a model of transformers makes of tokens (B, T)."""
    with torch.no_grad(), silence():
        answer = model(tokens, attention_mask=mask, use_cache=True)
    cache = answer["cache_params" if "cache_params" in answer else "past_key_values"]
    return sum(one.nbytes for one in tensors_of(cache))


@pytest.mark.parametrize("name", CASES)
def test_written_back_it_is_theirs_again(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """The same weights to the bit, and settings that make the same of them."""
    farfield.save(ours(folders[name]), tmp_path / "back", shard=4096)
    before, after = theirs(folders[name]), theirs(tmp_path / "back")
    assert before.dtype == after.dtype == CASES[name].dtype
    old, new = before.state_dict(), after.state_dict()
    assert old.keys() == new.keys()
    assert all(torch.equal(old[key], new[key]) for key in old)
    tokens = torch.randint(VOCABULARY, (2, 130))
    # Logits of half precision would hide a difference of settings.
    torch.testing.assert_close(logits(after.float(), tokens), logits(before.float(), tokens), rtol=0, atol=1e-6)
    assert after.config.eos_token_id == before.config.eos_token_id
    again = ours(tmp_path / "back")
    assert again.config == ours(folders[name]).config
    assert again.tokenizer.ends == set(ENDS)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_weights_come_in_the_precision_asked_for(kind: torch.dtype, folders: dict[str, Path]) -> None:
    """As stored where none is; and in half precision ours is as near to float64 as theirs."""
    name = next(name for name, case in CASES.items() if case.dtype == kind)
    half, exact = ours(folders[name]), ours(folders[name], torch.float64)
    assert {parameter.dtype for parameter in half.parameters()} == {kind}
    assert {parameter.dtype for parameter in exact.parameters()} == {torch.float64}
    tokens = torch.randint(VOCABULARY, (4, 63))
    with torch.no_grad():
        truth, found = exact(tokens)[0], half(tokens)[0].double()
    other = logits(theirs(folders[name]), tokens).double()
    assert (found - truth).pow(2).mean() <= 2 * (other - truth).pow(2).mean()


@needs_stories
def test_a_real_model_has_transformers_logits() -> None:
    """Beyond the 512 tokens that it was trained for, too."""
    model, other = ours(STORIES), theirs(STORIES)
    tokens = torch.randint(512, (1, 600))
    with torch.no_grad():
        found, _ = model(tokens)
    torch.testing.assert_close(found, logits(other, tokens), rtol=0, atol=CLOSE)
    assert model.info["config"]["data"]["length"] == 512


@needs_stories
def test_a_real_model_tells_its_story_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As its README has it, read from there and from what we write of it; the command asks it too."""
    begun, told = (
        "Once upon a time, there was a little girl named Lily.",
        "She loved to play outside in the park. One day",
    )
    farfield.save(ours(STORIES), tmp_path / "again")
    for folder in (STORIES, tmp_path / "again"):
        text = farfield.load(folder).generate(begun, tokens=32)
        assert text.startswith(f" {told}, she saw a big, red ball.")
    words = ["query", begun, f"model={STORIES}", 'prompt.prompt="{passages}{question}"', "generation.tokens=32"]
    assert cli.main(words) == 0
    assert capsys.readouterr().out.startswith(f"{told}, she saw a big, red ball.")
