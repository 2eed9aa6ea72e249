"""Parts whose pairs are chosen by where they stand, in every layout that tells it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from ops.test_softmax_parts import BACKENDS, check, draw, parts_of
from torch import Tensor

from farfield.architectures.dual_chunk import Between
from farfield.architectures.ops import backend
from farfield.architectures.ops.alibi import EVERY, Alibi, Relation
from farfield.architectures.ops.attention import Part
from farfield.architectures.ops.hashed import Hashed
from farfield.architectures.ops.layouts import Banded, Causal, Full, Labelled, Selected
from farfield.architectures.ops.runs import Aligned, Steps, Strided
from farfield.architectures.self_extend import Apart

NAMES = (
    "full", "causal", "band", "band-first", "band-dilated", "band-documents", "band-documents-endless", "labelled",
    "strided", "strided-far", "steps", "selected", "selected-of-many",
)  # fmt: skip
RELATIONS: dict[str, Relation] = {
    "own": Between(7, 0),
    "before": Between(7, 1),
    "older": Between(7, 2, older=True),
    "near": Apart(9, far=False),
    "far": Apart(9, far=True),
}


def related(part: Part, relation: Relation) -> tuple[Part, Tensor, Tensor]:
    """The part with a relation, its queries and keys at places that its own labels do not tell."""
    time, keys, layout = part.queries.shape[2], part.keys.shape[2], part.layout
    query, key = torch.randint(0, 30, (2, time)), torch.randint(0, 30, (2, keys))
    assert isinstance(layout, (Full, Causal, Banded, Labelled, Steps, Strided, Selected))
    if isinstance(layout, Banded):
        layout = replace(layout, regular=False)
    return replace(part, layout=replace(layout, alibi=Alibi(relation, query, key))), query, key


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("name", NAMES)
def test_a_mask_is_what_is_visible_and_holds(name: str, relation: str) -> None:
    plain = parts_of(name, 70, heads=2, shared=2, width=4, dtype=torch.float64)[0]
    part, query, key = related(plain, RELATIONS[relation])
    apart = query[:, None, :, None] - key[:, None, None]
    between = query[:, None, :, None] // 7 - key[:, None, None] // 7
    taken = {"own": between == 0, "before": between == 1, "older": between >= 2, "near": apart < 9, "far": apart >= 9}
    visible = plain.layout.mask(70, part.keys.shape[2]) & taken[relation]
    assert 0 < visible.sum() < visible.numel()
    assert torch.equal(part.layout.mask(70, part.keys.shape[2]).expand_as(visible), visible)


@pytest.mark.parametrize("kind", BACKENDS)
@pytest.mark.parametrize("name", NAMES)
def test_layouts_agree_with_the_definition(name: str, kind: backend.Backend) -> None:
    """Several relations of one layout in one softmax, and a few keys for all: some queries see nothing of a part."""
    found = list(parts_of(name, 140, heads=2, shared=1, width=8, dtype=torch.float64))
    several = [related(part, relation)[0] for part in found for relation in RELATIONS.values()]
    check([*several, Part(found[0].queries, draw(2, 2, 5, 8), draw(2, 2, 5, 8), Full())], kind, 1e-11)


@pytest.mark.parametrize("kind", BACKENDS)
@pytest.mark.parametrize("relation", RELATIONS)
def test_hashed_tokens(relation: str, kind: backend.Backend) -> None:
    """One that sees no other key sees itself, where that is of the relation."""
    label = torch.randint(0, 40, (2, 2, 2, 90))
    position = torch.arange(90).expand(2, -1)
    alibi = Alibi(RELATIONS[relation], position[:, 20:], position[:, None].expand(-1, 2, -1))
    layout = Hashed(label, label.argsort(dim=3, stable=True), 5, 70, alibi)
    part = Part(draw(2, 2, 70, 4), draw(2, 2, 90, 4), draw(2, 2, 90, 4), layout)
    check([part, Part(part.queries, draw(2, 2, 5, 4), draw(2, 2, 5, 4), Full())], kind, 1e-11)


@pytest.mark.parametrize("kind", BACKENDS)
@pytest.mark.parametrize("time", [5, 9, 63])
def test_runs_beside_blocks_of_each_head(time: int, kind: backend.Backend) -> None:
    """Heads have other blocks, and the last run of queries may be short."""
    query, key = torch.randint(0, 30, (1, time)), torch.randint(0, 30, (1, 2, 63))
    q, several = draw(2, 2, time, 4), (draw(2, 2, 5, 4), draw(2, 2, 5, 4))
    for relation in RELATIONS.values():
        layout = Aligned(9, alibi=Alibi(relation, query, key))
        held = relation.holds(query[:, None, :, None], key[:, :, None])
        assert torch.equal(layout.mask(time, 63), Aligned(9).mask(time, 63) & held)
        assert torch.equal(layout.select(torch.tensor([1])).mask(time, 63), layout.mask(time, 63)[:, 1:])
        check([Part(q, draw(2, 2, 63, 4), draw(2, 2, 63, 4), layout), Part(q, *several, Full())], kind, 1e-11)


def test_a_band_within_a_shorter_reach() -> None:
    """The same pairs, over the last columns that have them."""
    for name in ("band", "band-documents", "band-documents-endless", "band-dilated"):
        part = related(parts_of(name, 40, heads=1, shared=1, width=4, dtype=torch.float64)[0], EVERY)[0]
        layout, keys = part.layout, part.keys.shape[2]
        assert isinstance(layout, Banded)
        found, begin = layout.within(3, keys)
        expected = replace(layout, reach=3).mask(40, keys)
        assert not expected[..., :begin].any()
        assert torch.equal(found.mask(40, keys - begin), expected[..., begin:])
        assert layout.within(None, keys) == (layout, 0)
