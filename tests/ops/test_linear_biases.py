"""ALiBi: the slopes, and every layout with positions of its own against the definition, in values and gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from contract.runs import assert_close, error
from test_counted_layouts import LENGTH, named
from test_hashed import layout_of as hashed_of
from test_softmax_cost import Largest
from test_softmax_parts import BACKENDS, SCALE, TOLERANCE, check, draw, parts_of, plain
from torch import Tensor

from farfield.architectures.ops import backend, counted, layouts, slots
from farfield.architectures.ops.alibi import Alibi, alike, slopes_of
from farfield.architectures.ops.attention import Part, attention, attention_definition
from farfield.architectures.ops.counted import Blocks, Counted
from farfield.architectures.ops.hashed import Adjacent, Hashed
from farfield.architectures.ops.layouts import Banded, Causal, Full, Labelled, Layout, Selected
from farfield.architectures.ops.runs import Aligned, Runs, Steps, Strided

NAMES = (
    "full", "causal", "band", "band-from-0", "band-endless", "band-first", "band-dilated", "band-documents",
    "band-documents-endless", "band-all", "band-both", "band-both-documents", "band-others",
    "labelled", "aligned", "runs", "run-of-runs", "strided", "strided-far", "steps", "selected", "selected-of-many",
)  # fmt: skip

Placed = tuple[Part, Tensor, Tensor]  # with where its queries (B or 1, T) and keys (B or 1, S) stand


def fallen(part: Part, dtype: torch.dtype) -> Placed:
    """The part with slopes, its queries and keys at places that its own labels do not tell."""
    heads, time, keys = part.queries.shape[1], part.queries.shape[2], part.keys.shape[2]
    slopes, layout = slopes_of(heads).to(torch.promote_types(dtype, torch.float32)), part.layout
    if isinstance(layout, Runs):
        return replace(part, layout=replace(layout, slopes=slopes)), torch.arange(time)[None], torch.arange(keys)[None]
    if isinstance(layout, Aligned):
        runs, within = keys // layout.length, torch.arange(keys)[None] % layout.length
        apart = torch.randint(9, 30, (1, runs))
        query = within + apart.repeat_interleave(layout.length, 1)
        aligned = replace(layout, slopes=slopes, apart=apart.expand(heads, -1))
        return replace(part, layout=aligned), query[:, :time], within
    query, key = torch.randint(0, 30, (2, time)), torch.randint(0, 30, (2, keys))
    if isinstance(layout, Banded) and layout.regular:  # one mask serves all its blocks
        query, key = 3 * torch.arange(keys - time, keys)[None], 3 * torch.arange(keys)[None]
    if isinstance(layout, Strided):  # and all residues
        query, key = torch.arange(time)[None] + 4, torch.arange(keys)[None]
    assert isinstance(layout, (Full, Causal, Banded, Labelled, Steps, Strided, Selected))
    return replace(part, layout=replace(layout, alibi=Alibi(slopes, query, key))), query, key


def parts(name: str, time: int, heads: int = 2, shared: int = 2, dtype: torch.dtype = torch.float64) -> list[Placed]:
    return [fallen(part, dtype) for part in parts_of(name, time, heads, shared, width=8, dtype=dtype)]


@pytest.mark.parametrize("name", NAMES)
def test_a_mask_is_the_visible_keys_and_the_distance(name: str) -> None:
    plain_part = parts_of(name, 70, heads=3, shared=3, width=4, dtype=torch.float64)[0]
    part, query, key = fallen(plain_part, torch.float64)
    time, keys = 70, part.keys.shape[2]
    visible = plain_part.layout.mask(time, keys)
    slope = torch.tensor([2**-4, 2**-8, 2**-2], dtype=torch.float64)[:, None, None]
    fall = slope * (query[:, None, :, None] - key[:, None, None]).abs()
    expected = torch.where(visible, -fall, -torch.inf)
    assert torch.equal(part.layout.mask(time, keys).expand_as(expected), expected)


@pytest.mark.parametrize("kind", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", NAMES)
def test_layouts_agree_with_the_definition(name: str, dtype: torch.dtype, kind: backend.Backend) -> None:
    check([part for part, _, _ in parts(name, 140, dtype=dtype)], kind, TOLERANCE[dtype])


@pytest.mark.parametrize("kind", BACKENDS)
@pytest.mark.parametrize("time", [12, 64, 65, 300])
@pytest.mark.parametrize(
    "name", ["full", "causal", "band", "band-from-0", "band-all", "steps", "strided", "runs", "aligned"]
)
def test_blocks_of_queries_meet(name: str, time: int, kind: backend.Backend) -> None:
    check([part for part, _, _ in parts(name, time, heads=3, shared=1)], kind, 1e-11)


@pytest.mark.parametrize("kind", BACKENDS)
def test_parts_with_and_without_biases_are_one_softmax(kind: backend.Backend) -> None:
    """A window with them and a memory without positions, in one backward."""
    several = parts_of("three", 66, heads=6, shared=3, width=4, dtype=torch.float64)
    check([fallen(several[0], torch.float64)[0], fallen(several[1], torch.float64)[0], several[2]], kind, 1e-11)


@pytest.mark.parametrize("kind", BACKENDS)
def test_rows_of_unlike_lengths(kind: backend.Backend) -> None:
    """Only the first keys of a row are there, of a whole and of runs; heads stand apart at distances of their own."""
    count, slopes, time = torch.tensor([60, 31]), slopes_of(2), 61
    apart = torch.randint(9, 30, (2, 7))
    for layout in (
        Counted(count, Alibi.run(slopes, time, 63, 5)),
        Aligned(9, count, slopes, apart),
        Aligned(9, None, slopes, apart),
        Aligned(9, count, slopes),
        Aligned(9, None, slopes),
    ):
        check([Part(draw(2, 2, time, 4), draw(2, 2, 63, 4), draw(2, 2, 63, 4), layout)], kind, 1e-11)


@pytest.mark.parametrize("kind", BACKENDS)
@pytest.mark.parametrize("time", [1, 9, 12, 63])
def test_runs_that_queries_and_keys_do_not_fill(time: int, kind: backend.Backend) -> None:
    """Queries stand where their keys do. A few keys are there for all: a softmax of one key has no gradient."""
    q, several = draw(2, 2, time, 4), (draw(2, 2, 5, 4), draw(2, 2, 5, 4))
    for count in (None, torch.tensor([time, time // 2 + 1])):
        layout = Aligned(9, count, slopes_of(2))
        column = torch.arange(time)
        fall = slopes_of(2)[:, None, None] * (column[:, None] - column).abs()
        expected = torch.where(Aligned(9, count).mask(time, time), -fall, -torch.inf)
        assert torch.equal(layout.mask(time, time), expected)
        part = Part(q, draw(2, 2, time, 4), draw(2, 2, time, 4), layout)
        check([part, Part(q, *several, Full())], kind, 1e-11)


def blocks(name: str, time: int) -> Blocks:
    """With slopes: blocks by head and row, the same for all, of one column, or of longer ones in rows cut short."""
    number, some = -(-time // LENGTH), torch.tensor([max(1, time - 3), time // 2 + 1])
    return {
        "own": Blocks(LENGTH, named(2, 2, number, 3), 4, some, slopes_of(2)),
        "shared": Blocks(LENGTH, named(1, 1, number, 4), slopes=slopes_of(2)),
        "one": Blocks(1, named(2, 1, time, 5), 1, some, slopes_of(2)),
    }[name]


@pytest.mark.parametrize("kind", BACKENDS)
@pytest.mark.parametrize("time", [1, 8, 9, 63, 300])
@pytest.mark.parametrize("name", ["own", "shared", "one"])
def test_blocks_that_are_named(name: str, time: int, kind: backend.Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces, the last of them ragged. A few keys are there for all, as above."""
    monkeypatch.setattr(counted, "PIECE", 4 * LENGTH)
    layout, q = blocks(name, time), draw(2, 2, time, 4)
    column = torch.arange(time)
    fall = slopes_of(2)[:, None, None] * (column[:, None] - column).abs()
    expected = torch.where(replace(layout, slopes=None).mask(time, time), -fall, -torch.inf)
    assert torch.equal(layout.mask(time, time), expected)
    heads = torch.tensor([1, 1, 0])
    assert torch.equal(layout.select(heads).mask(time, time), expected[:, heads])
    part = Part(q, draw(2, 1, time, 4), draw(2, 1, time, 4), layout)
    check([part, Part(q, draw(2, 1, 5, 4), draw(2, 1, 5, 4), Full())], kind, 1e-11)


