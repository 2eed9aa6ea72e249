"""How a model is trained: the options of `farfield train` below `training`. They say nothing of the model or the data.

Shares are of the run's steps, so that `training.steps=200` alone is a valid change.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from farfield.config import Config

__all__ = [
    "CheckpointConfig",
    "CosineConfig",
    "OptimizerConfig",
    "ScheduleConfig",
    "TrainingConfig",
    "ValidationConfig",
    "WsdConfig",
]


SHARDED = ("fsdp", "deepspeed", "model_parallel")  # Lightning's strategies whose weights lie in pieces


class OptimizerConfig(Config):
    """AdamW (Loshchilov and Hutter, https://arxiv.org/abs/1711.05101)."""

    learning_rate: float = Field(1e-3, gt=0, description="at its peak")
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(0.1, ge=0, description="on matrices; never on gains, biases and decays")
    clip: float | None = Field(1.0, gt=0, description="norm that the gradient is clipped to; null: never")

    @field_validator("betas")
    @classmethod
    def _below_one(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"{list(betas)} given. Both must be at least 0 and below 1.")
        return betas


class CosineConfig(Config):
    """Up in a straight line, then down half a cosine to the floor."""

    kind: Literal["cosine"] = "cosine"
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps until the peak")
    floor: float = Field(0.1, ge=0, le=1, description="last learning rate, as a share of the peak")


class WsdConfig(Config):
    """Warm-up, stable, decay (https://arxiv.org/abs/2404.06395): a run that can go on from before its decay."""

    kind: Literal["wsd"] = "wsd"
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps until the peak")
    decay: float = Field(0.2, gt=0, le=1, description="share of the steps in which the rate falls, at the end")
    floor: float = Field(0.1, ge=0, le=1, description="last learning rate, as a share of the peak")


ScheduleConfig = Annotated[CosineConfig | WsdConfig, Field(discriminator="kind")]


class CheckpointConfig(Config):
    """When weights and all that a run needs to go on are written; the end of a run and Ctrl-C always write them."""

    every: int = Field(500, ge=1, description="steps between two checkpoints")
    keep: int = Field(2, ge=1, description="newest checkpoints that stay; the best one stays beside them")


class ValidationConfig(Config):
    """When the loss on the validation part is measured."""

    every: int = Field(250, ge=1, description="steps between two validations")
    batches: int = Field(16, ge=1, description="batches of one validation, the same ones each time")


class TrainingConfig(Config):
    """The loop: how many steps of what size, the optimiser and its schedule, the devices, what is written when."""

    steps: int = Field(1000, ge=1, description="steps of the optimiser")
    batch: int = Field(8, ge=1, description="rows of one forward pass on each device")
    accumulate: int = Field(1, ge=1, description="forward passes summed into one step of the optimiser")
    carry: bool = Field(False, description="hand each row's state to the next step: rows go on where they stopped")
    cut: int | None = Field(None, ge=1, description="tokens of a row after which gradients are cut; null: never within")
    fill: int = Field(0, ge=0, description="first tokens of a document that are read, into memory, but not scored")
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = CosineConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    validation: ValidationConfig = ValidationConfig()
    log: int = Field(10, ge=1, description="steps between two lines of metrics.csv")
    precision: Literal["fp32", "bf16"] = "fp32"
    recompute: bool = Field(False, description="compute activations again in the backward pass instead of keeping them")
    compile: bool = Field(False, description="torch.compile the decoder")
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int | None = Field(1, ge=1, description="devices to train on; null: all there are")
    strategy: str = Field(
        "auto",
        description="Lightning's; over several devices, ddp is faster than auto where each step uses every weight",
    )
    threads: int | None = Field(None, ge=1, le=1024, description="threads of the CPU; null: PyTorch's choice")

    @field_validator("strategy")
    @classmethod
    def _whole(cls, strategy: str) -> str:
        if any(strategy.startswith(name) for name in SHARDED):
            raise ValueError(f"'{strategy}' shards the weights, and checkpoints here are whole. Use auto or ddp.")
        return strategy

    @field_validator("schedule")
    @classmethod
    def _fits(cls, schedule: CosineConfig | WsdConfig) -> CosineConfig | WsdConfig:
        if isinstance(schedule, WsdConfig) and schedule.warmup + schedule.decay > 1:
            raise ValueError(f"warmup {schedule.warmup} and decay {schedule.decay} are more than all steps (1.0).")
        return schedule
