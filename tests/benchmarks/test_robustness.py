"""The table of robustness: ours are right in all of it, and a model that is wrong is told so."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from farfield.architectures import mixer_kinds
from farfield.benchmarks.robustness import CHECKS, RIGHT, Farfield, compare, markdown


@pytest.mark.parametrize("kind", mixer_kinds())
def test_ours_are_right(kind: str) -> None:
    torch.manual_seed(0)
    found = compare(Farfield(kind))
    assert set(found) == set(CHECKS)
    assert all(isinstance(value, float) and value <= RIGHT for value in found.values()), found


class Forgetful(Farfield):
    """Takes padding for tokens, forgets its state between two calls, and does not know where documents begin."""

    def run(self, calls: Sequence[Tensor], masks: Sequence[Tensor] | None = None) -> Tensor:
        return torch.cat([self.model(tokens)[0] for tokens in calls], 1)

    def packed(self, documents: Sequence[Tensor]) -> Tensor:
        return self.run([torch.cat(list(documents))[None]])


def test_a_model_that_is_wrong_is_told_so() -> None:
    torch.manual_seed(0)
    found = compare(Forgetful("attention"))
    assert all(isinstance(value, float) and value > 10 * RIGHT for value in found.values()), found


def test_a_hybrid_is_right() -> None:
    torch.manual_seed(0)
    found = compare(Farfield("mamba", "attention", feedforward="moe"))
    assert all(isinstance(value, float) and value <= RIGHT for value in found.values()), found


def test_the_table_tells_our_worst_and_all_of_theirs() -> None:
    def row(library: str, model: str, *values: float | str) -> dict[str, object]:
        return {"library": library, "model": model, **dict(zip(CHECKS, values, strict=True))}

    rows = [
        row("Farfield", "a", 1e-6, 2e-6, 0.0, 1e-6, 1e-6),
        row("Farfield", "b", 3e-6, 1e-6, 0.0, 1e-6, 1e-6),
        row("theirs", "c", 1e-6, 0.25, "RuntimeError", 1e-6, 2.0),
    ]
    assert markdown(rows).splitlines()[2:] == [
        "| Farfield, the worst of all 2 | 3e-06 | 2e-06 | 0e+00 | 1e-06 | 1e-06 |",
        "| theirs, c | 1e-06 | **wrong, 0.25** | **RuntimeError** | 1e-06 | **wrong, 2** |",
    ]


def test_an_error_is_an_answer() -> None:
    model = Farfield("attention")
    model.model.decoder = torch.nn.Identity()  # type: ignore[assignment]
    assert set(compare(model).values()) <= {"TypeError", "AttributeError"}
