"""Products, attention, norms and rotations of a decoded token in C++ against PyTorch's, at odd sizes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear as product

from farfield.architectures import Rows, build_mixer
from farfield.architectures.ops import decoded
from farfield.architectures.ops.attention import Part, attention, attention_definition
from farfield.architectures.ops.backend import native
from farfield.architectures.ops.layouts import Full
from farfield.architectures.ops.rotary import angles, frequencies, rotate_definition
from farfield.architectures.ops.spans import Spans
from farfield.architectures.state import KeyValueBuffer

BUILT = native("decoding", torch.zeros(1)) is not None
needs_compiler = pytest.mark.skipif(not BUILT, reason="no C++ compiler builds the operators here")
DTYPES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}
SPANS = [(0, 0), (4, 5), (0, 40), (7, 31)]  # the keys of each row: none, one, all, some
each_dtype = pytest.mark.parametrize(("dtype", "tolerance"), DTYPES.items(), ids=["float64", "float32", "bfloat16"])


def drawn(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64).to(dtype)


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Off by a few roundings of the answer's size at most."""
    assert (found.double() - expected).abs().max() <= tolerance * (1 + expected.abs().max())


@needs_compiler
@each_dtype
@pytest.mark.parametrize("rows", [1, 4, 7, 8, 11, 17])
@pytest.mark.parametrize(("inputs", "bias"), [(75, True), (256, False)])
def test_few_rows_times_a_matrix(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, tolerance: float, rows: int, inputs: int, bias: bool
) -> None:
    monkeypatch.setattr(decoded, "ROWS", dict.fromkeys(DTYPES, range(1, 33)))
    monkeypatch.setattr(decoded, "SMALL", 0)
    monkeypatch.setattr(decoded.nn.functional, "linear", lambda *_: pytest.fail("PyTorch's product was taken"))
    x, weight = drawn(rows, 1, inputs, dtype=dtype), drawn(101, inputs, dtype=dtype)
    added = drawn(101, dtype=dtype) if bias else None
    with torch.no_grad():
        found = decoded.linear(x, weight, added)
        alone = torch.cat([decoded.linear(row[None], weight, added) for row in x])
    monkeypatch.undo()
    expected = product(x.double(), weight.double(), None if added is None else added.double())
    close(found, expected, tolerance)
    assert torch.equal(found, alone), "a row's answer depends on the rows beside it"


@needs_compiler
@each_dtype
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (9, 1)], ids=["each", "grouped", "one"])
@pytest.mark.parametrize(("keys", "width"), [(1, 64), (37, 20), (300, 80)])
def test_one_query_among_keys_that_heads_share(
    dtype: torch.dtype, tolerance: float, heads: int, kv_heads: int, keys: int, width: int
) -> None:
    q = drawn(2, 1, heads, width, dtype=dtype).transpose(1, 2)
    buffer = drawn(2, 2, kv_heads, keys + 9, width, dtype=dtype)
    k, v = (part[:, :, 5 : 5 + keys] for part in buffer)
    part = Part(q, k, v, Full())
    with torch.no_grad():
        assert decoded.one_query(q, k, v, 0.3) is not None
        out, lse = attention([part], 0.3)
    wide = Part(q.double(), k.double(), v.double(), Full())
    expected, its = attention_definition([wide], 0.3)
    close(out, expected, tolerance)
    close(lse, its, min(tolerance, 1e-5))


@each_dtype
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2)], ids=["each", "grouped"])
@pytest.mark.parametrize("form", [pytest.param("native", marks=needs_compiler), "mask"])
def test_one_query_among_keys_of_its_rows_own_length(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, tolerance: float, heads: int, kv_heads: int, form: str
) -> None:
    if form == "mask":
        monkeypatch.setattr(decoded, "_kernels", lambda *_: None)
    begin, end = torch.tensor(SPANS).T
    q = drawn(4, heads, 1, 20, dtype=dtype)
    k, v = drawn(2, 4, kv_heads, 49, 20, dtype=dtype)[:, :, :, :40]
    with torch.no_grad():
        assert (decoded.one_query(q, k, v, 0.3, (begin, end)) is not None) == (form == "native")
        out, lse = attention([Part(q, k, v, Spans(begin, end))], 0.3)
        for row, (first, last) in enumerate(SPANS):
            its = slice(row, row + 1)
            alone = Part(q[its], k[its, :, first:last], v[its, :, first:last], Full())
            if first == last:
                assert torch.equal(out[its], torch.zeros_like(out[its]))
                assert lse[its].isneginf().all()
            elif form == "native":
                assert torch.equal(out[its], attention([alone], 0.3)[0]), "it depends on the rows beside it"
        wide = Part(q.double(), k.double(), v.double(), Spans(begin, end))
        expected, whole = attention_definition([wide], 0.3)
    close(out, expected, tolerance)
    close(lse[1:], whole[1:], min(tolerance, 1e-5))


@needs_compiler
@each_dtype
def test_a_norm_and_a_rotation_of_one_token(dtype: torch.dtype, tolerance: float) -> None:
    x, gain = drawn(3, 1, 75, dtype=dtype), drawn(75, dtype=dtype)
    heads, phase = drawn(3, 1, 2, 20, dtype=dtype).transpose(1, 2), torch.tensor([[5], [0], [10**6]])
    cos, sin = angles(phase, frequencies(20, "halves"), torch.promote_types(dtype, torch.float32))
    with torch.no_grad():
        normed, turned = decoded.norm(x, gain, 1e-6), decoded.turned(heads, cos, sin)
    assert normed is not None
    assert turned is not None
    close(normed, torch.nn.functional.rms_norm(x.double(), (75,), gain.double(), 1e-6), tolerance)
    close(turned, rotate_definition(heads.double(), phase, "halves"), tolerance)


