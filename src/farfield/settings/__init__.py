"""The settings of each command, made of the parts' own: what `farfield.compose` composes is read into these.

    read(TrainSettings, compose("train", ["architecture=retnet", "size=tiny", "data=needle"]))

Reading them may import torch, for the architectures are among them, but never lightning; no file is opened.
"""

from __future__ import annotations

from farfield.retrieval.settings import IngestConfig as IngestSettings
from farfield.settings.device import DeviceConfig
from farfield.settings.evaluate import EvaluateSettings
from farfield.settings.export import ExportSettings
from farfield.settings.query import WRITE_IT, QuerySettings
from farfield.settings.report import ReportSettings
from farfield.settings.speed import SpeedSettings
from farfield.settings.train import TrainSettings

__all__ = [
    "WRITE_IT",
    "DeviceConfig",
    "EvaluateSettings",
    "ExportSettings",
    "IngestSettings",
    "QuerySettings",
    "ReportSettings",
    "SpeedSettings",
    "TrainSettings",
]
