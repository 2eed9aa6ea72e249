"""Decoding by a graph: the work of a token is captured once on a GPU, and replayed for every token after it.

    decoding = CapturedDecoding(model, logits, state, config)     # as `farfield.generation.Decoding`
    ids = decoding.ids(); decoding.advance(ended)

In a small model a token is some hundred short kernels, and starting them from Python takes longer than running them. A
graph starts them at once. What it does is fixed: addresses, shapes, and the choice of the next id, which is the next
token that it reads; of each token the host sees its ids and nothing else.

A graph is captured anew where room for more tokens is needed, which doubles, and where at most half of its rows go on.
Rows that have ended are read on until then; nobody looks at what they say.

Shapes: B batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from farfield.architectures.fixed import fixed, grown, write_over
from farfield.architectures.rows import Copies
from farfield.architectures.sharing import iterated
from farfield.model import LanguageModel, ModelConfig, ModelState
from farfield.sampling import GenerationConfig, chances, choose, drawing, drawn

__all__ = ["Capture", "CapturedDecoding", "CudaGraph", "Graph", "uncapturable", "uncaptured"]

WARM_UP = 3  # runs before the capture: what libraries make at their first runs is made outside the graph
ROOM = 256  # tokens that a first graph has room for, where an answer may be so long


class Graph(Protocol):
    """Work on memory that stays where it is, done again at each `replay`."""

    def replay(self) -> None:
        """Does it once more."""

    def reset(self) -> None:
        """Frees its memory; it is not replayed again."""


Capture = Callable[[Callable[[], None], torch.device], Graph]


class CudaGraph:
    """`step`, which reads and writes the same memory at every call, as a CUDA graph on `device`.

    It is run on a side stream before it is captured, and so leaves other numbers in that memory.
    """

    def __init__(self, step: Callable[[], None], device: torch.device) -> None:
        with torch.cuda.device(device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UP):
                    step()
            torch.cuda.current_stream().wait_stream(side)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                step()

    def replay(self) -> None:
        self._graph.replay()

    def reset(self) -> None:
        self._graph.reset()


def uncapturable(config: ModelConfig) -> str | None:
    """In words what of a model looks up numbers while it decodes, so that no graph can be captured; None: nothing."""
    if config.memory is not None:
        return f"memory '{config.memory.name}' looks up numbers on its way"
    if config.neighbours is not None:
        return "the model reads neighbours, which are looked up outside"
    decoder = config.decoder
    if iterated(decoder.keepers()):
        return f"sharing '{decoder.sharing.kind}' goes over its layers until keys from above agree"
    feedforwards = [decoder.layer(index).feedforward for index in range(decoder.depth)]
    reasons = [part.uncaptured() for part in (*decoder.mixers(), *feedforwards)]
    return next((reason for reason in reasons if reason is not None), None)


def uncaptured(model: LanguageModel, state: ModelState | None = None) -> str | None:
    """In words why no graph can be captured of the model's steps, behind `state` if it is there; None: one can."""
    if model.device.type != "cuda":
        return f"the model is on '{model.device.type}', and graphs are captured on 'cuda'"
    reason = uncapturable(model.config)
    if reason is not None or state is None:
        return reason
    needed, read = max(mixer.captured_from() for mixer in model.config.decoder.mixers()), int(state.position.min())
    return None if read >= needed else f"a graph of this model begins behind {needed} tokens, and there are {read}"


class _Step:
    """A step of some rows on memory of its own: reads the ids (B,), leaves the logits (B, V) and the next ids there.

    `numbers` (N, B) float64 are what the rows draw by, for as many tokens as there is `room`; None where none is drawn.
    """

    def __init__(
        self,
        model: LanguageModel,
        state: ModelState,
        ids: Tensor,
        config: GenerationConfig,
        room: int,
        numbers: Tensor | None,
        capture: Capture,
    ) -> None:
        self.ids, self.room = ids.clone(), room
        weight = model.embedding.weight
        self.logits = weight.new_empty(len(ids), model.config.vocabulary)
        self._model, self._config, self._numbers, self._copies = model, config, numbers, Copies()
        self._least, self._done = int(state.position.min()), torch.zeros_like(ids[:1])
        self.held = fixed(state, room)
        self._graph = capture(self._run, model.device)
        write_over(self.held, fixed(state, room))  # a capture has run on it
        self.ids.copy_(ids)
        self._done.zero_()

    @property
    def state(self) -> ModelState:
        """The state behind all tokens."""
        return grown(self.held)

    def replay(self) -> None:
        """Reads a token more of each row."""
        self._graph.replay()
        self.room -= 1

    def close(self) -> None:
        """Frees the graph's memory."""
        self._graph.reset()

    def _run(self) -> None:
        logits, after = self._model.step(self.ids, self.held, self._least, self._copies)
        self.logits.copy_(logits)
        if self._numbers is None:
            self.ids.copy_(logits.argmax(-1))
        else:
            numbers = self._numbers.index_select(0, self._done)[0]
            self.ids.copy_(drawn(chances(logits, self._config), numbers))
        self._done.add_(1)
        write_over(self.held, after)


