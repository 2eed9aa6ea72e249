"""An external key-value memory around any softmax mixer: one object, whose settings are published systems.

    segment          0         1         2         3
    tokens       |.........|.........|.........|....n
    bank at n     [   capacity   ...............]        complete segments, oldest forgotten first
    near field                            [.........n    window of the mixer, or the open segment

A token is written when its segment is complete. A query reads the `top` keys of the bank that match it best, each head
by itself, and never one that its near field holds: nothing counts twice. Segments are cut at multiples of `segment` in
the document, wherever calls end, so any split of a document into calls reads the same. A mixer without a window keeps
the open segment as its near field; one with a window needs `segment` <= window + 1, so that nothing is lost in between.

memory=knn is Memorizing Transformers (https://arxiv.org/abs/2203.08913): unit one token, first in first out.

State: (capacity + segment) 2 G W numbers, whatever the length. Work a token: 2 H W (capacity + segment) to search,
4 H W top to read.
Shapes: B batch, T time, D width, H heads, G heads of keys and values, S slots, W width of a head, N keys read.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from farfield.architectures.mixer import KeyedMixer, KeyedSettings, Mixer, MixerSettings
from farfield.memory.newest import MemoryState, WithMemory
from farfield.memory.settings import MixerMemory

__all__ = ["KeyValueMemoryConfig", "MemoryState", "WithMemory"]


class KeyValueMemoryConfig(MixerMemory):
    """Settings of the key-value memory. In every form it is causal, exact under splits, and keeps rows apart."""

    source = "arxiv.org/abs/2203.08913"

    kind: Literal["key_value"] = "key_value"
    name: str = Field("knn", description="what tables call it")
    capacity: int = Field(8192, ge=1, description="tokens that are kept a layer; the oldest is forgotten first")
    segment: int = Field(32, ge=1, description="tokens in a segment; a segment is written when it is complete")
    top: int = Field(32, ge=1, description="keys that a token reads, a head at a time")
    position: Literal["none", "original"] = Field(
        "none", description="none: keys and queries without positions; original: those of where they stood"
    )
    combine: Literal["joint", "gate"] = Field(
        "joint",
        description="joint: one softmax with the near field; gate: a softmax of its own, blended a head at a time",
    )
    gradient: bool = Field(False, description="whether gradients reach the keys and values that are read")

    @property
    def trained(self) -> bool:
        return self.combine == "gate"

    @property
    def slots(self) -> int:
        """Tokens that the state holds: the bank and the open segment."""
        return self.capacity + self.segment

    def check(self, mixer: MixerSettings, width: int, layer: int, depth: int) -> None:
        reach = _keyed(mixer).reach(layer, depth)
        if reach is not None and self.segment > reach + 1:
            raise ValueError(
                f"segment: {self.segment} is longer than the window of {reach} tokens allows; tokens would be lost "
                f"between window and memory. At most {reach + 1}."
            )

    def build(self, mixer: Mixer, settings: MixerSettings, width: int) -> WithMemory:
        assert isinstance(mixer, KeyedMixer)
        return WithMemory(mixer, self, _keyed(settings).sizes(width)[0])

    def parameters(self, mixer: MixerSettings, width: int, layer: int, depth: int) -> int:
        return _keyed(mixer).sizes(width)[0] if self.combine == "gate" else 0

    def state_bytes(
        self, mixer: MixerSettings, width: int, tokens: int, layer: int, depth: int, element: int = 4
    ) -> int:
        keyed = _keyed(mixer)
        _, kv_heads, head_width = keyed.sizes(width)
        near = tokens
        if keyed.reach(layer, depth) is None:
            near = (tokens - 1) % self.segment + 1 if tokens else 0
        bank = min(tokens, self.slots) * 2 * kv_heads * head_width * element + 8
        return keyed.state_bytes(width, near, layer, depth, element) + bank

    def flops(self, mixer: MixerSettings, width: int, tokens: int, layer: int, depth: int) -> int:
        keyed = _keyed(mixer)
        heads, _, head_width = keyed.sizes(width)
        near = tokens if keyed.reach(layer, depth) is not None else tokens % self.segment
        kept = min(tokens, self.slots)
        reading = 2 * heads * head_width * (kept + 2 * min(self.top, kept))
        return keyed.flops(width, near, layer, depth) + reading

    def begins(self, mixer: MixerSettings, layer: int, depth: int) -> int:
        reach = _keyed(mixer).reach(layer, depth)
        return max(self.segment, 0 if reach is None else reach + 1) + 1


def _keyed(mixer: MixerSettings) -> KeyedSettings:
    assert isinstance(mixer, KeyedSettings), "a memory of keys around a mixer that has none"
    return mixer
