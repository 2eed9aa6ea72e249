"""A Farfield model as a model of lm-eval: exact against lm-eval's own HFLM on the same weights."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from twins import HEADS, LENGTH, TEXT, WIDTH, farfield_run, llama_twin

pytest.importorskip("lm_eval", reason="lm_eval is not installed")

from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model

import farfield
from farfield.benchmarks.running.results import Cell
from farfield.benchmarks.subjects.model_subject import ModelSubject
from farfield.benchmarks.suites.perplexity import PerplexitySuite
from farfield.config import ConfigError, ModelError, read
from farfield.generation import TextModel
from farfield.harness.model import FarfieldLM
from farfield.tokenizers import BpeTokenizer

PAIRS = [
    ("The ferry leaves", " at noon"),
    ("The ferry leaves", " at night, and nobody signs for it"),
    ("The ferry leaves", " a"),
    ("The gate opens with ", "a code"),  # a space at the end goes to the continuation
    ("", "The wind is cold"),
    ("A garden lies behind the wall, and " * 2, "the clerk"),
    ("Leave", " is signed by the head of the unit"),
]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("twins")
    run = farfield_run(folder / "runs" / "llama")
    return run, llama_twin(run, folder / "models" / "llama")


def asked(kind: str, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(kind, doc={}, arguments=one, idx=0) for one in arguments]  # type: ignore[arg-type]


def theirs(folder: Path, dtype: str, batch: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind: Any = get_model("hf")
        found = kind(pretrained=str(folder), dtype=dtype, device="cpu", batch_size=batch, max_length=LENGTH)
    # Where transformers computes in float32, whatever the weights are.
    decoder, found.softmax_dtype = found.model.model, torch.float64
    decoder.rotary_emb = Angles(WIDTH // HEADS)
    decoder.norm = norm(decoder.norm)
    for layer in decoder.layers:
        layer.input_layernorm = norm(layer.input_layernorm)
        layer.post_attention_layernorm = norm(layer.post_attention_layernorm)
    return found


def norm(given: Any) -> torch.nn.RMSNorm:
    """Llama's norm in the precision of its weights."""
    found = torch.nn.RMSNorm(WIDTH, eps=1e-5, dtype=given.weight.dtype)
    found.weight = given.weight
    return found


class Angles(torch.nn.Module):
    """Llama's angles in float64."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.frequencies = 10000.0 ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        turn = position_ids[..., None].double() * self.frequencies
        both = torch.cat((turn, turn), -1)
        return both.cos().to(x.dtype), both.sin().to(x.dtype)


@pytest.mark.parametrize(("precision", "near"), [("fp32", 2e-5), ("fp64", 1e-9)])
@pytest.mark.parametrize("batch", [1, 3])
def test_likelihoods_are_those_of_hflm(places: tuple[Path, Path], precision: str, near: float, batch: int) -> None:
    ours = FarfieldLM(str(places[0]), precision, batch_size=batch, max_length=LENGTH)
    other = theirs(places[1], {"fp32": "float32", "fp64": "float64"}[precision], batch)
    found = ours.loglikelihood(asked("loglikelihood", *PAIRS), disable_tqdm=True)
    expected = other.loglikelihood(asked("loglikelihood", *PAIRS), disable_tqdm=True)
    assert [logprob for logprob, _ in found] == pytest.approx([logprob for logprob, _ in expected], rel=near)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    texts = [(TEXT,), ("The wind",), (TEXT + TEXT,)]
    assert len(ours.tok_encode(TEXT + TEXT)) > 2 * LENGTH
    assert ours.loglikelihood_rolling(asked("loglikelihood_rolling", *texts)) == pytest.approx(
        other.loglikelihood_rolling(asked("loglikelihood_rolling", *texts), disable_tqdm=True), rel=near
    )


def test_rolling_perplexity_of_the_suite_is_the_rolling_likelihood(places: tuple[Path, Path], tmp_path: Path) -> None:
    ours = FarfieldLM(str(places[0]), "fp64", max_length=LENGTH)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "one.txt").write_text(TEXT * 2)
    assert len(ours.tok_encode(TEXT * 2)) > 2 * LENGTH
    settings = {"texts": str(tmp_path / "texts"), "lengths": [LENGTH], "stride": 1, "protocols": ["rolling"]}
    suite = read(PerplexitySuite, settings, "suite")
    got = suite.measure(ModelSubject(ours.model, "run"), Cell("rolling", LENGTH))
    (logprob,) = ours.loglikelihood_rolling(asked("loglikelihood_rolling", (TEXT * 2,)))
    nats = got.values["nats_per_token"] * len(ours.tok_encode(TEXT * 2))
    assert nats == pytest.approx(-logprob, rel=1e-9)


@pytest.fixture(scope="module")
def opening(places: tuple[Path, Path]) -> Path:
    """The same weights with a tokenizer that begins each text with its end token, as GPT-2's is made to."""
    model = farfield.load(places[1], layers="farfield")
    words = model.tokenizer
    assert isinstance(words, BpeTokenizer)
    opens = TextModel(model.model, BpeTokenizer(words.backend, words.end, words.end), {"begin": words.end})
    return farfield.save(opens, places[1].with_name("opening"))


