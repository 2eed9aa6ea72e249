"""python -m farfield.benchmarks.robustness: do tokens, pieces, padding and packing give what the whole text gives?

    tokens          the text one token at a time, from the state            against the text at once
    pieces          a prompt of half the text, then the other half
    left padding    five padding tokens before the text
    right padding   two prompts of unlike length in one padded batch, then the next token of each
    packed          two documents in one row                                against each alone

of every backbone of Farfield and, where transformers is installed (the extra `oracles`), of its models of the same
kind, each with two small layers of random weights. A cell is the largest difference of a logit, with logits of about
unit size; "right" is below 1e-3, about a hundred times float32's rounding. A model that has no way to be told is given
what its own `generate` would give it: an attention mask, positions, its cache.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from farfield.architectures import mixer_kinds
from farfield.benchmarks.provenance import provenance
from farfield.model import LanguageModel, ModelConfig
from farfield.progress import say

__all__ = ["CHECKS", "Farfield", "Transformers", "compare", "main", "markdown"]

VOCABULARY, WIDTH, HEADS, LENGTH, PADDING = 61, 64, 4, 24, 5
RIGHT = 1e-3

SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "pad_token_id": 0,
}
MIXTURE = {"num_experts": 2, "num_experts_per_tok": 1, "num_local_experts": 2}
LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}

SCAN = {"mamba_d_state": 8, "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_n_groups": 2, "mamba_chunk_size": 8}
JAMBA = {
    "mamba_d_state": 8,
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
}
BIGBIRD = {"is_decoder": True, "attention_type": "original_full", "max_position_embeddings": 128}
REFORMER = {
    "is_decoder": True,
    "attention_head_size": 16,
    "feed_forward_size": 128,
    "attn_layers": ["local", "lsh"],
    "axial_pos_embds": False,
    "lsh_attn_chunk_length": 8,
    "local_attn_chunk_length": 8,
    "num_buckets": 4,
    "max_position_embeddings": 128,
    "hash_seed": 0,
}

THEIRS: dict[str, dict[str, dict[str, Any]]] = {
    "attention": {"Llama": {}},
    "longformer": {"Mistral": {"sliding_window": 8}},
    "mamba": {"Mamba": {"state_size": 8}, "FalconMamba": {"state_size": 8}},
    "mamba2": {"Mamba2": {"num_heads": 8, "head_dim": 16, "state_size": 8, "n_groups": 2, "chunk_size": 8}},
    "jamba": {"Jamba": {**JAMBA, **MIXTURE}, "Bamba": {**SCAN, "attn_layer_indices": [1]}},
    "lightning": {"MiniMax": {"layer_types": ["linear_attention", "full_attention"], "block_size": 8, **MIXTURE}},
    "gated_deltanet": {"Qwen3Next": {"layer_types": ["linear_attention", "full_attention"], **LINEAR, **MIXTURE}},
    "sparse": {"BigBird": BIGBIRD},
    "reformer": {"Reformer": REFORMER},
}
"""By kind, or hybrid: the names of transformers' models and their settings beside `SMALL`."""

HEADS_OF = {"Reformer": "ReformerModelWithLMHead"}
"""Models that are not called <name>ForCausalLM."""

CACHES = ("past_key_values", "cache_params", "past_buckets_states")
"""What models call what they carry from call to call."""


class Model(Protocol):
    """What is compared."""

    name: str

    def run(self, calls: Sequence[Tensor], masks: Sequence[Tensor] | None = None) -> Tensor:
        """Logits of all calls (B, T, V), each going on where the one before stopped; a mask (B, t) is 0 at padding."""

    def packed(self, documents: Sequence[Tensor]) -> Tensor:
        """Logits (1, T, V) of documents (t,) in one row."""


