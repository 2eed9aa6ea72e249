"""Memories in front of segments: a document in a plain loop over its segments.

Written anew is the memory alone. The layers are called as without a memory, on the vectors of one segment from an empty
state: they are tested by themselves.

Shapes: T time, L length of a segment, M vectors, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import functional_call

from farfield.architectures import Rows
from farfield.architectures.decoder import Decoder

if TYPE_CHECKING:
    from contract.subjects import Subject

Layers = Callable[[list[Tensor]], Tensor]
Weights = dict[str, Tensor]


def layers_of(subject: Subject, weights: Weights) -> Layers:
    """What the layers answer to vectors (N, D), given in parts, from an empty state."""
    architecture = subject.model().decoder
    build = architecture.layer(0).mixer.resolved().build
    decoder = Decoder(architecture, lambda index: build(subject.width, 0, 1)).double()
    inside = {name.removeprefix("stack.stack."): w for name, w in weights.items() if name.startswith("stack.stack.")}

    def read(parts: list[Tensor]) -> Tensor:
        x = torch.cat(parts)[None]
        y, _, _ = functional_call(decoder, inside, (x, Rows.fresh_documents(1, x.shape[1]), decoder.start(1)))
        found: Tensor = y[0]
        return found

    return read


def pieces(x: Tensor, segment: int) -> list[tuple[Tensor, bool]]:
    """The segments of a document (T, D), and whether each is complete."""
    return [(part, len(part) == segment) for part in x.split(segment)]


def recurrent(subject: Subject, weights: Weights, x: Tensor) -> Tensor:
    """[h; y; m'] = layers([m; x; m])."""
    settings: Any = subject.memory
    read, memory, outputs = layers_of(subject, weights), weights["stack.memory.initial"], []
    for number, (part, complete) in enumerate(pieces(x, settings.segment)):
        if number and settings.bptt and number % settings.bptt == 0:
            memory = memory.detach()
        found = read([memory, part, *([memory] if complete else [])])
        outputs.append(found[len(memory) : len(memory) + len(part)])
        memory = found[len(memory) + len(part) :]
    return torch.cat(outputs)


def summaries(subject: Subject, weights: Weights, x: Tensor) -> Tensor:
    """[h; y; s_n] = layers([s_0; ..; s_(n-1); x; e]), of which the newest `limit` are kept."""
    settings: Any = subject.memory
    read, tokens, outputs = layers_of(subject, weights), weights["stack.memory.summary"], []
    kept = x.new_zeros(0, x.shape[1])
    for number, (part, complete) in enumerate(pieces(x, settings.segment)):
        if number and settings.bptt and number % settings.bptt == 0:
            kept = kept.detach()
        found = read([kept, part, *([tokens] if complete else [])])
        outputs.append(found[len(kept) : len(kept) + len(part)])
        kept = torch.cat((kept, found[len(kept) + len(part) :]))[-settings.limit :]
    return torch.cat(outputs)


def normed(x: Tensor, gain: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * gain


def crossed(weights: Weights, name: str, heads: int, queries: Tensor, source: Tensor) -> Tensor:
    """Queries (M, D) that read source (S, D), head by head and query by query, and the feed-forward behind it."""
    w = {key.removeprefix(name): value for key, value in weights.items() if key.startswith(name)}
    width = queries.shape[1]
    share = width // heads
    asked = normed(queries, w["query_norm.weight"]) @ w["q.weight"].T
    k, v = (normed(source, w["norm.weight"]) @ w["kv.weight"].T).split(width, 1)
    rows = []
    for query in asked:
        heard = []
        for head in range(heads):
            at = slice(head * share, (head + 1) * share)
            scores = torch.stack([query[at] @ key for key in k[:, at]]) / math.sqrt(share)
            heard.append(torch.softmax(scores, 0) @ v[:, at])
        rows.append(torch.cat(heard))
    x = queries + torch.stack(rows) @ w["out.weight"].T
    inner = normed(x, w["inner_norm.weight"]) @ w["feedforward.up.weight"].T
    inner = inner * (1 + torch.erf(inner / math.sqrt(2))) / 2
    return x + inner @ w["feedforward.down.weight"].T


def amortized(subject: Subject, weights: Weights, x: Tensor) -> Tensor:
    """[.; h_n] = layers([p_n; x_n]), entries from h_n, p_n from all entries, in groups where there are any."""
    settings: Any = subject.memory
    heads = settings.heads or subject.width // settings.head_width
    read, outputs, bank = layers_of(subject, weights), [], list[Tensor]()
    own = {name.removeprefix("stack.memory."): weight for name, weight in weights.items()}

    def aggregate(question: Tensor, entries: list[Tensor]) -> Tensor:
        for block in range(settings.blocks):
            question = crossed(own, f"blocks.{block}.", heads, question, torch.cat(entries))
        return question

    for part, complete in pieces(x, settings.segment):
        prefix = []
        if bank:
            question, entries, most = own["asked"] + bank[-1], bank, settings.limit // settings.tokens
            while settings.group and most > settings.group:
                ends = range(len(entries), 0, -settings.group)
                groups = [entries[max(0, end - settings.group) : end] for end in reversed(ends)]
                entries, most = [aggregate(question, group) for group in groups], math.ceil(most / settings.group)
            prefix = [aggregate(question, entries)]
        found = read([*prefix, part])[-len(part) :]
        outputs.append(found)
        if complete:
            entry = crossed(own, "encoder.", heads, own["written"], found)
            bank = [*bank, entry][-(settings.limit // settings.tokens) :]
    return torch.cat(outputs)


AMORTIZED = {"kind": "amortized", "head_width": 8}

MEMORIES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "rmt": (("attention", "retnet", "mamba"), {"kind": "recurrent", "segment": 15, "tokens": 3}),
    "rmt-one": (("longformer",), {"kind": "recurrent", "segment": 15, "tokens": 1, "bptt": 2}),
    "summaries": (("attention", "retnet"), {"kind": "summaries", "segment": 16, "tokens": 2, "limit": 5}),
    "mac": (("attention", "mamba"), {**AMORTIZED, "segment": 15, "tokens": 2, "limit": 6, "blocks": 2}),
    "mac-tree": (("attention",), {**AMORTIZED, "segment": 13, "tokens": 1, "limit": 5, "blocks": 1, "group": 2}),
}
"""Around a mixer of each kind of state. Longformer's own global tokens are those in front: one of two is the text's.

Calls of 40 and 130 tokens end after few calls wherever they ever end in segments of these lengths.
"""

REMEMBERED: dict[str, Callable[[Subject, Weights, Tensor], Tensor]] = {
    "rmt": recurrent,
    "rmt-one": recurrent,
    "summaries": summaries,
    "mac": amortized,
    "mac-tree": amortized,
}
