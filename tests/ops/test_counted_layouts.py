"""Layouts of rows of unlike lengths: blocks, runs and whole rows of which only the first keys are there."""

from __future__ import annotations

import pytest
import torch
from contract.runs import assert_close, error
from test_softmax_cost import Largest
from test_softmax_parts import BACKENDS, SCALE, TOLERANCE, check, draw, leaves
from torch import Tensor

from farfield.architectures.ops import backend, counted
from farfield.architectures.ops.attention import Part, attention, attention_definition
from farfield.architectures.ops.counted import Blocks, Counted
from farfield.architectures.ops.layouts import Full, Layout
from farfield.architectures.ops.place import Place
from farfield.architectures.ops.runs import Aligned

LENGTH = 9
NAMES = ("counted", "counted-none", "aligned", "aligned-ragged", "blocks", "blocks-shared", "blocks-one", "joined")


def named(rows: int, heads: int, blocks: int, count: int) -> Tensor:
    """Blocks that each block names, none twice, a fifth of them none at all."""
    drawn = [torch.randperm(max(blocks, count))[:count] for _ in range(rows * heads * blocks)]
    index = torch.stack(drawn).view(rows, heads, blocks, count)
    return torch.where((index >= blocks) | (torch.rand(index.shape) < 0.2), -1, index)


def layout_of(name: str, time: int, heads: int) -> tuple[Layout, int]:
    """A layout for two rows, and how many keys it is for."""
    blocks, some = -(-time // LENGTH), torch.tensor([max(1, time - 3), time // 2 + 1])
    layouts: dict[str, tuple[Layout, int]] = {
        "counted": (Counted(torch.tensor([1, 70])), 70),
        "counted-none": (Counted(torch.tensor([0, 300])), 70),
        "aligned": (Aligned(LENGTH, some), time),
        "aligned-ragged": (Aligned(LENGTH), time),
        "blocks": (Blocks(LENGTH, named(2, heads, blocks, 3), 4, some), time),
        "blocks-shared": (Blocks(LENGTH, named(1, 1, blocks, 4)), time),
        "blocks-one": (Blocks(1, named(2, 1, time, 5), 1, some), time),
    }
    return layouts[name]


def parts_of(name: str, time: int, heads: int, shared: int, dtype: torch.dtype = torch.float64) -> list[Part]:
    q = draw(2, heads, time, 8, dtype=dtype)
    found = []
    for one in ["counted", "blocks"] if name == "joined" else [name]:
        layout, keys = layout_of(one, time, heads)
        found.append(Part(q, *(draw(2, shared, keys, 8, dtype=dtype) for _ in range(2)), layout))
    return found


@pytest.mark.parametrize("kind", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", NAMES)
def test_parts_agree_with_the_definition(name: str, dtype: torch.dtype, kind: backend.Backend) -> None:
    check(parts_of(name, 140, heads=4, shared=2, dtype=dtype), kind, TOLERANCE[dtype])


@pytest.mark.parametrize("kind", BACKENDS)
@pytest.mark.parametrize("time", [1, 8, 9, 10, 63, 300])
@pytest.mark.parametrize("name", NAMES)
def test_lengths_about_the_sizes_of_blocks(
    name: str, time: int, kind: backend.Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks are copied beside the queries in several pieces, the last of them ragged. A further part has a few keys
    for all: a softmax of one key has no gradient to compare.
    """
    monkeypatch.setattr(counted, "PIECE", 4 * LENGTH)
    parts = parts_of(name, time, heads=1, shared=1)
    check([*parts, Part(parts[0].queries, draw(2, 1, 5, 8), draw(2, 1, 5, 8), Full())], kind, 1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_kernels_agree_in_bfloat16_as_well_as_the_definition_does(name: str) -> None:
    parts = parts_of(name, 70, heads=2, shared=1, dtype=torch.bfloat16)
    wide = [Part(p.queries.double(), p.keys.double(), p.values.double(), p.layout) for p in parts]
    exact, _ = attention_definition(wide, SCALE)
    definition, _ = attention_definition(parts, SCALE)
    for kind in BACKENDS:
        out, lse = attention(parts, SCALE, kind)
        assert out.dtype == torch.bfloat16
        assert lse.dtype == torch.float32
        assert error(out, exact) <= 2 * error(definition, exact)


@pytest.mark.parametrize("name", NAMES)
def test_layouts_of_some_heads(name: str) -> None:
    parts, heads = parts_of(name, 66, heads=4, shared=4), torch.tensor([3, 1])
    some = [
        Part(*(x.index_select(1, heads) for x in (part.queries, part.keys, part.values)), part.layout.select(heads))
        for part in parts
    ]
    assert_close(attention(some, SCALE)[0], attention(parts, SCALE)[0].index_select(1, heads), 1e-12)


@pytest.mark.parametrize("kind", BACKENDS)
def test_runs_that_are_not_there_leave_their_queries_to_other_parts(kind: backend.Backend) -> None:
    """A placed part whose last runs have no key, in one softmax with a part that all see."""
    q, place = draw(2, 2, 40, 8), Place(slice(0, 1), slice(1, None, 2))
    near = Part(q, draw(2, 1, 20, 8), draw(2, 1, 20, 8), Aligned(6, torch.tensor([7, 20])), place)
    check([near, Part(q, draw(2, 2, 5, 8), draw(2, 2, 5, 8), Full())], kind, 1e-11)


LINEAR = {
    "aligned": lambda time: Aligned(32, torch.tensor([time - 5, time])),
    "blocks": lambda time: Blocks(32, named(2, 1, time // 32, 4), 3, torch.tensor([time - 5, time])),
}


@pytest.mark.parametrize("kind", BACKENDS)
@pytest.mark.parametrize("name", LINEAR)
def test_nothing_of_time_by_time_is_held(name: str, kind: backend.Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counted, "PIECE", 512)
    sizes = []
    for time in (1024, 2048):
        parts, tensors = leaves([Part(*(draw(2, 1, time, 4) for _ in range(3)), LINEAR[name](time))])
        with Largest() as largest:
            torch.autograd.grad(attention(parts, SCALE, kind)[0].sum(), tensors)
        sizes.append(largest.bytes)
        assert largest.bytes <= 8 * 2 * time * 4 * 32
    assert sizes[1] <= 2.1 * sizes[0]


@pytest.mark.parametrize("count", [None, torch.tensor([900, 1100])], ids=["full", "counted"])
def test_whole_rows_are_read_a_block_of_queries_at_a_time(count: Tensor | None) -> None:
    time, layout = 1100, Full() if count is None else Counted(count)
    parts, tensors = leaves([Part(*(draw(2, 1, time, 4) for _ in range(3)), layout)])
    with Largest() as largest:
        torch.autograd.grad(attention(parts, SCALE, "blocked")[0].sum(), tensors)
    assert largest.bytes <= 8 * 2 * time * 256