class Farfield:
    """A model of ours of two layers, of the kinds that are named, with their default settings."""

    def __init__(self, *kinds: str, feedforward: str = "swiglu") -> None:
        self.name = " and ".join(kinds)
        layers = {kind: {"mixer": {"kind": kind}, "feedforward": {"kind": feedforward}} for kind in kinds}
        architecture = {"width": WIDTH, "depth": 2, "pattern": list(kinds), "layers": layers}
        config = {"architecture": architecture, "memory": None, "vocabulary": VOCABULARY}
        self.model = LanguageModel(ModelConfig.model_validate_json(json.dumps(config))).eval()

    def run(self, calls: Sequence[Tensor], masks: Sequence[Tensor] | None = None) -> Tensor:
        state, logits = self.model.start(calls[0].shape[0]), []
        for number, tokens in enumerate(calls):
            real = torch.ones_like(tokens) if masks is None else masks[number]
            positions = torch.where(real > 0, state.position[:, None] + real.cumsum(1) - 1, -1)
            found, state = self.model(tokens, state, positions=positions)
            logits.append(found)
        return torch.cat(logits, 1)

    def packed(self, documents: Sequence[Tensor]) -> Tensor:
        positions = torch.cat([torch.arange(len(document)) for document in documents])[None]
        logits: Tensor = self.model(torch.cat(list(documents))[None], positions=positions)[0]
        return logits


