"""What models are given, looked at before it is read: prompts, tokens, positions, targets.

Shapes: B batch, T time.
"""

from __future__ import annotations

import operator
import reprlib
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from farfield.architectures import Rows
from farfield.architectures.ops.cross_entropy import IGNORED
from farfield.config import ModelError

__all__ = ["check_positions", "check_targets", "check_tokens", "prompt_ids", "stop_texts"]

PROMPTS = "Give a text, or a list whose every entry is a text or a row of ids, as in [[1, 2, 3]]"


def prompt_ids(
    prompt: str | Sequence[str | Sequence[int]], encode: Callable[[str], list[int]], vocabulary: int
) -> list[list[int]]:
    """The ids of a text, or of several prompts: a text's by `encode`, and those that are given as they are.

    Raises:
        ModelError: no such thing, one text in the place of a row of ids, or an id that is not below `vocabulary`.
    """
    if isinstance(prompt, str):
        return [encode(prompt)]
    try:
        rows = list(prompt)
    except TypeError:
        raise ModelError(f"prompt: {reprlib.repr(prompt)} given. {PROMPTS}.") from None
    return [encode(row) if isinstance(row, str) else _row_of_ids(row, vocabulary) for row in rows]


def _row_of_ids(row: Sequence[int] | Tensor, vocabulary: int) -> list[int]:
    """Ids, whatever whole numbers they are given as.

    Raises:
        ModelError: something else, or an id that is not below `vocabulary`.
    """
    try:
        given: list[object] = list(row.tolist() if isinstance(row, Tensor) else row)
    except TypeError:
        raise ModelError(f"prompt: {reprlib.repr(row)} given in the place of a row of ids. {PROMPTS}.") from None
    ids = [_id(one) for one in given]
    wrong = next((one for one in (min(ids), max(ids)) if not 0 <= one < vocabulary), None) if ids else None
    if wrong is not None:
        raise ModelError(f"prompt: id {wrong} given, and the model knows those from 0 to {vocabulary - 1}.")
    return ids


def _id(one: object) -> int:
    """A whole number; a mask is none."""
    try:
        if not isinstance(one, bool):
            return operator.index(one)  # type: ignore[arg-type]  # that is asked here
    except TypeError:
        pass
    raise ModelError(f"prompt: {reprlib.repr(one)} given in the place of an id. {PROMPTS}.") from None


def stop_texts(stop: Iterable[str]) -> list[str]:
    """Texts behind which an answer ends.

    Raises:
        ModelError: one text, which would be as many as it has characters, or something else.
    """
    found = None if isinstance(stop, str) or not isinstance(stop, Iterable) else list(stop)
    if found is None or not all(isinstance(one, str) for one in found):
        raise ModelError(f"stop: {reprlib.repr(stop)} given. Give a list of texts, as in ['\\n'].")
    return found


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
