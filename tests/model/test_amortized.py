"""Sets of documents as a bank against a plain loop; banks that grow, are kept, and are refused."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from contract.families.prefixes import crossed
from hypothesis import given, settings
from hypothesis import strategies as st
from models import VOCABULARY, mapping
from torch import Tensor

from farfield.amortized import AmortizedBank, amortize, asked, learning, left, open_bank
from farfield.architectures import Rows
from farfield.config import ModelError, read
from farfield.generation import TextModel, prefill
from farfield.model import LanguageModel, ModelConfig
from farfield.tokenizers import IdsTokenizer

MEMORY: dict[str, Any] = {"kind": "amortized", "segment": 5, "tokens": 2, "limit": 40, "blocks": 2, "heads": 2}
DOCUMENTS = {"a": [1, 2, 3], "b": [4, 5, 6, 7, 8, 9, 10, 11], "c": [12, 13, 14, 15, 16], "d": [17]}


def model_of(seed: int = 0, pattern: tuple[str, ...] = ("attention",), **memory: Any) -> LanguageModel:
    torch.manual_seed(seed)
    values = mapping(list(pattern), 2, memory={**MEMORY, **memory})
    model = LanguageModel(read(ModelConfig, values)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, dtype=torch.float64)
    return model.eval()


class Loop:
    """The memory in plain loops; the layers are called as without one, on the vectors of one segment."""

    def __init__(self, model: LanguageModel) -> None:
        self.model, self.config = model, model.config.memory
        self.blocks = len(model.decoder.memory.blocks)  # type: ignore[union-attr]
        own = dict(model.decoder.named_parameters())
        self.own = {name.removeprefix("memory."): one for name, one in own.items() if name.startswith("memory.")}

    def read(self, ids: list[int], bank: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Output (T, D) of a document's tokens behind a bank, and the bank with its entries, of open segments too."""
        config: Any = self.config
        stack, outputs = self.model.stack.stack, []  # type: ignore[attr-defined]
        for first in range(0, len(ids), config.segment):
            part = self.model.embedding(torch.tensor(ids[first : first + config.segment]))
            x = torch.cat((self.prefix(bank), part))[None]
            y, _, _ = stack(x, Rows.fresh_documents(1, x.shape[1]), stack.start(1))
            outputs.append(y[0, -len(part) :])
            bank = [*bank, crossed(self.own, "encoder.", 2, self.own["written"], outputs[-1])]
            bank = bank[-(config.limit // config.tokens) :]
        return torch.cat(outputs), bank

    def prefix(self, bank: list[Tensor]) -> Tensor:
        config: Any = self.config
        if not bank:
            return self.own["asked"][:0]
        question, most = self.own["asked"] + bank[-1], config.limit // config.tokens
        while config.group and most > config.group:
            ends = reversed(range(len(bank), 0, -config.group))
            bank = [self.aggregate(question, bank[max(0, end - config.group) : end]) for end in ends]
            most = math.ceil(most / config.group)
        return self.aggregate(question, bank)

    def aggregate(self, question: Tensor, bank: list[Tensor]) -> Tensor:
        for block in range(self.blocks):
            question = crossed(self.own, f"blocks.{block}.", 2, question, torch.cat(bank))
        return question

    def answer(self, documents: list[list[int]], question: list[int], row: list[int]) -> Tensor:
        """Output (T, D) of a row: each document alone, all their entries and the question's newest, the row."""
        bank = [entry for ids in documents for entry in self.read(ids, [])[1]]
        return self.read(row, [*bank, self.read(question, [])[1][-1]])[0]


def padded(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    most = max(1, *map(len, rows))
    tokens = torch.tensor([[*row, *[0] * (most - len(row))] for row in rows])
    return tokens, torch.tensor([[*range(len(row)), *[-1] * (most - len(row))] for row in rows])


IDS = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=5)
SET = st.lists(st.one_of(IDS, st.just([])), min_size=1, max_size=4).filter(any)
ROW = st.tuples(IDS, st.lists(st.integers(0, VOCABULARY - 1), max_size=3))


@settings(max_examples=20)
@given(
    st.sampled_from([("attention",), ("retnet",), ("retnet", "attention")]),
    st.fixed_dictionaries(
        {
            "segment": st.integers(2, 4),
            "tokens": st.integers(1, 2),
            "group": st.sampled_from([None, 2, 3]),
            "blocks": st.integers(1, 2),
        }
    ),
    st.lists(st.tuples(SET, ROW, ROW), min_size=1, max_size=2),
)
def test_it_is_the_plain_loop(pattern: tuple[str, ...], memory: dict[str, Any], groups: list[Any]) -> None:
    """Values and gradients: sets of any size, documents and questions of several segments, two questions a set."""
    model = model_of(pattern=pattern, limit=40 * memory["tokens"], **memory)
    rows = [row for _, *asked in groups for row in asked]
    most = max(len(documents) for documents, *_ in groups)
    flat, at = padded([ids for documents, *_ in groups for ids in [*documents, *[[]] * (most - len(documents))]])
    documents, places = (tensor.unflatten(0, (len(groups), most)) for tensor in (flat, at))
    tokens, positions = padded([[*question, *answer] for question, answer in rows])
    question = torch.tensor([len(ids) for ids, _ in rows])
    state, behind = learning(model, tokens, positions, question, documents, places)
    found, _ = model.hidden(tokens, state, positions=behind)
    loop, expected = Loop(model), torch.zeros_like(found)
    for row, (ids, answer) in enumerate(rows):
        given_ = [one for one in groups[row // 2][0] if one]
        expected[row, : len(ids) + len(answer)] = loop.answer(given_, ids, [*ids, *answer])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    cotangent = torch.randn(found.shape, dtype=torch.float64)
    weights = [model.embedding.weight, *model.decoder.parameters()]
    ours, theirs = (torch.autograd.grad((y * cotangent).sum(), weights, allow_unused=True) for y in (found, expected))
    for mine, other in zip(ours, theirs, strict=True):
        mine, other = (torch.zeros(()) if one is None else one for one in (mine, other))
        torch.testing.assert_close(mine.double(), other.double().expand_as(mine), rtol=1e-9, atol=1e-9)


def logits(model: LanguageModel, bank: AmortizedBank, questions: list[list[int]]) -> Tensor:
    return prefill(model, questions, asked(model, bank, questions))[0]


QUESTIONS = [[4, 5], [12], [1, 2, 3, 4, 5, 6, 7]]


@pytest.mark.parametrize("pattern", [("attention",), ("retnet",), ("longformer",)])
def test_a_bank_answers_as_the_plain_loop_and_its_prompt_may_be_cut_anywhere(pattern: tuple[str, ...]) -> None:
    model = model_of(pattern=pattern)
    bank, loop = amortize(model, DOCUMENTS), Loop(model)
    found = logits(model, bank, QUESTIONS)
    for row, question in enumerate(QUESTIONS):
        expected = model.head(loop.answer(list(DOCUMENTS.values()), question, question)[-1])
        torch.testing.assert_close(found[row], expected, rtol=1e-9, atol=1e-9)
    longest = [QUESTIONS[2]]
    one = prefill(model, longest, asked(model, bank, longest), piece=1)[0]
    torch.testing.assert_close(one[0], found[2], rtol=1e-9, atol=1e-9)


def test_documents_are_added_one_at_a_time_or_all_at_once() -> None:
    """In any batches; what the bank held stays as it was, and what it knows is not read again."""
    model = model_of()
    at_once = amortize(model, DOCUMENTS)
    bank: AmortizedBank | None = None
    for name, ids in DOCUMENTS.items():
        before = bank
        bank = amortize(model, {name: ids}, bank, batch=1)
        if before is not None:
            assert len(before) == len(bank) - 1
            assert torch.equal(before.vectors, bank.vectors[: len(before.vectors)])
    assert bank is not None
    assert (bank.names, bank.counts, bank.digests) == (at_once.names, at_once.counts, at_once.digests)
    assert at_once.counts == (2, 4, 2, 2)
    for other in (bank, *(amortize(model, DOCUMENTS, batch=batch) for batch in (2, 3))):
        torch.testing.assert_close(other.vectors, at_once.vectors, rtol=1e-9, atol=1e-9)
    again = amortize(model, DOCUMENTS, bank)
    assert torch.equal(again.vectors, bank.vectors)
    assert len(again) == 4


def test_the_order_of_documents_means_nothing_but_to_a_tree() -> None:
    turned = dict(reversed(DOCUMENTS.items()))
    model, tree = model_of(), model_of(group=2)
    one, other = (logits(model, amortize(model, documents), QUESTIONS) for documents in (DOCUMENTS, turned))
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    one, other = (logits(tree, amortize(tree, documents), QUESTIONS) for documents in (DOCUMENTS, turned))
    assert (one - other).abs().max() > 1e-6


def test_every_document_and_the_question_tell() -> None:
    model = model_of()
    whole = logits(model, amortize(model, DOCUMENTS), QUESTIONS)
    for name in DOCUMENTS:
        fewer = amortize(model, {other: ids for other, ids in DOCUMENTS.items() if other != name})
        assert ((logits(model, fewer, QUESTIONS) - whole).abs().amax(1) > 1e-6).all()
    nothing = logits(model, amortize(model, {}), QUESTIONS)
    assert (nothing - whole).abs().max() > 1e-6


def test_a_kept_bank_answers_as_before_and_another_model_is_refused(tmp_path: Path) -> None:
    model, file = TextModel(model_of(), IdsTokenizer(VOCABULARY)), tmp_path / "kept" / "bank.safetensors"
    bank = model.amortize(DOCUMENTS)
    bank.save(file)
    found = model.open_bank(file)
    assert (found.names, found.counts, found.digests, found.maker) == (
        bank.names,
        bank.counts,
        bank.digests,
        bank.maker,
    )
    assert torch.equal(found.vectors, bank.vectors)
    assert torch.equal(logits(model.model, found, QUESTIONS), logits(model.model, bank, QUESTIONS))
    assert model.generate(QUESTIONS, 6, bank=found) == model.generate(QUESTIONS, 6, bank=bank)
    assert len(model.amortize({"e": [20]}, found)) == 5
    other = TextModel(model_of(1), model.tokenizer)
    with pytest.raises(ModelError) as caught:
        other.open_bank(file)
    assert str(caught.value) == (f"{file}: the bank of another model, or of other settings or weights; amortize anew.")
    for use in (lambda: other.generate(QUESTIONS, bank=bank), lambda: other.amortize({"e": [20]}, bank)):
        with pytest.raises(ModelError) as caught:
            use()
        assert str(caught.value) == "bank: of another model, or of other settings or weights; amortize anew."


def test_damaged_files_and_others_are_refused(tmp_path: Path) -> None:
    model, file = TextModel(model_of(), IdsTokenizer(VOCABULARY)), tmp_path / "bank.safetensors"
    with pytest.raises(ModelError, match=r"bank.safetensors: no such file\."):
        model.open_bank(file)
    model.amortize(DOCUMENTS).save(file)
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(ModelError, match=r"damaged: its checksum does not fit; amortize anew\."):
        model.open_bank(file)
    model.save_state(model.start(1), file)
    with pytest.raises(ModelError, match=r"bank.safetensors: not a bank of amortized documents\."):
        model.open_bank(file)
    bank = model.amortize(DOCUMENTS)
    replace(bank, counts=(2, 4, 2, 4)).save(file)
    with pytest.raises(ModelError, match=r"bank.safetensors: not a bank of amortized documents\."):
        model.open_bank(file)


def test_mistakes_are_one_line() -> None:
    model = TextModel(model_of(limit=10), IdsTokenizer(VOCABULARY))
    plain = TextModel(LanguageModel(read(ModelConfig, mapping(["attention"], 2))), model.tokenizer)
    bank = model.amortize({"a": [1, 2], "b": [3, 4, 5, 6, 7, 8]})
    mistakes = {
        "bank: documents of 10 vectors given, and memory.limit=10 holds 8 beside a question's. Give fewer documents, "
        "or a model whose memory.limit is 12 or more.": lambda: model.amortize([[1] * 6], bank),
        "document 'x': empty. At least one token is needed.": lambda: model.amortize({"x": []}),
        "document 'a': the bank holds another one of this name. Name it otherwise, or amortize anew.": (
            lambda: model.amortize({"a": [1]}, bank)
        ),
        "documents: one text given, where a list or a mapping is needed, as in [text].": lambda: model.amortize("1 2"),
        "question: empty. A bank is asked by at least one token.": lambda: model.generate([[]], bank=bank),
        "memory 'none': it keeps no sets of documents. Train a model with memory=mac.": (
            lambda: plain.amortize([[1, 2]])
        ),
    }
    for message, use in mistakes.items():
        with pytest.raises(ModelError) as caught:
            use()
        assert str(caught.value) == message


def test_documents_without_a_name_get_their_number() -> None:
    model = TextModel(model_of(), IdsTokenizer(VOCABULARY))
    bank = model.amortize([[1], [2]], model.amortize(iter([[3]])))
    assert bank.names == ("1", "2", "3")


def reached(model: LanguageModel, lifted: list[bool]) -> list[bool]:
    """Which of four documents gradients of an answer reach; a token stands in one of them alone."""
    model.decoder.memory.random.values.copy_(  # type: ignore[union-attr]
        torch.tensor([0 if one else 2**20 - 1 for one in lifted] * 16)
    )
    documents, places = (one[None] for one in padded(list(DOCUMENTS.values())))
    tokens, positions = padded([[20, 21, 22]])
    state, behind = learning(model, tokens, positions, torch.tensor([2]), documents, places)
    hidden, _ = model.hidden(tokens, state, positions=behind)
    (gradient,) = torch.autograd.grad(hidden.square().sum(), model.embedding.weight)
    assert gradient[20:22].any(1).all()
    return [bool(gradient[ids].any()) for ids in DOCUMENTS.values()]


@pytest.mark.parametrize("lifted", [[True, False, False, True], [False, True, True, False], [False] * 4, [True] * 4])
def test_lift_lets_gradients_reach_some_documents_only(lifted: list[bool]) -> None:
    """Whole documents, also those of more than one segment; in training."""
    model = model_of(lift=0.5)
    assert reached(model.train(), lifted) == lifted
    assert reached(model.eval(), lifted) == [True] * 4


@pytest.mark.parametrize("group", [None, 2])
def test_lift_changes_no_answer(group: int | None) -> None:
    """The order of documents included, which a tree can tell, though some are read apart."""
    model = model_of(lift=0.5, group=group)
    model.decoder.memory.random.values.copy_(torch.tensor([2**20 - 1, 0, 2**20 - 1, 0] * 16))  # type: ignore[union-attr]
    documents, places = (one[None] for one in padded(list(DOCUMENTS.values())))
    tokens, positions = padded([[20, 21, 22]])
    found = []
    for training in (True, False):
        state, behind = learning(model.train(training), tokens, positions, torch.tensor([2]), documents, places)
        found.append(model.hidden(tokens, state, positions=behind)[0])
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)


def test_autocast_remembers_no_weights_without_their_graph() -> None:
    """Where gradients reach no document at all, they still reach the weights by way of the question."""
    model = model_of(lift=0.5).float().train()
    with torch.autocast("cpu", torch.bfloat16):
        assert reached(model, [False] * 4) == [False] * 4
        documents, places = (one[None] for one in padded(list(DOCUMENTS.values())))
        tokens, positions = padded([[20, 21, 22]])
        state, behind = learning(model, tokens, positions, torch.tensor([2]), documents, places)
        hidden, _ = model.hidden(tokens, state, positions=behind)
    hidden.float().square().sum().backward()
    assert all(one.grad is not None and one.grad.any() for one in model.decoder.parameters())


def test_what_documents_leave_does_not_depend_on_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of()
    tokens, positions = padded(list(DOCUMENTS.values()))
    whole, count = left(model, tokens, positions)
    monkeypatch.setattr("farfield.amortized.PIECE", 3)
    pieces, same = left(model, tokens, positions)
    assert torch.equal(count, same)
    for row, own in enumerate(count.tolist()):
        torch.testing.assert_close(pieces[row, -own:], whole[row, -own:], rtol=1e-9, atol=1e-9)


def test_a_bank_is_opened_by_the_function_too(tmp_path: Path) -> None:
    model = model_of()
    amortize(model, {}).save(tmp_path / "empty.safetensors")
    bank = open_bank(model, tmp_path / "empty.safetensors")
    assert len(bank) == 0
    assert bank.vectors.shape == (0, 16)
