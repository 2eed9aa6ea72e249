"""A Farfield model as a model of lm-eval: `--model farfield --model_args path=runs/retnet,precision=bf16`.

What is scored, of a request with three tokens of context and two of continuation (lm-eval's convention):

    read       c1 c2 c3 t1        the last token is not read
    scored           t1 t2        log-probabilities behind c3 and behind t1; greedy if both are the likeliest

Requests about one context read it once: their continuations go on from copies of one state. Rows of different lengths
go through the model together, padded on the right, which changes nothing in any of our models.

Nothing is cut off unless `max_length` says so, for our models read any length; what is cut is counted aloud.

Shapes: B batch, T time, D width, V vocabulary.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window, simple_parse_args_string
from torch import Tensor

from farfield.api import load, place
from farfield.benchmarks.subjects.model_subject import ModelSubject
from farfield.config import ConfigError, ModelError, read, unknown
from farfield.generation import GenerationConfig, TextModel, generate, prefill
from farfield.huggingface.settings import FolderConfig
from farfield.settings import DeviceConfig
from farfield.tokenizers import fingerprint

__all__ = ["FarfieldLM"]

LOG = logging.getLogger("farfield.harness")

PIECE = 2048  # tokens that are prefilled in one call
BATCH = 16  # rows, where lm-eval is told to find out by itself
ANSWER = 256  # tokens, where a task does not say
LENGTH = 2048  # of windows, where the model's training does not say
LOGITS = 1 << 26  # that are held at once

Pair = tuple[tuple[str, str] | None, list[int], list[int]]  # texts, context, continuation


@register_model("farfield")
class FarfieldLM(TemplateLM):  # type: ignore[misc]  # lm-eval has no types that hold
    """A model trained with Farfield."""

    def __init__(
        self,
        path: str | TextModel | None = None,
        precision: str = "fp32",
        memory: str | None = None,
        context: str | None = None,
        begin: str = "auto",
        max_length: int | None = None,
        max_gen_toks: int = ANSWER,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        **others: object,
    ) -> None:
        """A run's folder or a file in one, or a model that is already there.

        Args:
            path: where it is. precision: fp32, bf16 or fp64.
            memory: an option of the group `memory` in the place of the one that the model was trained with.
            context: an option of the group `context`, with its settings behind it: context=yarn:factor=8:fast=16.
            begin: of a folder of Hugging Face, the begin-of-text token before each text: auto (as its tokenizer does),
                always, never.
            max_length: tokens of the longest call; longer contexts lose their beginnings, and texts are scored in
                windows of as many. Unset: nothing is cut, and windows are as long as the rows of the training.
            max_gen_toks: of an answer whose task does not say.
            batch_size: rows that are read together. max_batch_size: taken for lm-eval's sake, and not needed.
            device: "cpu", or anything else: a GPU if there is one.
            others: what is none of these, which lm-eval hands over as it was written; refused.

        Raises:
            ModelError: nothing there, or it cannot be used. ConfigError: a setting does not fit.
        """
        super().__init__()
        for name in others:
            known = [one for one in inspect.signature(FarfieldLM).parameters if one != "others"]
            raise ConfigError("model_args: " + unknown("unknown key", name, known))
        if path is None:
            raise ConfigError("model_args: no model. Add path=<a run's folder>.")
        given = precision, memory, context, begin, device
        self.model = path if isinstance(path, TextModel) else _opened(str(path), *given)
        self.path, self.generated = str(path), _whole("max_gen_toks", max_gen_toks)
        self.cut_to = None if max_length is None else _whole("max_length", max_length)
        self.rows = BATCH if str(batch_size).startswith("auto") else _rows(batch_size)
        self._device = self.model.device

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> FarfieldLM:
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> FarfieldLM:
        """The model of `--model_args`; what is said there too counts more than an option of the command line."""
        options = {name: value for name, value in (additional_config or {}).items() if value is not None}
        return cls(**{**options, **arg_dict})

    @property
    def eot_token_id(self) -> int:
        return self.model.tokenizer.end

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has nothing before it: begin-of-text where the tokenizer has one."""
        begin: int | None = getattr(self.model.tokenizer, "begin", None)
        return self.eot_token_id if begin is None else begin

    @property
    def max_length(self) -> int:
        """Tokens of a window of a text that is scored as a whole."""
        trained = self.model.info.get("config", {}).get("data", {}).get("length")
        return self.cut_to or trained or LENGTH

    @property
    def max_gen_toks(self) -> int:
        return self.generated

    @property
    def batch_size(self) -> int:
        return self.rows

    @property
    def tokenizer_name(self) -> str:
        """What stands for the tokenizer where lm-eval keeps requests."""
        return f"farfield-{fingerprint(self.model.tokenizer)}"

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """None: our models are trained on texts.

        Raises:
            ModelError: one is asked for.
        """
        if chat_template:
            raise ModelError(f"{self.path}: a Farfield model has no chat template. Leave --apply_chat_template out.")
        return None

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes beside its results."""
        told = ModelSubject(self.model, self.path).describe()
        return {f"farfield_{name}": value for name, value in told.items() if name != "config"}

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **given: Any) -> list[int]:
        """The ids of a text, behind the one that texts begin with; without it where lm-eval says so."""
        ids = self.model.tokenizer.encode(string)
        return ids if add_special_tokens is False else self.model.opened(ids)

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of each text, in windows of `max_length` that score each token once.

        What a text begins with stands before its first window, and is not scored, which lm-eval's HFLM does.
        """
        windows: list[Pair] = []
        owners: list[int] = []
        for at, (text,) in enumerate(request.args for request in requests):
            ids = self.tok_encode(text, add_special_tokens=False)
            parts = get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, 1)
            pairs = [(None, *make_disjoint_window(part)) for part in parts]
            windows += pairs
            owners += [at] * len(pairs)
        totals = [0.0] * len(requests)
        for owner, (logprob, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += logprob
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    @torch.no_grad()
    def _loglikelihood_tokens(self, requests: Sequence[Pair], **given: Any) -> list[tuple[float, bool]]:
        contexts: dict[tuple[int, ...], list[int]] = {}
        cut = 0
        for at, (_, context, continuation) in enumerate(requests):
            kept = self._kept(context, len(continuation) - 1)
            cut += len(kept) < len(context)
            contexts.setdefault(tuple(kept), []).append(at)
        self._say_cut(cut, len(requests))
        found: dict[int, tuple[float, bool]] = {}
        order = sorted(contexts, key=len, reverse=True)
        for first in range(0, len(order), self.rows):
            batch = order[first : first + self.rows]
            logits, state = prefill(self.model.model, batch, piece=PIECE)
            rows = [row for row, context in enumerate(batch) for _ in contexts[context]]
            places = [at for context in batch for at in contexts[context]]
            for low in range(0, len(places), self.rows):
                part, index = places[low : low + self.rows], torch.tensor(rows[low : low + self.rows])
                index = index.to(logits.device)
                scored = self._behind(logits[index], state.select(index), [requests[at][2] for at in part])
                found.update(zip(part, scored, strict=True))
        answers = [found[at] for at in range(len(requests))]
        for (texts, _, _), answer in zip(requests, answers, strict=True):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, answer)
        return answers

    def _behind(self, logits: Tensor, state: Any, continuations: Sequence[list[int]]) -> Iterator[tuple[float, bool]]:
        """How likely each continuation is behind its row of logits (B, V) and of `state`, and whether it is greedy."""
        time = max(map(len, continuations))
        targets = torch.full((len(continuations), time), -1)
        for row, ids in enumerate(continuations):
            targets[row, : len(ids)] = torch.tensor(ids)
        targets = targets.to(logits.device)
        likely, logprobs = [_greedy(logits[:, None], targets[:, :1])], [_scored(logits[:, None], targets[:, :1])]
        begin, piece = state.position, max(1, min(PIECE, LOGITS // logits.numel()))
        for first in range(0, time - 1, piece):
            last = min(first + piece, time - 1)
            tokens, aims = targets[:, first:last], targets[:, first + 1 : last + 1]
            column = torch.arange(first, last, device=logits.device)
            positions = torch.where(aims >= 0, begin[:, None] + column, -1)  # what nobody asks behind is not read
            hidden, state = self.model.hidden(tokens.clamp(min=0), state, positions=positions)
            told = self.model.head(hidden)
            likely.append(_greedy(told, aims))
            logprobs.append(_scored(told, aims))
        totals, greedy = torch.cat(logprobs, 1).sum(1).tolist(), torch.cat(likely, 1).all(1).tolist()
        return zip(totals, greedy, strict=True)

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """What the model writes behind each context, up to the first of its stop texts."""
        groups: dict[str, list[int]] = {}
        configs: dict[str, GenerationConfig] = {}
        for at, request in enumerate(requests):
            config = self._config(request.args[1])
            groups.setdefault(config.model_dump_json(), []).append(at)
            configs[config.model_dump_json()] = config
        found: dict[int, str] = {}
        for key, places in groups.items():
            room = configs[key].tokens
            ids = {at: self._context(requests[at].args[0]) for at in places}
            kept = {at: self._kept(one, room) for at, one in ids.items()}
            self._say_cut(sum(len(kept[at]) < len(ids[at]) for at in places), len(places))
            order = sorted(places, key=lambda at: len(kept[at]), reverse=True)
            for first in range(0, len(order), self.rows):
                batch = order[first : first + self.rows]
                answers = generate(self.model.model, self.model.tokenizer, [kept[at] for at in batch], configs[key])
                found.update((at, answer.text) for at, answer in zip(batch, answers, strict=True))
        for at, request in enumerate(requests):
            self.cache_hook.add_partial("generate_until", request.args, found[at])
        return [found[at] for at in range(len(requests))]

    def _context(self, text: str) -> list[int]:
        """A context that is not empty: behind nothing stands what a text begins with."""
        return self.tok_encode(text) or [self.prefix_token_id]

    def _config(self, given: dict[str, Any]) -> GenerationConfig:
        """Their settings of generation as ours.

        Raises:
            ConfigError: a setting that has no meaning here, beams for one.
        """
        asked = dict(normalize_gen_kwargs(given, self.max_gen_toks))
        asked.pop("do_sample", None)
        settings = {"tokens": asked.pop("max_gen_toks"), "stop": [text for text in asked.pop("until") if text]}
        settings |= {name: asked.pop(name) for name in ("temperature", "top_k", "top_p", "seed") if name in asked}
        return read(GenerationConfig, {**settings, **asked}, "gen_kwargs")

    def _kept(self, context: Sequence[int], room: int) -> list[int]:
        """The end of `context` that is read, where `room` tokens must follow within `max_length`.

        Raises:
            ModelError: nothing of it would be left.
        """
        if self.cut_to is None:
            return list(context)
        if room >= self.cut_to:
            raise ModelError(f"max_length={self.cut_to} leaves no room for a context before {room} tokens.")
        return list(context[-(self.cut_to - room) :])

    def _say_cut(self, cut: int, count: int) -> None:
        if cut:
            LOG.warning(
                "%d of %d contexts are longer than max_length=%d: their beginnings are cut off.",
                cut,
                count,
                self.cut_to,
            )


def _opened(
    path: str, precision: str, memory: str | None, context: str | None, begin: str, device: str | None
) -> TextModel:
    """The model, on a GPU if there is one: lm-eval asks for it by default, and runs without it too."""
    settings = read(DeviceConfig, {"accelerator": "cpu" if device == "cpu" else "auto", "precision": precision})
    hub, words = read(FolderConfig, {"begin": begin}), list[str]()
    if context is not None:
        context, *given = context.split(":")
        if context == "parallel":
            raise ConfigError("context: 'parallel' reads prompts, and lm-eval scores texts. Use another.")
        words = [f"context.{word}" for word in given]
    chosen = path, place(settings), settings.dtype
    return load(*chosen, layers="farfield", memory=memory, context=context, overrides=words, begin=hub.begin)


def _rows(value: object) -> int:
    """A number above 0 that may be written as a text."""
    if not str(value).isdecimal() or int(str(value)) < 1:
        raise ConfigError(f"batch_size: {value} given, a whole number above 0 or auto is needed.")
    return int(str(value))


def _whole(name: str, value: object) -> int:
    """A number above 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name}: {value} given, a whole number above 0 is needed.")
    return value


def _scored(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probabilities (B, T) in nats, float64, of targets (B, T) by logits (B, T, V); 0 where they are negative."""
    logprobs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    chosen = logprobs.gather(-1, targets.clamp(min=0)[..., None])[..., 0].double()
    return torch.where(targets < 0, 0.0, chosen)


def _greedy(logits: Tensor, targets: Tensor) -> Tensor:
    """Whether targets (B, T) are the likeliest; true where they are negative."""
    return (targets < 0) | (logits.argmax(-1) == targets)
