"""The demo's reader: a small model that copies answers out of passages, and its score on unseen questions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from farfield.benchmarks.tasks.reading import Shape, exact, example
from farfield.generation import GenerationConfig, generate
from farfield.pretrained import load
from farfield.retrieval import ChunkConfig, PromptConfig, RetrievalConfig

__all__ = ["READER", "Reader", "unseen_score"]

ASKED = 200


@dataclass(frozen=True)
class Reader:
    """How the reader is trained and what it is given to read."""

    steps: int
    words: tuple[str, ...]
    chunk: ChunkConfig
    retrieval: RetrievalConfig
    prompt: PromptConfig


STEPS = 1500
READER = Reader(
    steps=STEPS,
    words=(
        "architecture=attention",
        "architecture.width=128",
        "architecture.depth=2",
        "data=reading",
        # Each fact is asked for again in other words: a denser signal, and copying begins 300 steps sooner.
        "data.facts=[1,3]",
        "data.questions=4",
        "data.length=136",
        f"training.steps={STEPS}",
        "training.batch=12",
        "training.optimizer.learning_rate=4e-3",
        "training.optimizer.betas=[0.9,0.99]",
        "training.schedule.floor=0.05",
        "training.checkpoint.every=250",
        "training.validation.every=250",
        "training.threads=1",
    ),
    chunk=ChunkConfig(size=400, overlap=50),
    retrieval=RetrievalConfig(k=1),
    prompt=PromptConfig(),
)


def unseen_score(run: Path) -> dict[str, int]:
    """How many of the test split's questions the reader answers exactly, and how many it was asked.

    Names and values of the test split occur in no training passage; one passage of one or two facts a question.
    """
    model, tokenizer, _ = load(run)
    shape = Shape(facts=(1, 2), fillers=(0, 1), chunks=(1, 1))
    examples = [example(7, index, "test", shape) for index in range(ASKED)]
    settings = GenerationConfig(tokens=24, stop=("\n",))
    right = 0
    for begin in range(0, ASKED, 32):
        part = examples[begin : begin + 32]
        answers = generate(model, tokenizer, [one.prompt for one in part], settings)
        right += sum(exact(one.answer, answer.text) for one, answer in zip(part, answers, strict=True))
    return {"right": right, "asked": ASKED}
