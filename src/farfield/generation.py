"""Text from a model, token by token: prompts of different lengths in one batch, greedy or sampled, streamed.

    for piece in stream(model, tokenizer, ["Once upon", "The"], GenerationConfig(tokens=64)):
        print(piece.row, piece.text)

Prompts are prefilled in pieces with padding on the right; then every row goes on by itself. What a row says does not
depend on the rows beside it: padding is neither read nor written, and each row draws from a generator of its own.
A model that reads neighbours is given those of each chunk when its last token has come, if a database is named.

Shapes: B batch, T time, D width, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from farfield.amortized import AmortizedBank, amortize, asked, open_bank
from farfield.architectures.saved_state import load_state, save_state
from farfield.augmentation import OutputTraining, PromptTraining, open_neighbours
from farfield.captured import CapturedDecoding, uncaptured
from farfield.config import ModelError, read
from farfield.datastores import open_knn
from farfield.fetching import Fetching, fetching_for
from farfield.inputs import prompt_ids
from farfield.knn import KnnLM, Mixing
from farfield.memory import Passages
from farfield.model import LanguageModel, Loss, ModelConfig, ModelState, fingerprint
from farfield.retrieval.neighbours import Database
from farfield.sampling import GenerationConfig, choose, drawing
from farfield.side_by_side import read_windows
from farfield.tokenizers import Decoder, Tokenizer

__all__ = [
    "Continues",
    "Decoding",
    "Generated",
    "GenerationConfig",
    "Piece",
    "TextModel",
    "begun",
    "choose",
    "clock",
    "continuing",
    "decode",
    "drawing",
    "generate",
    "opened",
    "prefill",
    "stream",
    "written",
]

WINDOW = 512  # tokens of texts that a datastore's keys are made of at once, where no training says
PIECE = 1024  # tokens of a prompt that are prefilled in one call


@dataclass(frozen=True)
class Piece:
    """More text of one row; pieces hold whole characters and never a part of a stop text."""

    row: int
    text: str


@dataclass(frozen=True)
class Generated:
    """A finished answer: its ids (an end token and the ids of a stop text included), its text and why it ended."""

    ids: list[int]
    text: str
    reason: Literal["end", "stop", "length"]


@torch.no_grad()
def prefill(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    state: ModelState | None = None,
    piece: int = PIECE,
    fetching: Fetching | None = None,
    mixing: Mixing | None = None,
) -> tuple[Tensor, ModelState]:
    """Logits (B, V) behind the last token of each prompt, and the state there; `state` goes on where it stopped.

    With `fetching`, which has seen what the state has, chunks that end in the prompts read their neighbours; with
    `mixing`, what a datastore finds for each prompt is in the logits.

    Raises:
        ModelError: no prompts, or one without tokens.
    """
    if not prompts or not all(len(prompt) for prompt in prompts):
        raise ModelError("prompt: empty. A model needs at least one token to go on from.")
    if state is None and model.windows is not None:
        prompts, state = read_windows(model, prompts)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=model.device)
    state = model.start(len(prompts)) if state is None else state
    begin, time = state.position, int(lengths.max())
    tokens = torch.zeros(len(prompts), time, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = torch.as_tensor(prompt, dtype=torch.int64)
    tokens = tokens.to(model.device)
    column = torch.arange(time, device=model.device)
    positions = torch.where(column < lengths[:, None], begin[:, None] + column, -1)
    last = torch.zeros(len(prompts), 0)
    for first in range(0, time, piece):
        part = slice(first, first + piece)
        found_for = None if fetching is None else fetching.read(tokens[:, part], positions[:, part] >= 0)
        read = model.hidden if mixing is None else mixing.read
        hidden, state = read(tokens[:, part], state, positions=positions[:, part], passages=found_for)
        last = last if last.shape[1] else torch.zeros_like(hidden[:, 0])
        ends = (lengths > first) & (lengths <= first + hidden.shape[1])
        at = (lengths - 1 - first).clamp(0, hidden.shape[1] - 1)
        found = hidden.gather(1, at[:, None, None].expand(-1, 1, hidden.shape[2]))[:, 0]
        last = torch.where(ends[:, None], found, last)
    return (model.head if mixing is None else mixing.logits)(last), state


class Continues(Protocol):
    """Rows that are being continued, by whatever model."""

    @property
    def config(self) -> GenerationConfig:
        """How."""

    @property
    def rows(self) -> list[int]:
        """Those that go on."""

    def ids(self) -> dict[int, int]:
        """The next id of every row that goes on, by row."""

    def advance(self, ended: set[int]) -> None:
        """Read the ids just chosen, but for rows that have `ended`."""


@dataclass
class Decoding:
    """Rows that are being continued. Rows that have ended are taken out, so that they cost nothing more."""

    model: LanguageModel
    logits: Tensor
    state: ModelState
    config: GenerationConfig
    fetching: Fetching | None = None
    mixing: Mixing | None = None
    rows: list[int] = field(default_factory=list)
    generators: list[torch.Generator] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rows = list(range(self.logits.shape[0]))
        self.generators = drawing(self.config, len(self.rows))

    @torch.no_grad()
    def ids(self) -> dict[int, int]:
        """The next id of every row that goes on, by row."""
        self._next = choose(self.logits, self.config, self.generators)
        return dict(zip(self.rows, self._next.tolist(), strict=True))

    @torch.no_grad()
    def advance(self, ended: set[int]) -> None:
        """Read the ids just chosen, but for rows that have `ended`."""
        kept = [place for place, row in enumerate(self.rows) if row not in ended]
        tokens = self._next
        if self.mixing is not None:
            self.mixing.came(tokens.tolist())
        if len(kept) < len(self.rows):
            index = torch.tensor(kept, dtype=torch.int64, device=tokens.device)
            tokens, self.state = tokens[index], self.state.select(index)
            self.rows = [self.rows[place] for place in kept]
            self.generators = [self.generators[place] for place in kept]
            if self.fetching is not None:
                self.fetching.select(kept)
            if self.mixing is not None:
                self.mixing.select(kept)
        if self.rows:
            tokens = tokens[:, None]
            found = None if self.fetching is None else self.fetching.read(tokens, torch.ones_like(tokens).bool())
            read = self.model.hidden if self.mixing is None else self.mixing.read
            hidden, self.state = read(tokens, self.state, passages=found)
            self.logits = (self.model.head if self.mixing is None else self.mixing.logits)(hidden[:, -1])


class Held(Continues, Protocol):
    """Rows of a model of ours that are being continued."""

    @property
    def logits(self) -> Tensor:
        """Logits (B, V) behind the rows that go on."""

    @property
    def state(self) -> ModelState:
        """The state behind the rows that go on."""


def continuing(
    model: LanguageModel,
    logits: Tensor,
    state: ModelState,
    config: GenerationConfig,
    fetching: Fetching | None = None,
    mixing: Mixing | None = None,
) -> Held:
    """Rows that are being continued behind what `prefill` returned: by a captured graph where that is possible.

    Raises:
        ModelError: a graph is asked for, and none can be captured.
    """
    reason = _uncaptured(model, config, mixing, state)
    if reason is None and config.capture:
        return CapturedDecoding(model, logits, state, config)
    return Decoding(model, logits, state, config, fetching, mixing)


def _uncaptured(
    model: LanguageModel, config: GenerationConfig, mixing: Mixing | None, state: ModelState | None = None
) -> str | None:
    """Why no graph can be captured; raises ModelError where one is asked for."""
    reason = uncaptured(model, state)
    if reason is None and mixing is not None:
        reason = "a datastore is searched for every token"
    if reason is not None and config.capture is True:
        raise ModelError(f"generation.capture: true given, but {reason}. Take auto or false.")
    return reason


class _Writer:
    """The text of one row: whole characters, and nothing that may still turn out to be a stop text."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str]) -> None:
        self.decoder, self.stop, self.ends = Decoder(tokenizer, after=prompt), stop, tokenizer.ends
        self.ids: list[int] = []
        self.text, self.said = "", 0
        self.reason: Literal["end", "stop", "length"] | None = None

    def push(self, token: int) -> str:
        """The text that is certain once `token` has come."""
        self.ids.append(token)
        if token in self.ends:
            self.reason = "end"
            return self.close()
        return self._add(self.decoder.push(token))

    def close(self) -> str:
        """What was held back."""
        if self.reason != "stop":
            self._add(self.decoder.finish())
        new, self.said = self.text[self.said :], len(self.text)
        return new

    def _add(self, text: str) -> str:
        begin = max(0, len(self.text) - max(map(len, self.stop), default=0))
        self.text += text
        found = [at for at in (self.text.find(stop, begin) for stop in self.stop) if at >= 0]
        if found:
            self.text, self.reason = self.text[: min(found)], "stop"
        held = 0 if found else _held(self.text, self.stop)
        new = self.text[self.said : len(self.text) - held]
        self.said += len(new)
        return new


