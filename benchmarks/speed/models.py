"""Our model in the shape of those of other libraries, and all that are built of one shape."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from farfield.benchmarks.peers import Decoder, Peer
from farfield.benchmarks.peers.models import Model, Shape
from farfield.benchmarks.speed.rows import OURS
from farfield.captured import Capture, CapturedDecoding, CudaGraph
from farfield.compose import option
from farfield.config import read
from farfield.model import LanguageModel, ModelConfig, ModelState
from farfield.sampling import GenerationConfig

__all__ = ["builds", "captured", "ours"]


def builds(peers: Iterable[Peer[Shape, Model]]) -> dict[str, Callable[[Shape], Model]]:
    """By name how ours is built, and each of the peers whose library is installed."""
    return {OURS: ours} | {peer.name: peer.build for peer in peers if peer.missing() is None}


def ours(shape: Shape) -> Model:
    """Softmax attention with rotary positions and SwiGLU, the head tied to the embedding, with fresh weights."""
    mixer = {"kind": "attention", "heads": shape.heads, "conv": 0}
    layers = {"attention": {"mixer": mixer, "feedforward": {"kind": "swiglu", "inner": shape.inner}}}
    architecture = option("architecture", "attention", [f"width={shape.width}", f"depth={shape.depth}"])
    mapping = {"architecture": {**architecture, "layers": layers}, "memory": None, "vocabulary": shape.vocabulary}
    module = LanguageModel(read(ModelConfig, mapping))

    def loss(tokens: Tensor, targets: Tensor) -> Tensor:
        return module.loss(tokens, targets).total

    def read_prompt(tokens: Tensor) -> Any:
        return module.hidden(tokens, module.start(tokens.shape[0]))[1]

    def step(token: Tensor, state: Any) -> tuple[Tensor, Any]:
        found: tuple[Tensor, Any] = module(token, state)
        return found

    return Model(module, loss, Decoder(read_prompt, step), module.stack)


@dataclass(frozen=True)
class _Going:
    """A graph that goes on by a token: what it holds, and how, with its logits (B, V)."""

    held: ModelState
    on: Callable[[], Tensor]


def captured(shape: Shape, capture: Capture = CudaGraph) -> Model:
    """The same, decoding by a graph, which chooses its next token itself and goes on where it is run again."""
    made = ours(shape)
    module, decoder = made.module, made.decoder
    assert isinstance(module, LanguageModel)
    assert decoder is not None

    def read_prompt(tokens: Tensor) -> _Going:
        hidden, state = module.hidden(tokens, module.start(tokens.shape[0]))
        decoding = CapturedDecoding(module, module.head(hidden[:, -1]), state, GenerationConfig(tokens=2**16), capture)
        decoding.ids()

        def on() -> Tensor:
            decoding.advance(set())
            return decoding.logits

        on()
        return _Going(decoding.held, on)

    def step(token: Tensor, state: _Going) -> tuple[Tensor, _Going]:
        return state.on()[:, None], state

    return made._replace(decoder=Decoder(read_prompt, step))
