"""Which kernel is chosen: by device, dtype and shape alone. What no machine here can run is called in shape only."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from farfield.architectures.ops import backend as kernels
from farfield.architectures.ops import gated_delta_rule as delta
from farfield.architectures.ops import linear_attention as linear
from farfield.architectures.ops.alibi import Alibi, slopes_of
from farfield.architectures.ops.attention import Part, attention, attention_definition
from farfield.architectures.ops.backend import Backend, FlashKernel, choose, recurrence
from farfield.architectures.ops.layouts import Banded, Causal, Full
from farfield.architectures.rows import Rows

CUDA = torch.device("cuda")


@pytest.fixture
def ampere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_generation", lambda device: 8)


def kernel(device: str, dtype: torch.dtype, width: int, backend: Backend = "auto") -> str:
    """The name of the kernel for queries that exist in shape only, on a device that need not be there."""
    with FakeTensorMode():
        return choose(torch.empty(1, 2, 3, width, dtype=dtype, device=device), backend).name


@pytest.mark.parametrize("backend", ["auto", "fused"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_cpu_has_a_fused_kernel_for_every_dtype(dtype: torch.dtype, backend: Backend) -> None:
    assert kernel("cpu", dtype, 7, backend) == "cpu"


@pytest.mark.usefixtures("ampere")
@pytest.mark.parametrize(
    ("dtype", "width", "name"),
    [
        (torch.bfloat16, 64, "cuda"),
        (torch.float16, 8, "cuda"),
        (torch.bfloat16, 256, "cuda"),
        (torch.bfloat16, 264, "blocked"),
        (torch.bfloat16, 36, "blocked"),
        (torch.float32, 64, "blocked"),
        (torch.float64, 64, "blocked"),
    ],
    ids=str,
)
def test_cuda_has_one_for_half_precision_and_widths_of_eights(dtype: torch.dtype, width: int, name: str) -> None:
    assert kernel("cuda", dtype, width) == name
    assert kernel("cuda", dtype, width, "fused") == name


def test_a_gpu_before_ampere_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for major, name in ((7, "blocked"), (8, "cuda"), (9, "cuda")):
        found = SimpleNamespace(major=major)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, found=found: found)
        assert kernel("cuda", torch.float16, 64) == name


@pytest.mark.parametrize("device", ["cpu", "cuda", "meta"])
def test_blocked_is_always_possible(device: str) -> None:
    assert kernel(device, torch.bfloat16, 64, "blocked") == "blocked"


def test_other_devices_get_the_blocked_form() -> None:
    assert kernel("meta", torch.float32, 64) == "blocked"


@pytest.mark.parametrize("grad", [True, False])
def test_the_choice_does_not_depend_on_training(grad: bool) -> None:
    with torch.set_grad_enabled(grad):
        assert choose(torch.empty(1, 1, 1, 8, requires_grad=grad), "auto").name == "cpu"


def banded(time: int, past: int, device: Any = None, **given: Any) -> Banded:
    """Of one run of `time` queries behind `past` tokens."""
    query, key = torch.arange(past, past + time, device=device)[None], torch.arange(past + time, device=device)[None]
    found = {"reach": 5, "regular": True} | given
    return Banded(query, torch.zeros_like(query), key, torch.zeros_like(key), **found)


class _Recorded:
    """PyTorch's two operators of FlashAttention, by definition and on any device; what they were asked is kept."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bool, int, int]] = []

    def _scores(self, q: Tensor, k: Tensor, causal: bool, left: int, right: int, scale: float) -> Tensor:
        column = torch.arange(k.shape[1])
        behind = torch.arange(k.shape[1] - q.shape[1], k.shape[1])[:, None] - column
        seen = torch.ones_like(behind, dtype=torch.bool) if left < 0 else behind <= left
        seen = seen if right < 0 and not causal else seen & (behind >= -max(right, 0))
        return (torch.einsum("bthd,bshd->bhts", q, k) * scale).masked_fill(~seen, -torch.inf)

    def _flash_attention_forward(self, q: Tensor, k: Tensor, v: Tensor, *rest: Any, **given: Any) -> list[Tensor]:
        first, last, queries, keys, dropout, causal, debug = rest
        assert (first, last, queries, keys, dropout, debug) == (None, None, q.shape[1], k.shape[1], 0.0, False)
        left, right = given["window_size_left"], given["window_size_right"]
        self.asked.append(("forward", causal, left, right))
        scores = self._scores(q, k, causal, left, right, given["scale"])
        lse = scores.logsumexp(-1)
        return [torch.einsum("bhts,bshd->bthd", (scores - lse[..., None]).exp(), v), lse]

    def _flash_attention_backward(
        self, above: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: Any, **given: Any
    ) -> Any:
        out, lse, first, last, _, _, _, causal, _, _ = rest
        assert (first, last) == (None, None)  # of tensors, the kernel takes rows for packed ones
        left, right = given["window_size_left"], given["window_size_right"]
        self.asked.append(("backward", causal, left, right))
        weights = (self._scores(q, k, causal, left, right, given["scale"]) - lse[..., None]).exp()
        inner = torch.einsum("bthd,bthd->bht", above, out)
        on_scores = weights * (torch.einsum("bthd,bshd->bhts", above, v) - inner[..., None]) * given["scale"]
        on_v = torch.einsum("bhts,bthd->bshd", weights, above)
        return torch.einsum("bhts,bshd->bthd", on_scores, k), torch.einsum("bhts,bthd->bshd", on_scores, q), on_v


