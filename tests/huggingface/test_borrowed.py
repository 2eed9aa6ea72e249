"""Families that our layers do not cover run by transformers, behind what a model of ours offers of reading on."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_folders import changed, silence, theirs, tiny
from safetensors.torch import load_file, save_file

import farfield
from farfield import cli
from farfield.borrowed import BorrowedModel
from farfield.catalogue import model_in
from farfield.config import ConfigError, ModelError
from farfield.generation import GenerationConfig, TextModel
from farfield.generation import written as finished

pytest.importorskip("transformers", reason="pip install 'farfield[hf]'")


@pytest.fixture(scope="module")
def gpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random GPT-2 of bytes, with the tokenizer of a model of ours."""
    import transformers

    folder = farfield.save(tiny(), tmp_path_factory.mktemp("gpt") / "folder")
    for file in ("model.safetensors", "config.json", "generation_config.json"):
        (folder / file).unlink()
    with silence():
        config = transformers.GPT2Config(vocab_size=257, n_embd=16, n_layer=2, n_head=2, n_positions=200)
        config.bos_token_id, config.eos_token_id = None, 256
        torch.manual_seed(0)
        model = transformers.GPT2LMHeadModel(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.3 * torch.randn_like(parameter)
        model.save_pretrained(folder)
    return folder


def opened(folder: Path) -> BorrowedModel:
    with silence():
        found = farfield.load(folder)
    assert isinstance(found, BorrowedModel)
    return found


def test_it_writes_what_generate_writes(gpt: Path) -> None:
    """Rows of different lengths side by side, each as if alone."""
    model, other = opened(gpt), theirs(gpt)
    prompts = [[5, 9, 2, 7], [65], [100, 101, 102, 103, 104, 105, 106]]
    answers = finished(model.stream(prompts, GenerationConfig(tokens=20)))
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([prompt])
        with silence():
            expected = other.generate(ids, max_new_tokens=20, do_sample=False, attention_mask=torch.ones_like(ids))
        assert answer.ids == expected[0, len(prompt) :].tolist()


def test_what_was_read_stays_as_it_was(gpt: Path) -> None:
    """A state is a value: two continuations of it do not see each other."""
    model = opened(gpt)
    logits, state = model.prefill([[5, 9, 2], [7]])
    first, _ = model.go_on(torch.tensor([[1, 2], [3, 4]]), state)
    model.go_on(torch.tensor([[8], [9]]), state)
    again, after = model.go_on(torch.tensor([[1, 2], [3, 4]]), state)
    assert torch.equal(first, again)
    whole, _ = model.prefill([[7, 3, 4], [5, 9, 2, 1, 2]])
    torch.testing.assert_close(whole.flip(0), again)
    swapped, _ = model.go_on(torch.tensor([[6], [6]]), after.select([1, 0]))
    plain, _ = model.go_on(torch.tensor([[6], [6]]), after)
    assert torch.equal(swapped, plain.flip(0))
    assert logits.shape == (2, 257)


def test_a_text_that_is_longer_than_what_was_learnt_is_one_line(
    gpt: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """At its prompt, or as far as it is written; 200 tokens are not too long."""
    model, line = (
        opened(gpt),
        "{} tokens with what is written behind it, and folder has learnt 200 positions. Take fewer generation.tokens, ",
    )
    _, state = model.prefill([[7], [5] * 200])
    with pytest.raises(ModelError, match=line.format(201)):
        model.go_on(torch.tensor([[1], [1]]), state)
    with pytest.raises(ModelError, match=line.format(201)):
        model.prefill([[5] * 201])
    (tmp_path / "long.txt").write_text("a" * 999)
    with silence():
        assert cli.main(["query", "Who?", f"model={gpt}", f"document={tmp_path}/long.txt", "prompt.tokens=900"]) == 2
    assert line.split("{}")[1] in capsys.readouterr().err.splitlines()[-1]


def test_prompts_that_are_none_are_one_line(gpt: Path) -> None:
    model = opened(gpt)
    for prompt, line in (([1, 2], "prompt: 1 given in the place of a row of ids."), ([[257]], "prompt: id 257 given,")):
        with pytest.raises(ModelError, match=re.escape(line)):
            model.generate(prompt, tokens=1)  # type: ignore[arg-type]  # the mistake


def test_texts_are_drawn_as_ours_are(gpt: Path) -> None:
    model = opened(gpt)
    one, two = (model.generate(["Once", "A"], tokens=12, temperature=1.0, seed=seed) for seed in (0, 1))
    assert one == model.generate(["Once", "A"], tokens=12, temperature=1.0, seed=0)
    assert one != two
    assert model.generate("A", tokens=12, temperature=1.0, seed=0) == model.generate(["A"], 12, temperature=1.0)[0]


def test_whose_layers_is_a_choice(gpt: Path, tmp_path: Path) -> None:
    """auto takes ours where they cover the family; asked for, a family that they do not cover is refused by name."""
    assert isinstance(farfield.load(tiny_folder(tmp_path)), TextModel)
    with silence():
        other = farfield.load(tmp_path / "folder", layers="transformers")
    assert isinstance(other, BorrowedModel)
    model = farfield.load(tmp_path / "folder")
    assert other.generate("Once upon", tokens=12) == model.generate("Once upon", tokens=12)
    with pytest.raises(ModelError) as raised:
        farfield.load(gpt, layers="farfield")
    assert str(raised.value).startswith(f"{gpt}/config.json: model_type: our layers do not cover 'gpt2'. ")
    assert str(raised.value).endswith("Those of transformers may: hf.layers=transformers.")
    with pytest.raises(ModelError, match=r"memory\.name: 'knn' given, but .* is run by transformers\. Leave it out\."):
        farfield.load(gpt, memory="knn")
    with pytest.raises(ConfigError, match=r"hf\.begin: always given, but the tokenizer has no begin-of-text token"):
        farfield.load(tmp_path / "folder", begin="always")


LACKING: dict[str, tuple[dict[str, Any], str]] = {
    "activation": ({"hidden_act": "gelu"}, 'hidden_act: "gelu" given; nothing but "silu" is supported.'),
    "rope type": (
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
        "rope_parameters.rope_type: unsupported 'dynamic'. Known: default, linear, llama3, yarn.",
    ),
}
"""What a Llama of theirs may have and ours has not, and what is said of it."""


@pytest.mark.parametrize("name", LACKING)
def test_a_setting_that_our_layers_lack_is_theirs(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told, and refused where ours are asked for or theirs are not there."""
    settings, said = LACKING[name]
    folder = changed(tiny_folder(tmp_path), max_position_embeddings=8, **settings)
    said = f"{folder}/config.json: {said}"
    model, ids = opened(folder), torch.tensor([[5, 9, 2, 7, 65, 66, 67, 68, 69]])
    answer = finished(model.stream(ids.tolist(), GenerationConfig(tokens=12)))[0].ids
    with silence():
        expected = theirs(folder).generate(ids, max_new_tokens=12, do_sample=False, attention_mask=ids.new_ones(1, 9))
    assert answer == expected[0, 9:].tolist()
    with silence():
        assert cli.main(["query", "Once", f"model={folder}", "generation.tokens=2"]) == 0
    assert capsys.readouterr().err.splitlines()[0] == f"farfield: {said} It is run by transformers."
    assert cli.main(["models", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == f"{folder} is run by transformers: {said}"
    with pytest.raises(ModelError) as raised:
        farfield.load(folder, layers="farfield")
    assert str(raised.value) == f"{said} Those of transformers may: hf.layers=transformers."
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError) as raised:
        farfield.load(folder)
    assert str(raised.value) == (
        f"{said} {folder}: a Hugging Face model needs transformers: pip install 'farfield[hf]'."
    )


def test_a_setting_that_nobody_has_is_one_line(tmp_path: Path) -> None:
    folder = changed(tiny_folder(tmp_path), hidden_act="gelee")
    with silence(), pytest.raises(ModelError) as raised:
        farfield.load(folder)
    assert str(raised.value).startswith(
        f'{folder}/config.json: hidden_act: "gelee" given; nothing but "silu" is supported. {folder}: not a model that '
    )


def tiny_folder(place: Path) -> Path:
    return farfield.save(tiny(), place / "folder")


def test_the_command_line_asks_it(gpt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["query", "Once", f"model={gpt}", "generation.tokens=8"]
    with silence():
        assert cli.main([*words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    prompt = "Question: Once\nAnswer:"
    assert said["answer"] == opened(gpt).generate(prompt, tokens=8, stop=["\n"]).strip()
    refusals = {
        "sessions=kept document=a.txt": f"sessions: {gpt} is run by transformers, and only our own layers have it.",
        "generation.capture=true": "generation.capture: folder is run by transformers, and only our own layers have "
        "it. Leave it out.",
        "neighbours=a": f"neighbours: {gpt} is run by transformers, and only our own layers have it.",
        "memory=knn": f"memory.name: 'knn' given, but {gpt} is run by transformers. Leave it out.",
    }
    for setting, line in refusals.items():
        with silence():
            assert cli.main([*words, *setting.split()]) == 2
        assert capsys.readouterr().err.splitlines()[-1] == f"farfield: {line}"


def test_models_tells_whose_layers_a_folder_gets(
    gpt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(*words: str) -> dict[str, Any]:
        assert cli.main(["models", *words, "--json"]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    folder = changed(tiny_folder(tmp_path), max_position_embeddings=128)
    found = told(str(folder))
    assert found == told(f"model={folder}")
    assert (found["layers"], found["family"], found["dtype"], found["trained_length"]) == (
        "farfield",
        "llama",
        "float32",
        128,
    )
    model = farfield.load(folder, layers="farfield")
    assert found["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert found["state_bytes"] == {str(length): model.config.state_bytes(length) for length in (4096, 131072)}
    found = told(str(gpt))
    assert found["layers"] == "transformers"
    assert "our layers do not cover 'gpt2'" in found["reason"]
    monkeypatch.setattr("farfield.catalogue.find_spec", lambda name: None)
    assert told(str(gpt))["reason"].endswith("It is not installed: pip install 'farfield[hf]'.")
    found = told(str(changed(folder, rms_norm_eps=-1)))
    assert found["layers"] is None
    assert found["reason"].endswith("rms_norm_eps: -1 given; more than 0 is needed.")
    assert cli.main(["models", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"farfield: {tmp_path}: no folder of Hugging Face: it has no config.json.\n"


TURNS = (
    "{% for turn in messages %}<|end|>{{ turn.role }}: {{ turn.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.mark.parametrize("layers", ["farfield", "transformers"])
def test_a_question_goes_into_the_chat_template(
    gpt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], layers: str
) -> None:
    """By either's layers; the question alone is the user's turn, and what it ends in begins the answer."""
    folder = shutil.copytree(gpt, tmp_path / "folder") if layers == "transformers" else tiny_folder(tmp_path)
    words = ["query", "Once", f"model={folder}", "generation.tokens=8", "hf.chat=true"]
    refusals = {
        "": "hf.chat: true given, but the tokenizer has no chat template. Take hf.chat=false.",
        "sessions=kept session=a": "hf.chat: true given, and sessions, whose turns have no template. Leave it out.",
    }
    for setting, line in refusals.items():
        with silence():
            assert cli.main([*words, *setting.split()]) == 2
        assert capsys.readouterr().err.splitlines()[-1] == f"farfield: {line}"
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": TURNS}))
    with silence():
        assert cli.main([*words, "hf.system=Be brief.", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    system, user = (list(text.encode()) for text in ("system: Be brief.", "user: Question: Once\n"))
    ids = [256, *system, 256, 256, *user, 256, *b"assistant: Answer:"]
    with silence():
        expected = farfield.load(folder).generate([ids], tokens=8, stop=["\n"])
    assert said["answer"] == expected[0].strip()
    assert said["prompt_tokens"] == len(ids)


UNREADABLE = {
    "no causal model": {"model_type": "t5", "architectures": None},
    "an encoder and decoder": {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]},
    "a type that nobody knows": {"model_type": "foo"},
    "no type": {"model_type": None},
    "a number": {"model_type": 7},
    "an id that the model does not have": {"eos_token_id": 1000},
}


@pytest.mark.parametrize("settings", UNREADABLE.values(), ids=UNREADABLE)
def test_models_tells_of_no_folder_that_load_refuses(tmp_path: Path, settings: dict[str, Any]) -> None:
    folder = changed(tiny_folder(tmp_path), **settings)
    if "eos_token_id" in settings:
        (folder / "generation_config.json").unlink()
    refused_alike(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "generation_config.json", "model.safetensors"])
def test_models_reads_the_other_files_of_a_folder_too(tmp_path: Path, name: str) -> None:
    folder = tiny_folder(tmp_path)
    assert model_in(str(folder))["layers"] == "farfield"
    if name == "model.safetensors":  # with a head that is not the embedding it is said to be
        tensors = load_file(folder / name)
        save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"] + 1}, folder / name)
    else:
        (folder / name).write_text("{")
    refused_alike(folder)


def refused_alike(folder: Path, words: str = "") -> None:
    """By `load` and by `models`."""
    with silence(), pytest.raises(ModelError, match=re.escape(words)):
        farfield.load(folder)
    with silence():
        told = model_in(str(folder))
    assert words in told["reason"]
    assert told["layers"] is None
    assert told["text"] == f"{folder} cannot be read: {told['reason']}"


@pytest.mark.parametrize(
    "settings", [{"n_embd": "wide"}, {"n_head": 0}, {"n_head": 3}, {"activation_function": "gelee"}]
)
def test_settings_that_transformers_refuses_are_one_line(gpt: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    folder = changed(shutil.copytree(gpt, tmp_path / "folder"), **settings)
    refused_alike(folder, f"{folder}: not a model that transformers can read: ")


@pytest.mark.parametrize("kind", ["XLNetLMHeadModel", "RecurrentGemmaForCausalLM"])
def test_what_hands_on_no_cache_is_refused(tmp_path: Path, kind: str) -> None:
    import transformers

    folder = tiny_folder(tmp_path)
    for file in ("model.safetensors", "config.json", "generation_config.json"):
        (folder / file).unlink()
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 257}
    more = {"intermediate_size": 24, "lru_width": 16} if "Gemma" in kind else {"d_inner": 24, "d_head": 8}
    model = getattr(transformers, kind)
    with silence():
        model(model.config_class(**small, **more)).save_pretrained(folder)
    refused_alike(folder, f"{folder}: {kind} hands on no cache, and cannot be asked.")


def test_without_transformers_it_says_what_to_install(gpt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError, match=r"a Hugging Face model needs transformers: pip install 'farfield\[hf\]'\."):
        farfield.load(gpt)
