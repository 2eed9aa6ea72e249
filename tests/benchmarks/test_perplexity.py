"""Perplexity beside subjects whose loss is known, and beside the models themselves."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hf_models import byte_tokenizer, tiny_model
from numpy.typing import NDArray
from oracle import Bytes, Numbers

import farfield
from farfield.benchmarks.long_reading import Streaming, begin_of, prefix_of, streamed, windowed
from farfield.benchmarks.running.results import Cell, Measured, read_result
from farfield.benchmarks.running.runner import evaluate
from farfield.benchmarks.subjects.hf_subject import HubSubject
from farfield.benchmarks.subjects.model_subject import ModelSubject
from farfield.benchmarks.subjects.subject import Capability, Prefilled, Reading, Subject, Written
from farfield.benchmarks.subjects.subject_settings import HuggingFaceConfig
from farfield.benchmarks.suites.perplexity import PerplexitySuite
from farfield.benchmarks.tasks.long_text import Document, blocks, rolling, sliding, tokenised
from farfield.benchmarks.tasks.sample import Ids
from farfield.config import ConfigError, DataError, read

WORDS = "It was the best of times, it was the worst of times, it was the age of wisdom; über alles.\n"
EXACT = ["attention", "retnet", "mamba2", "gated_deltanet"]


@dataclass(frozen=True)
class Begun(Bytes):
    """Bytes, and an id that stands before each text."""

    vocabulary: int = 258
    begin: int = 257


@dataclass(frozen=True)
class Ended(Bytes):
    """Bytes, and an id that stands behind each text."""

    end: int = 256


@dataclass
class Known:
    """A subject whose losses have a closed form: `cost` of (context, token, the token before it) in nats.

    context: tokens that it has read up to there, the one before included. Its state is their number.
    """

    tokenizer: Bytes
    name: str = "known"
    memory: int = 0
    shuffles: list[int] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    capabilities: frozenset[Capability] = frozenset({"state", "read", "memory"})

    def cost(self, context: int, token: int, before: int) -> float:
        raise NotImplementedError

    def describe(self) -> Mapping[str, object]:
        return {"architecture": self.name}

    def state_bytes(self, length: int) -> int:
        return 8

    def read(self, tokens: NDArray[np.int64], targets: NDArray[np.int64], after: Prefilled | None = None) -> Reading:
        assert tokens.shape == targets.shape
        assert tokens.dtype == targets.dtype == np.int64
        self.shapes.append(tokens.shape)
        seen = after if isinstance(after, int) else 0
        logprobs = np.zeros(tokens.shape)
        for row, place in np.ndindex(*tokens.shape):
            if targets[row, place] >= 0:
                cost = self.cost(seen + place + 1, int(targets[row, place]), int(tokens[row, place]))
                logprobs[row, place] = -cost
        return Reading(seen + tokens.shape[1], np.zeros_like(tokens), logprobs, np.zeros(tokens.shape, bool))

    def prefill(self, tokens: NDArray[np.int64], after: Prefilled | None = None) -> Prefilled:
        raise NotImplementedError

    def generate(self, prefilled: Prefilled, budget: int, stop: tuple[str, ...] = ()) -> Written:
        raise NotImplementedError

    def score(self, prefilled: Prefilled, candidates: NDArray[np.int64]) -> NDArray[np.floating]:
        raise NotImplementedError

    def choose(self, prefilled: Prefilled, choices: Sequence[Sequence[Ids]]) -> list[NDArray[np.float64]]:
        raise NotImplementedError

    def rounding(self, prefilled: Prefilled) -> NDArray[np.float64]:
        raise NotImplementedError

    def without_memory(self) -> Subject:
        return replace(self, memory=0)

    def shuffled(self, prefilled: Prefilled, seed: int) -> Prefilled:
        self.shuffles.append(seed)
        return 0


@dataclass
class Remembering(Known):
    """A token costs 8 / (1 + c) nats behind c tokens, of which it sees 8, or with its memory `memory`."""

    def cost(self, context: int, token: int, before: int) -> float:
        return 8 / (1 + min(context, max(8, self.memory)))


@dataclass
class Bigram(Known):
    """A Markov chain of bytes: what a token costs is known from the one before it."""

    def cost(self, context: int, token: int, before: int) -> float:
        return 0.5 + (token * 31 + before * 17) % 97 / 20


def document(count: int, name: str = "d") -> Document:
    text = (WORDS * (count // len(WORDS) + 1)).encode()[:count]
    return Document(name, np.frombuffer(text, np.uint8).astype(np.int32), count, len(text.split()), True)


def remembering(contexts: Sequence[int], memory: int = 0) -> list[float]:
    return [8 / (1 + min(context, max(8, memory))) for context in contexts]


def suite(folder: Path, **changes: Any) -> PerplexitySuite:
    given = {"texts": str(folder / "texts"), "lengths": [32, 64], "stride": 16, "near": [], "controls": [], **changes}
    return read(PerplexitySuite, given, "suite")


def texts(folder: Path, *counts: int) -> None:
    """Files of so many bytes, in the folder that `suite` reads."""
    (folder / "texts").mkdir()
    for number, count in enumerate(counts):
        (folder / "texts" / f"{number}.txt").write_bytes(bytes(document(count).tokens.tolist()))


def measured(folder: Path, settings: PerplexitySuite, subject: Subject) -> dict[Cell, Measured]:
    return read_result(evaluate(settings, subject, folder / "results").path).measured


def test_contexts_of_each_protocol_in_closed_form() -> None:
    """How many tokens stand before each of 21, in windows of 8: with a beginning of the text, and without."""
    text, begun, plain = document(21), Remembering(Begun(), memory=100), Remembering(Bytes(), memory=100)
    first = math.log(257)
    eight = list(range(1, 9))

    def costs(subject: Subject, windows: Any) -> list[float]:
        return windowed(subject, [text], windows, 64).nats[0].tolist()

    assert costs(begun, lambda n: blocks(n, 8)) == remembering([*eight, *eight, *eight[:5]], 100)
    assert costs(plain, lambda n: blocks(n, 8)) == [first, *remembering([*eight[:7], *eight, *eight[:5]], 100)]
    assert costs(begun, lambda n: sliding(n, 8, 3)) == remembering([*eight, *[6, 7, 8] * 4, 8], 100)
    assert costs(plain, lambda n: sliding(n, 8, 3)) == [first, *remembering([*eight[:7], *[6, 7, 8] * 4, 8], 100)]
    assert costs(begun, lambda n: sliding(n, 8, 1)) == remembering([*eight, *[8] * 13], 100)
    assert costs(begun, lambda n: rolling(n, 8)) == remembering([*eight, *eight, 4, 5, 6, 7, 8], 100)
    for piece in (1, 5, 21, 100):
        how = Streaming(piece, rows=4)
        assert streamed(begun, [text], how).nats[0].tolist() == remembering(range(1, 22), 100)
        assert streamed(plain, [text], how).nats[0].tolist() == [first, *remembering(range(1, 21), 100)]


def test_a_rolling_text_stands_behind_the_end_of_another_where_nothing_begins_one(tmp_path: Path) -> None:
    assert (prefix_of(Ended()), prefix_of(Begun()), prefix_of(Bytes())) == (256, 257, None)
    texts(tmp_path, 200)
    found = measured(tmp_path, suite(tmp_path, lengths=[32]), Remembering(Ended(), memory=100))
    # Six windows, each token behind one at least, the first too; the last eight tokens in a window that reaches back.
    expected = remembering([*list(range(1, 33)) * 6, *range(25, 33)], 100)
    assert found[Cell("rolling", 32)].values["nats_per_token"] == pytest.approx(np.mean(expected))
    note = "The tokenizer has no beginning-of-text id: id 256 stands before a document, as in lm-eval."
    assert [cell.task for cell, got in found.items() if note in got.notes] == ["rolling"]
    assert found[Cell("block", 32)].notes[1].endswith("a document's first token costs as any of 257.")


def test_a_markov_chain_costs_the_same_by_every_protocol_that_keeps_the_token_before() -> None:
    text = document(300)
    before = text.tokens[:-1].tolist()
    chain = [0.5 + (token * 31 + last * 17) % 97 / 20 for last, token in zip(before, text.tokens[1:], strict=True)]
    plain = Bigram(Bytes())
    for windows in (lambda n: blocks(n, 32), lambda n: sliding(n, 32, 16), lambda n: rolling(n, 32)):
        assert windowed(plain, [text], windows, 100).nats[0].tolist() == [math.log(257), *chain]
    assert streamed(plain, [text], Streaming(50, 4)).nats[0].tolist() == [math.log(257), *chain]


def test_windows_of_all_documents_go_side_by_side() -> None:
    many, subject = [document(60, "a"), document(60, "b"), document(45, "c")], Remembering(Begun())
    costs = windowed(subject, many, lambda n: blocks(n, 20), tokens=90)
    assert sorted(subject.shapes) == [(1, 5), (4, 20), (4, 20)]
    assert costs.read == 165
    alone = [windowed(Remembering(Begun()), [one], lambda n: blocks(n, 20), 1).nats[0].tolist() for one in many]
    assert [row.tolist() for row in costs.nats] == alone
    subject.shapes.clear()
    streamed(subject, many, Streaming(piece=50, rows=8))
    assert sorted(subject.shapes) == [(1, 45), (2, 10), (2, 50)]  # documents of one length, and never a longer one's


def test_what_a_file_says_is_what_the_losses_add_up_to(tmp_path: Path) -> None:
    texts(tmp_path, 200, 333, 90)
    found = measured(tmp_path, suite(tmp_path), Remembering(Begun()))
    blocks_of_32 = [remembering([i % 32 + 1 for i in range(count)]) for count in (200, 333, 90)]
    total, words = sum(map(sum, blocks_of_32)), sum(document(count).words for count in (200, 333, 90))
    got = found[Cell("block", 32)]
    assert list(got.values) == ["bits_per_byte", "nats_per_token", "word_perplexity", "token_perplexity"]
    assert got.values["bits_per_byte"] == pytest.approx(total / math.log(2) / 623)
    assert got.values["nats_per_token"] == pytest.approx(total / 623)
    assert got.values["word_perplexity"] == pytest.approx(math.exp(total / words))
    assert got.values["token_perplexity"] == pytest.approx(math.exp(total / 623))
    assert got.units["token_perplexity"] == "not comparable between tokenizers"
    each = [sum(row) / math.log(2) / len(row) for row in blocks_of_32]
    assert got.each == pytest.approx(each)
    assert 0 < got.half["bits_per_byte"] < got.values["bits_per_byte"]
    assert set(got.half) == {"bits_per_byte", "nats_per_token"}
    streaming = remembering(range(1, 201)) + remembering(range(1, 334)) + remembering(range(1, 91))
    assert found[Cell("streaming", 64)].values["nats_per_token"] == pytest.approx(np.mean(streaming))
    order = ["streaming", "sliding", "rolling", "block"]  # the more context, the less
    at_64 = [found[Cell(task, 64)].values["nats_per_token"] for task in order]
    assert at_64 == sorted(at_64)
    assert found[Cell("rolling", 64)].values["nats_per_token"] < got.values["nats_per_token"]


def test_the_interval_of_word_perplexity_is_even_about_its_logarithm(tmp_path: Path) -> None:
    """Of two documents, by Student's t with one degree of freedom: about the number itself it reached below zero."""
    texts(tmp_path, 200, 333)
    got = measured(tmp_path, suite(tmp_path), Remembering(Begun()))[Cell("block", 32)]
    assert "word_perplexity" not in got.half
    (note,) = (note for note in got.notes if "word perplexity" in note)
    said = re.fullmatch(r"95 % interval of the word perplexity, by its logarithm: (\S+) to (\S+)\.", note)
    assert said
    low, high = float(said[1]), float(said[2])
    assert 0 < low < got.values["word_perplexity"] < high
    assert low * high == pytest.approx(got.values["word_perplexity"] ** 2, rel=1e-3)
    nats = [sum(remembering([i % 32 + 1 for i in range(count)])) for count in (200, 333)]
    words = [document(count).words for count in (200, 333)]
    left = [one - sum(nats) / sum(words) * count for one, count in zip(nats, words, strict=True)]
    error = 12.7062 * math.sqrt(2 * sum(one**2 for one in left)) / sum(words)
    assert math.log(high / low) / 2 == pytest.approx(error, rel=1e-3)