FLASH: dict[str, tuple[Callable[[], Any], int, tuple[bool, int, int]]] = {
    "full": (Full, 9, (False, -1, -1)),
    "causal": (Causal, 0, (True, -1, -1)),
    "window": (lambda: banded(12, 9), 9, (False, 5, 0)),
    "past": (lambda: banded(12, 9, reach=None), 9, (False, -1, 0)),
    "both sides": (lambda: banded(12, 0, ahead=3), 0, (False, 5, 3)),
}
MASKED: dict[str, Callable[[], Any]] = {
    "dilated": lambda: banded(12, 0, dilation=2),
    "globals": lambda: banded(12, 0, first=2),
    "packed": lambda: banded(12, 0, regular=False),
    "before": lambda: banded(12, 3, ahead=-1),
    "slopes": lambda: banded(12, 0, alibi=Alibi(slopes_of(2), torch.arange(12)[None], torch.arange(12)[None])),
}


@pytest.mark.parametrize("name", FLASH)
def test_whole_calls_and_bands_go_to_flash_attention(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the right windows: output, log-sum-exp and gradients are those of the definition."""
    make, past, asked = FLASH[name]
    recorded = _Recorded()
    monkeypatch.setattr("farfield.architectures.ops.attention.choose", lambda q, backend: FlashKernel())
    monkeypatch.setattr(kernels.torch.ops, "aten", recorded)
    q, k, v = (torch.randn(2, 2, count, 8, dtype=torch.float64) for count in (12, 12 + past, 12 + past))
    found = []
    for compute in (attention, attention_definition):
        given = [x.clone().requires_grad_() for x in (q, k, v)]
        out, lse = compute([Part(*given, make())], 0.3)
        out.square().sum().backward()
        found.append([out, lse, *(x.grad for x in given)])
    assert recorded.asked == [("forward", *asked), ("backward", *asked)]
    for ours, definition in zip(*found, strict=True):
        torch.testing.assert_close(ours, definition, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", MASKED)
def test_other_masks_go_to_the_blocked_form(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farfield.architectures.ops.attention.choose", lambda q, backend: FlashKernel())
    monkeypatch.setattr(kernels.torch.ops, "aten", None)
    layout = MASKED[name]()
    q, k, v = (torch.randn(1, 2, count, 8, dtype=torch.float64) for count in (12, *[layout.key_position.shape[1]] * 2))
    ours, definition = (compute([Part(q, k, v, layout)], 0.3)[0] for compute in (attention, attention_definition))
    torch.testing.assert_close(ours, definition, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("ampere")
@pytest.mark.parametrize("name", FLASH)
def test_flash_attention_takes_what_it_is_given(name: str) -> None:
    """PyTorch's own operators, in shape only: the arguments are theirs."""
    make, past, _ = FLASH[name]
    layout = make()
    with FakeTensorMode(allow_non_fake_inputs=True):
        q, k, v = (torch.empty(2, 2, n, 8, dtype=torch.bfloat16, device="cuda") for n in (12, 12 + past, 12 + past))
        chosen = choose(q, "auto")
        out, lse = layout.forward(chosen, q, k, v, 0.3)
        gradients = layout.backward(chosen, out, q, k, v, out, lse, 0.3)
    assert (out.shape, out.dtype, lse.shape, lse.dtype) == (q.shape, q.dtype, q.shape[:3], torch.float32)
    assert [x.shape for x in gradients] == [q.shape, k.shape, v.shape]


@pytest.mark.usefixtures("ampere")
@pytest.mark.parametrize("installed", [True, False])
def test_recurrences_go_to_fla_where_it_is_installed(installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_installed", lambda module: installed and module == "fla")
    name = "fla" if installed else "chunked"
    assert recurrence(CUDA, torch.bfloat16, 64, 128, True) == name
    assert recurrence(CUDA, torch.float16, 256, 512, True) == name
    assert recurrence(CUDA, torch.bfloat16, 264, 64, True) == "chunked"
    assert recurrence(CUDA, torch.bfloat16, 64, 65, True) == "chunked"
    assert recurrence(CUDA, torch.bfloat16, 64, 64, False) == "chunked"
    assert recurrence(CUDA, torch.float32, 64, 64, True) == "chunked"
    assert recurrence(torch.device("cpu"), torch.bfloat16, 64, 64, True) == "chunked"
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert recurrence(CUDA, torch.bfloat16, 64, 64, True) == "chunked"


def chunk_simple_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    g_gamma: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
) -> tuple[Tensor, Tensor]:
    """What fla's function of this name says that it does, (B, T, H, .), token by token."""
    assert (g is None) != (g_gamma is None)
    assert output_final_state
    assert initial_state is not None
    assert scale is not None
    decay = g.exp() if g is not None else g_gamma.exp().expand(*v.shape[:3])  # type: ignore[union-attr]
    out, state = [], initial_state
    for t in range(v.shape[1]):
        added = torch.einsum("bhk,bhv->bhkv", k[:, t], v[:, t])
        state = decay[:, t, :, None, None] * state + added
        out.append(torch.einsum("bhk,bhkv->bhv", q[:, t] * scale, state))
    return torch.stack(out, 1), state


def chunk_gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
) -> tuple[Tensor, Tensor]:
    """As above."""
    assert output_final_state
    assert initial_state is not None
    assert scale is not None
    out, state = [], initial_state
    for t in range(v.shape[1]):
        state = g[:, t].exp()[..., None, None] * state
        change = beta[:, t, :, None] * (v[:, t] - torch.einsum("bhk,bhkv->bhv", k[:, t], state))
        state = state + torch.einsum("bhk,bhv->bhkv", k[:, t], change)
        out.append(torch.einsum("bhk,bhkv->bhv", q[:, t] * scale, state))
    return torch.stack(out, 1), state


