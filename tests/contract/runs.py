"""Running a mixer in calls, and every document of a layout alone; what is compared is values and gradients together.

A layout is the positions of all calls, one tensor (B, T) a call: 0 starts a document, -1 is padding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from contract.subjects import Subject
from farfield.architectures import Mixer, Rows, State

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}


@dataclass(frozen=True)
class Outcome:
    """The output (B, T, D), and the gradients of x (B, T, D) and of each parameter, or none."""

    y: Tensor
    gradients: dict[str, Tensor]


Run = Callable[[Mixer, Tensor, Tensor], Outcome]
"""A way to run a mixer on x (B, T, D), with the gradient (B, T, D) of its output."""


def error(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest expected value; none where both are but the rounding of zero.

    Inputs are of unit size. A gradient that is zero, as that of the softmax over one key, comes out as zero on some
    processors, and as a few units of rounding on others.
    """
    assert found.shape == expected.shape, f"{tuple(found.shape)} is not {tuple(expected.shape)}"
    assert expected.isfinite().all()
    if not found.isfinite().all():
        return float("inf")
    if rounded_zero(found) and rounded_zero(expected):
        return 0.0
    difference = (found.double() - expected.double()).abs()
    return float(difference.max() / expected.double().abs().max().clamp(min=1e-30)) if difference.numel() else 0.0


def rounded_zero(values: Tensor) -> bool:
    """Whether all are within 16 units of rounding of zero."""
    return not values.numel() or float(values.abs().max()) <= 16 * torch.finfo(values.dtype).eps


def assert_close(found: Tensor, expected: Tensor, tolerance: float, what: str = "values") -> None:
    off = error(found, expected)
    assert off <= tolerance, f"{what}: off by {off:.2e} of the largest value, {tolerance:.0e} is allowed"


def _moved(subject: Subject, x: Tensor, cotangent: Tensor, expected: Run, truth: Outcome) -> dict[str, float]:
    """How far the expected run in float64 moves where its input is moved by up to half a unit of rounding of x's dtype.

    The farthest of four draws: of a function that is well conditioned, no farther than that half unit.
    """
    errors = []
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        half = (torch.rand(x.shape, generator=generator) - 0.5) * torch.finfo(x.dtype).eps
        moved = expected(subject.build(), x.double() * (1 + half.double()), cotangent.double())
        errors.append(_errors(moved, truth))
    return {name: max(one[name] for one in errors) for name in errors[0]}


def compare(subject: Subject, x: Tensor, cotangent: Tensor, found: Run, expected: Run) -> Outcome:
    """Both runs of the subject's mixer agree in values and gradients, in the dtype of x; returns what was found.

    Float32 may be farther apart where the mixer itself is badly conditioned, as a norm is of nearly nothing: there what
    is found is at most twice as far from the expected run in float64 as the expected run in float32 is; five times,
    where a gradient is a handful of numbers, such as one a head: the error of so few is chance, in either run. Or it is
    as far as sixteen roundings of its input move the expected run in float64: no order of operations does better.
    """
    mixer = subject.build(x.dtype)
    ours, theirs = found(mixer, x, cotangent), expected(mixer, x, cotangent)
    tolerance = TOLERANCE[x.dtype]
    off = _errors(ours, theirs)
    if x.dtype != torch.float64 and max(off.values()) > tolerance:
        truth = expected(subject.build(), x.double(), cotangent.double())
        far, off = _errors(theirs, truth), _errors(ours, truth)
        few = {name for name, gradient in ours.gradients.items() if gradient.numel() < 16}
        off = {name: 0.0 if off[name] <= (5 if name in few else 2) * far[name] else off[name] for name in off}
        if max(off.values()) > tolerance:
            moved = _moved(subject, x, cotangent, expected, truth)
            off = {name: 0.0 if off[name] <= 16 * moved[name] else off[name] for name in off}
    worst = max(off, key=lambda name: off[name])
    assert off[worst] <= tolerance, f"{worst}: off by {off[worst]:.2e} of the largest, {tolerance:.0e} is allowed"
    return ours


