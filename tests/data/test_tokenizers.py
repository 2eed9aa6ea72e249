from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from farfield.config import Config, ConfigError, DataError, read
from farfield.tokenizers import (
    BpeConfig,
    BpeTokenizer,
    BytesTokenizer,
    Decoder,
    IdsTokenizer,
    Tokenizer,
    TokenizerConfig,
    fingerprint,
    load_tokenizer,
    train_bpe,
)

LLAMA = Path(__file__).parents[3] / "shared" / "data" / "stories260k"

texts = st.text(st.characters(exclude_categories=["Cs"]))


def stream(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    decoder = Decoder(tokenizer)
    return [*(decoder.push(token) for token in ids), decoder.finish()]


@given(text=texts)
@example(text="a <|end|> b")
@example(text="\r\n \ufeff\x00\ufffd  \t\u2028")
@settings(deadline=None)
def test_what_is_encoded_decodes_to_the_same_text(bpe: BpeTokenizer, text: str) -> None:
    for tokenizer in (BytesTokenizer(), bpe):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.end not in ids
        assert all(0 <= token < tokenizer.vocabulary for token in ids)


@given(many=st.lists(texts, max_size=5))
@settings(deadline=None)
def test_encoding_many_is_encoding_each(bpe: BpeTokenizer, many: list[str]) -> None:
    for tokenizer in (BytesTokenizer(), bpe):
        assert [ids.tolist() for ids in tokenizer.encode_many(many)] == [tokenizer.encode(text) for text in many]
    numbers = [" ".join(str(ord(letter)) for letter in text) for text in many]
    ids = IdsTokenizer(1 << 21)
    assert [found.tolist() for found in ids.encode_many(numbers)] == [ids.encode(text) for text in numbers]


@given(ids=st.lists(st.integers(0, 255)))
def test_ids_are_their_own_text(ids: list[int]) -> None:
    tokenizer = IdsTokenizer(257)
    assert tokenizer.encode(tokenizer.decode(ids)) == ids
    assert tokenizer.decode([*ids, tokenizer.end]) == tokenizer.decode(ids)


def test_lone_surrogates_become_question_marks(bpe: BpeTokenizer) -> None:
    for tokenizer in (BytesTokenizer(), bpe):
        assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a?b"


def test_end_and_ids_beyond_the_vocabulary_decode_to_nothing(bpe: BpeTokenizer) -> None:
    for tokenizer in (BytesTokenizer(), bpe):
        assert tokenizer.decode([*tokenizer.encode("one"), tokenizer.end, 9999]) == "one"


def test_bpe_learns_frequent_pairs_and_stops_at_its_vocabulary(bpe: BpeTokenizer) -> None:
    assert 270 < bpe.vocabulary <= 300
    assert train_bpe(["the cat sat on the mat, the rat sat on the hat"], 262).vocabulary == 262
    assert len(bpe.encode("it was the age of")) < 10
    assert train_bpe(["ab"], 5000).vocabulary == 257


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_streamed_pieces_join_to_the_decoded_whole(bpe: BpeTokenizer, data: st.DataObject) -> None:
    for tokenizer in (BytesTokenizer(), bpe, IdsTokenizer(300)):
        ids = data.draw(st.lists(st.integers(0, tokenizer.vocabulary - 1), max_size=60))
        assert "".join(stream(tokenizer, ids)) == tokenizer.decode(ids)


@pytest.mark.parametrize(
    "ids",
    [
        [0xE2, *[256] * 40, 0x82, 0xAC],
        [0x80] * 50,
        [0xF0, 0x9F] * 20,
        [0xFF] * 30 + [65],
        [0xFF, 0xFF, 0xFF, 0xF0, 0x9F, 0x98, 0x80],
        [0xFF] * 15 + [0xF0, 0x9F, 0x98, 0x80],
    ],
)
def test_streaming_survives_bytes_that_are_no_text(ids: list[int]) -> None:
    assert "".join(stream(BytesTokenizer(), ids)) == BytesTokenizer().decode(ids)


@given(text=texts)
@settings(deadline=None)
def test_no_piece_has_half_a_character(bpe: BpeTokenizer, text: str) -> None:
    text = text.replace("\ufffd", "")
    for tokenizer in (BytesTokenizer(), bpe):
        pieces = stream(tokenizer, tokenizer.encode(text))
        assert "\ufffd" not in "".join(pieces)
        assert pieces[-1] == ""


def test_a_character_comes_with_its_last_byte() -> None:
    assert stream(BytesTokenizer(), list("aü€😀".encode())) == ["a", "", "ü", "", "", "€", "", "", "", "😀", ""]
    assert stream(BytesTokenizer(), [65, 0xF0, 0x9F]) == ["A", "", "", "\ufffd"]


def test_streaming_decodes_a_few_tokens_however_long_the_text() -> None:
    class Counting(BytesTokenizer):
        longest = 0

        def decode(self, ids: Sequence[int]) -> str:
            self.longest = max(self.longest, len(ids))
            return super().decode(ids)

    tokenizer = Counting()
    for garbage in ([0x80] * 500, [65] * 500, [0xF0] * 500):
        stream(tokenizer, garbage)
    assert tokenizer.longest <= 16


@pytest.mark.parametrize("kind", ["bytes", "ids", "bpe"])
def test_saved_tokenizers_come_back(kind: str, bpe: BpeTokenizer, tmp_path: Path) -> None:
    kinds: dict[str, Tokenizer] = {"bytes": BytesTokenizer(), "ids": IdsTokenizer(99), "bpe": bpe}
    tokenizer = kinds[kind]
    tokenizer.save(tmp_path / "deep" / "folder")
    loaded = load_tokenizer(tmp_path / "deep" / "folder")
    assert type(loaded) is type(tokenizer)
    assert (loaded.kind, loaded.vocabulary, loaded.end) == (kind, tokenizer.vocabulary, tokenizer.end)
    text = "1 2 98" if kind == "ids" else "the age of Grüße <|end|>"
    assert loaded.encode(text) == tokenizer.encode(text)
    assert fingerprint(loaded) == fingerprint(tokenizer)


def test_training_is_deterministic_and_fingerprints_tell_tokenizers_apart(bpe: BpeTokenizer) -> None:
    samples = ["the cat sat on the mat"] * 3
    assert fingerprint(train_bpe(samples, 300)) == fingerprint(train_bpe(iter(samples), 300))
    others: list[Tokenizer] = [BytesTokenizer(), IdsTokenizer(257), IdsTokenizer(258), bpe, train_bpe(samples, 300)]
    assert len({fingerprint(tokenizer) for tokenizer in others}) == len(others)


def foreign(folder: Path, vocabulary: dict[str, int], settings: dict[str, object] | None = None) -> Path:
    """A Hugging Face folder with a tokenizer of whole words."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers

    backend = Backend(models.WordLevel(vocabulary, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.save(str(folder / "tokenizer.json"))
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize(
    ("settings", "end", "begin"),
    [
        (None, 1, None),
        ({}, 1, None),
        ({"eos_token": "stop"}, 3, None),
        ({"eos_token": {"content": "stop"}, "bos_token": "go"}, 3, 4),
    ],
)
def test_the_end_of_a_foreign_vocabulary_is_found(
    tmp_path: Path, settings: dict[str, object] | None, end: int, begin: int | None
) -> None:
    folder = foreign(tmp_path, {"?": 0, "<|endoftext|>": 1, "word": 2, "stop": 3, "go": 4, "far": 40}, settings)
    tokenizer = load_tokenizer(folder)
    assert isinstance(tokenizer, BpeTokenizer)
    assert (tokenizer.vocabulary, tokenizer.end, tokenizer.begin) == (41, end, begin)
    assert tokenizer.encode("word far unknown") == [2, 40, 0]
    tokenizer.save(tmp_path / "again")
    again = load_tokenizer(tmp_path / "again")
    assert isinstance(again, BpeTokenizer)
    assert (again.end, again.begin) == (end, begin)


@pytest.mark.skipif(not LLAMA.is_dir(), reason="the pretrained sample model is not there (../shared/data/stories260k)")
def test_llamas_tokenizer_with_byte_fallback() -> None:
    tokenizer = load_tokenizer(LLAMA)
    assert isinstance(tokenizer, BpeTokenizer)
    assert (tokenizer.vocabulary, tokenizer.end, tokenizer.begin) == (512, 2, 1)
    text = "Once upon a time, Lily saw 日本 é 😀. <s> </s>"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    pieces = stream(tokenizer, ids)
    assert "".join(pieces) == text
    decoder = Decoder(tokenizer, after=tokenizer.encode("named Lily."))
    assert "".join(decoder.push(token) for token in tokenizer.encode("She loved")) == " She loved"


def test_errors_are_one_line_and_say_what_to_do(tmp_path: Path) -> None:
    cases = {
        "nothing": ({}, "no tokenizer there: neither a tokenizer_config.json of Farfield nor a tokenizer.json."),
        "json": ({"tokenizer_config.json": "{"}, "not JSON: "),
        "list": ({"tokenizer_config.json": "[]"}, "a JSON object is expected, not list."),
        "kind": (
            {"tokenizer_config.json": '{"kind": "byte"}'},
            "unknown kind 'byte'. Did you mean 'bytes'? Known: bpe, bytes, ids.",
        ),
        "ids": (
            {"tokenizer_config.json": '{"kind": "ids", "vocabulary": "9"}'},
            "'vocabulary' must be a whole number above 1, not '9'.",
        ),
        "bpe": (
            {"tokenizer_config.json": '{"kind": "bpe"}'},
            "tokenizer_config.json promises a tokenizer.json, and it is missing.",
        ),
        "other": ({"tokenizer.json": '{"a": 1}'}, "not a tokenizer of the Hugging Face `tokenizers` library."),
    }
    for name, (files, message) in cases.items():
        folder = tmp_path / name
        folder.mkdir()
        for file, content in files.items():
            (folder / file).write_text(content)
        with pytest.raises(DataError) as raised:
            load_tokenizer(folder)
        assert str(raised.value).startswith(str(folder))
        assert message in str(raised.value)
        assert "\n" not in str(raised.value)


def test_a_foreign_vocabulary_without_an_end_says_how_to_name_it(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r'which token ends a text\? Name it: \{"eos_token": "\.\.\."\} in .*config.json'
    ):
        load_tokenizer(foreign(tmp_path, {"?": 0, "word": 1}))


@pytest.mark.parametrize("word", ["x", "300", "-1", "1.0", "٣", "9" * 5000])
def test_ids_refuse_what_is_not_an_id(word: str) -> None:
    with pytest.raises(DataError) as raised:
        IdsTokenizer(300).encode(f"1 {word} 2")
    assert str(raised.value) == (
        f"tokenizer ids: '{word[:40]}' is not a token."
        " The text must be whole numbers from 0 to 299, with spaces between."
    )


class Holder(Config):
    tokenizer: TokenizerConfig


def test_settings_choose_a_kind() -> None:
    assert read(Holder, {"tokenizer": {"kind": "bpe", "vocabulary": 300}}).tokenizer == BpeConfig(vocabulary=300)
    with pytest.raises(ConfigError, match=r"^tokenizer: unknown kind 'byte'. Did you mean 'bytes'\?"):
        read(Holder, {"tokenizer": {"kind": "byte"}})


def test_importing_tokenizers_and_data_settings_is_light() -> None:
    code = (
        "import sys, farfield.tokenizers, farfield.data.settings;"
        "print({'torch', 'lightning', 'tokenizers', 'hydra', 'faiss'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
