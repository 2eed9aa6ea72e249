"""A folder of Hugging Face as a model of ours.

    folder = open_folder("models/qwen3")        # what it is, from config.json and the headers of its weights
    model = folder.model("cpu", torch.bfloat16) # the weights too

Weights are mapped, not copied: a tensor that is one of ours as it stands, in the dtype asked for, stays on the pages of
its file until it is used. One that is a part of ours (queries, keys and values; gate and value) is read into its place,
one after the other. The model itself is built without memory for weights, so that nothing is drawn or held twice.

    config.json ──> Family ──> our settings ──> a model without weights
    *.safetensors ──> names and shapes ──> compared with the pieces of the family ──> mapped or read into place
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from farfield.config import ModelError, nearest, unknown
from farfield.huggingface.families import FAMILIES, Family
from farfield.huggingface.given import LONGEST, Given, UncoveredError
from farfield.huggingface.mambas import refuse_original
from farfield.huggingface.shards import Tensors
from farfield.huggingface.weights import Piece
from farfield.model import LanguageModel, ModelConfig

__all__ = ["CONFIG", "Folder", "Unallocated", "covered", "is_folder", "open_folder", "uncovered"]

CONFIG, GENERATION = "config.json", "generation_config.json"
HEAD = "lm_head.weight"
NAMED = 3  # tensors that a message names
TOO_MANY = 8  # times the weights that the files hold
# How weights of modules begin: what is drawn, and what is made of that number by number.
DRAWN = frozenset((nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_, Tensor.uniform_))
NUMBERS = frozenset((Tensor.exp, Tensor.log, Tensor.log_, torch.log, torch.expm1, Tensor.neg, Tensor.clamp, Tensor.add))


def is_folder(path: Path) -> bool:
    """Whether a path is a folder of Hugging Face, which has a config.json and no config.yaml of a run."""
    return (path / CONFIG).is_file() and not (path / "config.yaml").is_file()


def covered(path: Path, layers: Literal["auto", "farfield", "transformers"]) -> Literal["farfield", "transformers"]:
    """Whose layers read a folder: ours where they have its family and each setting of it, if any may.

    Raises:
        ModelError: its config.json cannot be read.
    """
    if layers != "auto":
        return layers
    return "farfield" if uncovered(path) is None else "transformers"


def uncovered(path: Path) -> UncoveredError | None:
    """What a folder has that our layers have not and those of transformers may: its family, or a setting of it.

    Raises:
        ModelError: its config.json cannot be read.
    """
    given = Given.of(path / CONFIG)
    refuse_original(given)
    try:
        _settings(given)
    except UncoveredError as error:
        return error
    except ModelError:  # it is wrong whoever reads it, and ours say what is
        return None
    return None


@dataclass(frozen=True)
class Folder:
    """A folder of a family that our layers cover: its settings, and which tensors are which of ours."""

    path: Path
    given: Given
    family: Family
    config: ModelConfig
    tensors: Tensors
    pieces: Sequence[Piece]

    @property
    def longest(self) -> int | None:
        """Tokens that the model was trained for, where config.json says."""
        if self.given.values.get("max_position_embeddings") is None:
            return None
        return self.given.whole("max_position_embeddings", most=LONGEST)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights as they are stored: that of the embedding."""
        return self.tensors.dtype(self.pieces[0].theirs)

    def ends(self) -> tuple[int, ...]:
        """The ids that end what the model writes: those of generation_config.json, else of config.json."""
        file = self.path / GENERATION
        for given in ([Given.of(file)] if file.is_file() else []) + [self.given]:
            value = given.values.get("eos_token_id")
            if value is not None:
                several = value if isinstance(value, list) else [value]
                for one in several:
                    if isinstance(one, bool) or not isinstance(one, int) or not 0 <= one < self.config.vocabulary:
                        given.refuse("eos_token_id", f"ids below {self.config.vocabulary:,} are needed")
                return tuple(several)
        return ()

    def generation(self) -> dict[str, Any]:
        """What generation_config.json says; nothing where there is none."""
        file = self.path / GENERATION
        return dict(Given.of(file).values) if file.is_file() else {}

    def model(self, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> LanguageModel:
        """The model in evaluation mode, its weights in `dtype`: as stored where none is given.

        Raises:
            ModelError: a tensor holds no numbers that can be read.
        """
        with Unallocated():
            model = LanguageModel(self.config)
        own = model.state_dict()
        by_ours: dict[str, list[Piece]] = {}
        for piece in self.pieces:
            by_ours.setdefault(piece.ours, []).append(piece)
        self.check_tied()
        place = torch.device(device)
        for name, pieces in by_ours.items():
            _give(model, name, self._weight(own[name], pieces, place, dtype or self.dtype))
        return model.eval()

    def _weight(self, like: Tensor, pieces: Sequence[Piece], device: torch.device, dtype: torch.dtype) -> Tensor:
        """Our tensor of these pieces: mapped if it can be, else of memory of its own, into which they are read."""
        first = pieces[0]
        if first.whole and self.tensors.dtype(first.theirs) == dtype and device.type == "cpu":
            return self.tensors.mapped(first.theirs)
        found = torch.empty(like.shape, dtype=dtype, device=device)
        for piece in pieces:  # the pages of what is read go before the next is
            piece.part(found).copy_(piece.read(self.tensors.mapped(piece.theirs)))
        return found

    def check_tied(self) -> None:
        """Raises a ModelError where a head in the files is not the embedding that config.json says it is."""
        if not self.config.decoder.tied or HEAD not in self.tensors.files:
            return
        embedding = self.tensors.mapped(self.pieces[0].theirs)
        head = self.tensors.mapped(HEAD)
        if head.shape != embedding.shape or not torch.equal(head, embedding):
            raise ModelError(
                f"{self.given.file}: tie_word_embeddings: true given, and {HEAD} is not the embedding. One of them "
                "is wrong."
            )


def open_folder(path: str | Path, ignore_unknown: bool = False) -> Folder:
    """What is in a folder, checked against itself; no weight is read.

    Args:
        path: the folder.
        ignore_unknown: leave out tensors that the model does not have, in the place of refusing them.

    Raises:
        UncoveredError: the family is none of ours, or has a setting that our layers have not.
        ModelError: a file is missing or damaged, a setting makes no sense, tensors are missing, unknown or of other
            shapes.
    """
    path = Path(path).expanduser()
    given = Given.of(path / CONFIG)
    try:
        family, config = _settings(given)
    except UncoveredError as error:
        raise UncoveredError(f"{error} Those of transformers may: hf.layers=transformers.") from None
    tensors = Tensors.of(path)
    if config.parameters() > TOO_MANY * tensors.numbers:  # before as many names and modules are made of them
        raise ModelError(
            f"{path}: config.json tells of {config.parameters():,} weights, and the files hold {tensors.numbers:,}."
        )
    pieces = family.pieces(config)
    _check_names(path, tensors, pieces, family.dropped, config.decoder.tied, ignore_unknown)
    with Unallocated():
        shapes = {name: tensor.shape for name, tensor in LanguageModel(config).state_dict().items()}
    _check_tensors(path, tensors, pieces, shapes)
    return Folder(path, given, family, config, tensors, pieces)


def _settings(given: Given) -> tuple[Family, ModelConfig]:
    """The family that a config.json names, and our settings."""
    kind = given.values.get("model_type")
    if kind is None:
        refuse_original(given)
        raise ModelError(f"{given.file}: model_type is missing. Known: {', '.join(sorted(FAMILIES))}.")
    if not isinstance(kind, str):
        given.refuse("model_type", f"a text is needed. Known: {', '.join(sorted(FAMILIES))}")
    if kind not in FAMILIES:
        raise UncoveredError(f"{given.file}: model_type: " + unknown("our layers do not cover", kind, FAMILIES))
    family = FAMILIES[kind]
    _check_class(given, family)
    given.unset("per_layer_config", "all layers of a kind have the same settings")
    return family, family.model(given)


def _check_class(given: Given, family: Family) -> None:
    """Raises a ModelError where the folder holds the family's encoder, or a head that scores."""
    named = given.values.get("architectures")
    if named and named != [family.architecture]:
        given.refuse("architectures", f'["{family.architecture}"] is needed')


def _check_names(
    path: Path, tensors: Tensors, pieces: Iterable[Piece], dropped: Sequence[str], tied: bool, ignore_unknown: bool
) -> None:
    wanted = {piece.theirs for piece in pieces}
    missing = sorted(wanted - tensors.files.keys())
    extra = sorted(
        name
        for name in tensors.files.keys() - wanted
        if not name.endswith(tuple(dropped)) and not (tied and name == HEAD)
    )
    if missing:
        near = nearest(missing[0], extra)
        hint = f" There is {near}." if near else ""
        raise ModelError(f"{path}: {_several(missing, 'missing')}.{hint}")
    if extra and not ignore_unknown:
        raise ModelError(
            f"{path}: {_several(extra, 'unknown to this family')}. Set hf.ignore_unknown=true to leave them out."
        )


def _several(names: Sequence[str], what: str) -> str:
    shown = ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
    return f"{len(names)} tensor{'s are' if len(names) > 1 else ' is'} {what}: {shown}"


def _check_tensors(path: Path, tensors: Tensors, pieces: Iterable[Piece], shapes: Mapping[str, torch.Size]) -> None:
    """Raises a ModelError where a tensor is of another shape, or of no numbers that a model has."""
    for piece in pieces:
        wanted = tuple(piece.write(torch.empty(shapes[piece.ours], device="meta")).shape)
        found = tensors.shapes[piece.theirs]
        tensors.dtype(piece.theirs)
        if wanted != found:
            raise ModelError(f"{path}: {piece.theirs}: of shape {found}, and config.json makes it {wanted}.")


class Unallocated(TorchFunctionMode):
    """Within it, `torch.empty` makes tensors without memory, and drawing them does nothing.

    What modules compute beside weights, such as rotary frequencies, is as it is elsewhere, which the meta device as
    the default would not do. The meta device draws and computes too, by way of seconds of imports.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.empty:
            kwargs = {**kwargs, "device": "meta"}
        if func in DRAWN or func in NUMBERS or func is Tensor.copy_:
            tensor = kwargs["tensor"] if "tensor" in kwargs else args[0]
            if tensor.is_meta:
                return tensor
        return func(*args, **kwargs)


def _give(model: nn.Module, name: str, weight: Tensor) -> None:
    """Puts a weight into its place."""
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    old = getattr(module, leaf)
    if isinstance(old, nn.Parameter):
        weight = nn.Parameter(weight, old.requires_grad)
        vars(weight).update(vars(old))  # such as that it does not decay
    setattr(module, leaf, weight)
