"""How the tasks of recall are judged."""

from __future__ import annotations

from collections.abc import Sequence

from farfield.benchmarks.tasks.sample import Sample

__all__ = ["exact", "share"]


def share(samples: Sequence[Sample], outputs: Sequence[Sequence[int]]) -> list[float]:
    """Of each sample, the share of its answer's ids that are right at their place."""
    return [
        sum(int(given) == int(gold) for given, gold in zip(output, sample.answer, strict=False)) / len(sample.answer)
        for sample, output in zip(samples, outputs, strict=True)
    ]


def exact(samples: Sequence[Sample], outputs: Sequence[Sequence[int]]) -> list[float]:
    """1 for each sample whose output begins with the whole answer, else 0."""
    return [
        float([int(token) for token in output[: len(sample.answer)]] == sample.answer.tolist())
        for sample, output in zip(samples, outputs, strict=True)
    ]
