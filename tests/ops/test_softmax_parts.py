"""Softmax attention in parts, by both kernels, against its dense definition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from contract.runs import assert_close, error
from torch import Tensor

from farfield.architectures.ops import backend, layouts
from farfield.architectures.ops.attention import Part, attention, attention_definition, merge
from farfield.architectures.ops.layouts import Banded, Causal, Full, Labelled, Selected
from farfield.architectures.ops.place import Place
from farfield.architectures.ops.runs import Aligned, Runs, Steps, Strided

BACKENDS: tuple[backend.Backend, ...] = ("fused", "blocked")
TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-5}
SCALE = 0.4


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=torch.float64).to(dtype)


def packed(time: int, past: int, batch: int = 2) -> dict[str, Tensor]:
    """Labels of queries and of [past, call] keys: documents that begin at odd places, padding, an invalid past key."""
    position, document = (
        torch.zeros(batch, past + time, dtype=torch.int64),
        torch.zeros(batch, past + time, dtype=torch.int64),
    )
    for row in range(batch):
        starts = [past + n for n in (3 + 40 * row, 60, 61, 200 + row)]
        begin, number = 0, 0
        for column in range(past + time):
            if column in starts:
                begin, number = column, number + 1
            position[row, column], document[row, column] = column - begin, number
    if past:
        document[1, 0] = -1
    padding = torch.zeros(batch, past + time, dtype=torch.bool)
    padding[0, past + 55 : past + 60] = True
    position = torch.where(padding, -1, position)
    document = torch.where(padding, -1, document)
    queries = torch.where(padding, -2, document)[:, past:]
    return {
        "query_position": position[:, past:],
        "query_document": queries,
        "key_position": position,
        "key_document": document,
    }


def plain(time: int, past: int, batch: int = 2) -> dict[str, Tensor]:
    """Labels of single runs."""
    position = torch.arange(past + time).expand(batch, -1)
    zeros = torch.zeros_like(position)
    return {
        "query_position": position[:, past:],
        "query_document": zeros[:, past:],
        "key_position": position,
        "key_document": zeros,
    }


def selected(heads: int, time: int, keys: int, count: int) -> Selected:
    """Each query's own keys, some drawn twice by different queries, some invalid, and one query with none."""
    index = torch.stack([torch.randperm(keys)[:count] for _ in range(2 * heads * time)]).view(2, heads, time, count)
    valid = torch.rand(2, heads, time, count) < 0.8
    valid[:, :, 0] = False
    return Selected(index, valid)


