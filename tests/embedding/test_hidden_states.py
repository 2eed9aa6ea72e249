"""Hidden states as vectors: their definition, their batches, their versions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from farfield.api import load, open_index
from farfield.config import ConfigError, IndexingError
from farfield.embedding.hidden import HiddenStates
from farfield.model import LanguageModel
from farfield.retrieval import EmbedderConfig, HiddenConfig, IngestResult, RerankConfig, RetrievalConfig
from farfield.retrieval.embedders import unit
from farfield.retrieval.rerank import maxsim

Run = Callable[..., Path]
Fill = Callable[[EmbedderConfig | None], IngestResult]

LONG = ["Who signs the leave?", "", "x", "Lions sleep for twenty hours a day. " * 7, "Ärger"]


@torch.no_grad()
def middle(model: LanguageModel, ids: list[int], layer: int) -> np.ndarray:
    """The output of a layer for one document: the layers under it, and nothing else."""
    layers = list(model.decoder.layers)
    outputs = []
    hook = layers[layer - 1].register_forward_hook(lambda module, given, found: outputs.append(found[0]))
    model.hidden(torch.tensor([ids]))
    hook.remove()
    return outputs[0][0].double().numpy()


@pytest.mark.parametrize("layer", [None, 1, 3])
@pytest.mark.parametrize("architecture", ["attention", "retnet"])
def test_a_vector_is_the_mean_over_a_texts_parts(architecture: str, layer: int | None, run: Run) -> None:
    folder = run(0, architecture=architecture)
    states = HiddenStates(HiddenConfig(model=str(folder), layer=layer, tokens=63, batch=130))
    read = load(folder)
    expected = np.zeros((len(LONG), 32))
    for row, text in zip(expected, LONG, strict=True):
        ids = read.tokenizer.encode(text)
        parts = [middle(read.model, ids[first : first + 63], layer or 2) for first in range(0, len(ids), 63)]
        if parts:
            row[:] = np.concatenate(parts).mean(axis=0)
    np.testing.assert_allclose(states.vectors(LONG), expected, atol=1e-5)
    alone = np.concatenate([states.vectors([text]) for text in LONG])
    np.testing.assert_allclose(states.vectors(LONG), alone, atol=1e-5)


def test_a_text_without_tokens_has_no_states(run: Run) -> None:
    states = HiddenStates(HiddenConfig(model=str(run(0))))
    assert [one.shape for one in states.states(["leave", "lions", ""])] == [(5, 32), (5, 32), (0, 32)]
    assert not states.vectors([""]).any()


def test_an_index_of_hidden_states_is_searched(run: Run, fill: Fill, tmp_path: Path) -> None:
    folder = run(0)
    assert fill(HiddenConfig(model=str(folder))).added == 4
    late = RerankConfig(kind="late", depth=4)
    with open_index("test", tmp_path, RetrievalConfig(search="dense")) as index:
        found = index.search("Lions sleep for twenty hours a day.")
        assert Path(found[0].path).name == "lions.txt"
        assert index.embedder.centred
    with open_index("test", tmp_path, RetrievalConfig(rerank=late)) as index:
        hits = index.search("When does the ferry leave?")
    states = HiddenStates(HiddenConfig(model=str(folder))).states
    found = states(["When does the ferry leave?", *(f"{hit.heading or hit.title}\n{hit.text}" for hit in hits)])
    mean = np.concatenate(found).mean(axis=0)
    asked, *passages = (unit(one.astype(np.float64) - mean) for one in found)
    np.testing.assert_allclose([hit.score for hit in hits], maxsim(asked, passages), rtol=1e-4)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_further_training_is_noticed_and_embedded_anew(run: Run, fill: Fill, tmp_path: Path) -> None:
    fill(HiddenConfig(model=str(run(0))))
    folder = run(1)
    with open_index("test", tmp_path) as index:
        assert "4 of 4 passages were embedded by other weights" in index.notices[-1]
        assert all(hit.dense is None for hit in index.search("lions and leave"))
    result = fill(None)
    assert (result.renewed, result.unchanged) == (4, 4)
    with open_index("test", tmp_path, RetrievalConfig(search="dense")) as index:
        assert index.notices == ()
        assert index.embedder.version == HiddenStates(HiddenConfig(model=str(folder))).version
        assert Path(index.search("Lions sleep for twenty hours a day.")[0].path).name == "lions.txt"


def test_a_run_that_was_moved_is_found_again(run: Run, fill: Fill, tmp_path: Path) -> None:
    folder = run(0)
    fill(HiddenConfig(model=str(folder)))
    moved = folder.rename(tmp_path / "reader")
    result = fill(HiddenConfig(model=str(moved)))
    assert (result.renewed, result.unchanged) == (0, 4)
    with open_index("test", tmp_path) as index:
        assert index.search("lions")[0].dense == 1


def test_mistakes_are_one_line(run: Run, fill: Fill, tmp_path: Path) -> None:
    folder = run(0)
    with pytest.raises(IndexingError, match=r"^embedder\.layer: 4 given, but '.*reader' has 3 layers\.$"):
        fill(HiddenConfig(model=str(folder), layer=4))
    fill(None)
    settings = RetrievalConfig(rerank=RerankConfig(kind="late"))
    with pytest.raises(ConfigError, match=r"^retrieval\.rerank\.model: none given, and the index's embedder has no"):
        open_index("test", tmp_path, settings)
