"""A run learns, bit for bit, what a loop of twenty lines around the same model learns."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from training_cases import needle, rows, run, same, settings, streams, weights, write_text

from farfield.data import open_source
from farfield.data.tensors import to_tensors
from farfield.model import LanguageModel, ModelConfig, ModelState
from farfield.training.optimizer import build_optimizer
from farfield.training.schedule import share


def settled(state: ModelState) -> ModelState:
    """The state without history and in plain memory: strides and slack change the last bit on some processors."""
    plain = state.detach().compact()
    return plain.restored({name: tensor.contiguous() for name, tensor in plain.tensors().items()})


def plain_loop(words: list[str]) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The losses and the weights of the same training without any of our loop."""
    wanted = settings(Path("none"), words)
    training = wanted.training
    source = open_source(wanted.data, wanted.seed, training.batch)
    torch.manual_seed(wanted.seed)
    config = ModelConfig(architecture=wanted.architecture, memory=wanted.memory, vocabulary=source.tokenizer.vocabulary)
    model = LanguageModel(config)
    optimizer = build_optimizer(model, training.optimizer)
    losses, state = [], None
    for step in range(training.steps):
        for group in optimizer.param_groups:
            group["lr"] = training.optimizer.learning_rate * share(training.schedule, step, training.steps)
        summed = 0.0
        for number in range(step * training.accumulate, (step + 1) * training.accumulate):
            batch = to_tensors(source.batch(number))
            loss = model.loss(batch.tokens, batch.targets, state, positions=batch.positions)
            (loss.total / training.accumulate).backward()
            summed += float(loss.nll.detach())
            state = settled(loss.state) if training.carry else None
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.optimizer.clip or math.inf)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(summed / training.accumulate)
    return losses, model.state_dict()


@pytest.mark.parametrize("case", ["needle", "accumulated", "carried", "unclipped"])
def test_it_learns_what_a_plain_loop_learns(tmp_path: Path, case: str) -> None:
    words = {
        "needle": needle("training.steps=6"),
        "accumulated": needle("training.steps=3", "training.accumulate=3", "training.schedule.kind=wsd"),
        "carried": streams(write_text(tmp_path / "text"), "training.steps=8", "training.accumulate=2"),
        "unclipped": needle("training.steps=4", "training.optimizer.clip=null"),
    }[case]
    losses, expected = plain_loop(words)
    run(tmp_path, words)
    assert [row["loss"] for row in rows(tmp_path / "run")] == losses
    assert same(weights(tmp_path / "run"), expected)
