"""The settings of a store of states."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from farfield.config import Config

__all__ = ["StoreConfig"]


class StoreConfig(Config):
    """How much a store keeps, and what goes first."""

    memory: int = Field(2**30, ge=0, description="bytes of states in memory; 0: none stay there")
    disk: int = Field(16 * 2**30, ge=0, description="bytes of states on disk; 0: none are written")
    policy: Literal["lru", "fifo", "scheduled"] = Field(
        "lru", description="what goes first: lru: used longest ago; fifo: oldest; scheduled: not expected, then last"
    )
    ttl: float | None = Field(None, gt=0, description="seconds unused after which a state goes; null: never")
    buffer: int = Field(256 * 2**20, ge=0, description="bytes that may wait to be written before a call waits for them")