def parts_of(name: str, time: int, heads: int, shared: int, width: int, dtype: torch.dtype) -> list[Part]:
    """The parts of a case, over a past of 70 keys where the layout has one."""
    q, past = draw(2, heads, time, width, dtype=dtype), 70
    layouts = {
        "full": (Full(), past),
        "causal": (Causal(), time),
        "band": (Banded(**plain(time, past), reach=5, regular=True), past + time),
        "band-from-0": (Banded(**plain(time, 0), reach=150, regular=True), time),
        "band-endless": (Banded(**plain(time, past), reach=None, regular=True), past + time),
        "band-first": (Banded(**plain(time, past), reach=90, first=75, regular=True), past + time),
        "band-dilated": (Banded(**plain(time, past), reach=12, dilation=3, regular=True), past + time),
        "band-documents": (Banded(**packed(time, past), reach=9), past + time),
        "band-documents-endless": (Banded(**packed(time, past), reach=None), past + time),
        "band-all": (Banded(**packed(time, past), reach=8, dilation=2, first=3), past + time),
        "band-both": (Banded(**plain(time, 0), reach=5, regular=True, ahead=7), time),
        "band-both-documents": (Banded(**packed(time, past), reach=9, dilation=2, ahead=20), past + time),
        "band-others": (Banded(**packed(time, past), reach=9, ahead=-1), past + time),
        "labelled": (Labelled(**packed(time, past)), past + time),
        "runs": (Runs(length=9, first=4), time),
        "run-of-runs": (Runs(length=500, first=70), time),
        "aligned": (Aligned(length=9), -(-time // 9) * 9),
        "strided": (Strided(stride=9), time),
        "strided-whole": (Strided(stride=14), time),
        "strided-far": (Strided(stride=100), time),
        "steps": (Steps(stride=9, count=2, before=40), (40 + time) // 9 * 2),
        "selected": (selected(heads, time, past, 6), past),  # few keys for each selected one: by a mask
        "selected-of-many": (selected(heads, time, past, 2), past),  # by gathering
    }
    names = {"joined": ["full", "causal"], "three": ["band-first", "labelled", "selected-of-many"]}.get(name, [name])
    if name == "placed":
        return placed(q, shared, dtype)
    found = []
    for one in names:
        layout, keys = layouts[one]
        found.append(
            Part(q, draw(2, shared, keys, width, dtype=dtype), draw(2, shared, keys, width, dtype=dtype), layout)
        )
    return found


def placed(q: Tensor, shared: int, dtype: torch.dtype) -> list[Part]:
    """Parts for some heads and columns: overlapping ones, one of chosen columns, one for all, and queries left out."""
    time, width = q.shape[2:]
    chosen = torch.stack([torch.randperm(time - 1)[: (time + 3) // 4] for _ in range(2)]) if time > 1 else None
    places = [
        (Place(slice(0, 1), slice(0, None, 3)), Runs(length=5, first=2)),
        (Place(slice(None), slice(0, time // 2 + 1)), Full()),
        (Place(slice(0, None, 2), slice(0, 1) if chosen is None else chosen), Causal()),
    ]
    found = []
    for place, layout in places:
        taken = place.take(q)
        groups = shared if taken.shape[1] % shared == 0 else 1
        keys, values = (draw(2, groups, taken.shape[2], width, dtype=dtype) for _ in range(2))
        found.append(Part(q, keys, values, layout, place))
    own = slice(0, 1), slice(0, 1)
    found.append(Part(2 * q, *(draw(2, 1, 4, width, dtype=dtype) for _ in range(2)), Full(), Place(*own)))
    return found


NAMES = (
    "runs", "run-of-runs", "aligned", "steps", "strided", "strided-whole", "strided-far", "placed",
    "full", "causal", "band", "band-from-0", "band-endless", "band-first", "band-dilated", "band-documents",
    "band-documents-endless", "band-all", "band-both", "band-both-documents", "band-others",
    "labelled", "selected", "selected-of-many", "joined", "three",
)  # fmt: skip


def leaves(parts: Sequence[Part]) -> tuple[list[Part], list[Tensor]]:
    """The same parts on leaves that take gradients, the queries shared."""
    q = parts[0].queries.detach().requires_grad_()
    found, tensors = [], [q]
    for part in parts:
        k, v = part.keys.detach().requires_grad_(), part.values.detach().requires_grad_()
        own = q if part.queries is parts[0].queries else part.queries.detach().requires_grad_()
        found.append(Part(own, k, v, part.layout, part.place))
        tensors += [own] if own is not q else []
        tensors += [k, v]
    return found, tensors


def check(parts: Sequence[Part], kind: backend.Backend, tolerance: float) -> None:
    parts, tensors = leaves(parts)
    out, lse = attention(parts, SCALE, kind)
    expected, expected_lse = attention_definition(parts, SCALE)
    blind = expected_lse.isneginf()
    assert torch.equal(lse.isneginf(), blind)
    assert not out[blind].any()
    assert_close(out.detach(), expected.detach(), tolerance, "output")
    assert_close(lse.masked_fill(blind, 0), expected_lse.masked_fill(blind, 0).detach(), tolerance, "log-sum-exp")
    above = torch.randn_like(out)
    found = torch.autograd.grad((out * above).sum(), tensors)
    right = torch.autograd.grad((expected * above).sum(), tensors)
    for place, pair in enumerate(zip(found, right, strict=True)):
        assert_close(*pair, tolerance, f"gradient {place}")


@pytest.mark.parametrize("kind", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", NAMES)
def test_parts_agree_with_the_definition(name: str, dtype: torch.dtype, kind: backend.Backend) -> None:
    check(parts_of(name, 140, heads=2, shared=2, width=8, dtype=dtype), kind, TOLERANCE[dtype])


@pytest.mark.parametrize("kind", BACKENDS)
@pytest.mark.parametrize("time", [1, 64, 65, 300])
@pytest.mark.parametrize(
    "name",
    [
        "aligned",
        "steps",
        "strided",
        "runs",
        "placed",
        "band",
        "band-from-0",
        "band-first",
        "band-all",
        "band-both",
        "band-others",
        "labelled",
        "selected",
        "selected-of-many",
        "joined",
    ],
)
def test_blocks_of_queries_meet(name: str, time: int, kind: backend.Backend) -> None:
    """Lengths about the sizes of blocks, where one mask serves several of them."""
    check(parts_of(name, time, heads=1, shared=1, width=4, dtype=torch.float64), kind, 1e-11)


@pytest.mark.parametrize("kind", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("time", [1, 40])
def test_vectors_whose_numbers_do_not_stand_side_by_side(time: int, dtype: torch.dtype, kind: backend.Backend) -> None:
    """As views of products turned around are: the kernels of the CPU would read other numbers, and not say so."""
    q, k, v = (draw(2, 2, 16, size, dtype=dtype).transpose(2, 3) for size in (time, 40, 40))
    assert q.stride(3) != 1 or time == 1
    layout = Full() if time == 1 else Causal()
    check([Part(q, k, v, layout), Part(q, draw(2, 2, 5, 16, dtype=dtype), v[:, :, :5], Full())], kind, TOLERANCE[dtype])


@pytest.mark.parametrize("kind", BACKENDS)
@pytest.mark.parametrize("shared", [1, 2, 3])
@pytest.mark.parametrize(
    "name", ["placed", "full", "causal", "band-documents", "labelled", "selected", "selected-of-many", "three"]
)
def test_heads_share_keys(name: str, shared: int, kind: backend.Backend) -> None:
    parts = parts_of(name, 66, heads=6, shared=shared, width=4, dtype=torch.float64)
    found = [replace(part, layout=part.layout) for part in parts]
    check(found, kind, 1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_kernels_agree_in_bfloat16_as_well_as_the_definition_does(name: str) -> None:
    """Each kernel is at most twice as far from float64 as the definition run in bfloat16."""
    parts = parts_of(name, 70, heads=2, shared=1, width=8, dtype=torch.bfloat16)
    exact, _ = attention_definition([_in(part, torch.float64) for part in parts], SCALE)
    definition, _ = attention_definition(parts, SCALE)
    for kind in BACKENDS:
        out, lse = attention(parts, SCALE, kind)
        assert out.dtype == torch.bfloat16
        assert lse.dtype == torch.float32
        assert error(out, exact) <= 2 * error(definition, exact)


def _in(part: Part, dtype: torch.dtype) -> Part:
    return Part(part.queries.to(dtype), part.keys.to(dtype), part.values.to(dtype), part.layout, part.place)


@pytest.mark.parametrize("kind", BACKENDS)
@pytest.mark.parametrize("name", ["full", "causal", "band-small", "labelled-small", "selected", "joined"])
def test_gradients_by_finite_differences(name: str, kind: backend.Backend) -> None:
    time, shape = 4, (1, 1, 4, 2)
    q, k, v = (draw(*shape).requires_grad_() for _ in range(3))
    one = {key: value[:1] for key, value in plain(time, 0).items()}
    index = torch.tensor([[[[0, 1], [1, 2], [3, 0], [2, 1]]]])
    layouts = {
        "full": [Full()],
        "causal": [Causal()],
        "band-small": [Banded(**one, reach=1)],
        "labelled-small": [Labelled(**one)],
        "selected": [Selected(index, torch.tensor([True, False]).expand_as(index))],
        "joined": [Full(), Causal()],
    }[name]
    # One softmax over two parts must see apart keys: halves of v serve as the second part's.
    assert torch.autograd.gradcheck(
        lambda q, k, v: attention(
            [Part(q, k * (i + 1), v + i, layout) for i, layout in enumerate(layouts)], SCALE, kind
        )[0],
        (q, k, v),
        eps=1e-6,
        atol=1e-7,
    )


def test_merge_is_one_softmax_and_differentiable() -> None:
    q, k, v = draw(2, 2, 5, 4), draw(2, 2, 9, 4), draw(2, 2, 9, 4)
    halves = [
        attention_definition([Part(q, k[:, :, at], v[:, :, at], Full())], SCALE) for at in (slice(0, 4), slice(4, 9))
    ]
    out, lse = merge(halves)
    expected, expected_lse = attention_definition([Part(q, k, v, Full())], SCALE)
    assert_close(out, expected, 1e-12)
    assert_close(lse, expected_lse, 1e-12)
    inputs = [tensor.requires_grad_() for half in halves for tensor in half]
    assert torch.autograd.gradcheck(lambda a, la, b, lb: merge([(a, la), (b, lb)]), inputs)


def test_merge_of_parts_that_see_nothing() -> None:
    """Of nothing at all: zero and -inf, without a NaN in the gradient of what does see."""
    minus = torch.full((1, 1, 2), -torch.inf, dtype=torch.float64)
    seen = torch.tensor([[[0.3, -torch.inf]]], dtype=torch.float64)
    value = draw(1, 1, 2, 3).requires_grad_()
    out, lse = merge([(value, seen), (draw(1, 1, 2, 3), minus)])
    assert torch.equal(out[0, 0, 0], value[0, 0, 0])
    assert not out[0, 0, 1].any()
    assert lse[0, 0].tolist() == [pytest.approx(0.3), -torch.inf]
    (gradient,) = torch.autograd.grad(out.sum(), value)
    assert gradient[0, 0].tolist() == [[1.0] * 3, [0.0] * 3]


@pytest.mark.parametrize("kind", BACKENDS)
def test_masks_may_be_numbers_that_are_added(kind: backend.Backend) -> None:
    """A mask of zeros and -infs is the bool one; others move the scores; a query that sees nothing stays blind."""
    q, k, v = draw(2, 3, 5, 4), draw(2, 3, 9, 4), draw(2, 3, 9, 4)
    seen = torch.rand(2, 1, 5, 9) < 0.6
    seen[:, :, 1] = False
    bias = draw(1, 3, 5, 9)
    kernel = backend.choose(q, kind)
    added = torch.where(seen, bias, -torch.inf)
    out, lse = kernel.forward(q, k, v, added, False, SCALE)
    scores = (q @ k.transpose(-1, -2)) * SCALE + added
    expected = scores.softmax(-1).nan_to_num(0.0) @ v
    assert_close(out, expected, 1e-12)
    assert torch.equal(lse.isneginf(), ~seen.any(-1).expand_as(lse))
    finite = lse.masked_fill(lse.isneginf(), 0.0)
    assert_close(finite, scores.logsumexp(-1).masked_fill(lse.isneginf(), 0.0), 1e-12)
    above = torch.randn_like(out)
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    weights = ((leaves[0] @ leaves[1].transpose(-1, -2)) * SCALE + added).masked_fill(~seen, -1e30).softmax(-1)
    right = torch.autograd.grad(((weights * seen) @ leaves[2] * above).sum(), leaves)
    for pair in zip(kernel.backward(above, q, k, v, out, finite, added, False, SCALE), right, strict=True):
        assert_close(*pair, 1e-12)


def test_log_sum_exp_carries_no_gradient() -> None:
    q = draw(1, 1, 3, 2).requires_grad_()
    _, lse = attention([Part(q, q, q, Full())], SCALE)
    assert not lse.requires_grad


@pytest.mark.parametrize("kind", BACKENDS)
def test_scores_far_from_zero(kind: backend.Backend) -> None:
    """Scores of thousands: no overflow, and the largest wins."""
    q, k, v = 60 * draw(1, 1, 40, 8), 60 * draw(1, 1, 40, 8), draw(1, 1, 40, 8)
    parts, tensors = leaves([Part(q, k, v, Causal())])
    out, lse = attention(parts, SCALE, kind)
    expected, expected_lse = attention_definition(parts, SCALE)
    assert_close(out.detach(), expected.detach(), 1e-9)
    assert_close(lse, expected_lse.detach(), 1e-12)
    above = torch.randn_like(out)
    found, right = (torch.autograd.grad((y * above).sum(), tensors) for y in (out, expected))
    assert_close(found[2], right[2], 1e-9)
    for ours, theirs in zip(found[:2], right[:2], strict=True):  # next to nothing, as the softmax is nearly a choice
        assert (ours - theirs).abs().max() <= 1e-9 * 60 * 60


# The two traps of the CPU kernel


def test_the_fused_kernel_says_zero_for_a_query_that_sees_nothing() -> None:
    """Why the log-sum-exp of such rows is set: were this to change, the setting could go."""
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    x = draw(1, 1, 2, 4)
    mask = torch.tensor([[0.0, 0.0], [-torch.inf, -torch.inf]], dtype=torch.float64)[None, None]
    _, lse = kernel(x, x, x, 0.0, False, attn_mask=mask, scale=1.0)
    assert lse[0, 0, 1] == 0
    _, ours = backend.choose(x, "fused").forward(x, x, x, mask == 0, False, 1.0)
    assert ours[0, 0].isneginf().tolist() == [False, True]


@pytest.mark.parametrize("layout", [Full(), Causal()], ids=["full", "causal"])
def test_a_part_without_keys_never_reaches_the_kernel(layout: layouts.Layout) -> None:
    """The fused kernel would end the process by a division by zero."""
    q, none = draw(1, 1, 3, 4), draw(1, 1, 0, 4)
    with pytest.raises(AssertionError, match="a part without keys"):
        attention([Part(q, none, none, layout)], SCALE)


@pytest.mark.parametrize("kind", BACKENDS)
def test_queries_that_see_nothing_have_no_part_in_any_gradient(kind: backend.Backend) -> None:
    labels = plain(5, 0, batch=1)
    labels["query_document"] = torch.tensor([[0, -2, 0, -2, 0]])
    blind = [1, 3]
    for layout in (Banded(**labels, reach=2), Labelled(**labels)):
        q, k, v = (draw(1, 1, 5, 4).requires_grad_() for _ in range(3))
        out, lse = attention([Part(q, k, v, layout)], SCALE, kind)
        assert lse[0, 0].isneginf().tolist() == [False, True, False, True, False]
        whole = torch.autograd.grad(out.sum(), (q, k, v), retain_graph=True)
        assert all(gradient.any() for gradient in whole)
        assert not whole[0][0, 0, blind].any()
        assert not any(gradient.any() for gradient in torch.autograd.grad(1e6 * out[:, :, blind].sum(), (q, k, v)))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "placed"])
def test_layouts_of_some_heads(name: str) -> None:
    parts = parts_of(name, 66, heads=4, shared=4, width=4, dtype=torch.float64)
    heads = torch.tensor([3, 1])
    some = [
        Part(*(x.index_select(1, heads) for x in (part.queries, part.keys, part.values)), part.layout.select(heads))
        for part in parts
    ]
    assert_close(attention(some, SCALE)[0], attention(parts, SCALE)[0].index_select(1, heads), 1e-12)


def test_layouts_that_a_state_makes_without_a_gradient_for_keys() -> None:
    """Keys of a memory take no gradient; queries and the near field still do."""
    parts = parts_of("joined", 20, heads=2, shared=2, width=4, dtype=torch.float64)
    q, near = parts[0].queries.requires_grad_(), parts[1].keys.requires_grad_()
    out, _ = attention(
        [Part(q, parts[0].keys, parts[0].values, Full()), Part(q, near, parts[1].values, Causal())], SCALE
    )
    on_q, on_near = torch.autograd.grad(out.sum(), (q, near))
    assert on_q.any()
    assert on_near.any()
    assert not parts[0].keys.requires_grad
