"""Models of transformers as subjects: what they write and say is what transformers' own methods give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hf_models import SIZES, TEMPLATE, VOCABULARY, byte_tokenizer, save, tiny_model
from numpy.typing import NDArray

from farfield.benchmarks.subjects.hf_subject import HubSubject
from farfield.benchmarks.subjects.hf_tokenizer import HubTokenizer, answer_start
from farfield.benchmarks.subjects.subject import IncapableError, Lacking
from farfield.benchmarks.subjects.subject_settings import HuggingFaceConfig
from farfield.config import ConfigError, ModelError
from farfield.huggingface.loading import load_hub

STORIES = Path(__file__).resolve().parents[3] / "shared" / "data" / "stories260k"
# Transformers' Mamba makes its logits float32, whatever its weights are.
NEAR = {kind: 1e-6 if kind == "Mamba" else 1e-9 for kind in SIZES}
needs_stories = pytest.mark.skipif(not STORIES.is_dir(), reason="no stories260k in shared/data")


def subject(kind: str, **settings: Any) -> HubSubject:
    tokenizer = byte_tokenizer(template=TEMPLATE)
    return HubSubject(tiny_model(kind), tokenizer, kind, HuggingFaceConfig(**settings))


def prompts(batch: int, time: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(0, 256, (batch, time))


def whole(asked: HubSubject, ids: NDArray[np.int64]) -> torch.Tensor:
    """Logits of one call without a cache."""
    with torch.no_grad():
        found: torch.Tensor = asked.model(torch.from_numpy(ids), use_cache=False).logits
    return found


@pytest.mark.parametrize("kind", SIZES)
def test_what_it_writes_is_what_generate_writes(kind: str) -> None:
    asked, ids = subject(kind), prompts(3, 21)
    asked.ends = frozenset({256})
    written = asked.generate(asked.prefill(ids), 12)
    for row, found in zip(ids, written.ids, strict=True):
        theirs = asked.model.generate(
            torch.from_numpy(row[None]),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=256,
            pad_token_id=256,
            attention_mask=torch.ones(1, 21, dtype=torch.int64),
        )[0, 21:]
        assert found == theirs.tolist()


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("piece", [1, 7, 64])
def test_pieces_are_the_whole(kind: str, piece: int) -> None:
    asked, ids = subject(kind, piece=piece), prompts(2, 30)
    targets = np.roll(ids, -1, 1)
    targets[:, ::5] = -1
    reading = asked.read(ids, targets)
    logprobs = whole(asked, ids).log_softmax(-1)
    expected = logprobs.gather(-1, torch.from_numpy(targets).clamp(min=0)[..., None])[..., 0].numpy()
    assert reading.logprobs == pytest.approx(np.where(targets < 0, 0, expected), abs=NEAR[kind])
    assert (reading.likely == logprobs.argmax(-1).numpy()).all()
    last = logprobs[:, -1].gather(1, torch.from_numpy(ids[:, :4])).numpy()
    for known in (reading.known, asked.prefill(ids), asked.prefill(ids[:, 19:], asked.prefill(ids[:, :19]))):
        assert asked.score(known, ids[:, :4]) == pytest.approx(last, abs=NEAR[kind])


@pytest.mark.parametrize("kind", SIZES)
def test_what_was_prefilled_stays_as_it_was(kind: str) -> None:
    asked, ids = subject(kind), prompts(2, 40)
    known = asked.prefill(ids[:, :17])
    before = asked.score(known, ids[:, :5])
    branches = [asked.prefill(ids[:, 17:end], known) for end in (20, 33)]
    asked.generate(known, 6)
    asked.choose(known, [[ids[0, :4].astype(np.int32)]] * 2)
    assert (asked.score(known, ids[:, :5]) == before).all()
    for branch, end in zip(branches, (20, 33), strict=True):
        assert asked.score(branch, ids[:, :5]) == pytest.approx(
            asked.score(asked.prefill(ids[:, :end]), ids[:, :5]), abs=NEAR[kind]
        )


@pytest.mark.parametrize("kind", SIZES)
def test_choices_are_as_likely_as_one_by_one(kind: str) -> None:
    asked, ids = subject(kind), prompts(2, 25)
    rng = np.random.default_rng(1)
    choices = [[rng.integers(0, 256, size).astype(np.int32) for size in (1, 4, 2, 9)] for _ in range(2)]
    found = asked.choose(asked.prefill(ids), choices)
    for row, given, told in zip(ids, choices, found, strict=True):
        for choice, value in zip(given, told, strict=True):
            logprobs = whole(asked, np.concatenate([row, choice])[None])[0].log_softmax(-1)
            expected = sum(float(logprobs[24 + at, token]) for at, token in enumerate(choice))
            assert value == pytest.approx(expected, abs=NEAR[kind])
    ones = asked.choose(asked.prefill(ids), [[choice[:1] for choice in row] for row in choices])
    firsts = np.array([[choice[0] for choice in row] for row in choices]).astype(np.int64)
    assert np.stack(ones) == pytest.approx(asked.score(asked.prefill(ids), firsts), abs=1e-12)


@pytest.mark.parametrize("kind", SIZES)
def test_rows_are_picked_and_repeated(kind: str) -> None:
    asked, ids = subject(kind), prompts(3, 18)
    chosen = asked.select(asked.prefill(ids), [2, 0, 2])
    assert asked.generate(chosen, 5).ids == asked.generate(asked.prefill(ids[[2, 0, 2]]), 5).ids


def test_models_that_cannot_go_on_from_a_piece_read_prompts_whole() -> None:
    assert {kind: "state" in subject(kind).capabilities for kind in SIZES} == {
        "Llama": True,
        "Mistral": True,
        "GPT2": True,
        "Mamba": False,
    }


@pytest.mark.parametrize("kind", SIZES)
def test_bytes_of_the_cache_are_counted(kind: str) -> None:
    asked = subject(kind)
    for length in (5, 24, 60):
        held = 0
        for layer in asked.prefill(prompts(1, length)).cache.layers:  # type: ignore[attr-defined]  # looked into
            recurrent = (*layer.conv_states.values(), *layer.recurrent_states.values()) if kind == "Mamba" else ()
            held += sum(one.nbytes for one in (recurrent or (layer.keys, layer.values)))
        assert asked.state_bytes(length) == held
    grows = asked.state_bytes(90) > asked.state_bytes(50)
    assert grows == (kind in ("Llama", "GPT2"))


def test_a_text_begins_once() -> None:
    ids = prompts(2, 9)
    marked = np.concatenate([np.full((2, 1), 257), ids], axis=1)
    asked = HubSubject(tiny_model("Llama"), byte_tokenizer(begin=True), "begins", HuggingFaceConfig())
    expected = whole(asked, marked).log_softmax(-1)[:, -1].gather(1, torch.from_numpy(ids[:, :3])).numpy()
    assert asked.score(asked.prefill(ids), ids[:, :3]) == pytest.approx(expected, abs=1e-9)
    assert asked.score(asked.prefill(marked), ids[:, :3]) == pytest.approx(expected, abs=1e-9)
    split = asked.prefill(ids[:, 4:], asked.prefill(ids[:, :4]))
    assert asked.score(split, ids[:, :3]) == pytest.approx(expected, abs=1e-9)
    assert asked.read(ids, ids).likely.shape == ids.shape
    assert asked.describe()["added_tokens"] == 1
    never = HubSubject(asked.model, byte_tokenizer(begin=True), "never", HuggingFaceConfig(begin="never"))
    assert never.score(never.prefill(ids), ids[:, :3]) != pytest.approx(expected, abs=1e-3)
    auto = HubSubject(asked.model, byte_tokenizer(), "auto", HuggingFaceConfig())
    assert auto.describe()["added_tokens"] == 0


def test_a_chat_is_the_template_around_the_prompt() -> None:
    asked = subject("Llama", chat=True, system="Be brief.")
    tokenizer = asked.tokenizer
    text = "A text. Which number? The number is"
    turn = "<begin>[system]Be brief.[user]A text. Which number?[answer] The number is"
    expected = np.array([tokenizer.special(turn)])
    assert expected[0, 0] == 257
    assert (expected == 257).sum() == 1
    plain = HubSubject(asked.model, byte_tokenizer(), "plain", HuggingFaceConfig())
    known = asked.prefill(np.array([tokenizer.encode(text)]))
    assert asked.generate(known, 9).ids == plain.generate(plain.prefill(expected), 9).ids
    assert asked.capabilities == {"generate", "score"}
    # Rows whose answers begin at other places.
    rows = np.array([tokenizer.encode("Which one? It is the"), tokenizer.encode("Which is it? It is a")])
    both = asked.prefill(rows)
    alone = [asked.prefill(row[None]) for row in rows]
    assert asked.generate(both, 4).ids == [asked.generate(one, 4).ids[0] for one in alone]
    assert asked.score(both, rows[:, :2]) == pytest.approx(
        np.concatenate([asked.score(one, rows[:1, :2] if at == 0 else rows[1:, :2]) for at, one in enumerate(alone)])
    )


@pytest.mark.parametrize(
    ("text", "beginning"),
    [
        ("Text. What is it? It is", " It is"),
        ("Question: what is it?\nAnswer:", "Answer:"),
        ("Sum it up.\n", ""),
        ("What is it?", ""),
        ("No end at all", ""),
        ("Far? " + "a" * 100, ""),
    ],
)
def test_the_beginning_of_an_answer_is_what_follows_the_question(text: str, beginning: str) -> None:
    tokenizer = HubTokenizer(byte_tokenizer())
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids[answer_start(tokenizer, ids) :]) == beginning


def test_special_tokens_in_a_text_are_text() -> None:
    tokenizer = HubTokenizer(byte_tokenizer(begin=True))
    ids = tokenizer.encode("a<end>ü")
    assert 256 not in ids
    assert tokenizer.decode(ids) == "a<end>ü"
    assert tokenizer.decode([256, *ids]) == "a<end>ü"
    assert tokenizer.vocabulary == 258


def test_positions_that_were_never_learnt_are_a_reason_to_skip() -> None:
    asked = subject("GPT2")
    with pytest.raises(Lacking, match="needs 97 positions, and GPT2 has learnt 96"):
        asked.prefill(prompts(1, 97))
    asked.prefill(prompts(1, 96))
    assert subject("Llama").longest is None


def test_a_row_that_has_ended_stays_so() -> None:
    asked, ids = subject("Llama"), prompts(4, 15)
    free = asked.generate(asked.prefill(ids), 10).ids
    asked.ends = frozenset({free[1][3]})
    for before, after in zip(free, asked.generate(asked.prefill(ids), 10).ids, strict=True):
        end = next((at + 1 for at, token in enumerate(before) if token in asked.ends), 10)
        assert after == before[:end]
    stopped = asked.tokenizer.decode([free[2][2]])
    stops = asked.generate(asked.prefill(ids[2:3]), 10, (stopped,)).ids[0]
    assert stopped in asked.tokenizer.decode(stops)
    assert stopped not in asked.tokenizer.decode(stops[:-1])


def test_settings_that_do_not_fit_the_tokenizer() -> None:
    with pytest.raises(ConfigError, match=r"hf\.chat: true given, but the tokenizer has no chat template"):
        HubSubject(tiny_model("Llama"), byte_tokenizer(), "a", HuggingFaceConfig(chat=True))
    without = byte_tokenizer()
    without.bos_token = None
    with pytest.raises(ConfigError, match=r"hf\.begin: always given, but the tokenizer has no begin-of-text token"):
        HubSubject(tiny_model("Llama"), without, "a", HuggingFaceConfig(begin="always"))


@pytest.mark.parametrize("kind", ["Llama", "Mamba"])
def test_a_folder_is_loaded_as_it_was_saved(kind: str, tmp_path: Path) -> None:
    folder = save(tmp_path / "model", kind)
    model, tokenizer = load_hub(str(folder), torch.float64, "cpu")
    loaded = HubSubject(model, tokenizer, "loaded", HuggingFaceConfig())
    ids = prompts(2, 12)
    assert model.dtype == torch.float64
    assert not model.training
    assert loaded.generate(loaded.prefill(ids), 6).ids == subject(kind).generate(subject(kind).prefill(ids), 6).ids
    again = HubSubject(*load_hub(str(folder), torch.float64, "cpu"), "loaded", HuggingFaceConfig())
    assert loaded.describe() == again.describe()
    assert json.dumps(loaded.describe())


def test_a_memory_that_it_has_not_is_a_mistake_in_one_line() -> None:
    asked = subject(next(iter(SIZES)))
    for ask in (asked.without_memory, lambda: asked.shuffled(asked.prefill(prompts(1, 3)), 0)):
        with pytest.raises(IncapableError, match=r"asked for .memory., which it cannot do\. Its capabilities: "):
            ask()


def test_folders_that_are_no_such_model_are_told_in_one_line(tmp_path: Path) -> None:
    def told(folder: Path) -> str:
        with pytest.raises(ModelError) as error:
            load_hub(str(folder), torch.float32, "cpu")
        assert "\n" not in str(error.value)
        return str(error.value).removeprefix(f"{folder}: ")

    folder = save(tmp_path / "model", "Llama")
    config, weights = folder / "config.json", folder / "model.safetensors"
    content, whole_file = config.read_text(), weights.read_bytes()
    config.write_text(content.replace("LlamaForCausalLM", "LlamaModel"))
    assert told(folder) == "LlamaModel given, a causal language model (...ForCausalLM) is needed."
    config.write_text(content.replace('"vocab_size"', '"auto_map": {"AutoConfig": "code.Mine"}, "vocab_size"'))
    assert told(folder) == "brings code of its own (auto_map in config.json), and none is run."
    config.write_text(content.replace('"vocab_size"', '"is_causal": false, "vocab_size"'))
    assert told(folder) == "its tokens see those behind them (is_causal in config.json); a causal one is needed."
    config.write_text(content.replace('"llama"', '"nothing"'))
    line = f"{config}: model_type: our layers do not cover 'nothing'. Known: "
    assert told(folder).startswith(line)
    assert f" {folder}: not a model that transformers can read: " in told(folder)
    config.write_text(content)
    weights.write_bytes(whole_file[:-9])
    assert told(folder).startswith("not a model that transformers can read:")
    weights.rename(folder / "pytorch_model.bin")
    assert told(folder) == "no weights there in *.safetensors; pytorch_model.bin is pickled, and is never read."


def test_missing_weights_are_not_made_up(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save(tmp_path / "model", "Llama")
    file = folder / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights are missing or of another shape, model\.layers\.1\.mlp\.up_proj"):
        load_hub(str(folder), torch.float32, "cpu")


@needs_stories
def test_a_real_model_tells_its_stories() -> None:
    model, tokenizer = load_hub(str(STORIES), torch.float32, "cpu")
    asked = HubSubject(model, tokenizer, "stories", HuggingFaceConfig())
    ids = np.array([asked.tokenizer.encode("Once upon a time, there was a little")])
    known = asked.prefill(ids)
    written = asked.generate(known, 12)
    theirs = model.generate(
        torch.tensor([[1, *ids[0]]]), max_new_tokens=12, do_sample=False, attention_mask=torch.ones(1, ids.size + 1)
    )
    assert written.ids[0] == theirs[0, ids.size + 1 :].tolist()
    assert "girl" in asked.tokenizer.decode(written.ids[0])
    girl, stone = (np.array(asked.tokenizer.encode(word), np.int32) for word in ("girl named", "stone eats"))
    likely, unlikely = asked.choose(known, [[girl, stone]])[0]
    assert likely > unlikely + 5
    assert asked.describe()["trained_length"] == 512
    assert asked.describe()["begin"] == 1
    assert asked.tokenizer.vocabulary <= VOCABULARY * 2
