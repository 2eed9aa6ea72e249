"""What is written for Hugging Face: models trained here, what no family has a word for, tokenizers, all or nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_folders import changed, silence, theirs, tiny
from safetensors.torch import load_file, save_file

import farfield
from farfield import cli
from farfield.compose import option
from farfield.config import Config, ModelError, read
from farfield.context import ContextConfig, stretched
from farfield.generation import TextModel
from farfield.huggingface import writing
from farfield.tokenizers import BytesTokenizer, IdsTokenizer, fingerprint
from farfield.tokenizers.bpe import train_bpe


class _Context(Config):
    context: ContextConfig | None


WINDOWS = "layers.longformer.mixer"
EXPORTED: dict[str, tuple[str, list[str]]] = {
    "llama": ("attention", []),
    "mistral": ("longformer", [f"{WINDOWS}.window=5", f"{WINDOWS}.globals=0"]),
    "qwen2": ("attention", ["+layers.attention.mixer.bias=inputs", "tied=false"]),
    "qwen3": ("attention", ["+layers.attention.mixer.qk_norm=1e-5", "+layers.attention.mixer.head_size=6"]),
}


@pytest.mark.parametrize("family", EXPORTED)
def test_models_of_ours_run_in_transformers(family: str, tmp_path: Path) -> None:
    transformers: Any = pytest.importorskip("transformers", reason="pip install 'farfield[hf]'")
    architecture, overrides = EXPORTED[family]
    model = tiny(architecture, *overrides)
    folder = farfield.save(model, tmp_path / "folder")
    assert json.loads((folder / "config.json").read_text())["model_type"] == family
    other = theirs(folder)
    tokens = torch.randint(257, (2, 40))
    with torch.no_grad(), silence():
        torch.testing.assert_close(model(tokens)[0], other(tokens).logits, rtol=0, atol=1e-4)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    text = "Lily é 日本 😀\n\x00 <|end|>"
    assert tokenizer(text, split_special_tokens=True)["input_ids"] == model.tokenizer.encode(text)
    again = farfield.load(folder, layers="farfield")
    assert again.config.parameters() == model.config.parameters()
    with torch.no_grad():
        assert torch.equal(again(tokens)[0], model(tokens)[0])
    assert again.generate("Once", tokens=9) == model.generate("Once", tokens=9)


REFUSED: dict[str, tuple[str, list[str], str | None, str]] = {
    "conv": (
        "attention",
        ["layers.attention.mixer.conv=4"],
        None,
        "architecture.layers.attention.mixer.conv: 4 given; a folder of the family llama says nothing but 0.",
    ),
    "position": (
        "attention",
        ["layers.attention.mixer.position=alibi"],
        None,
        "architecture.layers.attention.mixer.position: alibi given; a folder of the family llama says nothing but "
        "rope.",
    ),
    "feed-forward": (
        "attention",
        ["layers.attention.feedforward={kind:gelu}"],
        None,
        "architecture.layers.attention.feedforward.kind: gelu given; a folder of the family llama says nothing but "
        "swiglu.",
    ),
    "globals": (
        "longformer",
        [f"{WINDOWS}.globals=2"],
        None,
        "architecture.layers.longformer.mixer.globals: 2 given; a folder of the family mistral says nothing but 0.",
    ),
    "windows": (
        "longformer",
        [f"{WINDOWS}.globals=0", f"{WINDOWS}.window=[3,4]"],
        None,
        "the windows of the layers: [3, 4] given; a folder of the family mistral says nothing but one for all of them.",
    ),
    "memory": (
        "attention",
        [],
        "knn",
        "memory.name: 'knn' given; no Hugging Face family has one. Take memory=none.",
    ),
    "extension": (
        "attention",
        ["+layers.attention.mixer.extension={kind: dual_chunk, chunk: 8, window: 4}"],
        None,
        "architecture.layers.attention.mixer.extension: dual_chunk given; no Hugging Face family has one. Export the "
        "model without context.",
    ),
    "kind": (
        "retnet",
        [],
        None,
        "architecture.layers.retnet.mixer.kind: 'retnet' given; no family of Hugging Face here has such layers. "
        "Known: ",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_family_has_a_word_for_is_one_line(name: str, tmp_path: Path) -> None:
    architecture, overrides, memory, line = REFUSED[name]
    conv = [] if architecture == "retnet" else [f"layers.{architecture}.mixer.conv=0"]
    model = farfield.build(architecture, ["width=64", "depth=2", *conv, *overrides], memory=memory)
    with pytest.raises(ModelError) as raised:
        farfield.save(model, tmp_path / "folder")
    assert str(raised.value).startswith(line)
    assert list(tmp_path.iterdir()) == []


def test_windows_are_refused(tmp_path: Path) -> None:
    """They are no setting of the layers."""
    folder = farfield.save(tiny(), tmp_path / "folder")
    model = farfield.load(folder, layers="farfield", context="parallel", overrides=["window=8"])
    line = "context.kind: 'parallel' given; no Hugging Face family reads in windows. Export the model without context."
    with pytest.raises(ModelError, match=re.escape(line)):
        farfield.save(model, tmp_path / "other")


@pytest.mark.parametrize("context", ["interpolation", "ntk", "yarn"])
def test_a_stretched_model_says_how_far_it_reads(context: str, tmp_path: Path) -> None:
    """The factor times the length that it was trained on; what a folder says of a length that is longer stays."""
    model = farfield.load(changed(farfield.save(tiny(), tmp_path / "folder"), max_position_embeddings=64))
    assert isinstance(model, TextModel)

    def longest(rows: int, trained: int) -> int:
        own = read(_Context, {"context": option("context", context)}).context
        info = {"config": {"data": {"length": rows}}}
        found = TextModel(stretched(model.model, own, trained), model.tokenizer, info)
        return json.loads((farfield.save(found, tmp_path / f"{rows}") / "config.json").read_text())[
            "max_position_embeddings"
        ]

    assert longest(64, 64) == 256
    assert longest(32, 64) == 256  # trained on shorter rows afterwards
    assert longest(300, 64) == 300


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("a")
    with pytest.raises(ModelError, match=r"full: exists already\. Name a folder that does not, or an empty one\."):
        farfield.save(tiny(), tmp_path / "full")

    def fails(*given: Any, **named: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(writing, "save_file", fails)
        with pytest.raises(OSError, match="No space left"):
            farfield.save(tiny(), tmp_path / "new")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["full"]
    (tmp_path / "new").mkdir()
    farfield.save(tiny(), tmp_path / "new")
    assert (tmp_path / "new" / "model.safetensors").is_file()


def test_a_folder_may_be_written_over_where_it_was_read_from(tmp_path: Path) -> None:
    """Weights that are mapped stay as they were when another file takes the place of theirs."""
    folder = farfield.save(tiny(), tmp_path / "folder")
    model = farfield.load(folder, layers="farfield")
    before = model.model.embedding.weight.detach().clone()
    other = tiny()
    with torch.no_grad():
        other.model.embedding.weight += 1
    farfield.save(other, tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").replace(folder / "model.safetensors")
    assert torch.equal(model.model.embedding.weight, before)
    with torch.no_grad():
        model.model.embedding.weight += 1  # on pages of its own
    assert not torch.equal(farfield.load(folder, layers="farfield").model.embedding.weight, before)


@pytest.mark.parametrize("kind", ["bytes", "bpe", "ids"])
def test_tokenizers_are_written_as_files_of_their_library(kind: str, tmp_path: Path) -> None:
    texts = ["Once upon a time, there was a little girl. " * 4, "5 17 64"]
    made = {"bytes": BytesTokenizer(), "bpe": train_bpe(texts, 300), "ids": IdsTokenizer(65, (3, 7))}
    model, text = made[kind], texts[1] if kind == "ids" else f"{texts[0]} é\n😀"
    size = ["width=16", "depth=1", "layers.attention.mixer.heads=2", "layers.attention.mixer.conv=0"]
    built = farfield.build("attention", size, tokenizer=model)
    again = farfield.load(farfield.save(built, tmp_path / "folder"), layers="farfield").tokenizer
    assert again.encode(text) == model.encode(text)
    assert again.decode(model.encode(text)) == text
    assert (again.end, again.ends) == (model.end, model.ends)


TEMPLATE = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"


def test_what_nothing_here_reads_is_passed_on(tmp_path: Path) -> None:
    """A chat's template, names of tokens, and how others draw: a folder that is written back is used as it was."""
    transformers: Any = pytest.importorskip("transformers", reason="pip install 'farfield[hf]'")
    folder = farfield.save(tiny(), tmp_path / "folder")
    settings, generation = folder / "tokenizer_config.json", folder / "generation_config.json"
    end = json.loads(settings.read_text())["eos_token"]
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "pad_token": end, "auto_map": {"a": "b"}}))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "special_tokens_map.json").write_text(json.dumps({"unk_token": end}))
    drawn = {"temperature": 0.6, "do_sample": True, "eos_token_id": [256, 5]}
    generation.write_text(json.dumps(drawn))
    model = farfield.load(folder, layers="farfield")
    back = farfield.save(model, tmp_path / "back")
    with silence():
        tokenizer = transformers.AutoTokenizer.from_pretrained(back)
    assert (tokenizer.chat_template, tokenizer.pad_token, tokenizer.unk_token) == (TEMPLATE, end, end)
    assert "auto_map" not in json.loads((back / "tokenizer_config.json").read_text())
    written = json.loads((back / "generation_config.json").read_text())
    assert written == {**drawn, "bos_token_id": None, "eos_token_id": [256, 5]}
    assert fingerprint(model.tokenizer) == fingerprint(farfield.load(back, layers="farfield").tokenizer)