def _errors(found: Outcome, expected: Outcome) -> dict[str, float]:
    """By 'output' and the names of the gradients: how far apart."""
    assert found.gradients.keys() == expected.gradients.keys()
    pairs = {name: (gradient, expected.gradients[name]) for name, gradient in found.gradients.items()}
    return {name: error(*pair) for name, pair in (pairs | {"output": (found.y, expected.y)}).items()}


def sample(batch: int, time: int, width: int, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor]:
    """An input and the gradient of an output, (B, T, D) each; the same numbers in every dtype."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, batch, time, width, generator=generator, dtype=torch.float64).to(dtype).unbind(0))  # type: ignore[return-value]


def whole(batch: int, time: int) -> list[Tensor]:
    """One call with one document a row."""
    return [torch.arange(time).expand(batch, time)]


def cut(positions: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """The same tokens in calls of `sizes` tokens, the last of which repeats until the end."""
    calls, at = [], 0
    sizes = list(sizes)
    while at < positions.shape[1]:
        size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
        calls.append(positions[:, at : at + size])
        at += size
    return calls


def positions_of(*rows: str) -> Tensor:
    """Positions from rows like '5 -3 7': a document of 5 tokens, 3 of padding, a document of 7."""
    found = []
    for row in rows:
        runs = (range(int(n)) if int(n) > 0 else [-1] * -int(n) for n in row.split())
        found.append([position for run in runs for position in run])
    return torch.tensor(found)


def through(mixer: Mixer, x: Tensor, calls: Sequence[Tensor], state: State | None = None) -> tuple[Tensor, State]:
    """The output of all calls (B, T, D) and the state behind them."""
    state = mixer.start(x.shape[0]) if state is None else state
    outputs, at = [], 0
    for positions in calls:
        y, state = mixer(x[:, at : at + positions.shape[1]], Rows.at(positions), state)
        outputs.append(y)
        at += positions.shape[1]
    return torch.cat(outputs, 1), state


def gradients(mixer: Mixer, y: Tensor, x: Tensor, cotangent: Tensor) -> dict[str, Tensor]:
    """Gradients of (y cotangent) by x and by each parameter; zero where there is none."""
    names, parameters = zip(*mixer.named_parameters(), strict=True)
    found = torch.autograd.grad((y * cotangent).sum(), [x, *parameters], allow_unused=True)
    pairs = zip(("x", *names), (x, *parameters), found, strict=True)
    return {name: torch.zeros_like(of) if gradient is None else gradient for name, of, gradient in pairs}


def in_calls(mixer: Mixer, x: Tensor, cotangent: Tensor, calls: Sequence[Tensor], grad: bool = True) -> Outcome:
    """The mixer on all calls, each going on from the state of the one before."""
    if not grad:
        with torch.no_grad():
            return Outcome(through(mixer, x, calls)[0], {})
    x = x.clone().requires_grad_()
    y, _ = through(mixer, x, calls)
    return Outcome(y.detach(), gradients(mixer, y, x, cotangent))


def documents(positions: Tensor) -> list[tuple[int, Tensor]]:
    """Row and columns of every document of a layout (B, T)."""
    found = []
    for row, places in enumerate(positions):
        number = (places == 0).cumsum(0)
        found += [(row, ((number == n) & (places >= 0)).nonzero()[:, 0]) for n in number[places >= 0].unique()]
    return found


def alone(mixer: Mixer, x: Tensor, cotangent: Tensor, positions: Tensor, grad: bool = True) -> Outcome:
    """What each document of the layout (B, T) answers in a batch of its own, in one call; zero at padding."""
    y = torch.zeros_like(cotangent)
    total: dict[str, Tensor] = {"x": torch.zeros_like(x)} if grad else {}
    if grad:
        total |= {name: torch.zeros_like(parameter) for name, parameter in mixer.named_parameters()}
    for row, columns in documents(positions):
        found = in_calls(
            mixer, x[row : row + 1, columns], cotangent[row : row + 1, columns], whole(1, len(columns)), grad
        )
        y[row, columns] = found.y[0]
        for name, gradient in found.gradients.items():
            if name == "x":
                total["x"][row, columns] = gradient[0]
            else:
                total[name] += gradient
    return Outcome(y, total)
