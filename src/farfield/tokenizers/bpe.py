"""Byte-level BPE by the `tokenizers` library, which is imported when it is first needed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from farfield.config import DataError
from farfield.tokenizers.protocol import BACKEND, ENDS, SETTINGS, Ids, read_json, told_ends, write_settings

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

__all__ = ["BpeTokenizer", "load_bpe", "train_bpe"]

END = "<|end|>"
# What published vocabularies call the end of a document, for folders that do not name it.
FOREIGN_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", END, "[SEP]")
BACKEND_MODELS = ("BPE", "Unigram", "WordLevel", "WordPiece")
TEMPLATE, SPECIAL = "chat_template.jinja", "special_tokens_map.json"
NAMED = ("pad_token", "unk_token", "sep_token", "cls_token", "mask_token", "additional_special_tokens")
PASSED_ON = (
    *NAMED,
    "extra_special_tokens",
    "added_tokens_decoder",
    "chat_template",
    "model_max_length",
    "padding_side",
)
"""Of a folder's settings what is no matter of text and ids, and what others' programs look for when it is written."""
LARGEST = 1 << 20  # bytes of a file of templates or of names of tokens


class BpeTokenizer:
    """A tokenizer of the `tokenizers` library: ours from `train_bpe`, or any that came as a tokenizer.json.

    Ours loses nothing. Others are as their makers made them: some normalize the text, some add a space before it.
    `begin` is the id that some published models want before every text, or None; `encode` never adds it. `ends` are
    more ids that end what a model writes, such as that of a turn. `told` are settings that nothing here reads, such as
    a chat's template, and that are saved with it.
    """

    kind = "bpe"

    def __init__(
        self,
        backend: Backend,
        end: int,
        begin: int | None = None,
        ends: Iterable[int] = (),
        told: Mapping[str, object] | None = None,
    ) -> None:
        backend.encode_special_tokens = True  # text that spells a special token stays text
        backend.no_padding()
        backend.no_truncation()
        self.backend, self.end, self.begin = backend, end, begin
        self.ends = frozenset((end, *ends))
        self.told = dict(told or {})
        self.vocabulary = max(backend.get_vocab(with_added_tokens=True).values()) + 1

    def with_backend(self, backend: Backend) -> BpeTokenizer:
        """The same with the rules of another one for what stands around a text."""
        return BpeTokenizer(backend, self.end, self.begin, self.ends, self.told)

    def bare(self) -> BpeTokenizer:
        """Without what is only passed on: tokenizers that give the same ids are the same files."""
        return BpeTokenizer(self.backend, self.end, self.begin, self.ends)

    @property
    def opening(self) -> int | None:
        """The begin-of-text id where the tokenizer's own rules put it before a text, else None."""
        ids = self.backend.encode("", add_special_tokens=True).ids
        return self.begin if self.begin is not None and ids[:1] == [self.begin] else None

    def encode(self, text: str) -> list[int]:
        return list(self.backend.encode(_valid(text), add_special_tokens=False).ids)

    def encode_many(self, texts: Sequence[str]) -> list[Ids]:
        encodings = self.backend.encode_batch_fast([_valid(text) for text in texts], add_special_tokens=False)
        return [np.array(encoding.ids, np.uint32) for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        return self.backend.decode([token for token in ids if token not in self.ends], skip_special_tokens=True)

    def save(self, folder: Path) -> None:
        special = {"eos_token": self.end} | ({"bos_token": self.begin} if self.begin is not None else {})
        settings = {**self.told, "kind": self.kind, "tokenizer_class": "PreTrainedTokenizerFast"}
        if len(self.ends) > 1:
            settings[ENDS] = sorted(self.ends)
        write_settings(folder, settings | {name: self.backend.id_to_token(token) for name, token in special.items()})
        (folder / BACKEND).write_text(self.backend.to_str(pretty=True), encoding="utf-8")


def train_bpe(texts: Iterable[str], vocabulary: int) -> BpeTokenizer:
    """A byte-level BPE of at most `vocabulary` ids: the 256 bytes, the end token, and merges found in `texts`.

    Fewer, if the texts do not hold enough pairs that occur twice. The same texts give the same tokenizer.
    """
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, trainers

    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(map(_valid, texts), trainer)
    return BpeTokenizer(backend, backend.get_vocab()[END])


def load_bpe(folder: Path, settings: dict[str, object], ends: Sequence[int] = ()) -> BpeTokenizer:
    """The tokenizer.json in `folder`, whose tokenizer_config.json holds `settings`; `ends` are those of its model.

    Raises:
        DataError: it is missing or damaged, or its end token is not known.
    """
    from tokenizers import Tokenizer as Backend

    file = folder / BACKEND
    if not file.is_file():
        raise DataError(f"{folder}: {SETTINGS} promises a {BACKEND}, and it is missing.")
    model = read_json(file).get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") not in BACKEND_MODELS:
        raise DataError(f"{file}: not a tokenizer of the Hugging Face `tokenizers` library.")
    try:
        backend = Backend.from_file(str(file))
    except Exception as error:  # noqa: BLE001  the library knows no other error
        raise DataError(f"{file}: damaged: {' '.join(str(error).split())[:100]}.") from None
    named = _special(backend, settings.get("eos_token"))
    known = [named] if named is not None else [*ends, *map(backend.token_to_id, FOREIGN_ENDS)]
    end = next((token for token in known if token is not None), None)
    if end is None:
        raise DataError(f'{file}: which token ends a text? Name it: {{"eos_token": "..."}} in {folder / SETTINGS}.')
    begin, more = _special(backend, settings.get("bos_token")), [*ends, *told_ends(settings)]
    return BpeTokenizer(backend, end, begin, more, _told(folder, settings))


def _told(folder: Path, settings: Mapping[str, object]) -> dict[str, object]:
    """What is passed on of a folder's settings, and of the files that older and newer programs keep it in."""
    found = {name: settings[name] for name in PASSED_ON if settings.get(name) is not None}
    special, template = folder / SPECIAL, folder / TEMPLATE
    if _small(special):
        named = read_json(special)
        found = {name: named[name] for name in NAMED if named.get(name) is not None} | found
    if _small(template):
        try:
            found["chat_template"] = template.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise DataError(f"{template}: not UTF-8.") from None
    return found


def _small(file: Path) -> bool:
    """Whether there is such a file, of a size that is to be expected."""
    if not file.is_file():
        return False
    if file.stat().st_size > LARGEST:
        raise DataError(f"{file}: {file.stat().st_size:,} bytes, and at most {LARGEST:,} are read.")
    return True


def _special(backend: Backend, token: object) -> int | None:
    """The id of a token as Hugging Face files name it: its text, or a mapping with its text under `content`."""
    text = token.get("content") if isinstance(token, dict) else token
    return backend.token_to_id(text) if isinstance(text, str) else None


def _valid(text: str) -> str:
    """`text` without lone surrogates, which the library refuses."""
    return text.encode("utf-8", "replace").decode("utf-8")
