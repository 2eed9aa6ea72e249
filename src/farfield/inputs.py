"""What models are given, looked at before it is read: tokens, positions, targets.

Shapes: B batch, T time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from farfield.architectures import Rows
from farfield.architectures.ops.cross_entropy import IGNORED
from farfield.config import ModelError

__all__ = ["check_positions", "check_targets", "check_tokens"]


def check_tokens(tokens: Tensor, positions: Tensor | None, vocabulary: int) -> None:
    """Raise ModelError where tokens are not (B, T) ids below `vocabulary`, or positions not of their shape."""
    for name, given in (("tokens", tokens), ("positions", positions)):
        if given is not None and given.dtype != torch.int64:
            raise ModelError(f"{name}: {given.dtype} given, int64 is needed.")
    if tokens.ndim != 2 or not tokens.numel():
        raise ModelError(f"tokens: shape {tuple(tokens.shape)} given, (batch, time) with at least one is needed.")
    if positions is not None and positions.shape != tokens.shape:
        raise ModelError(f"positions: shape {tuple(positions.shape)} given for tokens of {tuple(tokens.shape)}.")
    if positions is not None and int(positions.min()) < -1:
        raise ModelError(f"positions: {int(positions.min())} given; -1 is padding, and nothing is below it.")
    seen = tokens if positions is None else tokens[positions >= 0]
    if seen.numel() and not 0 <= int(seen.min()) <= int(seen.max()) < vocabulary:
        raise ModelError(f"tokens: ids from 0 to {vocabulary - 1} are known, others were given.")


def check_targets(tokens: Tensor, targets: Tensor, vocabulary: int) -> None:
    """Raise ModelError where targets (B, T) do not fit the tokens, or are no ids."""
    if targets.shape != tokens.shape:
        raise ModelError(f"targets: shape {tuple(targets.shape)} given for tokens of {tuple(tokens.shape)}.")
    scored = targets[targets != IGNORED]
    if scored.numel() and not 0 <= int(scored.min()) <= int(scored.max()) < vocabulary:
        raise ModelError(f"targets: ids from 0 to {vocabulary - 1}, or {IGNORED} where not scored.")


def check_positions(rows: Rows, before: Tensor) -> None:
    """Raise ModelError where a row neither starts a document, nor goes on with the state's, nor with its own.

    Args:
        rows: padding, if any, at the ends of rows. before: the position (B,) that comes next after the state.
    """
    first, real = rows.positions[:, 0], rows.real
    good = (first == 0) | (first == before) | ~real[:, 0]
    steps = rows.positions[:, 1:]
    follows = (steps == 0) | (steps == rows.positions[:, :-1] + 1) | ~real[:, 1:]
    if not bool(good.all() & follows.all()):
        raise ModelError(
            "positions: within a document they rise by 1. A row starts one at 0 or goes on at the state's position; "
            "-1 is padding."
        )
