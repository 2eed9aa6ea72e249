"""Folders that cannot be read end in one line, and nothing in them is executed."""

from __future__ import annotations

import json
import os
import pickle
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hub_folders import changed, tiny
from safetensors.torch import load_file, save_file

import farfield
from farfield import cli
from farfield.config import FarfieldError, ModelError
from farfield.huggingface.reading import open_folder
from farfield.tokenizers.bpe import train_bpe

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return farfield.save(tiny(), tmp_path_factory.mktemp("made") / "folder")


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    place = tmp_path / "folder"
    place.mkdir()
    for file in made.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    return place


def refused(folder: Path) -> str:
    """The one line that a folder ends in, without its path."""
    with pytest.raises(FarfieldError) as raised:
        farfield.load(folder)
    line = str(raised.value)
    assert "\n" not in line
    return line.replace(str(folder), "FOLDER")


class _Bomb:
    """What a pickle would run."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.file),)


def headed(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with this header, and a length that may lie."""
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def entry(shape: list[int], offsets: list[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def damaged(name: str, whole: bytes) -> bytes:
    """The bytes of a weight file with one kind of damage."""
    two = {"a": entry([2], [0, 8]), "b": entry([2], [4, 12])}
    match name:
        case "cut in half":
            return whole[: len(whole) // 2]
        case "cut by a byte":
            return whole[:-1]
        case "a flipped byte in the header":
            return whole[:20] + bytes([whole[20] ^ 0xFF]) + whole[21:]
        case "a flipped byte in the header's length":
            return whole[:1] + bytes([whole[1] ^ 0xFF]) + whole[2:]
        case "a header as long as memory":
            return headed(b"{}", length=2**63 - 1)
        case "a header longer than the file":
            return headed(b"{}", length=10**6)
        case "offsets that overlap":
            return headed(json.dumps(two).encode(), bytes(12))
        case "offsets beyond the file":
            return headed(json.dumps({"a": entry([2**40], [0, 2**42])}).encode(), bytes(8))
        case "a shape that overflows":
            return headed(json.dumps({"a": entry([2**62, 2**62], [0, 8])}).encode(), bytes(8))
        case "nested without an end":
            return headed(b"[" * 100_000)
        case "empty":
            return b""
    raise AssertionError(name)


@pytest.mark.parametrize(
    "name",
    [
        "cut in half",
        "cut by a byte",
        "a flipped byte in the header",
        "a flipped byte in the header's length",
        "a header as long as memory",
        "a header longer than the file",
        "offsets that overlap",
        "offsets beyond the file",
        "a shape that overflows",
        "nested without an end",
        "empty",
    ],
)
def test_a_damaged_weight_file_is_one_line(name: str, folder: Path) -> None:
    file = folder / WEIGHTS
    file.write_bytes(damaged(name, file.read_bytes()))
    assert refused(folder).startswith(f"FOLDER/{WEIGHTS}: cut short, damaged, or no safetensors file (")


def test_a_pickle_is_never_opened(folder: Path, tmp_path: Path) -> None:
    """Neither as model.safetensors nor by its own name."""
    hit = tmp_path / "hit"
    bomb = pickle.dumps(_Bomb(hit))
    (folder / WEIGHTS).write_bytes(bomb)
    assert refused(folder).startswith(f"FOLDER/{WEIGHTS}: cut short, damaged, or no safetensors file (")
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    assert refused(folder) == (
        "FOLDER: no weights there: neither model.safetensors nor model.safetensors.index.json. "
        "pytorch_model.bin is pickled, and is never read."
    )
    assert not hit.exists()
    pickle.loads(bomb)
    assert hit.is_dir()  # it would have been seen


def test_a_folder_without_a_config_is_one_line(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert refused(folder) == (
        "FOLDER: not a model: it has neither a config.yaml of `farfield train` nor a config.json of Hugging Face."
    )


def test_what_a_folder_is_not_is_one_line(folder: Path) -> None:
    with pytest.raises(ModelError) as raised:
        farfield.load_encoder(folder)
    assert str(raised.value) == (
        f"{folder}: a folder of Hugging Face, of which models that write are read: farfield.load."
    )
    with pytest.raises(ModelError) as raised:
        farfield.load(folder / WEIGHTS)
    assert str(raised.value) == (
        f"{folder / WEIGHTS}: its config.yaml is missing. It must stand beside the weights. Name the folder of "
        f"Hugging Face: {folder}."
    )


def test_tensors_are_compared_by_name_and_shape(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    gate = "model.layers.0.mlp.gate_proj.weight"
    rows = len(weights[gate])

    def line(**others: torch.Tensor | None) -> str:
        tensors = {**weights, **{key.replace("__", "."): value for key, value in others.items()}}
        save_file({key: value for key, value in tensors.items() if value is not None}, folder / WEIGHTS)
        return refused(folder)

    renamed = {"model__norm__weight": None, "model__norm__wieght": weights["model.norm.weight"]}
    assert line(**renamed) == "FOLDER: 1 tensor is missing: model.norm.weight. There is model.norm.wieght."
    assert line(model__norm__weight=None) == "FOLDER: 1 tensor is missing: model.norm.weight."
    changed(folder, tie_word_embeddings=False)
    assert line() == "FOLDER: 1 tensor is missing: lm_head.weight."
    changed(folder, tie_word_embeddings=True)
    assert line(model__layers__9__x=torch.ones(2), extra=torch.ones(2)) == (
        "FOLDER: 2 tensors are unknown to this family: extra, model.layers.9.x. "
        "Set hf.ignore_unknown=true to leave them out."
    )
    assert line(**{gate.replace(".", "__"): torch.ones(rows + 1, 16)}) == (
        f"FOLDER: {gate}: of shape ({rows + 1}, 16), and config.json makes it ({rows}, 16)."
    )
    assert line(**{gate.replace(".", "__"): torch.ones(rows, 16).int()}) == (
        f"FOLDER/{WEIGHTS}: {gate}: I32 given, one of F64, F32, F16, BF16 is needed."
    )


def test_unknown_tensors_are_left_out_if_told_to(folder: Path) -> None:
    """Rotary frequencies, which old folders hold, are without being told."""
    weights = load_file(folder / WEIGHTS)
    save_file({**weights, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}, folder / WEIGHTS)
    farfield.load(folder)
    save_file({**weights, "extra": torch.ones(4)}, folder / WEIGHTS)
    found = farfield.load(folder, layers="farfield", ignore_unknown=True)
    assert torch.equal(found.model.embedding.weight, weights["model.embed_tokens.weight"])


def test_a_head_of_its_own_beside_a_tied_one(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    embedding = weights["model.embed_tokens.weight"]
    save_file({**weights, "lm_head.weight": embedding.clone()}, folder / WEIGHTS)
    farfield.load(folder)
    save_file({**weights, "lm_head.weight": embedding + 1}, folder / WEIGHTS)
    assert refused(folder) == (
        "FOLDER/config.json: tie_word_embeddings: true given, and lm_head.weight is not the embedding. One of them is "
        "wrong."
    )
    changed(folder, tie_word_embeddings=False)
    assert torch.equal(farfield.load(folder, layers="farfield").model.output.weight, embedding + 1)  # type: ignore[union-attr]


def test_an_index_stays_in_its_folder(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).rename(folder / "part.safetensors")
    index = folder / "model.safetensors.index.json"

    def line(file: object, more: dict[str, str] | None = None) -> str:
        where = {**dict.fromkeys(weights, file), **(more or {})}
        index.write_text(json.dumps({"weight_map": where}))
        return refused(folder)

    index.write_text(json.dumps({"weight_map": dict.fromkeys(weights, "part.safetensors")}))
    farfield.load(folder)
    needed = "the name of a .safetensors file in the same folder is needed."
    for file, shown in (("../part.safetensors", '"../part.safetensors"'), ("part.bin", '"part.bin"'), (3, "3")):
        assert line(file).endswith(f" {shown} given; {needed}")
    assert line("other.safetensors") == "FOLDER/other.safetensors: no such file."
    assert line("part.safetensors", {"more": "part.safetensors"}) == (
        f"FOLDER/{index.name}: promises more in part.safetensors, which has no such tensor."
    )
    index.write_text("{}")
    assert refused(folder) == f"FOLDER/{index.name}: weight_map is missing."


def test_settings_larger_than_the_weights_allocate_nothing(folder: Path) -> None:
    changed(folder, hidden_size=2**24, intermediate_size=2**24, num_hidden_layers=4096)
    assert "weights, and the files hold" in refused(folder)


def test_the_command_line_shows_the_same_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed(folder, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4})
    asked = ["query", "hi", "hf.layers=farfield"], ["evaluate", "suite=needle", "hf.layers=farfield"]
    for words in (*asked, ["export", f"to={folder}/out"], ["models"]):
        capsys.readouterr()
        code = cli.main([*words, f"model={folder}"])
        said = capsys.readouterr()
        assert code == (0 if words == ["models"] else 2)
        line = (said.out if words == ["models"] else said.err).strip()
        assert "rope_parameters.rope_type: unsupported 'dynamic'." in line
        assert "\n" not in line


def test_what_is_refused_is_told_before_weights_are_read(folder: Path) -> None:
    """A folder with a tokenizer that is of another model, damaged, or of another kind."""
    train_bpe(["Once upon a time, there was a little girl. " * 4], 264).save(folder)
    assert refused(folder) == "FOLDER/tokenizer.json: 264 ids, and the model beside it has 257. They must fit."
    padded = train_bpe(["Once upon a time, there was a little girl. " * 4], 257)
    padded.backend.add_special_tokens(["<pad>"])  # as some are published: no text becomes it
    padded.save(folder)
    farfield.load(folder, layers="farfield")
    (folder / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": 3}}')
    assert refused(folder).startswith("FOLDER: its tokenizer cannot be read: FOLDER/tokenizer.json: damaged: ")
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")
    assert refused(folder) == (
        "FOLDER: no tokenizer.json there, and tokenizer.model is not read. Save it by a fast tokenizer."
    )
    (folder / "tokenizer.json").write_text("[" * 100_000)
    assert refused(folder).startswith("FOLDER: its tokenizer cannot be read: FOLDER/tokenizer.json: not JSON: ")
    with pytest.raises(ModelError, match="our layers do not cover 'gpt9'"):
        open_folder(changed(folder, model_type="gpt9"))
    changed(folder, model_type="llama", per_layer_config={"1": {"rms_norm_eps": 0.01}})
    assert refused(folder) == (
        'FOLDER/config.json: per_layer_config: {"1": {"rms_norm_eps": 0.01}} given; all layers of a kind have the same '
        "settings."
    )


@pytest.mark.parametrize(("kind", "shown"), [([], "[]"), ({}, "{}"), (7, "7"), (["llama"], '["llama"]')])
def test_a_family_is_named_by_a_text(kind: object, shown: str, folder: Path) -> None:
    line = refused(changed(folder, model_type=kind))
    assert line.startswith(f"FOLDER/config.json: model_type: {shown} given; a text is needed. Known: jamba, llama, ")


def test_a_flipped_byte_anywhere_in_a_header_does_no_more_harm(folder: Path) -> None:
    """It is refused in one line, or was no more than a letter of a text that nobody reads."""
    file = folder / WEIGHTS
    whole = file.read_bytes()
    length = 8 + struct.unpack("<Q", whole[:8])[0]
    drawn = random.Random(0)
    lines = []
    for _ in range(150):
        at, bit = drawn.randrange(length), 1 << drawn.randrange(8)
        file.write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
        try:
            open_folder(folder)
        except ModelError as error:
            lines.append(str(error))
    assert len(lines) > 100
    assert not any("\n" in line for line in lines)
