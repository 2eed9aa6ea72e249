"""Small runs: their words on the command line, and what they left."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from farfield.compose import compose
from farfield.config import read
from farfield.settings import TrainSettings
from farfield.training import train
from farfield.training.beginning import completed
from farfield.training.metrics import Row, read_metrics

WAIT = 120.0  # seconds after which a process that says nothing is given up

TINY = [
    "architecture.width=16",
    "architecture.depth=1",
    "training.batch=2",
    "training.log=1",
    "training.threads=1",
    "training.accelerator=cpu",
]
NEEDLE = [
    "architecture=retnet",
    "data=needle",
    "data.vocabulary=32",
    "data.length=16",
    "data.pairs=2",
    "data.validation=1",
]


def needle(*words: str) -> list[str]:
    """A RetNet on recall."""
    return [*NEEDLE, *TINY, "architecture.layers.retnet.mixer.head_width=8", *words]


def streams(text: Path, *words: str) -> list[str]:
    """A Longformer with a memory, whose state is carried along streams of text, longer than window and memory."""
    return [
        "architecture=longformer",
        "memory=knn",
        "data=text",
        *TINY,
        "architecture.layers.longformer.mixer.head_width=8",
        "architecture.layers.longformer.mixer.window=7",
        "architecture.layers.longformer.mixer.globals=2",
        "memory.segment=8",
        "memory.capacity=24",
        "memory.top=4",
        f"data.path={text}",
        f"data.cache={text.parent / 'cache'}",
        "data.length=12",
        "data.order=streams",
        "training.carry=true",
        *words,
    ]


def write_text(folder: Path) -> Path:
    """A folder with documents of 30 to 200 bytes."""
    draw = random.Random(0)
    folder.mkdir()
    for number in range(40):
        words = [draw.choice(["stone", "river", "lamp", "north", "seven"]) for _ in range(draw.randint(6, 40))]
        (folder / f"{number}.txt").write_text(" ".join(words))
    return folder


def settings(root: Path, words: Sequence[str]) -> TrainSettings:
    return read(TrainSettings, completed(compose("train", [*words, f"root={root}", "name=run"])))


def run(root: Path, words: Sequence[str]) -> dict[str, Any]:
    """Trains in this process; the run's folder is <root>/run."""
    return train(settings(root, words))


def start(root: Path, words: Sequence[str]) -> subprocess.Popen[str]:
    """Trains in a process of its own, by the real command, behind all else that the machine does."""
    command = ["nice", "-n", "15", sys.executable, "-m", "farfield", "train", *words, f"root={root}", "name=run"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def signal_at(process: subprocess.Popen[str], folder: Path, step: int, number: signal.Signals) -> tuple[str, str]:
    """Waits until `step` is logged, sends the signal, and returns what the process wrote: standard output and error."""
    end = time.monotonic() + WAIT
    while rows(folder)[-1:] == [] or rows(folder)[-1]["step"] < step:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "no progress"
        time.sleep(0.01)
    process.send_signal(number)
    return process.communicate(timeout=WAIT)


def rows(folder: Path) -> list[Row]:
    return read_metrics(folder / "metrics.csv")


def numbers(folder: Path) -> list[Row]:
    """The rows of a run without the one column that is of the clock."""
    return [{name: value for name, value in row.items() if name != "tokens_per_second"} for row in rows(folder)]


def weights(folder: Path, name: str = "last.safetensors") -> dict[str, Tensor]:
    return load_file(folder / name)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
