"""What the demo trains and measures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["DOCUMENTS", "INDEX", "LENGTHS", "MODELS", "RECALL", "TRAINED", "Choice"]

DOCUMENTS = Path(__file__).parent / "documents"
INDEX = "handbooks"

TRAINED = 64
LENGTHS = (64, 128, 256, 512, 1024)

# Eight pairs in 64 tokens: without the short convolution of 4, 1,200 steps do not learn it; with it, 400 do.
RECALL = (
    "size=tiny",
    "data=needle",
    "data.vocabulary=256",
    f"data.length={TRAINED}",
    "training.batch=32",
    "training.checkpoint.every=100",
    "training.validation.every=200",
    "training.threads=1",
)


@dataclass(frozen=True)
class Choice:
    """A model of the comparison, and how many steps it is given."""

    name: str
    architecture: str
    words: tuple[str, ...]
    steps: int = 400
    schedule: tuple[str, ...] = ("training.optimizer.learning_rate=3e-3",)


STEADY = ("training.optimizer.learning_rate=4e-3", "training.schedule.kind=wsd")

# Without global tokens, so that what is found beyond the window was found by the memory.
WINDOW = (
    "architecture=longformer",
    "architecture.layers.longformer.mixer.window=32",
    "architecture.layers.longformer.mixer.globals=0",
)
MODELS = (
    Choice("attention", "attention", ("architecture=attention",)),
    Choice("longformer", "longformer", WINDOW),
    # Its loss lies still for the first 700 steps.
    Choice("retnet", "retnet", ("architecture=retnet",), 2000, STEADY),
    Choice(
        "longformer-knn",
        "longformer",
        (*WINDOW, "memory=knn", "memory.segment=16", "memory.top=16", "memory.capacity=4096"),
    ),
)
