"""The settings of `farfield speed`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from farfield.config import Config
from farfield.settings.device import DeviceConfig
from farfield.settings.names import Name, Text

__all__ = ["SpeedSettings"]


class StepConfig(Config):
    """The shape of the models whose training steps are measured, which is Llama's; the head is tied."""

    depth: int = Field(4, ge=1)
    width: int = Field(256, ge=2)
    inner: int = Field(688, ge=1, description="inner width of the feed-forwards")
    heads: int = Field(4, ge=1)
    vocabulary: int = Field(8192, ge=2)
    length: int = Field(2048, ge=2, description="tokens of a row")
    batch: int = Field(4, ge=1, description="rows")
    compile: bool = Field(False, description="whether each model is measured compiled too: minutes of compiling")
    curve: int = Field(36, ge=0, description="steps of the loss curves")
    curve_length: int = Field(512, ge=2, description="tokens of a row there")

    @model_validator(mode="after")
    def _divides(self) -> StepConfig:
        _check_heads(self.width, self.heads)
        return self


class DecodingConfig(Config):
    """The shape of the models whose decoding is measured; by default 110 million weights."""

    depth: int = Field(12, ge=1)
    width: int = Field(768, ge=2)
    inner: int = Field(2048, ge=1, description="inner width of the feed-forwards")
    heads: int = Field(12, ge=1)
    vocabulary: int = Field(32000, ge=2)
    length: int = Field(512, ge=1, description="tokens before the one that is measured")
    batch: int = Field(1, ge=1, description="rows")

    @model_validator(mode="after")
    def _divides(self) -> DecodingConfig:
        _check_heads(self.width, self.heads)
        return self


def _check_heads(width: int, heads: int) -> None:
    if width % (2 * heads):
        raise ValueError(f".heads: {heads} given, and the width {width} is not so many heads of even width.")


class SpeedSettings(Config):
    """`farfield speed`."""

    name: Name = "speed"
    root: Text = "results"
    seed: int = Field(0, ge=0, lt=2**63)
    what: tuple[Literal["mixers", "decoder", "step", "decoding"], ...] = Field(("mixers", "decoder"), min_length=1)
    mixers: tuple[str, ...] | None = Field(None, min_length=1)
    architectures: tuple[str, ...] = Field(("attention", "longformer", "retnet"), min_length=1)
    width: int = Field(256, ge=2)
    heads: int = Field(4, ge=1)
    depth: int = Field(4, ge=1)
    measures: tuple[Literal["train", "prefill", "decode"], ...] = Field(("train", "prefill", "decode"), min_length=1)
    lengths: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)
    batch: int = Field(1, ge=1)
    repeats: int = Field(3, ge=1)
    peers: bool = True
    limit: float = Field(12.0, gt=0)
    threads: tuple[Annotated[int, Field(ge=1, le=1024)], ...] | None = Field(None, min_length=1)
    step: StepConfig = StepConfig()
    decoding: DecodingConfig = DecodingConfig()
    device: DeviceConfig = DeviceConfig()

    @model_validator(mode="after")
    def _consistent(self) -> SpeedSettings:
        if "mixers" in self.what:
            _check_heads(self.width, self.heads)
        if self.threads is not None and self.device.threads is not None:
            raise ValueError(".threads: given, and device.threads too. Give one of them.")
        return self
