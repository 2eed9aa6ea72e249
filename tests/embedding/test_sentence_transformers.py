"""Models of sentence-transformers: a small real one, a tiny drawn cross-encoder, and folders that are refused."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from farfield.api import open_index
from farfield.config import IndexingError
from farfield.embedding.sentences import CrossEncoder, SentenceStates
from farfield.retrieval import (
    EmbedderConfig,
    IngestResult,
    RerankConfig,
    RetrievalConfig,
    SentenceTransformersConfig,
)
from farfield.retrieval.rerank import Late

Fill = Callable[[EmbedderConfig | None], IngestResult]


@pytest.fixture(scope="session")
def states(minilm: Path) -> SentenceStates:
    return SentenceStates(SentenceTransformersConfig(model=str(minilm)))


def test_meaning_without_a_common_word_is_found(minilm: Path, fill: Fill, tmp_path: Path) -> None:
    fill(SentenceTransformersConfig(model=str(minilm)))
    with open_index("test", tmp_path, RetrievalConfig(search="dense")) as index:
        assert Path(index.search("Which ship leaves for the isle?")[0].path).name == "ferry.txt"
        assert Path(index.search("big cats resting")[0].path).name == "lions.txt"
    late = RetrievalConfig(rerank=RerankConfig(kind="late"), search="dense")
    with open_index("test", tmp_path, late) as index:
        assert Path(index.search("Which ship leaves for the isle?")[0].path).name == "ferry.txt"


def test_states_are_of_tokens_and_do_not_depend_on_the_batch(states: SentenceStates) -> None:
    texts = ["lions sleep", "Leave is signed by the head of the unit."]
    together, alone = states.states(texts), [states.states([text])[0] for text in texts]
    assert [one.shape[1] for one in together] == [384, 384]
    assert len(together[0]) < len(together[1])
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    scores = Late(states.states).scores(texts[0], texts)
    assert scores[0] == pytest.approx(len(alone[0]), abs=1e-3)
    assert scores[0] > scores[1]


def test_the_version_follows_the_files(states: SentenceStates, minilm: Path) -> None:
    assert SentenceStates(SentenceTransformersConfig(model=str(minilm))).version == states.version
    assert (states.dimension, states.name) == (384, "sentence-transformers model")


@pytest.fixture(scope="session")
def crossing(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cross-encoder of one small layer with drawn weights, and the real model's tokenizer."""
    transformers = importlib.import_module("transformers")
    torch = importlib.import_module("torch")
    folder = tmp_path_factory.mktemp("crossing")
    config = transformers.BertConfig(
        vocab_size=30522, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=1
    )
    torch.manual_seed(0)
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(minilm, local_files_only=True).save_pretrained(folder)
    return folder


def test_a_model_of_embeddings_is_no_cross_encoder(minilm: Path) -> None:
    """The library would put a head with drawn weights on it."""
    with pytest.raises(IndexingError, match=r"^retrieval.rerank.model: '.*' is no cross-encoder: its config.json"):
        CrossEncoder(str(minilm))


def test_a_cross_encoder_orders_the_first_passages(crossing: Path, fill: Fill, tmp_path: Path) -> None:
    fill(None)
    question = "the leave, the coffee machine, lions and the boat"
    reader = CrossEncoder(str(crossing))
    settings = RetrievalConfig(rerank=RerankConfig(kind="cross_encoder", model=str(crossing)))
    with open_index("test", tmp_path, settings) as index:
        hits = index.search(question)
    texts = [f"{hit.heading or hit.title}\n{hit.text}" for hit in hits]
    expected = [float(reader.scores(question, [text])[0]) for text in texts]
    assert len(hits) == 4
    np.testing.assert_allclose([hit.score for hit in hits], expected, atol=1e-5)
    assert expected == sorted(expected, reverse=True)


def test_nothing_is_fetched_unless_told(tmp_path: Path) -> None:
    with pytest.raises(IndexingError) as error:
        SentenceStates(SentenceTransformersConfig(model="all-MiniLM-L6-v2"))
    assert str(error.value) == (
        "embedder.model: there is no folder 'all-MiniLM-L6-v2', and nothing is fetched unless told to. Give a folder of"
        " sentence-transformers, or add embedder.online=true."
    )


def test_weights_that_would_be_unpickled_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(IndexingError, match=r"^embedder\.model: '.*pytorch_model\.bin' would have to be unpickled"):
        SentenceStates(SentenceTransformersConfig(model=str(tmp_path)))


@pytest.mark.parametrize("content", [{}, {"modules.json": "[]x"}, {"config.json": "{}"}])
def test_a_folder_without_a_model_is_one_line(content: dict[str, str], tmp_path: Path, minilm: Path) -> None:
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(IndexingError, match=r"^embedder\.model: '.*' cannot be loaded as sentence-transformers \("):
        SentenceStates(SentenceTransformersConfig(model=str(tmp_path)))