def test_curves_are_of_the_same_documents_in_every_bucket(tmp_path: Path) -> None:
    texts(tmp_path, 200, 333, 90)
    found = measured(tmp_path, suite(tmp_path, reach=200), Remembering(Begun(), memory=1000))
    curve = found[Cell("streaming", 64)].curves["nats_by_position"]
    wanted = remembering(range(1, 201), 1000)
    parts = [wanted[0:32], wanted[32:64], wanted[64:128], wanted[128:200]]
    assert curve.y == pytest.approx([np.mean(part) for part in parts])
    assert len(curve.x) == len(curve.half) == 4
    assert curve.half == pytest.approx([0] * 4, abs=1e-12)
    assert "the curve is of 2 of at least 200 tokens" in found[Cell("block", 32)].notes[0]
    assert curve.x_name == "position in the document, tokens"
    none = measured(tmp_path / "none", suite(tmp_path, reach=400), Remembering(Begun()))
    assert set(none[Cell("block", 32)].curves) == {"nats_by_window_position"}
    assert not none[Cell("sliding", 32)].curves
    assert "none for a curve by position" in none[Cell("block", 32)].notes[0]


def test_blocks_have_a_curve_within_the_window_too(tmp_path: Path) -> None:
    """By position in the document blocks show nothing but their edges; within a window, what its context is worth."""
    texts(tmp_path, 333, 90)
    found = measured(tmp_path, suite(tmp_path, lengths=[64]), Remembering(Begun(), memory=1000))
    curves = {cell.task: got.curves for cell, got in found.items()}
    inside = curves["block"]["nats_by_window_position"]
    wanted = remembering(range(1, 65), 1000)
    assert inside.y == pytest.approx([np.mean(wanted[:32]), np.mean(wanted[32:])])
    assert inside.half == pytest.approx([0, 0], abs=1e-12)
    assert (len(inside.x), inside.x_name) == (2, "position in the window, tokens")
    assert [task for task, some in curves.items() if "nats_by_window_position" in some] == ["block"]


