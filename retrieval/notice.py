"""One line to the user about something that was mended or passed over."""

from __future__ import annotations

import sys

__all__ = ["say"]


def say(line: str) -> None:
    """`line` on standard error: results go to standard output, and must stay readable by machines."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
