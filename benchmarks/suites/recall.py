"""The suite `recall`.

farfield evaluate suite=recall 'suite.tasks=[mqar]' 'suite.lengths=[64,128]' 'suite.pairs=[4,8,16,32]'
"""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic

from farfield.benchmarks.suites.suite import AskedSuite, Control, Count, Lengths, chosen
from farfield.benchmarks.tasks.recall.mqar import Filler, Held, Mqar
from farfield.benchmarks.tasks.sample import Task, Tokenizer

__all__ = ["RecallSuite"]

KNOWN = ("mqar",)


class RecallSuite(AskedSuite):
    """Synthetic recall: what architectures are compared by before they learn a language."""

    model_config = pydantic.ConfigDict(serialize_by_alias=True)

    kind: Literal["recall"] = "recall"
    named: tuple[str, ...] = pydantic.Field((), alias="tasks")
    lengths: Lengths = (64, 128, 256, 512, 1024)
    controls: tuple[Control, ...] = ("memory_off",)
    # mqar: a task for each number of pairs; slot i is asked as often as i^(power - 1)
    pairs: tuple[Count, ...] = (4, 8, 16, 32, 64, 128, 256)
    power: Annotated[float, pydantic.Field(gt=0, le=1)] = 0.01
    filler: Filler = "zero"
    disjoint: Held = "pairs"

    def tasks(self, tokenizer: Tokenizer) -> tuple[Task, ...]:
        names = chosen("recall", self.named, KNOWN)
        ids = tokenizer.vocabulary - 1
        return tuple(
            Mqar(ids, pairs, self.power, self.filler, self.disjoint) for pairs in self.pairs if "mqar" in names
        )