def test_texts_begin_as_their_model_was_trained(places: tuple[Path, Path], opening: Path) -> None:
    """Contexts, texts that are scored as a whole and prompts, once; as HFLM but for one: it scores the token itself."""
    ours, other = FarfieldLM(str(opening), "fp64", max_length=LENGTH), theirs(opening, "float64", 1)
    ids = ours.tok_encode(TEXT)
    assert ids == [ours.model.begin, *ours.tok_encode(TEXT, add_special_tokens=False)] == other.tok_encode(TEXT)
    pairs = [pair for pair in PAIRS if len(ours.tok_encode("".join(pair))) < LENGTH]
    found = ours.loglikelihood(asked("loglikelihood", *pairs), disable_tqdm=True)
    expected = other.loglikelihood(asked("loglikelihood", *pairs), disable_tqdm=True)
    assert [logprob for logprob, _ in found] == pytest.approx([logprob for logprob, _ in expected], rel=1e-9)
    prompts = [(context, {"until": ["."], "max_gen_toks": 12}) for context, _ in pairs if context]
    written = ours.generate_until(asked("generate_until", *prompts))
    assert written == other.generate_until(asked("generate_until", *prompts), disable_tqdm=True)
    never = FarfieldLM(str(opening), "fp64", begin="never", max_length=LENGTH)
    assert never.tok_encode(TEXT) == ids[1:]
    assert written != never.generate_until(asked("generate_until", *prompts))
    other.add_bos_token = False
    texts = asked("loglikelihood_rolling", (TEXT + TEXT,), ("The wind",))
    whole = other.loglikelihood_rolling(texts, disable_tqdm=True)
    assert ours.loglikelihood_rolling(texts) == pytest.approx(whole, rel=1e-9)


@pytest.mark.parametrize("batch", [1, 3])
def test_what_is_written_is_what_hflm_writes(places: tuple[Path, Path], batch: int) -> None:
    settings = [{"until": ["."], "max_gen_toks": 12}, {"until": ["\n\n", "th"], "max_gen_toks": 30}]
    requests = [(context, given) for context, _ in PAIRS if context for given in settings]
    ours = FarfieldLM(str(places[0]), "fp64", batch_size=batch, max_length=LENGTH)
    other = theirs(places[1], "float64", batch)
    found = ours.generate_until(asked("generate_until", *requests))
    assert found == other.generate_until(asked("generate_until", *requests), disable_tqdm=True)
    assert any(found)
    assert len({len(text) for text in found}) > 2  # some are stopped, some are full


def test_the_likeliest_continuation_is_greedy(places: tuple[Path, Path]) -> None:
    """Both ways of asking agree: what is written is greedy, and as likely as its tokens one by one."""
    ours = FarfieldLM(str(places[0]), "fp64", batch_size=2)
    context = "The ferry"
    ids = ours.tok_encode(context)
    total, written = 0.0, list[int]()
    for _ in range(6):
        with torch.no_grad():
            logits, _ = ours.model(torch.tensor([ids + written]))
        logprobs = logits[0, -1].log_softmax(-1)
        written.append(int(logprobs.argmax()))
        total += float(logprobs.max())
    wrong = [*written[:-1], (written[-1] + 1) % 300]
    (right, other) = ours._loglikelihood_tokens([(None, ids, written), (None, ids, wrong)])
    assert right == (pytest.approx(total, abs=1e-9), True)
    assert other[1] is False


@pytest.mark.parametrize("kind", ["retnet", "mamba2"])
def test_batches_do_not_change_a_model_with_a_state(kind: str, tmp_path: Path) -> None:
    run = farfield_run(tmp_path / kind, kind)
    one, several = (FarfieldLM(str(run), "fp64", batch_size=batch) for batch in (1, 4))
    requests = asked("loglikelihood", *PAIRS)
    first, second = one.loglikelihood(requests, disable_tqdm=True), several.loglikelihood(requests, disable_tqdm=True)
    assert [logprob for logprob, _ in first] == pytest.approx([logprob for logprob, _ in second], abs=1e-9)
    writing = asked("generate_until", *[(context, {"until": ["."], "max_gen_toks": 8}) for context, _ in PAIRS])
    assert one.generate_until(writing) == several.generate_until(writing)


