"""An external key-value memory around any softmax mixer: one object, whose settings are published systems.

    segment          0         1         2         3
    tokens       |.........|.........|.........|....n
    bank at n     [   capacity   ...............]        complete segments, oldest forgotten first
    near field                            [.........n    window of the mixer, or the open segment

A token is written when its segment is complete. A query reads the `top` units of the bank that match it best, each head
by itself, and never a key that its near field holds: nothing counts twice. Segments are cut at multiples of `segment`
in the document, wherever calls end, so any split of a document into calls reads the same. A mixer without a window
keeps the open segment as its near field; one with a window needs `segment` <= window + 1, so that nothing is lost in
between.

              unit         found by            asked by           read        stands           softmax
    knn       token        its key             the query          top         nowhere          joint, or a gate
    fot       token        its key             the query          all, top    at the first     joint
    infllm    block        representatives     a stretch's mean   top         at a distance    joint
    landmark  block        a landmark          the query          top         where it stood   grouped
    xl        token        -                   -                  all         where it stood   joint

With `keep` other than newest, a policy says which tokens stay in at most `capacity` slots a head of keys, and all of
them are read: see `policies`, `slots` and, for slots that are means of tokens, `merging`.

knn are Memorizing Transformers (https://arxiv.org/abs/2203.08913), fot Focused Transformer (https://arxiv.org/abs/2307.03170),
infllm InfLLM (https://arxiv.org/abs/2402.04617), landmark Landmark Attention (https://arxiv.org/abs/2305.16300), xl
Transformer-XL (https://arxiv.org/abs/1901.02860). See configs/memory/.

A landmark is here the last token of its block through a projection of its own, from D to G W: no token is added to the
text, so that positions and segments are the text's in every memory. With a window, a block's inner softmax goes over
those of its tokens that are not near.

State: (capacity + segment + initial) 2 G W numbers, and (capacity + segment) / unit keys of units where units are
searched, whatever the length. Work a token: 2 H W (capacity + segment) / unit to search, 4 H W top unit to read.
Shapes: B batch, T time, D width, H heads, G heads of keys and values, S slots, W width of a head, N keys read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, model_validator

from farfield.architectures.keyed import KeyedMixer, KeyedSettings
from farfield.architectures.mixer import Mixer, MixerSettings
from farfield.memory import slot_sizes
from farfield.memory.camelot import Merging
from farfield.memory.choosing import Choosing
from farfield.memory.newest import MemoryState, WithMemory
from farfield.memory.settings import MixerMemory, Wrapped
from farfield.memory.slots import WithSlots

__all__ = ["KeyValueMemoryConfig", "MemoryState", "WithMemory"]


class KeyValueMemoryConfig(MixerMemory):
    """Settings of the key-value memory. The default form is causal, exact under splits, and keeps rows apart."""

    source = "arxiv.org/abs/2203.08913"

    kind: Literal["key_value"] = "key_value"
    name: str = Field("knn", description="what tables call it")
    paper: str | None = Field(None, description="where these settings were published; null: Memorizing Transformers")

    # What is kept
    keep: slot_sizes.Keep = Field(
        "newest",
        description="which tokens stay; newest: the last; sinks: the first and the last; heavy: the most attended; "
        "snap: what the last queries attend to; norm: the smallest keys; merge: means of tokens that are alike",
    )
    capacity: int = Field(8192, ge=1, description="tokens that are kept a layer, or slots a head of keys")
    budget: int | None = Field(
        None, ge=1, description="bytes a row that all layers' states have together, in float32, instead of capacity"
    )
    segment: int = Field(32, ge=1, description="tokens in a segment; a segment is written when it is complete")
    initial: int = Field(
        0, ge=0, description="first tokens of a document that always stay, beside the capacity or as slots within it"
    )
    recent: int = Field(0, ge=0, description="heavy, snap, norm: newest tokens of the complete segments that stay")
    observe: int = Field(16, ge=1, description="snap: last queries of a segment that say what stays")
    pool: int = Field(5, ge=1, description="snap: neighbours over which the attention is averaged, an odd number")
    threshold: float = Field(0.9, ge=-1, le=1, description="merge: cosine above which a token is added to a slot")
    when: Literal["segment", "call"] = Field(
        "segment", description="where slots are chosen anew; call: where a call ends, so that splits matter"
    )

    # What is found, and how
    unit: int = Field(1, ge=1, description="tokens in a unit of the search; divides segment, capacity and initial")
    key: Literal["raw", "mean", "representative", "landmark"] = Field(
        "raw", description="what a unit is found by: raw: its token's key; mean; representative: their mean; landmark"
    )
    representatives: int = Field(4, ge=1, description="representative: tokens of a unit, those it attends to most")
    query: Literal["token", "mean"] = Field("token", description="what asks: a token's query, or its stretch's mean")
    stretch: int = Field(512, ge=1, description="mean: tokens in a stretch, whose queries so far are averaged")
    ahead: bool = Field(
        False,
        description="mean: the rest of the stretch counts too; merge: so does what later tokens of a segment find; "
        "as published, not causal",
    )
    shared: bool = Field(False, description="one selection for all heads, by the mean of their scores")
    top: Literal["all"] | int = Field(32, description="units that a token reads, a head at a time; all: without search")

    # How it is read
    position: Literal["none", "original", "first", "capped", "index"] = Field(
        "none",
        description="where keys stand: none: nowhere; original: where they stood; first: at the near field's first "
        "token; capped: one near field away; index: of slots, where they stand among what is kept",
    )
    combine: Literal["joint", "gate", "grouped"] = Field(
        "joint",
        description="joint: one softmax with the near field; gate: a softmax of its own, blended a head at a time; "
        "grouped: one inside each unit, weighed by landmarks",
    )
    gradient: bool = Field(False, description="whether gradients reach the keys and values that are read")

    # Training against other documents
    negatives: int = Field(
        1, ge=1, description="rows whose banks a row reads in training, its own and those behind; 1: its own alone"
    )
    doubling: int = Field(0, ge=0, description="steps after which the rows double, from 2 on; 0: all from the start")

    @model_validator(mode="after")
    def _consistent(self) -> KeyValueMemoryConfig:
        own = (
            ()
            if self.keep != "newest"
            else (*_of_units(self), *_of_softmax(self), *_of_negatives(self), *_of_idle(self))
        )
        for mistake in (*slot_sizes.mistakes(self), *own):
            raise ValueError(f".{mistake}")  # a path of its own: see farfield.config
        return self

    @property
    def published(self) -> str:
        return self.paper or self.source

    @property
    def causal(self) -> bool:
        return not (self.ahead and (self.averages or self.keep == "merge"))

    @property
    def split_exact(self) -> bool:
        return self.causal and self.when == "segment"

    @property
    def row_independent(self) -> bool:
        return self.negatives == 1

    @property
    def trained(self) -> bool:
        return self.combine in ("gate", "grouped")

    @property
    def slots(self) -> int:
        """Tokens that the state holds: the bank and the open segment."""
        return self.capacity + self.segment

    @property
    def count(self) -> int:
        """Units that a token reads."""
        every = self.capacity // self.unit
        return every if self.top == "all" else min(self.top, every)

    @property
    def everything(self) -> bool:
        """Whether all that is kept is read in a plain softmax, so that nothing is searched."""
        return self.combine != "grouped" and self.count * self.unit >= self.capacity

    @property
    def unit_keys(self) -> bool:
        """Whether units have keys of their own."""
        return self.key != "raw" and not self.everything

    @property
    def averages(self) -> bool:
        """Whether queries are averaged."""
        return self.query == "mean" and not self.everything

    def key_heads(self, heads: int, kv_heads: int) -> int:
        """Heads of units' keys: representatives are those of each head of queries."""
        return heads if self.key == "representative" else kv_heads

    def documents(self, step: int) -> int:
        """Rows whose banks a row reads after `step` steps of training."""
        if not self.doubling:
            return self.negatives
        return min(self.negatives, 2 << min(step // self.doubling, self.negatives.bit_length()))

    def check(self, mixer: MixerSettings, width: int, layer: int, depth: int) -> None:
        reach = _keyed(mixer).reach(layer, depth)
        if self.keep != "newest":
            slot_sizes.check(self, _keyed(mixer), width, layer, depth)
        if reach is not None and self.segment > reach + 1:
            raise ValueError(
                f"segment: {self.segment} is longer than the window of {reach} tokens allows; tokens would be lost "
                f"between window and memory. At most {reach + 1}."
            )

    def at(self, mixer: MixerSettings, width: int, layer: int, depth: int) -> KeyValueMemoryConfig:
        return slot_sizes.counted(self, _keyed(mixer), width, layer, depth)

    def build(self, mixer: Mixer, settings: MixerSettings, width: int) -> Wrapped:
        assert isinstance(mixer, KeyedMixer)
        heads = _keyed(settings).sizes(width)[0]
        if self.keep == "newest":
            return WithMemory(mixer, self, heads, width)
        keeper = Merging(mixer, self) if self.keep == "merge" else Choosing(mixer, self, heads)
        return WithSlots(mixer, self, keeper, heads)

    def parameters(self, mixer: MixerSettings, width: int, layer: int, depth: int) -> int:
        heads, kv_heads, head_width = _keyed(mixer).sizes(width)
        return {"joint": 0, "gate": heads, "grouped": width * kv_heads * head_width}[self.combine]

    def state_bytes(
        self, mixer: MixerSettings, width: int, tokens: int, layer: int, depth: int, element: int = 4
    ) -> int:
        keyed = _keyed(mixer)
        if self.keep != "newest":
            return slot_sizes.state_bytes(self, keyed, width, tokens, layer, depth, element)
        heads, kv_heads, head_width = keyed.sizes(width)
        near = tokens
        if keyed.reach(layer, depth) is None:
            near = (tokens - 1) % self.segment + 1 if tokens else 0
        found = keyed.state_bytes(width, near, layer, depth, element)
        found += (min(tokens, self.slots) + self.initial) * 2 * kv_heads * head_width * element
        if self.unit_keys:
            units = min(tokens // self.unit, self.slots // self.unit)
            found += units * self.key_heads(heads, kv_heads) * head_width * element
        if self.unit_keys and self.key == "representative":
            found += min(tokens, self.unit - 1) * heads * head_width * element
        if self.averages:
            found += heads * head_width * max(element, 4)
        return found

    def flops(self, mixer: MixerSettings, width: int, tokens: int, layer: int, depth: int) -> int:
        keyed = _keyed(mixer)
        if self.keep != "newest":
            return slot_sizes.flops(self, keyed, width, tokens, layer, depth)
        heads, kv_heads, head_width = keyed.sizes(width)
        near = tokens if keyed.reach(layer, depth) is not None else tokens % self.segment
        kept = min(tokens // self.segment * self.segment, self.capacity)
        searching = kv_heads if self.shared and self.key != "representative" else heads
        searched = 0 if self.everything else 2 * searching * head_width * (kept // self.unit)
        reading = 4 * heads * head_width * (min(self.count * self.unit, kept) + min(self.initial, tokens))
        own = 2 * self.parameters(mixer, width, layer, depth) // self.unit if self.combine == "grouped" else 0
        if self.unit_keys and self.key == "representative":
            own += 2 * heads * head_width * self.unit
        return keyed.flops(width, near, layer, depth) + searched + reading + own

    def begins(self, mixer: MixerSettings, layer: int, depth: int) -> int:
        reach = _keyed(mixer).reach(layer, depth)
        return max(self.segment, 0 if reach is None else reach + 1) + 1


def _of_units(config: KeyValueMemoryConfig) -> Iterator[str]:
    """What does not fit of the search, in lines that begin with the name of a setting."""
    unit = config.unit
    if config.top != "all" and config.top < 1:
        yield f"top: {config.top} given; at least 1 unit is read, or 'all'."
    for name in ("segment", "capacity", "initial"):
        given: int = getattr(config, name)
        if given % unit:
            near = max(1, round(given / unit)) * unit
            yield f"{name}: {given} is no multiple of the unit of {unit} tokens. Nearest: {near}."
    if unit > 1 and config.key == "raw" and not config.everything:
        yield f"key: raw given, and a unit has {unit} tokens. Allowed: mean, representative, landmark."
    if unit == 1 and config.key in ("mean", "representative"):
        yield f"key: {config.key} given, and a unit is 1 token. Use key=raw, or a unit of several tokens."
    if config.ahead and config.query != "mean":
        yield "ahead: true given, and each query asks for itself. Use query=mean, or ahead=false."


def _of_softmax(config: KeyValueMemoryConfig) -> Iterator[str]:
    """What does not fit of how it is read."""
    grouped = config.combine == "grouped"
    if grouped != (config.key == "landmark"):
        other = "key=landmark" if grouped else "combine=grouped"
        name, given = ("combine", config.combine) if grouped else ("key", config.key)
        yield f"{name}: {given} needs {other}."
    if grouped and not config.gradient:
        yield "gradient: false given, but landmarks are learned by what is read. Use gradient=true."
    if config.initial and config.combine != "joint":
        yield f"initial: {config.initial} tokens are read in one softmax with the rest: they need combine=joint."


def _of_negatives(config: KeyValueMemoryConfig) -> Iterator[str]:
    """What does not fit of training against other documents."""
    if config.negatives == 1:
        return
    given = f"negatives: {config.negatives} rows"
    if config.top != "all" or config.combine != "joint":
        yield f"{given} are read as a whole, in one softmax: they need top=all and combine=joint."
    if not config.gradient:
        yield f"{given} are told apart by gradients: they need gradient=true."
    if config.position == "original":
        yield f"{given} are other documents, without places in this one. Allowed for position: none, first, capped."


def _of_idle(config: KeyValueMemoryConfig) -> Iterator[str]:
    """What is given and says nothing beside the other settings."""
    needed = {
        "representatives": (config.key == "representative", "key=representative"),
        "stretch": (config.query == "mean", "query=mean"),
        "doubling": (config.negatives > 1, "several negatives"),
    }
    for name, (used, what) in needed.items():
        given, default = getattr(config, name), KeyValueMemoryConfig.model_fields[name].default
        if given != default and not used:
            yield f"{name}: {given} given, but it says nothing without {what}. Leave it at {default}."


def _keyed(mixer: MixerSettings) -> KeyedSettings:
    assert isinstance(mixer, KeyedSettings), "a memory of keys around a mixer that has none"
    return mixer
