"""A language model with its tokenizer.

Shapes: B batch, T time, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from farfield.amortized import AmortizedBank, amortize, open_bank
from farfield.architectures.saved_state import load_state, save_state
from farfield.augmentation import OutputTraining, PromptTraining, open_neighbours
from farfield.config import ModelError, read
from farfield.datastores import open_knn
from farfield.generation.decoding import Continues
from farfield.generation.streaming import begun, opened
from farfield.generation.writing import Generated, Piece, decode, written
from farfield.inputs import prompt_ids, stop_texts
from farfield.knn import KnnLM
from farfield.memory import Passages
from farfield.model import LanguageModel, Loss, ModelConfig, ModelState, fingerprint
from farfield.retrieval.neighbours import Database
from farfield.sampling import GenerationConfig
from farfield.tokenizers import Tokenizer

__all__ = ["TextModel"]

WINDOW = 512  # tokens of texts that a datastore's keys are made of at once, where no training says


class TextModel(nn.Module):
    """A language model with its tokenizer: what `farfield.load` and `farfield.build` give.

    model = farfield.load("runs/retnet-tiny-text")
    logits, state = model(tokens)
    text = model.generate("Once upon a time", tokens=64)
    """

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, info: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.model, self.tokenizer, self.info = model, tokenizer, info or {}

    @property
    def config(self) -> ModelConfig:
        """What the model is built from."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def begin(self) -> int | None:
        """The id that a text begins with, for models that were trained so."""
        found: int | None = self.info.get("begin")
        return found

    def opened(self, ids: Sequence[int]) -> list[int]:
        """The ids of a text behind the one that it begins with, which is there once."""
        return opened(ids, self.begin)

    def start(self, batch: int) -> ModelState:
        """The empty state of `batch` rows."""
        return self.model.start(batch)

    def forward(
        self,
        tokens: Tensor,
        state: ModelState | None = None,
        *,
        positions: Tensor | None = None,
        passages: Passages | None = None,
    ) -> tuple[Tensor, ModelState]:
        """Logits (B, T, V) of tokens (B, T) int64, and the state behind them; see `LanguageModel.hidden`."""
        found: tuple[Tensor, ModelState] = self.model(tokens, state, positions=positions, passages=passages)
        return found

    def hidden(
        self,
        tokens: Tensor,
        state: ModelState | None = None,
        *,
        positions: Tensor | None = None,
        passages: Passages | None = None,
    ) -> tuple[Tensor, ModelState]:
        """Normalised output of the last layer (B, T, D), and the state behind it."""
        return self.model.hidden(tokens, state, positions=positions, passages=passages)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) of `hidden` (..., D)."""
        return self.model.head(hidden)

    def loss(
        self,
        tokens: Tensor,
        targets: Tensor,
        state: ModelState | None = None,
        *,
        positions: Tensor | None = None,
        passages: Passages | None = None,
    ) -> Loss:
        """The loss of predicting `targets` (B, T), where -100 is not scored."""
        return self.model.loss(tokens, targets, state, positions=positions, passages=passages)

    def save_state(self, state: ModelState, path: str | Path) -> None:
        """Writes a state, with what stands for this model; see `load_state`."""
        save_state(state, Path(path).expanduser(), fingerprint(self.model))

    def load_state(self, path: str | Path) -> ModelState:
        """The state in a file that `save_state` of a model with these settings and weights wrote.

        Raises:
            ModelError: no such file, a damaged one, or the state of another model.
        """
        return load_state(Path(path).expanduser(), self.start(1), fingerprint(self.model))

    def amortize(
        self,
        documents: Mapping[str, str | Sequence[int]] | Iterable[str | Sequence[int]],
        bank: AmortizedBank | None = None,
        batch: int = 8,
    ) -> AmortizedBank:
        """What documents leave in a memory of amortized contexts, behind what `bank` holds already.

        Args:
            documents: text or ids, by name; without names they get the number that they have in the bank, from 1.
            bank: of this model; it stays as it is. batch: documents that are read at once.

        Raises:
            ModelError: one text in the place of several, or as `farfield.amortized.amortize` says.
        """
        if isinstance(documents, str):
            raise ModelError("documents: one text given, where a list or a mapping is needed, as in [text].")
        first = 1 if bank is None else len(bank) + 1
        pairs = documents.items() if isinstance(documents, Mapping) else enumerate(documents, first)
        encode = self.tokenizer.encode
        ids = {str(name): encode(one) if isinstance(one, str) else list(one) for name, one in pairs}
        return amortize(self.model, ids, bank, batch)

    def open_bank(self, path: str | Path) -> AmortizedBank:
        """The bank in a file that `AmortizedBank.save` wrote.

        Raises:
            ModelError: no such file, a damaged one, or the bank of another model.
        """
        return open_bank(self.model, path)

    @property
    def prompted(self) -> PromptTraining | None:
        """How passages stood before each row of the training, if they did."""
        trained = self.info.get("config", {}).get("augmentation") or {}
        return read(PromptTraining, trained, "augmentation") if trained.get("kind") == "prompt" else None

    def behind(self, prompt: Sequence[int], neighbours: Database | None) -> tuple[list[int], Database | None]:
        """The ids of a prompt, behind passages if the model was trained so, and what its layers are left to read."""
        settings = self.prompted
        if neighbours is None or settings is None:
            return list(prompt), neighbours
        return [*settings.before(neighbours, prompt), *prompt], None

    def open_neighbours(self, path: str | Path | None = None) -> Database:
        """The database of neighbours in a folder; that of the model's training where none is named.

        Raises:
            ModelError: the model reads no neighbours, or nobody says where they are.
            IndexingError: none there, damaged, of another tokenizer, or of other chunks.
        """
        settings = self.config.neighbours or self.prompted
        if settings is None:
            raise ModelError("neighbours: this model reads none. Train one with augmentation=neighbours, or prompt.")
        trained = (self.info.get("config", {}).get("augmentation") or {}).get("database")
        folder = trained if path is None else path
        if folder is None:
            raise ModelError("neighbours: no folder is named, and the model was trained with none.")
        return open_neighbours(folder, self.tokenizer, settings.chunk)

    def open_datastore(self, settings: OutputTraining | Mapping[str, Any] | None = None) -> KnnLM:
        """The model with a datastore: `generate(..., datastore=...)` mixes in what it finds (kNN-LM).

            model.open_datastore({"datastore": "stores/books", "texts": "books", "weight": 0.25})

        Args:
            settings: those of `augmentation=output`; None: those that the model was trained with.

        Raises:
            ConfigError: settings that do not fit, no such datastore and no texts to build it from, or that of another
                model. ModelError: none given, and the model was trained with none.
        """
        trained = self.info.get("config", {})
        own = trained.get("augmentation") or {}
        if settings is None and own.get("kind") != "output":
            raise ModelError("datastore: none is named, and the model was trained with none.")
        given = own if settings is None else settings
        given = given if isinstance(given, OutputTraining) else read(OutputTraining, dict(given), "augmentation")
        length = trained.get("data", {}).get("length", WINDOW)
        return open_knn(self.model, self.tokenizer, given.model, given, length)

    def generate(
        self,
        prompt: str | Sequence[str | Sequence[int]],
        tokens: int = 64,
        *,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        seed: int = 0,
        stop: Iterable[str] = (),
        capture: bool | Literal["auto"] = "auto",
        bank: AmortizedBank | None = None,
        neighbours: Database | None = None,
        datastore: KnnLM | None = None,
    ) -> Any:
        """The text behind `prompt`: one text for a text, a list for a list. Greedy unless `temperature` is above 0.

        With a `bank` of documents, each prompt asks it before it is read; see `amortize`. With `neighbours`, each chunk
        of prompt and answer reads its own, or the prompt stands behind them; see `open_neighbours`. Without, a model
        answers as if none were found. With a `datastore`, what it finds is mixed with each token's distribution; see
        `open_datastore`. `capture`: whether a token's work is one CUDA graph; auto: where GPU and model allow it.

        Raises:
            ModelError: prompts that are neither texts nor rows of ids, an empty one, an id outside of the vocabulary,
                or as `stream` says. ConfigError: settings that make no sense.
        """
        given = {"tokens": tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
        config = read(GenerationConfig, {**given, "stop": stop_texts(stop), "capture": capture}, "generate")
        encode = self.tokenizer.encode
        ids = prompt_ids(prompt, lambda text: self.opened(encode(text)), self.config.vocabulary)
        texts = [answer.text for answer in written(self.stream(ids, config, bank, neighbours, datastore))]
        return texts[0] if isinstance(prompt, str) else texts

    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        config: GenerationConfig,
        bank: AmortizedBank | None = None,
        neighbours: Database | None = None,
        datastore: KnnLM | None = None,
    ) -> Generator[Piece, None, list[Generated]]:
        """Pieces of the texts behind prompts of ids as they come; see `generate`."""
        found = self.begun(prompts, config, bank, neighbours, datastore)
        return (yield from decode(found, self.tokenizer, prompts))

    def begun(
        self,
        prompts: Sequence[Sequence[int]],
        config: GenerationConfig,
        bank: AmortizedBank | None = None,
        neighbours: Database | None = None,
        datastore: KnnLM | None = None,
    ) -> Continues:
        """Rows whose prompts of ids have been read, for `farfield.generation.decode` to go on from; see `generate`."""
        placed = [self.behind(one, neighbours) for one in prompts]
        left = placed[0][1] if placed else neighbours
        return begun(self.model, [one for one, _ in placed], config, bank, left, datastore)