def test_a_run_keeps_what_its_folder_tells(tmp_path: Path) -> None:
    """How a turn ends, the chat's template and how others draw, though the tokens were kept before they were told."""
    folder = farfield.save(tiny(), tmp_path / "folder")
    (tmp_path / "text.txt").write_text("one two three four five " * 50)
    settings = folder / "tokenizer_config.json"
    (folder / "generation_config.json").write_text(json.dumps({"temperature": 0.6, "eos_token_id": [256, 5]}))
    words = ["adapter=lora", "data=text", f"data.path={tmp_path}/text.txt", "data.length=16"]
    words += [f"data.cache={tmp_path}/cache", f"root={tmp_path}", "training.steps=1"]
    assert cli.main(["train", *words, f"start={folder}", "name=first"]) == 0
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "chat_template": TEMPLATE}))
    assert cli.main(["train", *words, f"start={folder}", "name=second"]) == 0
    assert cli.main(["train", *words, f"start={tmp_path}/second", "name=third"]) == 0
    assert len([store for store in (tmp_path / "cache").iterdir() if store.is_dir()]) == 1
    for name in ("second", "third"):
        model = farfield.load(tmp_path / name, layers="farfield")
        assert model.tokenizer.ends == {256, 5}
        back = farfield.save(model, tmp_path / f"{name}-back")
        assert json.loads((back / "tokenizer_config.json").read_text())["chat_template"] == TEMPLATE
        written = json.loads((back / "generation_config.json").read_text())
        assert written == {"temperature": 0.6, "bos_token_id": None, "eos_token_id": [256, 5]}


