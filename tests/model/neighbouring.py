"""Small models that read neighbours, passages for any rows, and the definition: a plain loop over tokens.

Shapes: T tokens of one document, k passages of a chunk, r tokens of one, m tokens of a chunk, S sources, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from models import MODELS, VOCABULARY, mapping
from torch import Tensor

from farfield.architectures import Rows
from farfield.architectures.ops.rotary import rotate_definition
from farfield.config import read
from farfield.memory.neighbours import NeighboursConfig
from farfield.model import LanguageModel, ModelConfig

CHUNK = 4
NEIGHBOURS: dict[str, Any] = {"kind": "neighbours", "chunk": CHUNK, "passages": 2, "continuation": 1, "heads": 2}
AROUND = [name for name in MODELS if MODELS[name].get("memory", {}).get("kind") not in ("recurrent", "summaries")]
"""The models whose layers can read neighbours."""


def config_of(name: str, **changes: Any) -> ModelConfig:
    layers = list(range(0, MODELS[name]["depth"], 2))
    given = mapping(**MODELS[name])
    return read(ModelConfig, {**given, "augmentation": {**NEIGHBOURS, "layers": layers, **changes}})


def model_of(name: str, dtype: torch.dtype = torch.float64, **changes: Any) -> LanguageModel:
    """The model with weights that are always the same, and none of them zero."""
    torch.manual_seed(3)
    model = LanguageModel(config_of(name, **changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return model.to(dtype).eval()


def settings_of(model: LanguageModel) -> NeighboursConfig:
    assert model.config.augmentation is not None
    return model.config.augmentation


def ends_of(positions: Tensor, chunk: int = CHUNK) -> Tensor:
    """(B, T) bool: where a chunk ends."""
    return (positions >= 0) & ((positions + 1) % chunk == 0)


def found_for(
    tokens: Tensor, positions: Tensor, model: LanguageModel, drop: Callable[[int], bool] | None = None
) -> Tensor:
    """(B, C, k, r): for every chunk that ends, passages that depend on nothing but where it ends and its last token.

    Some have padding at their end, some are none at all. `drop(number)` says which chunk of a row has none.
    """
    config, ends = settings_of(model), ends_of(positions, settings_of(model).chunk)
    shape = len(tokens), int(ends.sum(1).max()), config.passages, config.length
    found = torch.full(shape, -1)
    for row in range(len(tokens)):
        for number, column in enumerate(ends[row].nonzero()[:, 0].tolist()):
            seed = 1000 * int(positions[row, column]) + int(tokens[row, column])
            generator = torch.Generator().manual_seed(seed)
            one = torch.randint(0, VOCABULARY, shape[2:], generator=generator)
            length = torch.randint(0, config.length + 3, (config.passages, 1), generator=generator)
            one[torch.arange(config.length) >= length.clamp(max=config.length)] = -1
            if drop is None or not drop(number):
                found[row, number] = one
    return found


@dataclass
class Loop:
    """`Between` of one whole document, by its definition: token by token, source by source."""

    model: LanguageModel
    tokens: Tensor
    """(C, k, r) of passages."""

    def begin(self, state: Any) -> list[Tensor]:
        return []

    def end(self, carried: list[Tensor]) -> Any:
        return self.model.augmentation.start(1)  # type: ignore[union-attr]

    def at(self, index: int) -> Callable[[Tensor, list[Tensor]], tuple[Tensor, list[Tensor]]] | None:
        places = settings_of(self.model).places(self.model.config.decoder.depth)
        if index not in places:
            return None

        def run(x: Tensor, encoded: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
            if index == places[0]:
                encoded = [self.encoded(x[0], chunk) for chunk in range(len(self.tokens))]
            return torch.stack([self.read(index, x[0], at, encoded) for at in range(x.shape[1])])[None], encoded

        return run

    def weight(self, name: str) -> Tensor:
        return self.model.augmentation.get_parameter(name)  # type: ignore[union-attr]

    def norm(self, name: str, x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * self.weight(name)

    def attended(self, name: str, x: Tensor, at: int, sources: list[tuple[Tensor, int]], none: Tensor | None) -> Tensor:
        """What one query x (D,) at a place reads of sources (D,), each at its own; `none` (2, H, W) beside them."""
        outputs = []
        heads = 2
        width = len(x) // heads
        both = self.weight(f"{name}.kv.weight")
        for head in range(heads):
            own = slice(head * width, (head + 1) * width)
            q = turned(self.weight(f"{name}.q.weight")[own] @ x, at)
            keys = [turned(both[: len(x)][own] @ one, place) for one, place in sources]
            values = [both[len(x) :][own] @ one for one, _ in sources]
            if none is not None:
                keys, values = [none[0, head], *keys], [none[1, head], *values]
            scores = torch.stack([q @ key / math.sqrt(width) for key in keys]).softmax(0)
            outputs.append(sum(score * value for score, value in zip(scores, values, strict=True)))
        return self.weight(f"{name}.out.weight") @ torch.cat(outputs)  # type: ignore[arg-type]

    def encoded(self, x: Tensor, chunk: int) -> Tensor:
        """(k, r, D) of the passages of a chunk; zeros at what is no token."""
        config = settings_of(self.model)
        own = x[chunk * config.chunk : (chunk + 1) * config.chunk]
        found = torch.zeros(config.passages, config.length, x.shape[1], dtype=x.dtype)
        for number, ids in enumerate(self.tokens[chunk]):
            places = (ids >= 0).nonzero()[:, 0].tolist()
            e = {place: self.model.embedding.weight[ids[place]] for place in places}
            for layer in range(config.encoder if places else 0):
                e = self.layer(f"encoder.layers.{layer}", e, own)
            for place in places:
                found[number, place] = self.norm("encoder.norm.weight", e[place])
        return found

    def layer(self, name: str, e: dict[int, Tensor], own: Tensor) -> dict[int, Tensor]:
        normed = {place: self.norm(f"{name}.norm.weight", one) for place, one in e.items()}
        among = [(one, place) for place, one in normed.items()]
        e = {p: one + self.attended(f"{name}.attention", normed[p], p, among, None) for p, one in e.items()}
        chunk = [(self.norm(f"{name}.chunk_norm.weight", one), place) for place, one in enumerate(own)]
        asked = {place: self.norm(f"{name}.cross_norm.weight", one) for place, one in e.items()}
        e = {p: one + self.attended(f"{name}.cross", asked[p], p, chunk, None) for p, one in e.items()}
        for place, one in e.items():
            up = self.weight(f"{name}.feedforward.up.weight") @ self.norm(f"{name}.feedforward_norm.weight", one)
            gate, value = up.chunk(2)
            down = self.weight(f"{name}.feedforward.down.weight")
            e[place] = one + down @ (torch.nn.functional.silu(gate) * value)
        return e

    def read(self, index: int, x: Tensor, at: int, encoded: list[Tensor]) -> Tensor:
        """The stream (D,) of the token at position `at` with what it reads."""
        config, name = settings_of(self.model), f"cross.{index}"
        chunk = (at + 1) // config.chunk - 1
        if chunk < 0:
            return x[at]
        sources = [
            (encoded[chunk][number, place], place)
            for number in range(config.passages)
            for place in range(config.length)
            if self.tokens[chunk, number, place] >= 0
        ]
        q = self.norm(f"{name}.norm.weight", x[at])
        none = self.weight(f"{name}.none")
        return x[at] + self.attended(f"{name}.attention", q, at - chunk * config.chunk, sources, none)

    def logits(self, ids: Tensor) -> Tensor:
        """(T, V) of the whole document (T,)."""
        model = self.model
        rows = Rows.fresh_documents(1, len(ids))
        states = (*model.decoder.start(1), model.augmentation.start(1))  # type: ignore[union-attr]
        y, _, _ = model.decoder(model.embedding(ids[None]), rows, states, self)
        return model.head(y[0])


def turned(x: Tensor, place: int) -> Tensor:
    """x (W,) turned by its place."""
    return rotate_definition(x[None, None, None], torch.tensor([[place]]), "halves")[0, 0, 0]
