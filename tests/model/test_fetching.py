"""Neighbours while text is read and written: the same as a whole forward with the same passages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from neighbouring import NEIGHBOURS

from farfield.compose import option
from farfield.config import ConfigError, IndexingError, ModelError, read
from farfield.fetching import Fetching, fetching_for
from farfield.generation import GenerationConfig, TextModel, generate, prefill
from farfield.memory import Passages
from farfield.model import LanguageModel, ModelConfig
from farfield.retrieval.neighbours import Database, NeighbourSettings, Texts, Wanted, build
from farfield.retrieval.settings import HashedConfig
from farfield.settings import QuerySettings
from farfield.tokenizers import BytesTokenizer, fingerprint

PROMPTS = ["a", "The ferry leaves the harbour when the clock strikes seven", "In winter the stone garden", "river"]
TEXTS = [
    f"the {a} of the {b} in winter, and seven {a}s" for a in ("ferry", "clock", "stone") for b in ("river", "lamp")
]
SETTINGS = {**NEIGHBOURS, "chunk": 6, "continuation": 5, "layers": [0, 1]}


def model_of(**changes: Any) -> TextModel:
    architecture = option("architecture", "retnet", ["width=32", "depth=2"])
    augmentation = {**SETTINGS, **changes}
    torch.manual_seed(1)
    model = LanguageModel(
        read(ModelConfig, {"architecture": architecture, "vocabulary": 257, "augmentation": augmentation})
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return TextModel(model, BytesTokenizer(), {"config": {"augmentation": {"database": "nowhere"}}}).double().eval()


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Database:
    tokenizer = BytesTokenizer()
    ids = [[*tokenizer.encode(text), tokenizer.end] for text in TEXTS]
    ends = np.cumsum([len(one) for one in ids])
    tokens = np.concatenate(ids).astype(np.uint16)
    texts = Texts(tokens, ends - [len(one) for one in ids], ends, np.arange(len(ids), dtype=np.uint64))
    cut = NeighbourSettings(chunk=6, embedder=HashedConfig(dimension=256))
    folder = tmp_path_factory.mktemp("neighbours") / "database"
    return build(folder, texts, tokenizer.decode, cut, fingerprint(tokenizer), "made up")


def passages_of(database: Database, ids: list[int]) -> Passages:
    """Of a whole text: each chunk of it looked for by itself."""
    chunks = [ids[n : n + 6] for n in range(0, len(ids) - 5, 6)]
    nothing = np.array([], np.int64)
    found = [database.search([Wanted(np.array(one), nothing, None)], 2)[0] for one in chunks]
    return Passages(torch.from_numpy(database.passages(np.array(found, np.int64).reshape(1, -1, 2), 11)))


@torch.no_grad()
def again(model: TextModel, database: Database, prompt: list[int], count: int) -> list[int]:
    """Greedy ids by running the whole text anew for each."""
    ids = list(prompt)
    for _ in range(count):
        logits, _ = model(torch.tensor([ids]), passages=passages_of(database, ids))
        ids.append(int(logits[0, -1].argmax()))
    return ids[len(prompt) :]


def test_written_text_is_that_of_whole_forwards(database: Database) -> None:
    """Prompts of any length together, of which some end before others; each row reads neighbours of its own."""
    model = model_of()
    answers = generate(model.model, model.tokenizer, PROMPTS, GenerationConfig(tokens=20), neighbours=database)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        assert answer.ids == again(model, database, model.tokenizer.encode(prompt), len(answer.ids))
    assert model.generate(PROMPTS, 20, neighbours=database) == [answer.text for answer in answers]
    assert [a.ids for a in generate(model.model, model.tokenizer, PROMPTS, GenerationConfig(tokens=20))] != [
        a.ids for a in answers
    ]


def test_rows_that_end_leave_the_others_their_neighbours(database: Database) -> None:
    model = model_of()
    whole = model.generate(PROMPTS, 20, neighbours=database)
    stops = [text[3] for text in whole if len(text) > 3]
    for stop in stops[:2]:
        cut = model.generate(PROMPTS, 20, neighbours=database, stop=[stop])
        assert cut == [text.split(stop)[0] for text in whole]


@pytest.mark.parametrize("piece", [1, 5, 6, 13])
def test_prefill_in_pieces_is_one_call(database: Database, piece: int) -> None:
    model = model_of()
    prompts = [model.tokenizer.encode(prompt) for prompt in PROMPTS]
    whole, state = prefill(model.model, prompts, fetching=fetching_for(model.model, database, 4))
    for row, ids in enumerate(prompts):
        expected, _ = model(torch.tensor([ids]), passages=passages_of(database, ids))
        torch.testing.assert_close(whole[row], expected[0, -1], rtol=0, atol=1e-10)
    found, other = prefill(model.model, prompts, piece=piece, fetching=fetching_for(model.model, database, 4))
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-10)
    assert torch.equal(state.position, other.position)


def test_rows_go_on_in_another_order(database: Database) -> None:
    settings = read(ModelConfig, model_of().config.mapping()).augmentation
    assert settings is not None
    ids = torch.arange(97, 97 + 16).expand(3, -1) + torch.tensor([[0], [3], [7]])
    whole = Fetching(database, settings, 3).read(ids, torch.ones_like(ids).bool()).tokens
    fetching = Fetching(database, settings, 3)
    real = torch.arange(9) < torch.tensor([[9], [4], [0]])
    first = fetching.read(ids[:, :9], real).tokens
    assert torch.equal(first[0], whole[0, :1])
    assert (first[1:] == -1).all()
    fetching.select([2, 0])
    rest = [ids[2], ids[0, 9:]]
    tokens = torch.stack([row[:7] for row in rest])
    second = fetching.read(tokens, torch.ones_like(tokens).bool()).tokens
    assert torch.equal(second[0, 0], whole[2, 0])
    assert torch.equal(second[1, 0], whole[0, 1])


def test_mistakes_are_one_line(database: Database, tmp_path: Path) -> None:
    model, other = model_of(), model_of(chunk=8)
    with pytest.raises(ModelError) as mistake:
        other.generate("a", neighbours=database)
    assert str(mistake.value) == (
        "neighbours: found for chunks of 6 tokens, and the model's are of 8. Open the database by "
        "model.open_neighbours."
    )
    with pytest.raises(IndexingError) as missing:
        model.open_neighbours()
    assert str(missing.value) == "'nowhere' is no database of neighbours: it has no manifest.json."
    with pytest.raises(IndexingError) as wrong:
        other.open_neighbours(database.folder)
    assert str(wrong.value) == (f"'{database.folder}' has chunks of 6 tokens, and 8 are needed. Name another folder.")
    assert model.open_neighbours(database.folder).fingerprint == database.fingerprint
    bare = TextModel(LanguageModel(model.config.model_copy(update={"augmentation": None})), model.tokenizer)
    for use in (lambda: bare.generate("a", neighbours=database), bare.open_neighbours):
        with pytest.raises(ModelError, match="Train one with augmentation=neighbours"):
            use()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"index": "a"}, "neighbours: 'x' given, but no model that would read it. Add model=runs/<name>."),
        (
            {"model": "m", "sessions": "s", "session": "one"},
            "neighbours: 'x' given, and sessions, which keep none. Give one of them.",
        ),
    ],
)
def test_a_query_that_does_not_fit_is_one_line(given: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigError) as mistake:
        read(QuerySettings, {"question": "Who?", "neighbours": "x", **given})
    assert str(mistake.value) == text
