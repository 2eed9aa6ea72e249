"""How far a transformers model can tell positions apart."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

__all__ = ["learnt_positions"]

TABLES = re.compile(r"(^|\.)(wpe|embed_positions|position_embeddings?)$")  # of learned positions, by their usual names


def learnt_positions(model: Any) -> int | None:
    """How many positions the model can tell, where it has learnt them one by one; None: any."""
    tables = (name for name, part in model.named_modules() if isinstance(part, nn.Embedding) and TABLES.search(name))
    if next(tables, None) is None:
        return None
    found: int | None = getattr(model.config, "max_position_embeddings", None)
    return found