def test_the_gain_is_what_the_far_past_saves(tmp_path: Path) -> None:
    texts(tmp_path, 200, 300, 90)
    settings = suite(tmp_path, near=[16, 32], lengths=[16, 64, 128], protocols=[], stride=16)
    found = measured(tmp_path, settings, Remembering(Begun(), memory=1000))
    assert sorted((cell.task, cell.length) for cell in found) == [
        ("context_gain_16", 64), ("context_gain_16", 128), ("context_gain_32", 64), ("context_gain_32", 128)
    ]  # fmt: skip
    got = found[Cell("context_gain_16", 128)]
    full = remembering(range(17, 129), 1000)
    # Windows of 16 that move by 2: a token has 15 tokens before it, or 16.
    near = remembering([15, 16] * 56, 1000)
    assert got.values["full"] == pytest.approx(np.mean(full))
    assert got.values["near"] == pytest.approx(np.mean(near))
    assert got.values["gain"] == pytest.approx(np.mean(near) - np.mean(full))
    assert next(iter(got.values)) == "gain"
    assert got.each == pytest.approx([got.values["gain"]] * 2)
    assert got.notes == [
        "2 of 3 documents have 128 tokens; means are over tokens 16 to 128 of each, the near past is the last 15 to 16 "
        "tokens."
    ]
    curve = got.curves["gain_by_position"]
    assert curve.y[1:] == pytest.approx(
        [np.mean(near[16:48]) - np.mean(full[16:48]), np.mean(near[48:]) - np.mean(full[48:])]
    )
    without = measured(tmp_path / "blind", settings, Remembering(Begun()))  # who sees 8 tokens gains nothing by more
    assert without[Cell("context_gain_16", 128)].values["gain"] == 0


