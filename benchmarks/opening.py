"""What the settings of an evaluation name, opened as something that the runner can ask."""

from __future__ import annotations

from farfield.api import open_model
from farfield.benchmarks.model_subject import ModelSubject
from farfield.benchmarks.subjects import Subject
from farfield.settings import EvaluateSettings

__all__ = ["open_subject"]


def open_subject(settings: EvaluateSettings) -> Subject:
    """The model that is to be evaluated, of whatever kind; or what the suite measures where it asks none.

    Raises:
        ModelError: nothing there, or it cannot be used.
        ConfigError: a setting does not fit it.
    """
    if settings.model is None:
        return settings.suite.subject()
    model = open_model(settings.model, settings.device, settings.remembered)
    return ModelSubject(model, settings.folder.name)
