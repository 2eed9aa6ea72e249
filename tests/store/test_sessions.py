"""Sessions: the answers of a model without a store, with less to prefill; of every kind of backbone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from farfield.api import build
from farfield.config import ModelError
from farfield.generation import GenerationConfig, TextModel, generate
from farfield.sessions import SessionsConfig, fingerprint, open_sessions
from farfield.truncation import truncated

KINDS = [
    ("attention", None),
    ("longformer", None),
    ("retnet", None),
    ("mamba", None),
    ("jamba", None),
    ("reformer", None),
    ("sparse", None),
    ("cla", None),
    ("yoco", None),
    ("lckv", None),
    ("attention", "knn"),
    ("longformer", "knn"),
]
GREEDY = GenerationConfig(tokens=5)
DOCUMENT = "The count of the isle kept his ledger in a drawer. " * 3


def model_of(architecture: str, memory: str | None = None, seed: int = 0) -> TextModel:
    """In float64: where a prefill is cut is rounding, and rounding decides nothing there."""
    patterned = architecture in ("jamba", "cla", "yoco", "lckv")
    sizes = ["width=64"] if patterned else ["width=32", "depth=2"]
    return build(architecture, sizes, memory=memory, seed=seed).double()


def answered(model: TextModel, ids: list[int]) -> list[int]:
    (answer,) = generate(model.model, model.tokenizer, [ids], GREEDY)
    return answer.ids


@pytest.mark.parametrize(("architecture", "memory"), KINDS)
def test_a_returning_session_answers_as_without_a_store(architecture: str, memory: str | None, tmp_path: Path) -> None:
    model = model_of(architecture, memory)
    read: list[int] = []
    for turn, text in enumerate(["It was a dark night, and all the lamps were out. " * 2, "Who came? ", "Why?"]):
        with open_sessions(tmp_path, model) as sessions:  # each from the disk
            reply = sessions.say("alice", text, GREEDY)
        said = model.tokenizer.encode(text)
        assert (reply.reused, reply.prefilled) == (len(read), len(said))
        assert reply.tier == ("disk" if turn else None)
        read += said
        assert list(reply.ids) == answered(model, read)
        read += reply.ids


@pytest.mark.parametrize(
    ("architecture", "memory", "tier"),
    [(*kind, "memory") for kind in KINDS] + [(*kind, "disk") for kind in KINDS if kind[0] in ("attention", "retnet")],
)
def test_another_question_on_a_document_prefills_the_question(
    architecture: str, memory: str | None, tier: str, tmp_path: Path
) -> None:
    model = model_of(architecture, memory)
    document = model.tokenizer.encode(DOCUMENT)
    config = SessionsConfig(memory=0 if tier == "disk" else 2**30)
    with open_sessions(tmp_path, model, config) as sessions:
        for turn, question in enumerate(("Who?", "Where was it?", "Who?")):
            reply = sessions.ask(DOCUMENT, question, GREEDY)
            asked = model.tokenizer.encode(question)
            assert reply.reused == (len(document) if turn else 0)
            assert reply.tier == (tier if turn else None)
            assert list(reply.ids) == answered(model, document + asked)


def test_a_state_of_attention_serves_every_beginning(tmp_path: Path) -> None:
    model = build("attention", ["width=32", "depth=2", "layers.attention.mixer.conv=0"]).double()
    ids = model.tokenizer.encode(DOCUMENT)
    with open_sessions(tmp_path, model) as sessions:
        sessions.say("alice", DOCUMENT, GREEDY)
        for count in (70, 100, len(ids)):
            reply = sessions.ask(DOCUMENT[:count], "Who?", GREEDY)
            assert reply.reused == count
            assert list(reply.ids) == answered(model, ids[:count] + model.tokenizer.encode("Who?"))


def test_the_same_prompt_again_prefills_nothing(tmp_path: Path) -> None:
    model = model_of("retnet")
    with open_sessions(tmp_path, model) as sessions:
        first, second = (sessions.ask(DOCUMENT, "", GREEDY) for _ in range(2))
    assert (first.prefilled, second.prefilled) == (len(DOCUMENT), 0)
    assert first.ids == second.ids


def test_a_session_without_its_state_is_read_anew(tmp_path: Path) -> None:
    model = model_of("mamba")
    replies = []
    for folder, config in ((tmp_path / "kept", None), (tmp_path / "lost", SessionsConfig(memory=0, disk=0))):
        with open_sessions(folder, model, config) as sessions:
            replies.append([sessions.say("alice", text, GREEDY) for text in ("Who came in?", " And when?")])
    (_, kept), (_, lost) = replies
    assert kept.ids == lost.ids
    assert (kept.prefilled, lost.prefilled) == (10, 27)


def test_layers_that_turn_out_damaged_are_prefilled_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = model_of("attention")
    with open_sessions(tmp_path, model) as sessions:
        sessions.ask(DOCUMENT, "Who?", GREEDY)
    (file,) = (tmp_path / "states").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])  # in the last layer: the others have computed
    with open_sessions(tmp_path, model) as sessions:
        reply = sessions.ask(DOCUMENT, "Who?", GREEDY)
    assert (reply.reused, reply.tier) == (0, None)
    assert list(reply.ids) == answered(model, model.tokenizer.encode(DOCUMENT + "Who?"))
    (record,) = caplog.records
    assert record.getMessage() == f"{file}: damaged: its checksum does not fit; prefill anew."


def test_the_first_layers_compute_before_the_last_have_arrived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("attention")
    with open_sessions(tmp_path, model) as sessions:
        sessions.ask(DOCUMENT, "Who?", GREEDY)
    order: list[str] = []
    for number, layer in enumerate(model.model.decoder.layers):
        layer.register_forward_pre_hook(lambda *_, number=number: order.append(f"layer {number}"))
    with open_sessions(tmp_path, model) as sessions:
        find = sessions.store.find

        def watched(seed: str, tokens: list[int]) -> object:
            found = find(seed, tokens)
            assert found is not None
            part = found.part
            object.__setattr__(found, "part", lambda index: order.append(f"part {index}") or part(index))
            return found

        monkeypatch.setattr(sessions.store, "find", watched)
        sessions.ask(DOCUMENT, "Where?", GenerationConfig(tokens=1))
    depth = len(model.model.decoder.layers)
    one_by_one = [one for layer in range(depth) for one in (f"part {1 + layer}", f"layer {layer}")]
    assert order[: 1 + 2 * depth] == ["part 0", *one_by_one]


def test_what_another_model_left_is_one_line(tmp_path: Path) -> None:
    first, second = model_of("attention"), model_of("attention", seed=1)
    assert fingerprint(first.model) != fingerprint(second.model)
    with open_sessions(tmp_path, first) as sessions:
        sessions.say("alice", DOCUMENT, GREEDY)
    with open_sessions(tmp_path, second) as sessions:
        named = f"{fingerprint(first.model)[:8]}, this one is {fingerprint(second.model)[:8]}"
        with pytest.raises(ModelError) as error:
            sessions.say("alice", "Who?", GREEDY)
        assert str(error.value) == (
            f"session 'alice': held with another model ({named}). Load that one, or name another session."
        )
        assert sessions.ask(DOCUMENT, "Who?", GREEDY).reused == 0


def test_mistakes_are_one_line_each() -> None:
    model = model_of("retnet")
    with open_sessions(None, model) as sessions:
        with pytest.raises(ModelError, match=r"^prompt: empty\. A model needs at least one token to go on from\.$"):
            sessions.say("alice", "")
        with pytest.raises(ModelError, match=r"^session: an empty name\. Name it, as in say\('alice', \.\.\.\)\.$"):
            sessions.say("", "Who?")
        sessions.say("alice", "Who?", GREEDY)
        with pytest.raises(ModelError, match=r"^session 'alice': it did not begin with this document\. Go on without"):
            sessions.say("alice", "Who?", GREEDY, document=DOCUMENT)
    with pytest.raises(ModelError, match=r"^layer 0 \(retnet\): its state does not hold single tokens, so that the"):
        open_sessions(None, model, SessionsConfig(window=64))


def test_a_session_with_a_document_is_told_of_it_once_or_always(tmp_path: Path) -> None:
    model = model_of("retnet")
    with open_sessions(tmp_path, model) as sessions:
        first = sessions.say("alice", "Who?", GREEDY, document=DOCUMENT)
        other = sessions.say("bob", "Where?", GREEDY, document=DOCUMENT)
        again = sessions.say("alice", "Why?", GREEDY, document=DOCUMENT)
    assert first.prefilled == len(DOCUMENT) + 4
    assert (other.reused, other.prefilled) == (len(DOCUMENT), 6)
    assert (again.reused, again.prefilled) == (len(DOCUMENT) + 4 + len(first.ids), 4)


def test_a_session_that_leaves_its_window_goes_on_with_its_newer_half(tmp_path: Path) -> None:
    model = model_of("attention")
    read: list[int] = []
    for turn, text in enumerate([DOCUMENT[:80], "and so on, and so on. ", "Who?"]):
        with open_sessions(tmp_path, model, SessionsConfig(window=100)) as sessions:
            reply = sessions.say("alice", text, GREEDY)
        said = model.tokenizer.encode(text)
        if turn == 1:  # 85 read, 22 said, 5 to come: the older ones go
            tokens = torch.tensor([read])
            _, state = model(tokens)
            cut = truncated(model.model, state, 50)
            logits, _ = model(torch.tensor([said]), cut)
            assert reply.ids[0] == int(logits[0, -1].argmax())
            read = read[-50:]
        assert reply.reused == len(read)
        read += [*said, *reply.ids]


def test_readers_beside_a_writer_take_what_is_there(tmp_path: Path) -> None:
    model = model_of("retnet")
    with open_sessions(tmp_path, model) as sessions:
        sessions.say("alice", "Who?", GREEDY)
        sessions.store.flush()
        with open_sessions(tmp_path, model, writing=False) as other:
            reply = other.say("alice", "Why?", GREEDY)
            more = other.say("alice", "When?", GREEDY)
        assert (reply.reused, more.reused) == (9, 18)
        assert sessions.say("alice", "Why?", GREEDY).ids == reply.ids