def test_a_cell_whose_time_is_over_has_read_some_of_the_documents(tmp_path: Path) -> None:
    texts(tmp_path, 200, 300, 90)
    late = suite(tmp_path, protocols=["block", "streaming"], near=[16], cell_seconds=1e-9)
    result = read_result(evaluate(late, Remembering(Begun()), tmp_path / "results").path)
    assert {got.capped for got in result.measured.values()} == {True}
    block, gain = result.measured[Cell("block", 32)], result.measured[Cell("context_gain_16", 64)]
    assert block.values["nats_per_token"] == pytest.approx(np.mean(remembering([i % 32 + 1 for i in range(200)])))
    assert (len(block.each), len(gain.each)) == (1, 1)
    assert block.notes[0] == gain.notes[0] == "Closed early, its time was over: 1 of 3 documents were read."
    # The same again has nothing to do; with more time the cells are measured as if none had been closed.
    subject = Remembering(Begun())
    evaluate(late, subject, tmp_path / "results")
    assert not subject.shapes
    assert {
        got.capped for got in measured(tmp_path, late.model_copy(update={"cell_seconds": 99}), subject).values()
    } == {False}
    never = measured(tmp_path / "never", late.model_copy(update={"cell_seconds": None}), subject)
    again = measured(tmp_path, late.model_copy(update={"cell_seconds": None}), subject)
    assert {cell: got.values for cell, got in again.items()} == {cell: got.values for cell, got in never.items()}