def _held(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end of `text` may be the beginning of a stop text."""
    return max((n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)


def stream(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str | Sequence[int]],
    config: GenerationConfig,
    bank: AmortizedBank | None = None,
    neighbours: Database | None = None,
    datastore: KnnLM | None = None,
) -> Generator[Piece, None, list[Generated]]:
    """Pieces of text as they come, from prompts as text or ids; the generator returns all answers at its end.

    With a bank, each prompt asks it before it is read; with neighbours, each chunk of prompt and answer reads its own;
    with a datastore of the model's, what it finds is mixed with each token's distribution.

    Raises:
        ModelError: no prompts, an empty one, the bank of another model, or neighbours that the model does not read.
    """
    ids = [tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt) for prompt in prompts]
    return (yield from decode(begun(model, ids, config, bank, neighbours, datastore), tokenizer, ids))


def begun(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    bank: AmortizedBank | None = None,
    neighbours: Database | None = None,
    datastore: KnnLM | None = None,
) -> Held:
    """Rows whose prompts have been read, for `decode` to go on from; as `stream` otherwise."""
    if any(not stop for stop in config.stop):
        raise ModelError("generation.stop: an empty text ends every answer before it begins.")
    fetching = fetching_for(model, neighbours, len(prompts))
    state = None if bank is None else asked(model, bank, prompts)
    mixing = None if datastore is None else Mixing(datastore, len(prompts))
    _uncaptured(model, config, mixing)  # said before the prompt is read, which takes its time
    read = prefill(model, prompts, state, fetching=fetching, mixing=mixing)
    return continuing(model, *read, config, fetching, mixing)


def clock(device: torch.device) -> float:
    """Seconds of the clock, once a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def decode(
    decoding: Continues, tokenizer: Tokenizer, prompts: Sequence[Sequence[int]]
) -> Generator[Piece, None, list[Generated]]:
    """Pieces of text as they come, from prompts that have been prefilled; as `stream` otherwise.

    The last token of the rows that were written last has not been read: `decoding.advance(set())` does.
    """
    config = decoding.config
    writers = [_Writer(tokenizer, prompt, config.stop) for prompt in prompts]
    for _ in range(config.tokens):
        chosen = decoding.ids()
        for row, token in chosen.items():
            text = writers[row].push(token)
            if text:
                yield Piece(row, text)
        ended = {row for row in chosen if writers[row].reason}
        if len(ended) == len(chosen) or len(writers[decoding.rows[0]].ids) == config.tokens:
            break
        decoding.advance(ended)
    for row, writer in enumerate(writers):
        if writer.reason is None:
            writer.reason = "length"
            text = writer.close()
            if text:
                yield Piece(row, text)
    return [Generated(writer.ids, writer.text, writer.reason or "length") for writer in writers]


def generate(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str | Sequence[int]],
    config: GenerationConfig,
    bank: AmortizedBank | None = None,
    neighbours: Database | None = None,
    datastore: KnnLM | None = None,
) -> list[Generated]:
    """All answers at once; see `stream`."""
    return written(stream(model, tokenizer, prompts, config, bank, neighbours, datastore))


def written(
    pieces: Generator[Piece, None, list[Generated]], told: Callable[[str], object] | None = None
) -> list[Generated]:
    """The answers at the end of a stream; `told` is called with each piece as it comes."""
    while True:
        try:
            piece = next(pieces)
        except StopIteration as end:
            answers: list[Generated] = end.value
            return answers
        if told is not None:
            told(piece.text)


def opened(ids: Sequence[int], begin: int | None) -> list[int]:
    """The ids of a text behind `begin`, which is there once; with None as they are."""
    return list(ids) if begin is None or list(ids[:1]) == [begin] else [begin, *ids]


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
        stop: Sequence[str] = (),
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
        config = read(GenerationConfig, {**given, "stop": stop, "capture": capture}, "generate")
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