@pytest.fixture
def fla(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library of that name with these functions, which is chosen."""
    for name, inside in {
        "fla": None,
        "fla.ops": None,
        "fla.ops.simple_gla": chunk_simple_gla,
        "fla.ops.gated_delta_rule": chunk_gated_delta_rule,
    }.items():
        module = ModuleType(name)
        if inside is not None:
            setattr(module, inside.__name__, inside)
        monkeypatch.setitem(sys.modules, name, module)
    for place in (linear, delta):
        monkeypatch.setattr(place, "recurrence", lambda *given: "fla" if given[-1] else "chunked")


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))) * 0.5


@pytest.mark.usefixtures("fla")
@pytest.mark.parametrize("decay", ["a head", "a token"])
def test_linear_attention_by_fla_is_the_definition(decay: str) -> None:
    rows = Rows.at(torch.arange(5, 16).expand(2, -1))
    q, k, v, state = drawn(2, 2, 11, 4), drawn(2, 2, 11, 5)[..., :4], drawn(2, 4, 11, 6), drawn(2, 4, 4, 6)
    rates = -(drawn(1, 4, 1) if decay == "a head" else drawn(2, 4, 11)).abs()
    found = linear.linear_attention(q, k, v, rates, rows, state)
    exact = linear.linear_attention_definition(q, k, v, rates, rows, state)
    for ours, theirs in zip(found, exact, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("fla")
def test_the_gated_delta_rule_by_fla_is_the_definition() -> None:
    rows = Rows.at(torch.arange(5, 16).expand(2, -1))
    q, k, v, state = drawn(2, 3, 11, 4), drawn(2, 3, 11, 5)[..., :4], drawn(2, 3, 11, 6), drawn(2, 3, 4, 6)
    rates, beta = -drawn(2, 3, 11).abs(), drawn(2, 3, 11).sigmoid()
    found = delta.gated_delta_rule(q, k, v, rates, beta, rows, state, narrow=torch.float32)
    exact = delta.gated_delta_rule_definition(q, k, v, rates, beta, rows, state)
    for ours, theirs in zip(found, exact, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("made", [chunk_simple_gla, chunk_gated_delta_rule], ids=lambda made: made.__name__)
def test_fla_has_functions_with_these_arguments(made: Callable[..., Any]) -> None:
    """Read, not imported: that would need a GPU."""
    folder = Path(sys.prefix) / "apart" / "fla" / "ops" / made.__name__.removeprefix("chunk_")
    if not folder.is_dir():
        pytest.skip("fla-core is not installed apart: see tests/oracles/apart.txt")
    tree = ast.parse((folder / "chunk.py").read_text())
    theirs = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == made.__name__)
    names = [argument.arg for argument in theirs.args.args]
    ours = list(made.__annotations__)[:-1]
    assert set(ours) <= set(names)
    assert names[:5] == ours[:5]  # those that are given by their place