def test_controls_take_the_memory_away_and_shuffle_it(tmp_path: Path) -> None:
    texts(tmp_path, 100)
    subject = Remembering(Begun(), memory=1000)
    settings = suite(tmp_path, protocols=["streaming"], controls=["memory_off", "memory_shuffled"], piece=30, seed=7)
    found = measured(tmp_path, settings, subject)
    nats = {cell.condition: got.values["nats_per_token"] for cell, got in found.items()}
    assert nats["full"] == pytest.approx(np.mean(remembering(range(1, 101), 1000)))
    assert nats["memory_off"] == pytest.approx(np.mean(remembering(range(1, 101))))
    # Our subject forgets all that is shuffled: it begins anew with each piece.
    assert nats["memory_shuffled"] == pytest.approx(np.mean(remembering([i % 30 + 1 for i in range(100)], 1000)))
    assert subject.shuffles == [37, 67, 97]


def test_what_a_reader_may_stumble_over_is_noted(tmp_path: Path) -> None:
    texts(tmp_path, 60, 200)
    (tmp_path / "texts" / "2.txt").write_bytes(b"\xff\xfe not UTF-8 \xff")
    with_warning = measured(tmp_path, suite(tmp_path, tokens=150), Remembering(Bytes()))
    notes = {(cell.task, cell.length): got.notes for cell, got in with_warning.items()}
    (interval,) = (note for note in notes["sliding", 64] if note.startswith("95 % interval of the word perplexity"))
    assert notes["sliding", 64] == [
        "2 documents of 210 tokens, 210 bytes; 1 cut behind 150 tokens; the curve is of 1 of at least 64 tokens.",
        "Not UTF-8, left out: 2.txt.",
        interval,
        "The tokenizer has no beginning-of-text id: a document's first token costs as any of 257.",
        "1 of 2 documents are not longer than the window: in them no window moves.",
    ]
    assert notes["streaming", 64][-1] == "The state is kept over whole documents, of up to 150 tokens."
    cut = measured(tmp_path / "cut", suite(tmp_path, tokens=64, lengths=[64]), Remembering(Begun()))
    assert cut[Cell("sliding", 64)].notes[-1] == (
        "No document is longer than the window of 64 tokens: no window moves, protocols are alike."
    )
    alike = {got.values["bits_per_byte"] for got in cut.values()}
    assert len(alike) == 1


