"""Models that were trained with a token before each text get it wherever a text begins, and get it once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import AddedToken

import farfield
from farfield import cli
from farfield.benchmarks.subjects.model_subject import ModelSubject
from farfield.embedding.hidden import HiddenStates
from farfield.generation import GenerationConfig, TextModel
from farfield.generation import written as finished
from farfield.retrieval.settings import HiddenConfig
from farfield.tokenizers.bpe import BpeTokenizer, train_bpe

TEXT = "Once upon a time, there was a little girl named Lily. "
GENERATION = GenerationConfig(tokens=24, temperature=1.0)  # drawn: any difference shows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    trained = train_bpe([TEXT * 8], 280)
    trained.backend.add_special_tokens([AddedToken("<s>", special=True)])
    begin = trained.backend.token_to_id("<s>")
    tokenizer = BpeTokenizer(trained.backend, trained.end, begin)
    size = ["width=32", "depth=2", "layers.attention.mixer.heads=2", "layers.attention.mixer.conv=0"]
    model = farfield.build("attention", size, tokenizer=tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    opens = TextModel(model.model, tokenizer, {"begin": begin})
    return farfield.save(opens, tmp_path_factory.mktemp("opens") / "folder")


@pytest.fixture
def model(folder: Path) -> TextModel:
    return farfield.load(folder, layers="farfield")


def behind(model: TextModel, ids: list[int]) -> str:
    """The text behind exactly these ids."""
    (answer,) = finished(model.stream([ids], GENERATION))
    return answer.text


def test_a_text_begins_as_the_tokenizer_has_it(folder: Path, model: TextModel) -> None:
    assert model.begin is not None
    ids = model.tokenizer.encode(TEXT)
    assert ids[0] != model.begin
    opened = behind(model, [model.begin, *ids])
    assert opened != behind(model, ids)
    assert model.generate(TEXT, 24, temperature=1.0) == opened
    assert model.generate([[model.begin, *ids]], 24, temperature=1.0) == [opened]
    never = farfield.load(folder, layers="farfield", begin="never")
    assert never.begin is None
    assert never.generate(TEXT, 24, temperature=1.0) == behind(model, ids)
    assert farfield.load(farfield.save(never, folder.with_name("never")), layers="farfield").begin is None
    assert farfield.load(folder.with_name("never"), layers="farfield", begin="always").begin == model.begin


def test_sessions_begin_once(model: TextModel) -> None:
    """A conversation of two turns, and a document with two questions."""
    encode = model.tokenizer.encode
    assert model.begin is not None
    with farfield.open_sessions(None, model) as sessions:
        first = sessions.say("alice", TEXT, GENERATION)
        second = sessions.say("alice", " She", GENERATION)
        assert first.text == behind(model, [model.begin, *encode(TEXT)]) != behind(model, encode(TEXT))
        history = [model.begin, *encode(TEXT), *first.ids]
        assert second.text == behind(model, [*history, *encode(" She")])
        for question in (" She", " Lily"):
            reply = sessions.ask(TEXT, question, GENERATION)
            assert reply.text == behind(model, [model.begin, *encode(TEXT), *encode(question)])
        assert reply.reused == 1 + len(encode(TEXT))
        said = sessions.say("bob", " Lily", GENERATION, document=TEXT)
        assert said.text == reply.text


def test_a_query_begins_once(folder: Path, model: TextModel, capsys: pytest.CaptureFixture[str]) -> None:
    assert model.begin is not None
    prompt = 'prompt.prompt="{passages}{question}"'
    words = ["query", "Once upon", f"model={folder}", prompt, "generation.tokens=24", "generation.stop=[]"]
    assert cli.main([*words, "generation.temperature=1.0", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    ids = model.tokenizer.encode("Once upon")
    assert said["answer"] == behind(model, [model.begin, *ids]).strip() != behind(model, ids).strip()
    assert said["prompt_tokens"] == 1 + len(ids)


def test_suites_read_behind_it(folder: Path) -> None:
    """Prompts and whole texts, whether or not a task brings it; `bare` reads what it is given."""
    model = farfield.load(folder, dtype=torch.float64, layers="farfield")
    subject = ModelSubject(model, "opens")
    ids = np.array([model.tokenizer.encode(TEXT)] * 2)
    explicit = np.concatenate([np.full((2, 1), model.begin), ids], 1)
    known = [one.prefill(given) for one, given in ((subject, ids), (subject, explicit), (subject.bare(), explicit))]
    candidates = np.tile(np.arange(model.config.vocabulary), (2, 1))
    scores = [subject.score(one, candidates) for one in known]
    np.testing.assert_allclose(scores[1], scores[0], atol=1e-9)
    np.testing.assert_allclose(scores[2], scores[0], atol=1e-9)
    assert np.abs(subject.score(subject.bare().prefill(ids), candidates) - scores[0]).max() > 0.1
    targets = np.roll(ids, -1, 1)
    found = subject.read(ids, targets)
    whole = subject.bare().read(explicit, np.concatenate([ids[:, :1], targets], 1))
    np.testing.assert_allclose(found.logprobs, whole.logprobs[:, 1:], atol=1e-9)
    assert subject.describe()["begin"] == model.begin


def test_hidden_states_are_read_behind_it(folder: Path, model: TextModel) -> None:
    """And hold none of its own."""
    ids = model.tokenizer.encode(TEXT)
    (found,) = HiddenStates(HiddenConfig(model=str(folder), layer=2)).states([TEXT])
    assert found.shape == (len(ids), 32)
    outputs = []
    hook = model.model.decoder.layers[1].register_forward_hook(lambda module, given, out: outputs.append(out[0]))
    with torch.no_grad():
        model(torch.tensor([[model.begin, *ids]]))
    hook.remove()
    np.testing.assert_allclose(found, outputs[0][0, 1:].numpy(), atol=1e-9)