HASHED = ("one-label", "narrow", "past", "endless", "nobody", "rounds", "own-bucket", "own-bucket-rounds", "across")


def bucketed(name: str, time: int, dtype: torch.dtype = torch.float64) -> tuple[Part, Layout, Tensor, Tensor]:
    """A part, its layout without slopes, and where its queries (B, T) and keys (B, H, S) stand.

    Keys of a head stand where its rings say, so heads differ, and a token's own key where the token does.
    """
    layout, keys = hashed_of(name, time)
    assert isinstance(layout, (Adjacent, Hashed))
    query, key = torch.randint(0, 30, (2, time)), torch.randint(0, 30, (2, 2, keys))
    key[:, :, keys - time :] = query[:, None]
    slopes = slopes_of(2).to(torch.promote_types(dtype, torch.float32))
    fallen = replace(layout, alibi=Alibi(slopes, query, key))
    return Part(*(draw(2, 2, n, 4, dtype=dtype) for n in (time, keys, keys)), fallen), layout, query, key


@pytest.mark.parametrize("name", HASHED)
def test_a_mask_of_hashed_keys_is_the_visible_ones_and_the_distance(name: str) -> None:
    part, layout, query, key = bucketed(name, 63)
    counted = layout.mask(63, part.keys.shape[2])
    counted = torch.where(counted, 0.0, -torch.inf) if counted.dtype == torch.bool else counted
    slope = torch.tensor([2**-4, 2**-8], dtype=torch.float64)[:, None, None]
    expected = counted - slope * (query[:, None, :, None] - key[:, :, None]).abs()
    assert torch.equal(part.layout.mask(63, part.keys.shape[2]), expected)
    heads = torch.tensor([1, 1, 0])
    assert torch.equal(part.layout.select(heads).mask(63, part.keys.shape[2]), expected[:, heads])


