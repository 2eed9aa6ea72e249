"""Models that read whole documents: embedding, a stack of bidirectional mixers, and a head for hidden tokens.

    model = EncoderModel(ModelConfig(architecture=..., vocabulary=258))
    hidden = model.hidden(tokens)                   # (B, T) -> (B, T, D)
    loss = model.loss(tokens, targets)              # of hidden tokens; -100 where nothing was hidden

    encoder = farfield.load_encoder("runs/longformer_encoder-tiny-text")
    vectors = encoder.encode(["The king", "The queen of spades"])      # one (tokens, D) each
    text = encoder.fill("The [MASK][MASK][MASK] of spades")            # a guess for each mask

Shapes: B batch, T time, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from farfield.architectures import Rows
from farfield.architectures.encoders.stack import EncoderStack
from farfield.architectures.feedforward import Auxiliary
from farfield.config import ModelError
from farfield.inputs import check_positions, check_targets, check_tokens
from farfield.model import Loss, ModelConfig
from farfield.tokenizers import Tokenizer

__all__ = ["MASK", "EncoderModel", "TextEncoder"]

MASK = "[MASK]"  # how a text spells a hidden token


class EncoderModel(nn.Module):
    """Tokens in, a vector for each of them out; nothing is carried from call to call."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        architecture = config.encoder
        self.embedding = nn.Embedding(config.vocabulary, architecture.width)
        self.encoder = EncoderStack(architecture)
        self.output = None if architecture.tied else nn.Linear(architecture.width, config.vocabulary, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Logits begin with variance 1: the head sees normalised vectors."""
        nn.init.normal_(self.embedding.weight, std=self.config.architecture.width**-0.5)
        if self.output is not None:
            nn.init.normal_(self.output.weight, std=self.config.architecture.width**-0.5)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.weight.device

    @property
    def stack(self) -> EncoderStack:
        """The layers."""
        return self.encoder

    def forward(self, tokens: Tensor, *, positions: Tensor | None = None, marked: Tensor | None = None) -> Tensor:
        """Logits (B, T, V) of tokens (B, T) int64. See `hidden` for the arguments."""
        return self.head(self.hidden(tokens, positions=positions, marked=marked))

    def hidden(self, tokens: Tensor, *, positions: Tensor | None = None, marked: Tensor | None = None) -> Tensor:
        """Normalised output of the last layer (B, T, D), zero at padding.

        Args:
            tokens: (B, T) int64; at padding any id.
            positions: (B, T) int64: 0 starts a document, -1 is padding; None: each row is one document.
            marked: (B, T) bool: tokens that are global, in place of those at the start of a document; only for layers
                that can be told (longformer).

        Raises:
            ModelError: shapes that do not fit, an id outside the vocabulary, a document that does not begin here or is
                longer than the settings allow.
        """
        return self._run(tokens, positions, marked)[0]

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) of `hidden` (..., D)."""
        return nn.functional.linear(hidden, self._head_weight())

    def loss(
        self, tokens: Tensor, targets: Tensor, state: None = None, *, positions: Tensor | None = None, piece: int = 1024
    ) -> Loss:
        """The loss of `targets` (B, T), where logits[b, t] predict targets[b, t] and -100 is not scored."""
        hidden, auxiliary = self._run(tokens, positions, None)
        check_targets(tokens, targets, self.config.vocabulary)
        return Loss.of(hidden, self._head_weight(), targets, auxiliary, None, piece)

    def _head_weight(self) -> Tensor:
        return self.embedding.weight if self.output is None else self.output.weight

    def _run(self, tokens: Tensor, positions: Tensor | None, marked: Tensor | None) -> tuple[Tensor, Auxiliary]:
        """The layers on tokens whose padding, if any, has been moved behind the real tokens of its row."""
        check_tokens(tokens, positions, self.config.vocabulary)
        if marked is not None and not any(layer.mixer.marks for layer in self.config.encoder.layers.values()):
            raise ModelError("marked: no layer of this encoder can be told which tokens are global; longformer can.")
        if marked is not None and (marked.shape != tokens.shape or marked.dtype != torch.bool):
            raise ModelError(f"marked: {marked.dtype} of shape {tuple(marked.shape)} given, bool as tokens is needed.")
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
        order = Rows.at(positions).padding_last()
        if order is not None:
            tokens, positions = tokens.gather(1, order), positions.gather(1, order)
            marked = marked if marked is None else marked.gather(1, order)
        rows = Rows(positions, positions, marked=marked)
        check_positions(rows, torch.zeros_like(positions[:, 0]))
        rows.settle()
        x = self.embedding(torch.where(rows.real, tokens, 0) if rows.padded else tokens)
        x, auxiliary = self.encoder(x, rows)
        x = rows.masked(x)
        if order is not None:
            x = x.gather(1, order.argsort(dim=1)[..., None].expand_as(x))
        return x, auxiliary


class TextEncoder(nn.Module):
    """An encoder with its tokenizer: what `farfield.load_encoder` and `farfield.build_encoder` give."""

    def __init__(self, model: EncoderModel, tokenizer: Tokenizer, info: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.model, self.tokenizer, self.info = model, tokenizer, info or {}

    @property
    def config(self) -> ModelConfig:
        """What the model is built from."""
        return self.model.config

    @property
    def mask(self) -> int:
        """The id of a hidden token: the one behind the tokenizer's last."""
        return self.tokenizer.vocabulary

    def forward(self, tokens: Tensor, *, positions: Tensor | None = None, marked: Tensor | None = None) -> Tensor:
        """Logits (B, T, V) of tokens (B, T) int64; see `EncoderModel.hidden`."""
        found: Tensor = self.model(tokens, positions=positions, marked=marked)
        return found

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> list[Tensor]:
        """A vector for each token of each text, (tokens, D).

        Raises:
            ModelError: no texts, or one without tokens.
        """
        if isinstance(texts, str):
            raise ModelError("encode: a list of texts is needed, as in encode(['The king']).")
        rows = [self.tokenizer.encode(text) for text in texts]
        tokens, positions = self._padded(rows)
        hidden = self.model.hidden(tokens, positions=positions)
        return [one[: len(row)] for one, row in zip(hidden, rows, strict=True)]

    @torch.no_grad()
    def fill(self, text: str, mask: str = MASK) -> str:
        """`text` with the likeliest token in the place of each `mask`, all guessed at once.

        Raises:
            ModelError: there is none, or the model was not trained to fill masks.
        """
        if self.mask >= self.config.vocabulary:
            raise ModelError("fill: this encoder has no id for a hidden token. Train it with objective=masked.")
        if not mask:
            raise ModelError("fill: an empty mask stands everywhere. Name one, as in fill(text, mask='?').")
        pieces = [self.tokenizer.encode(piece) for piece in text.split(mask)]
        if len(pieces) == 1:
            raise ModelError(f"fill: no {mask} in the text, so that nothing is asked for.")
        row = pieces[0] + [token for piece in pieces[1:] for token in (self.mask, *piece)]
        tokens, _ = self._padded([row])
        logits = self(tokens)[..., : self.tokenizer.vocabulary]
        guessed = torch.where(tokens == self.mask, logits.argmax(-1), tokens)
        return self.tokenizer.decode(guessed[0].tolist())

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Tokens and positions (B, T) of rows of ids, with padding behind them."""
        if not rows or not all(rows):
            what = "a text without tokens" if rows else "no texts"
            raise ModelError(f"encode: {what}. An encoder needs at least one.")
        tokens = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
        lengths = torch.tensor([len(row) for row in rows])
        column = torch.arange(tokens.shape[1])
        positions = torch.where(column < lengths[:, None], column, -1)
        return tokens.to(self.model.device), positions.to(self.model.device)
