"""A step of decoding that is captured once and replayed says what ordinary decoding says.

There is no GPU here. `Traced` stands for a CUDA graph: it writes down the operators of one run with the tensors that
they read and write, and does exactly those again, so that anything that Python decides by a number, cuts at a length or
keeps outside of the step's memory shows. What a CUDA graph forbids beside that, copies from the host, is looked for on
tensors of a GPU that exist in shape only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import pytest
import torch
from models import LAYERS, MODELS, VOCABULARY, mapping, model_of
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from farfield import captured
from farfield.architectures.fixed import fixed, grown, write_over
from farfield.architectures.rows import Copies
from farfield.captured import CapturedDecoding, CudaGraph, uncapturable, uncaptured
from farfield.config import ConfigError, ModelError, read
from farfield.generation import Decoding, GenerationConfig, TextModel, continuing, prefill
from farfield.model import LanguageModel, ModelConfig, ModelState
from farfield.tokenizers import BytesTokenizer
from farfield.windows import ParallelWindows

MIXERS: dict[str, dict[str, Any]] = {
    "norms": {"kind": "attention", "heads": 4, "kv_heads": 1, "qk_norm": 1e-6, "bias": "all", "head_size": 6},
    "stretched": {"kind": "attention", "heads": 2, "scaling": {"kind": "yarn", "factor": 4.0, "trained": 16}},
    "window": {"kind": "longformer", "heads": 4, "kv_heads": 2, "window": 6, "conv": 2},
    "slopes": {"kind": "longformer", "heads": 4, "kv_heads": 2, "window": 9, "globals": 3, "position": "alibi"},
    "lightning": {"kind": "lightning", "heads": 2, "conv": 3},
    "mamba": {"kind": "mamba", "state": 4, "inner_norm": True},
    "mamba2": {"kind": "mamba2", "heads": 4, "groups": 2, "state": 8},
    "gated_deltanet": {"kind": "gated_deltanet", "heads": 2, "value_heads": 4},
    "gss": {"kind": "gss", "state": 8},
    "performer": {"kind": "performer", "heads": 2, "features": "favor"},
}
RECURRENT = ("retnet", "lightning", "mamba", "mamba2", "gated_deltanet", "gss", "performer")
OTHERS = ("attention", "longformer", "retnet", "mixture", "untied", "alibi", "cla")
PROMPTS = (11, 40, 5)


def model(name: str) -> LanguageModel:
    """Of two layers of a mixer, or one of the shapes that all tests of models have."""
    if name in MODELS:
        return model_of(name)
    settings = mapping(["attention"], 1)
    settings["architecture"] |= {"pattern": [name], "layers": {name: {"mixer": deepcopy(MIXERS[name])}}}
    torch.manual_seed(5)
    made = LanguageModel(read(ModelConfig, settings)).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
    return made


def behind(made: LanguageModel, lengths: tuple[int, ...] = PROMPTS) -> tuple[Tensor, ModelState]:
    """What `prefill` returns for prompts of some lengths."""
    generator = torch.Generator().manual_seed(2)
    prompts = [torch.randint(VOCABULARY, (length,), generator=generator).tolist() for length in lengths]
    return prefill(made, prompts)


class Eager:
    """No graph: each replay runs the step."""

    def __init__(self, step: Callable[[], None], device: torch.device) -> None:
        self.replay = step

    def reset(self) -> None: ...


class _Written(TorchDispatchMode):
    """Writes down every operator with what it was given and what it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.lines.append((func, args, kwargs or {}, found))
        return found


class Traced:
    """The operators of one run, on the tensors of that run."""

    made: list[Traced] = []  # emptied before each test

    def __init__(self, step: Callable[[], None], device: torch.device) -> None:
        step()  # to warm up, as a graph is
        with _Written() as written:
            step()
        self.lines = written.lines
        self.replays, self.freed = 0, False
        assert all(one.freed for one in Traced.made), "two graphs at once"
        Traced.made.append(self)

    def replay(self) -> None:
        assert not self.freed
        self.replays += 1
        now: dict[int, Tensor] = {}  # what an operator gives this time, by what it gave then

        def given(part: Any) -> Any:
            return now.get(id(part), part) if isinstance(part, Tensor) else part

        for func, args, kwargs, before in self.lines:
            found = func(*pytree.tree_map(given, args), **pytree.tree_map(given, kwargs))
            for old, new in zip(pytree.tree_leaves(before), pytree.tree_leaves(found), strict=True):
                now[id(old)] = new

    def reset(self) -> None:
        self.freed = True


