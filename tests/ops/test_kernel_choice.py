"""Which kernel is chosen: by device, dtype and shape alone."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from farfield.architectures.ops.backend import Backend, choose


def kernel(device: str, dtype: torch.dtype, width: int, backend: Backend = "auto") -> str:
    """The name of the kernel for queries that exist in shape only, on a device that need not be there."""
    with FakeTensorMode():
        return choose(torch.empty(1, 2, 3, width, dtype=dtype, device=device), backend).name


@pytest.mark.parametrize("backend", ["auto", "fused"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_cpu_has_a_fused_kernel_for_every_dtype(dtype: torch.dtype, backend: Backend) -> None:
    assert kernel("cpu", dtype, 7, backend) == "cpu"


@pytest.mark.parametrize(
    ("dtype", "width", "name"),
    [
        (torch.bfloat16, 64, "cuda"),
        (torch.float16, 8, "cuda"),
        (torch.bfloat16, 36, "blocked"),
        (torch.float32, 64, "blocked"),
        (torch.float64, 64, "blocked"),
    ],
    ids=str,
)
def test_cuda_has_one_for_half_precision_and_widths_of_eights(dtype: torch.dtype, width: int, name: str) -> None:
    assert kernel("cuda", dtype, width) == name
    assert kernel("cuda", dtype, width, "fused") == name


@pytest.mark.parametrize("device", ["cpu", "cuda", "meta"])
def test_blocked_is_always_possible(device: str) -> None:
    assert kernel(device, torch.bfloat16, 64, "blocked") == "blocked"


def test_other_devices_get_the_blocked_form() -> None:
    assert kernel("meta", torch.float32, 64) == "blocked"


@pytest.mark.parametrize("grad", [True, False])
def test_the_choice_does_not_depend_on_training(grad: bool) -> None:
    with torch.set_grad_enabled(grad):
        assert choose(torch.empty(1, 1, 1, 8, requires_grad=grad), "auto").name == "cpu"
