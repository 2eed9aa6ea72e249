"""Tokenizers of folders: a tokenizer.json, read by our own classes and written from them.

    tokenizer = folder_tokenizer(path, vocabulary, ends)     # without a tokenizer.json: ids as whole numbers
    write_tokenizer(tokenizer, path, begin)

Bytes and whole numbers, which are no files of the `tokenizers` library here, are written as what it has for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from farfield.config import ConfigError, DataError, ModelError
from farfield.tokenizers import BytesTokenizer, CorpusTokenizer, IdsTokenizer, Tokenizer
from farfield.tokenizers.bpe import BpeTokenizer, load_bpe
from farfield.tokenizers.protocol import BACKEND, SETTINGS, read_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

__all__ = ["begin_of", "folder_tokenizer", "ids_of_texts", "write_tokenizer"]

END = "<|end|>"
OTHERS = ("tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "*.tiktoken")


def folder_tokenizer(path: Path, vocabulary: int, ends: Sequence[int]) -> CorpusTokenizer:
    """The tokenizer of a model of `vocabulary` ids that ends what it writes by `ends`.

    Raises:
        ModelError: its files are damaged or of another kind, or name ids that the model does not have.
    """
    if not (path / BACKEND).is_file():
        other = next((file.name for kind in OTHERS for file in path.glob(kind)), None)
        if other is not None:
            raise ModelError(f"{path}: no {BACKEND} there, and {other} is not read. Save it by a fast tokenizer.")
        return IdsTokenizer(vocabulary, ends)
    try:
        settings = read_json(path / SETTINGS) if (path / SETTINGS).is_file() else {}
        found = load_bpe(path, settings, ends)
    except (DataError, OSError) as error:
        raise ModelError(f"{path}: its tokenizer cannot be read: {error}") from None
    needed = ids_of_texts(found)
    if needed > vocabulary:
        raise ModelError(
            f"{path / BACKEND}: {needed:,} ids, and the model beside it has {vocabulary:,}. They must fit."
        )
    return found


def ids_of_texts(tokenizer: Tokenizer) -> int:
    """One more than the largest id that a text, or what stands around it, can have.

    Some published tokenizers have a token for padding that their model has no row for, and no text becomes it.
    """
    if not isinstance(tokenizer, BpeTokenizer):
        return tokenizer.vocabulary
    special = {one for one, token in tokenizer.backend.get_added_tokens_decoder().items() if token.special}
    ordinary = set(tokenizer.backend.get_vocab(with_added_tokens=True).values()) - special
    return 1 + max(ordinary | tokenizer.ends | ({tokenizer.begin} if tokenizer.begin is not None else set()))


def begin_of(tokenizer: Tokenizer, asked: Literal["auto", "always", "never"]) -> int | None:
    """The id that a text begins with; auto: where the tokenizer itself puts it there.

    Raises:
        ConfigError: it is asked for, and the tokenizer has none.
    """
    begin = tokenizer.begin if isinstance(tokenizer, BpeTokenizer) else None
    if asked == "always" and begin is None:
        raise ConfigError("hf.begin: always given, but the tokenizer has no begin-of-text token. Take auto or never.")
    if asked == "auto" and isinstance(tokenizer, BpeTokenizer):
        return tokenizer.opening
    return None if asked == "never" else begin


def write_tokenizer(tokenizer: Tokenizer, folder: Path, begin: int | None) -> None:
    """Writes tokenizer.json and tokenizer_config.json; texts begin with the id `begin`, or with none."""
    match tokenizer:
        case BpeTokenizer():
            written = tokenizer
        case BytesTokenizer():
            written = BpeTokenizer(_bytes(), tokenizer.end)
        case IdsTokenizer():
            written = BpeTokenizer(_numbers(tokenizer.vocabulary), tokenizer.end)
        case _:
            raise ModelError(f"tokenizer: {tokenizer.kind} given, which no tokenizer.json can be written of.")
    if written.opening != begin:
        written = written.with_backend(_opened(written.backend, begin))
    written.save(folder)


def _opened(backend: Backend, begin: int | None) -> Backend:
    """A copy that puts `begin` before a text, or nothing."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import processors

    copy = Backend.from_str(backend.to_str())
    token = None if begin is None else backend.id_to_token(begin)
    rule = "$A" if token is None else f"{token} $A"
    special = [] if token is None or begin is None else [(token, begin)]
    copy.post_processor = processors.TemplateProcessing(single=rule, special_tokens=special)
    return copy


def _bytes() -> Backend:
    """Id b is byte b, 256 the end."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers

    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]  # the bytes that stand for themselves in such files
    moved = iter(range(256, 512))
    letters = {byte: chr(byte) if byte in plain else chr(next(moved)) for byte in range(256)}
    backend = Backend(models.BPE({letter: byte for byte, letter in letters.items()}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([END])
    return backend


def _numbers(vocabulary: int) -> Backend:
    """Whole numbers with spaces between."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers

    backend = Backend(models.WordLevel({str(one): one for one in range(vocabulary)}, str(vocabulary - 1)))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return backend
