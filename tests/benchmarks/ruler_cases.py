"""What the tests of RULER's tasks share."""

from __future__ import annotations

from oracle import Bytes

from farfield.benchmarks.tasks.ruler.niah import NIAH
from farfield.benchmarks.tasks.ruler.task import RulerTask
from farfield.benchmarks.tasks.ruler.words import FIRST
from farfield.benchmarks.tasks.sample import Sample, Split, TooShortError
from farfield.benchmarks.tasks.wording import noise_sentences
from farfield.tokenizers.bpe import BpeTokenizer, train_bpe

BYTES = Bytes()


LINE = "The road is long. The hill is steep. The wind is cold. We go on. We come home again."


def read(sample: Sample) -> str:
    return BYTES.decode(sample.prompt.tolist())


def made(task: RulerTask, length: int, n: int = 1, split: Split = "test", seed: int = 0) -> list[Sample]:
    """Samples, or none where the length is too short for one of them."""
    try:
        task.check(seed, length, n, split)
    except TooShortError:
        return []
    return task.generate(seed, length, n, split)


def own_bpe() -> BpeTokenizer:
    """A BPE that has merges of the tasks' texts."""
    return train_bpe([*noise_sentences(300), *NIAH.values(), " ".join(FIRST), "0 1 2 3 " * 9], 900)
