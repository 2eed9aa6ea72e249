"""Training: the loop, what it writes, and its options.

    result = farfield.training.train(settings)      # runs/<name>/, see farfield.pretrained

From settings to a finished folder, top to bottom:

    options                     what can be set
    run                         `train`: everything that can be wrong is looked at before anything heavy begins
    folder, devices             where a run may begin, and from which checkpoint it goes on; what it trains on
    fit                         Lightning's trainer; what it would do beside our own is off
    feed                        what each device reads in each step
    learner                     the loss, the optimiser, what a checkpoint holds
    optimizer, schedule         which weights are decayed; the learning rate of a step
    watch                       after each step: validation, metrics, checkpoints, progress
    metrics, figure             metrics.csv, to append to and to read; its picture
    progress, generators        what a run must remember beside its weights
    saving, interrupt           files written whole or not at all; Ctrl-C between two steps

fit, learner and watch import lightning, and are imported only once a run is sure to start. Importing this package is
light: `train` brings its module when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from farfield.training.run import train

__all__ = ["train"]


def __getattr__(name: str) -> object:
    """`farfield.training.train`, imported at its first use (PEP 562)."""
    if name in __all__:
        return getattr(import_module("farfield.training.run"), name)
    raise AttributeError(f"module 'farfield.training' has no attribute '{name}'")