def test_a_context_is_read_once(places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from farfield.harness import model as module

    read: list[int] = []
    original = module.prefill

    def counting(model: Any, prompts: Any, **given: Any) -> Any:
        read.append(len(prompts))
        return original(model, prompts, **given)

    monkeypatch.setattr(module, "prefill", counting)
    ours = FarfieldLM(str(places[0]), batch_size=2)
    ours.loglikelihood(asked("loglikelihood", *PAIRS), disable_tqdm=True)
    assert sum(read) == len({context.rstrip() for context, _ in PAIRS})


def test_what_is_cut_off_is_said(places: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    short = FarfieldLM(str(places[0]), "fp64", max_length=10)
    free = FarfieldLM(str(places[0]), "fp64")
    ids = free.tok_encode(TEXT)[:40]
    words = free.tok_encode(" at noon")
    (cut,) = short._loglikelihood_tokens([(None, ids, words)])
    assert caplog.messages == ["1 of 1 contexts are longer than max_length=10: their beginnings are cut off."]
    (kept,) = free._loglikelihood_tokens([(None, ids[-(10 - len(words) + 1) :], words)])
    assert cut[0] == pytest.approx(kept[0], abs=1e-12)
    (whole,) = free._loglikelihood_tokens([(None, ids, words)])
    assert whole[0] != pytest.approx(cut[0], abs=1e-3)
    assert len(caplog.messages) == 1
    with pytest.raises(ModelError, match="max_length=10 leaves no room for a context before 12 tokens"):
        short.generate_until(asked("generate_until", ("The", {"until": [], "max_gen_toks": 12})))
    assert (short.max_length, free.max_length) == (10, LENGTH)


def test_mistakes_are_told_in_one_line(places: tuple[Path, Path], tmp_path: Path) -> None:
    run = str(places[0])
    with pytest.raises(ModelError, match="Did you mean"):
        FarfieldLM(run[:-1])
    with pytest.raises(ConfigError, match=r"precision: unknown choice 'fp8'"):
        FarfieldLM(run, "fp8")
    with pytest.raises(ConfigError, match=r"max_length: many given, a whole number above 0 is needed\."):
        FarfieldLM(run, max_length="many")  # type: ignore[arg-type]  # as a command line may
    ours = FarfieldLM(run)
    with pytest.raises(ModelError, match=r"has no chat template\. Leave --apply_chat_template out\."):
        ours.chat_template(True)
    with pytest.raises(ConfigError, match=r"gen_kwargs: unknown key 'num_beams'"):
        ours.generate_until(asked("generate_until", ("The", {"until": [], "num_beams": 4})))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            "path={run},precison=fp64",
            "model_args: unknown key 'precison'. Did you mean 'precision'? Known: batch_size, ",
        ),
        ("precision=fp64", "model_args: no model. Add path=<a run's folder>."),
        ("path={run},batch_size=x", "batch_size: x given, a whole number above 0 or auto is needed."),
        ("path={run},batch_size=0", "batch_size: 0 given, a whole number above 0 or auto is needed."),
        (
            "path={run},context=yarn:factor=0.5",
            "context.factor: 0.5 given. Input should be greater than or equal to 1.",
        ),
        ("path={run},context=parallel", "context: 'parallel' reads prompts, and lm-eval scores texts. Use another."),
        ("path={run},begin=often", "begin: unknown choice 'often'. "),
        ("path={run},max_gen_toks=x", "max_gen_toks: x given, a whole number above 0 is needed."),
    ],
)
def test_arguments_that_do_not_fit_are_told_in_one_line(places: tuple[Path, Path], words: str, line: str) -> None:
    with pytest.raises(ConfigError) as error:
        FarfieldLM.create_from_arg_string(words.format(run=places[0]), {"batch_size": 1, "device": None})
    assert str(error.value).startswith(line)


def test_an_argument_counts_more_than_the_option_of_its_name(places: tuple[Path, Path]) -> None:
    words = f"path={places[0]},batch_size=3"
    assert FarfieldLM.create_from_arg_string(words, {"batch_size": 1, "device": "cpu"}).batch_size == 3
    assert FarfieldLM.create_from_arg_string(f"path={places[0]}", {"batch_size": "2"}).batch_size == 2


def test_a_context_with_its_settings(places: tuple[Path, Path]) -> None:
    words = f"path={places[0]},context=dual_chunk:chunk=20:window=4"
    (layer,) = FarfieldLM.create_from_arg_string(words).model.config.decoder.layers.values()
    assert layer.mixer.mapping()["extension"] == {"kind": "dual_chunk", "chunk": 20, "window": 4}


def test_it_tells_lm_eval_who_it_is(places: tuple[Path, Path]) -> None:
    ours = FarfieldLM(str(places[0]), batch_size="auto:4")
    assert ours.batch_size > 1
    assert ours.tokenizer_name.startswith("farfield-")
    assert ours.get_model_info()["farfield_architecture"] == "attention"
    assert get_model("farfield") is FarfieldLM
    assert ours.chat_template(False) is None
