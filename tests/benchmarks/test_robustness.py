"""The table of robustness: ours are right in all of it, and a model that is wrong is told so."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from farfield.architectures import mixer_kinds
from farfield.benchmarks.robustness import CHECKS, RIGHT, Farfield, compare


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


def test_an_error_is_an_answer() -> None:
    model = Farfield("attention")
    model.model.decoder = torch.nn.Identity()  # type: ignore[assignment]
    assert set(compare(model).values()) <= {"TypeError", "AttributeError"}
