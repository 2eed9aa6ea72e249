"""Pieces: a part of ours is theirs in another form, there and back."""

from __future__ import annotations

import pytest
import torch

from farfield.huggingface.weights import WAYS, Form, Piece, fused, placed, theirs


@pytest.mark.parametrize("form", WAYS)
def test_forms_come_back(form: Form) -> None:
    ours = torch.randn(6, 4)
    pieces = [Piece("x", "a", (slice(0, 2),), form), Piece("x", "b", (slice(2, 6),), form)]
    written = theirs(pieces, {"x": ours})
    back = torch.zeros(6, 4)
    placed(pieces, {"x": back}, written)
    assert torch.equal(back, ours)


def test_forms_are_what_they_say() -> None:
    x = torch.arange(6.0).view(2, 3)
    written = {form: Piece("x", "y", form=form).write(x) for form in WAYS}
    assert torch.equal(written["transposed"], torch.tensor([[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]))
    assert torch.equal(written["taps"], torch.tensor([[[2.0, 1.0, 0.0]], [[5.0, 4.0, 3.0]]]))
    assert torch.equal(written["negated"], -x)


def test_fused_tensors_are_cut_one_behind_the_other() -> None:
    x = torch.arange(10.0).view(5, 2)
    found = theirs(fused("x", [("a", 2), ("b", 3)]), {"x": x})
    assert torch.equal(torch.cat([found["a"], found["b"]]), x)
    found = theirs(fused("x", [("a", 1), ("b", 1)], dim=1), {"x": x})
    assert torch.equal(found["b"], x[:, 1:])
    assert found["a"].data_ptr() == x.data_ptr()
