"""What the settings of an evaluation name, opened as something that the runner can ask."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from farfield.api import check_folder, open_model, place, tell_of_layers
from farfield.benchmarks.subjects.endpoint_subject import open_endpoint
from farfield.benchmarks.subjects.model_subject import ModelSubject
from farfield.benchmarks.subjects.subject import Subject
from farfield.benchmarks.subjects.subject_settings import HUB_CONFIG, RUN_CONFIG
from farfield.config import ModelError, nearest
from farfield.huggingface.loading import load_hub
from farfield.huggingface.reading import covered
from farfield.settings import EvaluateSettings

__all__ = ["open_subject", "sharing"]


def sharing(settings: EvaluateSettings) -> EvaluateSettings:
    """The settings of one of several processes: its share of the threads."""
    threads = settings.device.threads or torch.get_num_threads()
    device = settings.device.model_copy(update={"threads": max(1, threads // settings.processes)})
    return settings.model_copy(update={"device": device})


def open_subject(settings: EvaluateSettings) -> Subject:
    """The model that is to be evaluated, of whatever kind; or what the suite measures where it asks none.

    Raises:
        ModelError: nothing there, or it cannot be used.
        ConfigError: a setting does not fit it.
    """
    name = settings.folder.name
    if settings.model is None:
        return settings.suite.subject()
    match settings.kind:
        case "endpoint":
            return open_endpoint(settings.model, settings.endpoint, name)
        case "huggingface" if _borrowed(settings, settings.model):
            return _open_hub(settings, settings.model, name)
        case _:
            _check_path(Path(settings.model).expanduser())
            check_folder(settings.model, settings.hf)
            how = settings.remembered, settings.hf, settings.context, settings.adapter_file
            return ModelSubject(open_model(settings.model, settings.device, *how), name)


def _borrowed(settings: EvaluateSettings, model: str) -> bool:
    """Whether transformers' layers read the model.

    Raises:
        ModelError: they would, and a memory, a context or an adapter is asked for.
    """
    folder, asked = Path(model).expanduser(), settings.hf.layers
    needs = settings.hf.chat or not folder.is_dir()
    found = (needs and asked == "auto") or covered(folder, asked) == "transformers"
    if found and settings.remembered != "trained":
        raise ModelError(f"memory: memories go into our own layers, and {model} is run by transformers. Leave it out.")
    if found and settings.adapter_file is not None:
        raise ModelError(f"adapter_file: read by our own layers, and {model} is run by transformers. Leave it out.")
    if found and settings.context is not None:
        raise ModelError(f"context: our own layers read by it, and {model} is run by transformers. Leave it out.")
    return found


def _open_hub(settings: EvaluateSettings, model: str, name: str) -> Subject:
    loaded = load_hub(model, settings.device.dtype, place(settings.device), settings.hf.online)
    tell_of_layers(model, settings.hf.layers)
    from farfield.benchmarks.subjects.hf_subject import (
        HubSubject,  # needs transformers, which `load_hub` has looked for
    )

    return HubSubject(*loaded, name, settings.hf)


def _check_path(path: Path) -> None:
    """Raises a ModelError where nothing is at `path` and it reads as an address without its beginning, or the nearest
    of its neighbours is a Hugging Face model.

    The nearest run is told by what loads runs.
    """
    if path.exists():
        return
    if re.match(r"[\w.-]+:\d+(/|$)", str(path)):
        raise ModelError(f"{path}: no such run or file. An endpoint's address begins with http:// or https://.")
    if not path.parent.is_dir():
        return
    models = {one.parent.name for kind in (HUB_CONFIG, RUN_CONFIG) for one in path.parent.glob(f"*/{kind}")}
    near = nearest(path.name, models)
    if near is not None and not (path.parent / near / RUN_CONFIG).is_file():
        raise ModelError(f"{path}: no such run or file. Did you mean '{path.parent / near}'?")
