"""kNN-LM from texts to answers: what a datastore holds, what is mixed, in training and token by token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import farfield
from farfield.config import ConfigError, ModelError, read
from farfield.datastores import Window, Windows, rows_of
from farfield.generation import TextModel
from farfield.knn import KnnLM, Mixing, keyed
from farfield.memory.knn_lm import log_mixture
from farfield.model import LanguageModel, ModelConfig, fingerprint
from farfield.retrofit import retrofit
from farfield.tokenizers import BytesTokenizer

TEXTS = {
    "gates.txt": "The Velamo gate opens with the code 4719. The Jepafo gate opens with the code 2205. " * 3,
    "ferry.txt": "The ferry leaves at 07:40 and comes back at 18:10, but not on Sundays.\n",
    "one.txt": "x",
}


@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=5),
    window=st.integers(1, 12),
    share=st.floats(0, 0.99),
    first=st.integers(0, 4),
)
def test_windows_predict_every_token_once_and_in_order(sizes: list[int], window: int, share: float, first: int) -> None:
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    first = min(first, len(sizes))
    windows = list(Windows(window, min(int(share * window), window - 1)).cut(offsets, first))
    predicted = [place for one in windows for place in range(one.begin + one.seen, one.begin + one.length)]
    expected = [p for d in range(first, len(sizes)) for p in range(int(offsets[d]), int(offsets[d + 1]) - 1)]
    assert predicted == expected
    for one in windows:
        assert one.seen < one.length <= window
        assert offsets[one.document] <= one.begin
        assert one.begin + one.length < offsets[one.document + 1]
        assert one.last == (one.begin + one.length == offsets[one.document + 1] - 1)
    ended = [one.document for one in windows if one.last]
    assert ended == [d for d in range(first, len(sizes)) if sizes[d] > 1]


def test_windows_as_they_are_drawn() -> None:
    windows = list(Windows(4, 2).cut(np.array([0, 8], np.int64)))
    assert windows == [Window(0, 0, 4, 0, False), Window(0, 2, 4, 2, False), Window(0, 4, 3, 2, True)]
    ids, positions, targets = rows_of(np.arange(100, 108), windows[1:])
    assert ids.tolist() == [[102, 103, 104, 105], [104, 105, 106, 0]] or ids[1, :3].tolist() == [104, 105, 106]
    assert positions.tolist() == [[0, 1, 2, 3], [0, 1, 2, -1]]
    assert targets.tolist() == [[103, 104, 105, 106], [105, 106, 107, -100]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("datastores")
    (folder / "texts").mkdir()
    for name, text in TEXTS.items():
        (folder / "texts" / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def model() -> TextModel:
    return farfield.build("retnet", ["width=32", "depth=2"])


def settings(place: Path, name: str = "store", **more: object) -> dict[str, object]:
    given = {"datastore": str(place / name), "texts": str(place / "texts"), "cache": str(place / "cache")}
    return {**given, "window": 32, "weight": 0.5, "k": 8, **more}


@pytest.fixture(scope="module")
def knn(model: TextModel, place: Path) -> KnnLM:
    return model.open_datastore(settings(place))


def test_the_datastore_holds_each_context_and_what_came_next(model: TextModel, knn: KnnLM) -> None:
    store, end = knn.store, model.tokenizer.end
    texts = [TEXTS[name] for name in sorted(TEXTS)]
    assert store.facts.documents == 3
    documents = [[*model.tokenizer.encode(text), end] for text in texts]
    assert len(store) == sum(len(ids) - 1 for ids in documents)
    for number, ids in enumerate(documents):
        own = slice(int(store.bounds[number]), int(store.bounds[number + 1]))
        assert store.values[own].tolist() == ids[1:]
    ids = documents[1]
    for entry, begin, stop in ((40, 16, 41), (31, 0, 32), (55, 32, 56)):  # windows of 32, each half of them seen
        _, keys, _ = keyed(model.model, "feedforward", torch.tensor([ids[begin:stop]]))
        expected = torch.nn.functional.normalize(keys[0, -1], dim=0).detach().numpy()
        found = store.keys[int(store.bounds[1]) + entry].astype(np.float32)
        assert np.abs(found - expected).max() < 1e-3, entry


def test_it_is_opened_again_and_not_built_again(model: TextModel, knn: KnnLM, place: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in (place / "store").iterdir()}
    again = model.open_datastore(settings(place))
    assert {file: file.stat().st_mtime_ns for file in (place / "store").iterdir()} == before
    assert np.array_equal(again.store.keys, knn.store.keys)
    assert again.store.facts.maker == f"{fingerprint(model.model)} feedforward"


def test_what_was_read_before_is_recited(model: TextModel, knn: KnnLM) -> None:
    """A context that stands in the texts finds itself at distance 0: at a low temperature what came next is sure."""
    context = TEXTS["ferry.txt"][:24]
    sharp = KnnLM(model.model, knn.store, knn.config.model_copy(update={"temperature": 1e-4, "weight": 1.0}))
    assert model.generate(context, tokens=8, datastore=sharp) == TEXTS["ferry.txt"][24:32]


def test_weight_zero_is_the_model(model: TextModel, knn: KnnLM) -> None:
    nothing = KnnLM(model.model, knn.store, knn.config.model_copy(update={"weight": 0.0}))
    assert model.generate("The ferry", tokens=16, datastore=nothing) == model.generate("The ferry", tokens=16)


@pytest.mark.parametrize("least", [None, 1])
def test_generation_is_the_mixture_of_whole_contexts(
    model: TextModel, knn: KnnLM, place: Path, least: int | None
) -> None:
    """Each token is the likeliest of the mixture that the whole text so far gives; rows do not depend on each other."""
    prompts = ["The Velamo gate", "The ferry leaves", "x"]
    used = model.open_datastore(settings(place, least=least, temperature=0.02, weight=0.9))
    together = model.generate(prompts, tokens=12, datastore=used)
    assert together == [model.generate(one, tokens=12, datastore=used) for one in prompts]
    saved = []
    for prompt, answer in zip(prompts, together, strict=True):
        ids = model.tokenizer.encode(prompt)
        mixing = Mixing(used, 1)
        written = []
        for _ in range(12):
            hidden, keys, _ = used.keyed(torch.tensor([ids]))
            logits = mixing.logits(torch.cat((hidden[:, -1], keys[:, -1]), -1))
            if least is None:
                found = used.search(keys[:, -1])
                assert torch.equal(logits, log_mixture(model.model.head(hidden[:, -1]), found, 0.02, 0.9))
            token = int(logits.argmax())
            mixing.came([token])
            ids.append(token)
            written.append(token)
            if token == model.tokenizer.end:
                break
        assert model.tokenizer.decode(written) == answer
        saved.append(mixing.steps.saved if mixing.steps else 0.0)
    assert (max(saved) > 0) == (least == 1)


def learned(model: TextModel) -> LanguageModel:
    config = read(ModelConfig, {**model.config.mapping(), "augmentation": {"kind": "output", "weight": "learned"}})
    return retrofit(model.model, None, fresh=True, augmentation=config.augmentation)


def test_a_learned_weight_alone_is_trained(model: TextModel, knn: KnnLM) -> None:
    own = learned(model)
    assert sum(one.numel() for one in own.parameters()) == own.config.parameters()
    assert fingerprint(own) == fingerprint(model.model)
    used = KnnLM(own, knn.store, knn.config.model_copy(update={"weight": "learned"}))
    ids = torch.tensor([model.tokenizer.encode(TEXTS["ferry.txt"])])
    tokens, targets = ids[:, :-1], ids[:, 1:].clone()
    targets[:, :5] = -100
    loss = used.loss(tokens, targets, piece=7)
    hidden, keys, _ = used.keyed(tokens)
    found = used.search(keys[0])
    logits = own.head(hidden[0])
    whole = used.log_probs(logits, keys[0], found).gather(1, ids[0, 1:, None])[:, 0]
    assert torch.allclose(loss.nll, -whole[5:].mean(), atol=1e-5)
    assert loss.tokens == targets.shape[1] - 5
    loss.total.backward()
    trained = {name for name, one in own.named_parameters() if one.grad is not None}
    assert trained == {name for name, _ in own.named_parameters() if name.startswith("mixing.")}
    assert all(bool(one.grad.isfinite().all()) for one in own.mixing.parameters())  # type: ignore[union-attr]


def test_mistakes_are_one_line(model: TextModel, place: Path) -> None:
    with pytest.raises(ConfigError, match=r"^augmentation.datastore: there is none at '.*'. Name texts"):
        model.open_datastore(settings(place, "nowhere", texts=None))
    with pytest.raises(ModelError, match=r"^augmentation.weight: learned given, but the model has learnt none"):
        model.open_datastore(settings(place, weight="learned"))
    with pytest.raises(ModelError, match=r"^datastore: none is named"):
        model.open_datastore()
    with pytest.raises(ConfigError, match=r"^augmentation.*weight: .*share from 0 to 1"):
        model.open_datastore(settings(place, weight=1.5))
    other = TextModel(farfield.build("retnet", ["width=32", "depth=2"], seed=1).model, BytesTokenizer())
    with pytest.raises(ConfigError, match=r"^augmentation.datastore: '.*' is of another model"):
        other.open_datastore(settings(place))


@pytest.mark.parametrize("name", ["attention", "mamba", "longformer", "jamba", "lckv", "yoco", "gated_deltanet"])
def test_keys_of_any_backbone_do_not_depend_on_pieces(name: str) -> None:
    depth = {"jamba": 8}.get(name, 4)
    model = farfield.build(name, ["width=64", f"depth={depth}"]).model.double()
    tokens = torch.randint(0, 256, (2, 37), generator=torch.Generator().manual_seed(0))
    hidden, whole, _ = keyed(model, "feedforward", tokens)
    if name != "lckv":  # condensed layers answer pieces otherwise than the whole, as published
        _, first, state = keyed(model, "feedforward", tokens[:, :20])
        _, second, _ = keyed(model, "feedforward", tokens[:, 20:], state)
        assert torch.allclose(torch.cat((first, second), 1), whole, atol=1e-9)
    assert whole.shape == hidden.shape
    _, output, _ = keyed(model, "output", tokens)
    assert torch.equal(output, hidden)
    has = model.stack.layers[-1].feedforward_norm is not None  # type: ignore[union-attr]
    assert torch.equal(whole, hidden) != has
