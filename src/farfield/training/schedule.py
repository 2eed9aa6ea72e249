"""The learning rate as a pure function of the step, so that a run resumed or prolonged needs no state for it.

    rate        ____                       cosine: down half a cosine        wsd: stays, then falls in a straight line
               /    `.                      __________
              /       `._                  /          \\
             /           `---             /            \\
    step    0  warmup     steps          0  warmup  decay
"""

from __future__ import annotations

import math

from farfield.training.options import CosineConfig, WsdConfig

__all__ = ["share"]


def share(config: CosineConfig | WsdConfig, step: int, steps: int) -> float:
    """The learning rate of step `step` (from 0) of `steps`, as a share of its peak; past the end, that of the end.

    The peak is reached in the last step of the warm-up, the floor in the last step of all.
    """
    warmup = int(config.warmup * steps)
    if step < warmup:
        return (step + 1) / warmup
    if isinstance(config, CosineConfig):
        passed = _passed(step, warmup, steps)
        return config.floor + (1 - config.floor) * (1 + math.cos(math.pi * passed)) / 2
    begin = min(steps - max(1, round(config.decay * steps)), steps - 1)
    return 1 - (1 - config.floor) * _passed(step, max(begin, warmup), steps)


def _passed(step: int, begin: int, end: int) -> float:
    """How much of [begin, end) is over after `step`, 0 to 1."""
    return min(1.0, max(0.0, (step + 1 - begin) / max(1, end - begin)))