def test_cells_that_cannot_be_measured_say_why(tmp_path: Path) -> None:
    @dataclass
    class Broken(Remembering):
        def cost(self, context: int, token: int, before: int) -> float:
            return math.inf if context == 5 else 1.0

    texts(tmp_path, 60)
    subject = Broken(Begun(), capabilities=frozenset({"read"}))
    settings = suite(tmp_path, near=[32], lengths=[32, 128], controls=["memory_off"])
    result = read_result(evaluate(settings, subject, tmp_path / "results").path)
    assert not result.measured
    assert result.skipped[Cell("block", 32)] == "token 4 of 0.txt costs inf nats: the model's numbers are not finite"
    assert result.skipped[Cell("streaming", 128)] == "needs a model that keeps a state"
    assert result.skipped[Cell("streaming", 128, None, "memory_off")] == (
        "needs a model that has an external memory and keeps a state"
    )
    assert result.skipped[Cell("context_gain_32", 128)] == "no document has 128 tokens: the longest has 60"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"stride": 33},
            "suite: stride=33 is more than the window of 32 tokens, and tokens would be left out. Take a smaller "
            "stride or longer lengths.",
        ),
        ({"reach": 99, "tokens": 64}, "suite: reach=99 is more than the tokens=64 that are read of a document."),
        ({"protocols": []}, "suite: no protocol and no near past shorter than a length: nothing is measured."),
        (
            {"protocols": ["slidin"]},
            "suite.protocols.0: unknown choice 'slidin'. Did you mean 'sliding'? Known: block, rolling, sliding, "
            "streaming.",
        ),
    ],
)
def test_settings_that_do_not_fit_are_said_in_one_line(changes: dict[str, Any], line: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        suite(tmp_path, **changes)
    assert str(error.value) == line


def test_texts_that_cannot_be_read_are_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"^suite\.texts: '.*/texts' does not exist\. Give a file, or a folder of \.txt"
    ):
        evaluate(suite(tmp_path), Remembering(Bytes()), tmp_path / "results")
    with pytest.raises(
        ConfigError, match=r"^perplexity: texts are read, and a model of the ids tokenizer reads none\.$"
    ):
        suite(tmp_path).cells(Remembering(Numbers()))  # type: ignore[arg-type]


def test_the_sample_is_read_where_no_texts_are_named(tmp_path: Path) -> None:
    found = measured(tmp_path, read(PerplexitySuite, {"documents": 2, "protocols": ["block"]}), Remembering(Begun()))
    assert found[Cell("block", 512)].notes[0].startswith("2 documents of 12,4")
    assert begin_of(Begun()) == 257
    assert begin_of(Bytes()) is None