class CapturedDecoding:
    """Rows that are being continued by graphs, from a state behind at least one token of each; it says what `Decoding`
    says. `capture` makes the graphs.
    """

    def __init__(
        self,
        model: LanguageModel,
        logits: Tensor,
        state: ModelState,
        config: GenerationConfig,
        capture: Capture = CudaGraph,
    ) -> None:
        self.rows = list(range(len(logits)))
        self._model, self._config, self._capture = model, config, capture
        self._logits, self._state, self._ids = logits, state, torch.zeros_like(state.position)
        self._places = list(self.rows)  # of the rows that go on, among those of the step, or at first of the state
        self._step: _Step | None = None
        self._read = 0
        self._generators = drawing(config, len(logits))
        self._numbers = torch.empty(0, len(logits), dtype=torch.float64)  # of every row, behind its first id

    @property
    def config(self) -> GenerationConfig:
        """How."""
        return self._config

    @property
    def logits(self) -> Tensor:
        """Logits (B, V) behind the rows that go on."""
        return self._logits if self._step is None else self._step.logits[self._places]

    @property
    def state(self) -> ModelState:
        """The state behind the rows that go on."""
        return self._state if self._step is None else self._picked(self._step.state)

    @property
    def held(self) -> ModelState:
        """The state in the memory that the graph reads and writes, of rows that have ended too."""
        return self._state if self._step is None else self._step.held

    @torch.no_grad()
    def ids(self) -> dict[int, int]:
        """The next id of every row that goes on, by row."""
        if self._step is None:
            self._ids = choose(self._logits, self._config, self._generators)
        every = (self._ids if self._step is None else self._step.ids).tolist()
        return {row: every[place] for row, place in zip(self.rows, self._places, strict=True)}

    @torch.no_grad()
    def advance(self, ended: set[int]) -> None:
        """Read the ids just chosen, but for rows that have `ended`."""
        kept = [index for index, row in enumerate(self.rows) if row not in ended]
        self.rows, self._places = ([every[index] for index in kept] for every in (self.rows, self._places))
        if not self.rows:
            return
        step = self._step
        if step is None or not step.room or 2 * len(self.rows) <= len(step.ids):
            step = self._renewed()
        step.replay()
        self._read += 1

    def _renewed(self) -> _Step:
        """A step of the rows that go on, with room for more tokens."""
        old, self._step = self._step, None
        ids, state = (self._ids, self._state) if old is None else (old.ids, old.state)
        ids, state = ids[self._places], self._picked(state)
        if old is not None:
            old.close()
        left = self._config.tokens - self._read
        room = min(max(ROOM, int(state.position.max())), left if left > 0 else ROOM)
        self._step = _Step(self._model, state, ids, self._config, room, self._drawn(room), self._capture)
        self._places = list(range(len(self.rows)))
        return self._step

    def _picked(self, state: ModelState) -> ModelState:
        """Of the state of all rows, that of those that go on."""
        if len(self._places) == len(state.position):
            return state
        return state.select(torch.tensor(self._places, device=state.position.device))

    def _drawn(self, room: int) -> Tensor | None:
        """What the rows that go on draw the next `room` ids by (N, B); None where the most likely are taken."""
        if self._config.temperature == 0:
            return None
        more = self._read + room - len(self._numbers)
        if more > 0:
            rows = [torch.rand(more, generator=one, dtype=torch.float64) for one in self._generators]
            self._numbers = torch.cat((self._numbers, torch.stack(rows, 1)))
        return self._numbers[self._read : self._read + room, self.rows].to(self._model.device)