class Transformers:
    """One of transformers' causal models, called as its own `generate` calls it."""

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        library = importlib.import_module("transformers")
        config = getattr(library, f"{name}Config")(**SMALL | dict(settings))
        self.name = name
        self.model = getattr(library, HEADS_OF.get(name, f"{name}ForCausalLM"))(config).eval()
        self.takes = set(inspect.signature(self.model.forward).parameters)
        _randomised(self.model)

    def run(self, calls: Sequence[Tensor], masks: Sequence[Tensor] | None = None) -> Tensor:
        cache, logits = None, []
        seen = torch.zeros(calls[0].shape[0], 0, dtype=torch.int64)
        for number, tokens in enumerate(calls):
            seen = torch.cat((seen, torch.ones_like(tokens) if masks is None else masks[number]), 1)
            positions = (seen.cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
            given = {"attention_mask": seen, "position_ids": positions, "use_cache": True}
            given |= dict.fromkeys(CACHES, cache)
            if cache is not None and "past_key_values" not in self.takes:
                del given["attention_mask"]  # as their generate does behind the prompt
            if "past_buckets_states" in self.takes:
                del given["position_ids"]  # as their generate does
            out = self.model(tokens, **{key: value for key, value in given.items() if key in self.takes})
            cache = getattr(out, next(name for name in CACHES if name in self.takes))
            logits.append(out.logits)
        return torch.cat(logits, 1)

    def packed(self, documents: Sequence[Tensor]) -> Tensor:
        positions = torch.cat([torch.arange(len(document)) for document in documents])[None]
        given = {"position_ids": positions} if "position_ids" in self.takes else {}
        logits: Tensor = self.model(torch.cat(list(documents))[None], use_cache=False, **given).logits
        return logits


def _randomised(model: torch.nn.Module) -> None:
    """Matrices as wide as they need to be for activations of unit size, so that mistakes show."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.shape[1] ** -0.5)


def _texts(count: int) -> list[Tensor]:
    """Texts (1, LENGTH) of ids that are no padding."""
    generator = torch.Generator().manual_seed(1)
    return list(torch.randint(1, VOCABULARY, (count, 1, LENGTH), generator=generator))


def _tokens(model: Model) -> Tensor:
    (text,) = _texts(1)
    return model.run(list(text.split(1, 1))) - model.run([text])


def _pieces(model: Model) -> Tensor:
    (text,) = _texts(1)
    return model.run(list(text.split(LENGTH // 2, 1))) - model.run([text])


def _left(model: Model) -> Tensor:
    (text,) = _texts(1)
    padded = torch.nn.functional.pad(text, (PADDING, 0))
    return model.run([padded], [(padded > 0).long()])[:, PADDING:] - model.run([text])


def _right(model: Model) -> Tensor:
    """The logits that the next token of each prompt gives."""
    first, second = _texts(2)
    short = LENGTH - PADDING
    prompts = torch.cat((first, torch.nn.functional.pad(second[:, :short], (0, PADDING))))
    following = torch.tensor([[7], [9]])
    found = model.run([prompts, following], [(prompts > 0).long(), torch.ones_like(following)])[:, -1]
    texts = (first, second[:, :short])
    alone = [
        model.run([torch.cat((text, token[None]), 1)])[:, -1] for text, token in zip(texts, following, strict=True)
    ]
    return found - torch.cat(alone)


def _packed(model: Model) -> Tensor:
    first, second = (text[0] for text in _texts(2))
    alone = torch.cat([model.run([text[None]]) for text in (first, second)], 1)
    return model.packed([first, second]) - alone


CHECKS: dict[str, Callable[[Model], Tensor]] = {
    "tokens": _tokens,
    "pieces": _pieces,
    "left padding": _left,
    "right padding": _right,
    "packed": _packed,
}


def compare(model: Model) -> dict[str, float | str]:
    """By check: the largest difference of a logit, or the error that the model answered with."""
    found: dict[str, float | str] = {}
    for name, check in CHECKS.items():
        try:
            with torch.no_grad():
                found[name] = float(check(model).abs().max())
        except (ValueError, RuntimeError, IndexError, TypeError, AttributeError, NotImplementedError) as error:
            found[name] = type(error).__name__
    return found


def main() -> int:
    """The table, of what is installed; 0 if every model of ours is right in everything."""
    told = "Tokens, pieces, padding and packing against the whole text, ours beside transformers'."
    parser = argparse.ArgumentParser(prog="python -m farfield.benchmarks.robustness", description=told)
    parser.add_argument("--json", type=Path, help="where to write the figures, with the versions")
    parser.add_argument("--readme", type=Path, help="a file whose lines between the robustness marks are written anew")
    given = parser.parse_args()
    torch.manual_seed(0)
    ours = [*map(Farfield, mixer_kinds()), Farfield("mamba", "attention", feedforward="moe")]
    rows = [{"library": "Farfield", "model": model.name, **compare(model)} for model in ours]
    good = all(_right_one(row[check]) for row in rows for check in CHECKS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module("transformers")
            for models in THEIRS.values():
                for name, settings in models.items():
                    rows.append({"library": "transformers", "model": name, **compare(Transformers(name, settings))})
    except ImportError:
        say("transformers is not installed: only ours are compared.")
    Console(width=120).print(_table(rows))
    if given.json:
        given.json.write_text(json.dumps({**provenance(), "rows": rows}, indent=2) + "\n", encoding="utf-8")
    if given.readme:
        text = given.readme.read_text(encoding="utf-8")
        given.readme.write_text(_between(text, markdown(rows)), encoding="utf-8")
    return 0 if good else 1


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table of a README: of ours the worst of each check, theirs a line each."""
    ours = [row for row in rows if row["library"] == "Farfield"]
    worst = {check: max((row[check] for row in ours), key=_badness) for check in CHECKS}
    lines = [("", *CHECKS), ("---",) * (len(CHECKS) + 1)]
    lines.append((f"Farfield, the worst of all {len(ours)}", *(_plain(worst[check]) for check in CHECKS)))
    for row in rows:
        if row["library"] != "Farfield":
            lines.append((f"{row['library']}, {row['model']}", *(_plain(row[check]) for check in CHECKS)))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _badness(value: float | str) -> float:
    return value if isinstance(value, float) else float("inf")


def _plain(value: float | str) -> str:
    if isinstance(value, str):
        return f"**{value}**"
    return f"{value:.0e}" if value <= RIGHT else f"**wrong, {value:.2g}**"


def _between(text: str, table: str) -> str:
    """`text` with `table` between its marks."""
    begin, end = "<!-- robustness -->\n", "\n<!-- end -->"
    before, mark, rest = text.partition(begin)
    after = rest.partition(end)[2]
    if not mark or not after:
        raise SystemExit(f"robustness: no lines between {begin.strip()} and {end.strip()} to write.")
    return before + begin + table + end + after


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table("library", "model", title="Largest difference of a logit")
    for check in CHECKS:
        table.add_column(check, justify="right")
    for row in rows:
        table.add_row(row["library"], row["model"], *(_cell(row[check]) for check in CHECKS))
    return table


def _right_one(value: object) -> bool:
    return isinstance(value, float) and value <= RIGHT


def _cell(value: float | str) -> str:
    if isinstance(value, str):
        return f"[red]{value}[/red]"
    return f"{value:.0e}" if value <= RIGHT else f"[red]wrong, {value:.2g}[/red]"


if __name__ == "__main__":
    sys.exit(main())