@pytest.mark.parametrize("architecture", EXACT)
def test_streams_and_windows_are_what_the_model_itself_says(architecture: str) -> None:
    """In float64: pieces of a stream, one window, and one call's logits; sliding by 1, and a call for each token."""
    model = farfield.build(architecture, ["width=32", "depth=2"], seed=3).to(torch.float64)
    subject, text = ModelSubject(model, architecture), document(190)
    ids = torch.as_tensor(text.tokens, dtype=torch.int64)[None]
    with torch.no_grad():
        logits = model(ids)[0].log_softmax(-1)
        whole = -logits[0, :-1].gather(1, ids[0, 1:, None])[:, 0].numpy()
        near = [
            float(-model(ids[:, place - 9 : place])[0][0, -1].log_softmax(-1)[ids[0, place]]) for place in range(9, 60)
        ]
    for piece in (1, 63, 130):
        (row,) = streamed(subject, [text], Streaming(piece, 1)).nats
        np.testing.assert_allclose(row[1:], whole, rtol=0, atol=1e-9)
    (one,) = windowed(subject, [text], lambda n: blocks(n, 500), 500).nats
    np.testing.assert_allclose(one[1:], whole, rtol=0, atol=1e-9)
    short = replace(text, tokens=text.tokens[:60])
    (row,) = windowed(subject, [short], lambda n: sliding(n, 9, 1), 90).nats
    np.testing.assert_allclose(row[9:], near, rtol=0, atol=1e-9)


def test_a_model_of_transformers_reads_the_windows_that_are_drawn() -> None:
    """Its own beginning of a text stands once before what begins as a text, and before nothing else."""
    subject = HubSubject(tiny_model("Llama"), byte_tokenizer(begin=True), "llama", HuggingFaceConfig())
    begin, text = begin_of(subject.tokenizer), document(21)
    assert begin == subject.template.begin is not None
    ids = [begin, *text.tokens.tolist()]  # what stands before token t is ids[t]

    def told(row: list[int], count: int) -> list[float]:
        """What the last `count` tokens of a row cost by transformers alone."""
        with torch.no_grad():
            logprobs = subject.model(torch.tensor([row[:-1]]), use_cache=False).logits[0].double().log_softmax(-1)
        return [-float(logprobs[place - 1, row[place]]) for place in range(len(row) - count, len(row))]

    (rolled,) = windowed(subject, [text], lambda n: rolling(n, 8), 64).nats
    assert rolled.tolist() == pytest.approx(told(ids[:9], 8) + told(ids[8:17], 8) + told(ids[13:22], 5), abs=1e-9)
    (cut,) = windowed(subject, [text], lambda n: blocks(n, 8), 64).nats
    assert cut.tolist() == pytest.approx(
        [*told(ids[:9], 8), *told([begin, *ids[9:17]], 8), *told([begin, *ids[17:22]], 5)], abs=1e-9
    )
    (whole,) = streamed(subject, [text], Streaming(6, 1)).nats
    assert whole.tolist() == pytest.approx(told(ids, 21), abs=1e-9)


def test_a_memory_is_taken_away_and_shuffled_in_streams(tmp_path: Path) -> None:
    """What is said before anything is in the memory is the same with all three; behind that they differ."""
    subject = ModelSubject(farfield.build("longformer", ["width=32", "depth=2"], memory="knn", seed=1), "knn")
    texts(tmp_path, 2000)
    settings = suite(
        tmp_path, lengths=[512, 2000], protocols=["streaming"], controls=["memory_off", "memory_shuffled"], piece=900
    )
    found = measured(tmp_path, settings, subject)
    nats = {cell.condition: got.values["nats_per_token"] for cell, got in found.items()}
    assert list(nats) == ["full", "memory_off", "memory_shuffled"]
    assert len(set(nats.values())) == 3
    first = {cell.condition: got.curves["nats_by_position"].y[0] for cell, got in found.items()}
    assert first["full"] == first["memory_shuffled"] == pytest.approx(first["memory_off"], abs=1e-6)


def test_tokens_are_those_of_the_models_tokenizer() -> None:
    (found,) = tokenised([("d", WORDS)], farfield.build("retnet", ["width=32", "depth=1"]).tokenizer, None)
    assert (len(found.tokens), found.bytes, found.words) == (len(WORDS.encode()), len(WORDS.encode()), 20)
