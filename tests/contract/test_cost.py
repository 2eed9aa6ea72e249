"""What is said to be linear is: twice the length makes and moves at most a little more than twice the numbers.

Counted, not timed: the bytes of all tensors that the operations of a forward and a backward pass give, and the largest
of them. Both are the same on every machine.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from contract.runs import in_calls, sample, whole
from contract.subjects import SUBJECTS, Subject
from farfield.architectures import Rows, build_mixer
from farfield.architectures.ops import attention as op
from farfield.architectures.ops.backend import choose
from farfield.architectures.ops.layouts import DENSE
from farfield.memory import KeyValueMemoryConfig, StackMemory

SHORT = 2048


def _stands_for_length(subject: Subject) -> bool:
    """Whether two lengths tell how the work grows.

    A memory that reads very many keys looks at all there are, up to DENSE for each: linear from there on. Segments with
    a memory in front cost the same each, whatever is in them: one of them stands for all.
    """
    memory = subject.memory
    if isinstance(memory, StackMemory):
        return subject.name == "retnet+rmt"
    return not isinstance(memory, KeyValueMemoryConfig) or DENSE * memory.count * memory.unit < SHORT


LINEAR = [subject for subject in SUBJECTS if "linear" in subject.settings.computed and _stands_for_length(subject)]


class Made(TorchDispatchMode):
    """The bytes that operations give: the sum, and the most of one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.sum = self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                self.sum += tensor.numel() * tensor.element_size()
                self.largest = max(self.largest, tensor.untyped_storage().nbytes())
        return out


def made(subject: Subject, length: int) -> Made:
    """By a forward and a backward pass over one document."""
    mixer = subject.build(torch.float32)
    x, cotangent = sample(1, length, subject.width, torch.float32)
    with Made() as counted:
        in_calls(mixer, x, cotangent, whole(1, length))
    return counted


class Pairs:
    """A kernel that counts the pairs of a query and a key that it is handed."""

    name, whole = "pairs", False

    def __init__(self) -> None:
        self.count = 0

    def forward(self, q: Tensor, k: Tensor, *rest: Any) -> Any:
        self.count += q.shape[0] * q.shape[2] * k.shape[2]
        return choose(q, "blocked").forward(q, k, *rest)


@pytest.mark.parametrize("settings", [{"kind": "attention"}, {"kind": "sparse", "pattern": "strided", "stride": 32}])
def test_packed_documents_look_at_nothing_before_them(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixteen in a row are at most a quarter of the pairs of a whole row without a pattern, in whatever rows."""
    pairs, mixer = Pairs(), build_mixer(settings, 64)
    monkeypatch.setattr(op, "choose", lambda q, backend: pairs)
    positions = torch.cat([torch.arange(128)] * 16)[None]
    with torch.no_grad():
        mixer(torch.randn(1, SHORT, 64), Rows.at(positions), mixer.start(1))
    assert 0 < pairs.count <= SHORT * SHORT / 4


def test_some_kinds_claim_it() -> None:
    assert {"longformer", "retnet"} <= {subject.settings.kind for subject in LINEAR}


@pytest.mark.parametrize("subject", LINEAR, ids=lambda subject: subject.name)
def test_twice_the_length_is_twice_the_work(subject: Subject) -> None:
    """Two lengths so long that a window, a bank or a chunk is short beside them."""
    once, twice = made(subject, SHORT), made(subject, 2 * SHORT)
    assert twice.sum <= 2.2 * once.sum
    assert twice.largest <= 2.2 * once.largest