def test_export_writes_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = farfield.save(tiny(), tmp_path / "first")
    words = ["export", f"model={first}", f"to={tmp_path}/second", "precision=bf16", "--json"]
    assert cli.main(words) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["family"], said["folder"]) == ("llama", f"{tmp_path}/second")
    assert all(Path(file).is_file() for file in said["files"])
    found = farfield.load(tmp_path / "second")
    assert {parameter.dtype for parameter in found.parameters()} == {torch.bfloat16}  # type: ignore[union-attr]
    assert cli.main(words) == 2
    assert capsys.readouterr().err == (
        f"farfield: {tmp_path}/second: exists already. Name a folder that does not, or an empty one.\n"
    )


def test_export_opens_a_folder_as_it_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = farfield.save(tiny(), tmp_path / "first")
    tensors = load_file(first / "model.safetensors")
    save_file({**tensors, "beside": torch.zeros(1)}, first / "model.safetensors")
    words = ["export", f"model={first}", f"to={tmp_path}/second"]
    assert cli.main(words) == 2
    assert "1 tensor is unknown to this family: beside. Set hf.ignore_unknown=true" in capsys.readouterr().err
    assert cli.main([*words, "hf.ignore_unknown=true"]) == 0
    assert load_file(tmp_path / "second" / "model.safetensors").keys() == tensors.keys()
    assert cli.main([*words, "hf.ignore_unknown=true", "hf.begin=always"]) == 2
    assert "hf.begin: always given, but the tokenizer has no begin-of-text token" in capsys.readouterr().err
