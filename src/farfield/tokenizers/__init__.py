"""Text to token ids and back, without a loss: bytes, byte-level BPE, and plain numbers.

    tokenizer = train_bpe(texts, vocabulary=4096)
    tokenizer.save(folder)
    tokenizer = load_tokenizer(folder)              # one of ours, or a folder with a Hugging Face tokenizer.json
    tokenizer.decode(tokenizer.encode("Grüße")) == "Grüße"

    decoder = Decoder(tokenizer)                    # for streaming: never half a character
    for token in generated:
        show(decoder.push(token))
    show(decoder.finish())

| kind  | ids                                            | vocabulary | end            |
|-------|------------------------------------------------|------------|----------------|
| bytes | the bytes of the UTF-8 text                    | 257        | 256            |
| bpe   | byte pairs merged by frequency (`tokenizers`)  | as trained | `<|end|>`      |
| ids   | the text is the numbers themselves: "17 4 250" | as given   | vocabulary - 1 |

Text is only ever text: a document that contains the letters `<|end|>` does not end there. The end token, and ids that
stand for no text, decode to nothing. A lone surrogate, which no UTF-8 file can hold, is encoded as "?".

A saved tokenizer is a folder with `tokenizer_config.json`, and for bpe `tokenizer.json`: the layout of Hugging Face,
which reads it too.
"""

from farfield.tokenizers.bpe import BpeTokenizer, train_bpe
from farfield.tokenizers.decoder import Decoder
from farfield.tokenizers.plain import BytesTokenizer, IdsTokenizer
from farfield.tokenizers.protocol import CorpusTokenizer, Tokenizer
from farfield.tokenizers.saved import fingerprint, load_tokenizer
from farfield.tokenizers.settings import BpeConfig, BytesConfig, FolderConfig, IdsConfig, TokenizerConfig, opening

__all__ = [
    "BpeConfig",
    "BpeTokenizer",
    "BytesConfig",
    "BytesTokenizer",
    "CorpusTokenizer",
    "Decoder",
    "FolderConfig",
    "IdsConfig",
    "IdsTokenizer",
    "Tokenizer",
    "TokenizerConfig",
    "fingerprint",
    "load_tokenizer",
    "opening",
    "train_bpe",
]