@pytest.fixture(autouse=True)
def none_made() -> Iterator[None]:
    Traced.made.clear()
    yield
    Traced.made.clear()


def alike(made: LanguageModel, config: GenerationConfig, capture: Any, ends: dict[int, set[int]] | None = None) -> None:
    """Ids and logits of both ways to decode are the same, token after token; at some tokens rows end."""
    logits, state = behind(made)
    ours, plain = CapturedDecoding(made, logits, state, config, capture), Decoding(made, logits, state, config)
    for token in range(config.tokens):
        assert ours.rows == plain.rows
        assert ours.ids() == plain.ids()
        ended = (ends or {}).get(token, set())
        ours.advance(ended)
        plain.advance(ended)
        if not plain.rows:
            return
        torch.testing.assert_close(ours.logits, plain.logits, rtol=0, atol=1e-12)  # C++ adds up in another order
    more = torch.ones(len(plain.rows), 1, dtype=torch.int64)
    with torch.no_grad():  # the state goes on as an ordinary one
        torch.testing.assert_close(made(more, ours.state)[0], made(more, plain.state)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", [*OTHERS, *MIXERS])
def test_a_captured_step_says_what_decoding_says(name: str) -> None:
    made = model(name)
    assert uncapturable(made.config) is None
    alike(made, GenerationConfig(tokens=12), Traced)
    assert [graph.replays for graph in Traced.made] == [12]


@pytest.mark.parametrize("name", ["attention", "longformer", "slopes"])
def test_a_ring_goes_round_and_rows_end(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows are passed over several times, graphs are made anew with more room and with fewer rows."""
    monkeypatch.setattr(captured, "ROOM", 16)
    monkeypatch.setattr("farfield.architectures.fixed.MULTIPLE", 1)
    alike(model(name), GenerationConfig(tokens=70), Eager, {3: {1}, 50: {0}})


def test_graphs_are_made_anew_for_room_and_for_fewer_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captured, "ROOM", 4)
    made = model("untied")
    logits, state = behind(made, (3, 2, 3, 2))
    decoding = CapturedDecoding(made, logits, state, GenerationConfig(tokens=30), Traced)
    for token in range(30):
        decoding.ids()
        decoding.advance({1: {1}, 3: {0}, 10: {3}}.get(token, set()))
    # Four rows until half of them have ended, room for 6 as there are 6 tokens, one token more, then one row alone.
    assert [graph.replays for graph in Traced.made] == [3, 6, 1, 13, 7]
    assert [graph.freed for graph in Traced.made] == [True, True, True, True, False]


@pytest.mark.parametrize(
    "settings",
    [{"temperature": 0.8}, {"temperature": 1.2, "top_k": 7}, {"temperature": 1.0, "top_p": 0.7, "seed": 4}],
    ids=["temperature", "top_k", "top_p"],
)
def test_draws_are_those_of_ordinary_decoding(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captured, "ROOM", 5)
    alike(model("retnet"), GenerationConfig(tokens=14, **settings), Traced, {2: {0}, 9: {2}})
    assert len(Traced.made) > 1


def test_windows_side_by_side_go_on_with_their_phase() -> None:
    made = model("stretched")
    made.windows = ParallelWindows(window=12, task=5)
    _, state = behind(made)
    assert state.ahead is not None
    assert state.ahead.any()
    alike(made, GenerationConfig(tokens=9), Traced)


@torch.no_grad()
def test_a_fixed_state_is_of_memory_of_its_own() -> None:
    made = model("longformer")
    logits, state = behind(made)
    before = {name: tensor.clone() for name, tensor in state.tensors().items()}
    held = fixed(state, 8)
    found, after = made.step(logits.argmax(-1), held, 5, Copies())
    addresses = [leaf.data_ptr() for leaf in pytree.tree_leaves(held) if isinstance(leaf, Tensor)]
    write_over(held, after)
    assert addresses == [leaf.data_ptr() for leaf in pytree.tree_leaves(held) if isinstance(leaf, Tensor)]
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.tensors().items())
    assert grown(fixed(state, 8)).bytes == state.bytes
    assert bool(found.isfinite().all())


class _NothingFromTheHost(TorchDispatchMode):
    """Within it no operator reads a tensor of the CPU; single numbers are handed over with a kernel."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [one for one in pytree.tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        assert not any(one.device.type == "cpu" and one.ndim for one in given), f"{func} reads the host's memory"
        return func(*args, **(kwargs or {}))


class _NothingMade(TorchFunctionMode):
    """Within it no tensor is made of Python's numbers: that would be a copy from the host too."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in (torch.tensor, torch.as_tensor, Tensor.new_tensor), f"{func} copies from the host"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", [*OTHERS, *MIXERS])
@torch.no_grad()
def test_a_step_elsewhere_looks_up_nothing_and_copies_nothing(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On tensors in shape only, nothing can be looked up; what stays on the host is seen when it is read."""
    monkeypatch.setattr(torch, "autocast", lambda kind, enabled: contextlib.nullcontext())  # which has no such device
    made = model(name).to(dtype)
    logits, state = behind(made)
    held = pytree.tree_map(lambda part: part.to("meta") if isinstance(part, Tensor) else part, fixed(state, 8))
    made, ids, copies = made.to("meta"), logits.argmax(-1).to("meta"), Copies()
    made.step(ids, held, 5, copies)
    with _NothingFromTheHost(), _NothingMade():
        found, after = made.step(ids, held, 5, copies)
        write_over(held, after)
    assert (found.device.type, found.dtype, found.shape) == ("meta", dtype, logits.shape)


@pytest.mark.parametrize(
    "work",
    [
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        lambda x: x + torch.arange(3.0).to(x.device),
        lambda x: x + torch.tensor([1.0], device=x.device),
        lambda x: x + x.new_tensor([1.0]),
    ],
    ids=["a number", "a mask", "a copy", "a tensor", "a tensor alike"],
)
def test_what_a_graph_forbids_is_found(work: Callable[[Tensor], Any]) -> None:
    with _NothingFromTheHost(), _NothingMade(), pytest.raises((RuntimeError, NotImplementedError, AssertionError)):
        work(torch.empty(3, device="meta"))


REASONS = {
    "experts": "a mixture of experts counts the tokens of each",
    "memory": "memory 'knn' looks up numbers on its way",
    "positions": "memory 'knn' looks up numbers on its way",
}


@pytest.mark.parametrize("name", REASONS)
def test_what_cannot_be_captured_says_why(name: str) -> None:
    assert uncapturable(model_of(name).config) == REASONS[name]


@pytest.mark.parametrize(
    ("mixer", "reason"),
    [
        (LAYERS["xpos"]["mixer"], "position: xpos looks up whether its reference has to move"),
        ({"kind": "attention", "position": "xpos"}, "position: xpos looks up whether its reference has to move"),
        (
            {"kind": "attention", "extension": {"kind": "self_extend", "window": 8, "group": 4}},
            "extension: self_extend",
        ),
        ({"kind": "sparse", "pattern": "strided", "stride": 4}, "'sparse' looks up numbers on its way"),
    ],
    ids=["longformer", "attention", "extension", "sparse"],
)
def test_a_mixer_that_cannot_be_captured_says_why(mixer: dict[str, Any], reason: str) -> None:
    settings = mapping(["attention"], 1, width=32)
    settings["architecture"]["layers"]["attention"]["mixer"] = mixer
    found = uncapturable(read(ModelConfig, settings))
    assert found is not None
    assert found.startswith(reason)


def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LanguageModel, "device", property(lambda self: torch.device("cuda")))


def test_a_graph_is_chosen_on_a_gpu_where_the_model_offers_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made, experts = model("retnet"), model("experts")
    read_by = {one: behind(one) for one in (made, experts)}
    assert isinstance(continuing(made, *read_by[made], GenerationConfig()), Decoding)
    on_gpu(monkeypatch)
    assert isinstance(continuing(made, *read_by[made], GenerationConfig()), CapturedDecoding)
    assert isinstance(continuing(made, *read_by[made], GenerationConfig(capture=True)), CapturedDecoding)
    assert isinstance(continuing(made, *read_by[made], GenerationConfig(capture=False)), Decoding)
    assert isinstance(continuing(experts, *read_by[experts], GenerationConfig()), Decoding)


def test_a_graph_that_cannot_be_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, made, short = GenerationConfig(capture=True), model("experts"), model("slopes")
    said = r"^generation\.capture: true given, but {}\. Take auto or false\.$"
    with pytest.raises(ModelError, match=said.format("the model is on 'cpu', and graphs are captured on 'cuda'")):
        continuing(made, *behind(made), asked)
    few, read_by = behind(short, (2, 7)), behind(made)
    on_gpu(monkeypatch)
    with pytest.raises(ModelError, match=said.format("a mixture of experts counts the tokens of each")):
        continuing(made, *read_by, asked)
    with pytest.raises(ModelError, match=said.format("a graph of this model begins behind 3 tokens, and there are 2")):
        continuing(short, *few, asked)
    assert uncaptured(short, few[1].select(torch.tensor([1]))) is None


def test_a_graph_that_cannot_be_is_told_before_the_prompt_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    made = TextModel(model("retnet"), BytesTokenizer())
    monkeypatch.setattr("farfield.generation.streaming.prefill", None)
    with pytest.raises(ModelError, match=r"^generation\.capture: true given, but the model is on 'cpu'"):
        made.generate("a", capture=True)
    with pytest.raises(ConfigError, match=r"^generate\.capture: unknown choice 'maybe'\. Known: False, True, auto\.$"):
        made.generate("a", capture="maybe")  # type: ignore[arg-type]


class _Cuda:
    """What of torch.cuda a capture uses, which writes down what happens."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.where = "main"

    def stream(self, name: str) -> Any:
        return self._within(name)

    def graph(self, graph: Any) -> Any:
        return self._within("graph")

    def _within(self, name: str) -> Any:
        @contextlib.contextmanager
        def run() -> Iterator[None]:
            before, self.where = self.where, name
            yield
            self.where = before

        return run()


def test_a_cuda_graph_is_warmed_up_beside_and_captured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = _Cuda()

    class Stream:
        def __init__(self, name: str = "side") -> None:
            self.name = name

        def wait_stream(self, other: Stream) -> None:
            cuda.log.append(f"{self.name} waits for {other.name}")

    class Graph:
        def replay(self) -> None:
            cuda.log.append("replay")

        def reset(self) -> None:
            cuda.log.append("reset")

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stream("main"))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: cuda.stream(stream.name))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", cuda.graph)
    monkeypatch.setattr(torch.cuda, "device", lambda device: cuda._within(cuda.where))
    made = CudaGraph(lambda: cuda.log.append(f"step in {cuda.where}"), torch.device("cuda"))
    made.replay()
    made.reset()
    warm = ["step in side"] * captured.WARM_UP
    assert cuda.log == ["side waits for main", *warm, "main waits for side", "step in graph", "replay", "reset"]


@pytest.mark.gpu
@pytest.mark.parametrize("name", [*OTHERS, *MIXERS])
def test_graphs_of_a_gpu_say_what_decoding_says(name: str) -> None:
    made = model(name).cuda()
    logits, state = behind(made)
    config = GenerationConfig(tokens=40, temperature=0.9, top_k=9)
    ours, plain = CapturedDecoding(made, logits, state, config), Decoding(made, logits, state, config)
    for _ in range(config.tokens):
        assert ours.ids() == plain.ids()
        ours.advance(set())
        plain.advance(set())
        torch.testing.assert_close(ours.logits, plain.logits, rtol=0, atol=1e-11)