@pytest.mark.parametrize("kind", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("time", [1, 63, 130])
@pytest.mark.parametrize("name", HASHED)
def test_hashed_layouts_agree_with_the_definition(
    name: str, time: int, dtype: torch.dtype, kind: backend.Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few chunks at a time have masks; a key for all is there, since a softmax of one key has no gradient."""
    monkeypatch.setattr(slots, "SCORES", 2000)
    part = bucketed(name, time, dtype)[0]
    several = draw(2, 2, 5, 4, dtype=dtype), draw(2, 2, 5, 4, dtype=dtype)
    check([part, Part(part.queries, *several, Full())], kind, TOLERANCE[dtype])


@pytest.mark.parametrize("kind", BACKENDS)
def test_selected_keys_that_stand_elsewhere_in_each_head(kind: backend.Backend) -> None:
    for name in ("selected", "selected-of-many"):
        part = parts_of(name, 60, heads=3, shared=3, width=4, dtype=torch.float64)[0]
        alibi = Alibi(slopes_of(3), torch.randint(0, 30, (2, 60)), torch.randint(0, 30, (2, 3, part.keys.shape[2])))
        assert isinstance(part.layout, Selected)
        check([replace(part, layout=replace(part.layout, alibi=alibi))], kind, 1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_kernels_agree_in_bfloat16_as_well_as_the_definition_does(name: str) -> None:
    """Biases of tens that bfloat16 would round to whole numbers are added in float32."""
    found = [part for part, _, _ in parts(name, 70, dtype=torch.bfloat16)]
    wide = [
        replace(part, queries=part.queries.double(), keys=part.keys.double(), values=part.values.double())
        for part in found
    ]
    exact, _ = attention_definition(wide, SCALE)
    definition, _ = attention_definition(found, SCALE)
    for kind in BACKENDS:
        assert error(attention(found, SCALE, kind)[0], exact) <= 2 * error(definition, exact)


@pytest.mark.parametrize("name", NAMES)
def test_layouts_of_some_heads(name: str) -> None:
    whole = [part for part, _, _ in parts(name, 66, heads=4, shared=4)]
    heads = torch.tensor([3, 1])
    some = [
        Part(*(x.index_select(1, heads) for x in (part.queries, part.keys, part.values)), part.layout.select(heads))
        for part in whole
    ]
    assert_close(attention(some, SCALE)[0], attention(whole, SCALE)[0].index_select(1, heads), 1e-12)


@pytest.mark.parametrize("position", [10**3, 10**6])
def test_float32_is_exact_at_any_position(position: int) -> None:
    """A distance is taken between whole numbers: nothing large is ever subtracted from something large."""
    q, k, v = (draw(1, 2, 40, 4) for _ in range(3))
    at = position + torch.arange(40)[None]
    answers = [
        attention([Part(*(x.to(dtype) for x in (q, k, v)), Causal(Alibi(slopes_of(2).to(dtype), at, at)))], SCALE)[0]
        for dtype in (torch.float64, torch.float32)
    ]
    assert error(answers[1], answers[0]) < 1e-6


def band(time: int) -> Layout:
    labels = plain(time, 0)
    alibi = Alibi(slopes_of(2), labels["query_position"][:1], labels["key_position"][:1])
    return Banded(**labels, reach=32, regular=True, alibi=alibi)


def adjacent(time: int) -> Layout:
    column, bucket = torch.arange(time).expand(2, -1), torch.randint(7, (2, 2, 1, time))
    return Adjacent(torch.zeros_like(column), bucket, 24, False, Alibi(slopes_of(2), column, column))


BOUNDED = {
    "band": band,
    "runs": lambda time: Runs(64, 10, slopes_of(2)),
    "causal": lambda time: Causal(Alibi.run(slopes_of(2), time, time)),
    "blocks": lambda time: Blocks(16, named(2, 2, time // 16, 4), slopes=slopes_of(2)),
    "aligned": lambda time: Aligned(48, torch.tensor([time - 5, time]), slopes_of(2)),
    "adjacent": lambda time: adjacent(time),
    "full": lambda time: Full(Alibi.run(slopes_of(2), time, time)),
}


@pytest.mark.parametrize("kind", BACKENDS)
@pytest.mark.parametrize("name", BOUNDED)
def test_biases_are_made_a_block_of_queries_at_a_time(name: str, kind: backend.Backend) -> None:
    sizes = []
    for time in (1024, 2048):
        q, k, v = (draw(2, 2, time, 4).requires_grad_() for _ in range(3))
        with Largest() as largest:
            torch.autograd.grad(attention([Part(q, k, v, BOUNDED[name](time))], SCALE, kind)[0].sum(), (q, k, v))
        sizes.append(largest.bytes)
    assert sizes[1] <= 2.1 * sizes[0]
    assert sizes[1] <= 8 * 2 * 2 * 2048 * layouts.BLOCK


def test_slopes_are_the_published_ones() -> None:
    assert slopes_of(8).tolist() == [2.0**-n for n in range(1, 9)]
    assert slopes_of(1).tolist() == [2.0**-8]
    assert slopes_of(6).tolist() == [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]
    assert slopes_of(12).tolist()[8:] == pytest.approx([2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5])


def test_slopes_are_as_wide_as_scores() -> None:
    for dtype, expected in ((torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64,) * 2):
        found = alike(slopes_of(3), torch.zeros(1, dtype=dtype))
        assert found is not None
        assert found.dtype == expected
    assert alike(None, torch.zeros(1)) is None