def test_with_gradients_everything_is_left_to_pytorch() -> None:
    x, weight = drawn(8, 512, dtype=torch.float32), drawn(512, 512, dtype=torch.float32).requires_grad_()
    assert torch.equal(decoded.linear(x, weight), product(x, weight))
    assert decoded.norm(x, weight[0], 1e-6) is None
    heads = drawn(1, 2, 1, 8, dtype=torch.float32)
    assert decoded.one_query(heads, heads, heads, 1.0) is None
    assert decoded.turned(heads, *torch.ones(2, 1, 1, 1, 4)) is None


@torch.no_grad()
def test_what_does_not_fit_is_left_to_pytorch() -> None:
    """Memory is gone through as far as the shapes say, and not farther."""
    x, weight, gain = torch.randn(8, 256), torch.randn(512, 256), torch.randn(512)
    for wrong in (torch.randn(8, 128), torch.randn(8, 512)):
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            decoded.linear(wrong, weight)
    bias = torch.randn(1024)[::2]
    torch.testing.assert_close(decoded.linear(x, weight, bias), product(x, weight, bias))
    torch.testing.assert_close(decoded.linear(torch._neg_view(x), weight), product(-x, weight))
    assert decoded.norm(x, gain, 1e-6) is None
    assert decoded.norm(x, gain[::2], 1e-6) is None
    q, k = torch.randn(2, 4, 1, 16), torch.randn(2, 2, 5, 16)
    for queries, keys in ((q, k[:1]), (q[:, :3], k), (q[..., :8], k), (q, k[:, :, :0])):
        assert decoded.one_query(queries, keys, keys, 1.0) is None
    angles = torch.randn(2, 1, 1, 8)
    for narrow in (angles.double(), angles[..., :4], angles[:1]):
        assert decoded.turned(q, narrow, narrow) is None


@pytest.mark.parametrize("settings", [{}, {"window": 5}], ids=["attention", "window"])
def test_a_decoded_token_is_what_reading_it_gives(settings: dict[str, int]) -> None:
    kind = "longformer" if settings else "attention"
    mixer = build_mixer({"kind": kind, "heads": 4, "kv_heads": 2, **settings}, 32).double()
    x = drawn(2, 23, 32, dtype=torch.float64)
    whole, _ = mixer(x, Rows.fresh_documents(2, 23), mixer.start(2))
    with torch.no_grad():
        state = mixer(x[:, :3], Rows.fresh_documents(2, 3), mixer.start(2))[1]
        for at in range(3, 23):
            before = state
            y, state = mixer(x[:, at : at + 1], Rows.at(torch.full((2, 1), at)), before)
            assert torch.allclose(y[:, 0], whole[:, at], atol=1e-12)
        again, _ = mixer(x[:, 22:], Rows.at(torch.full((2, 1), 22)), before)
    assert torch.allclose(again, y, atol=1e-12), "the state that was handed in has changed"


@pytest.mark.parametrize("form", [pytest.param("native", marks=needs_compiler), "mask"])
@pytest.mark.parametrize("settings", [{}, {"window": 5}], ids=["attention", "window"])
def test_a_decoded_token_of_rows_of_unequal_length(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, int], form: str
) -> None:
    """No cache is gathered for it, but where a ring begins anew."""
    if form == "mask":
        monkeypatch.setattr(decoded, "_kernels", lambda *_: None)
    kind = "longformer" if settings else "attention"
    mixer = build_mixer({"kind": kind, "heads": 4, "kv_heads": 2, **settings}, 32).double()
    x, lengths = drawn(3, 33, 32, dtype=torch.float64), torch.tensor([3, 1, 13])
    positions = torch.where(torch.arange(13) < lengths[:, None], torch.arange(13), -1)
    whole, _ = mixer(x, Rows.fresh_documents(3, 33), mixer.start(3))
    read, gathered = KeyValueBuffer.read, []
    with torch.no_grad():
        state = mixer(x[:, :13].masked_fill(positions[:, :, None] < 0, torch.nan), Rows.at(positions), mixer.start(3))[
            1
        ]
        monkeypatch.setattr(KeyValueBuffer, "read", lambda buffer: gathered.append(1) or read(buffer))
        for at in range(20):
            now = (lengths + at)[:, None]
            y, state = mixer(x.gather(1, now[:, :, None].expand(-1, -1, 32)), Rows.at(now), state)
            expected = whole[torch.arange(3), now[:, 0]]
            assert torch.allclose(y[:, 0], expected, atol=1e-12)
    assert len(gathered) <= (6 if settings else 2)


def test_the_tail_of_a_ring_has_what_it_counts_no_more() -> None:
    keys = drawn(2, 1, 9, 4, dtype=torch.float32)
    buffer = KeyValueBuffer.empty(2, 1, 4, keys, limit=3)
    for at in range(9):
        rows = Rows.at(torch.full((2, 1), at))
        buffer = buffer.append(keys[:, :, at : at + 1], keys[:, :, at : at + 1], rows)
        tail = buffer.tail(4)
        if tail is not None:
            assert torch.equal(tail[0], keys[:, :, at - 3 : at + 1])
    assert tail is not None
    assert buffer.tail(99) is None
