"""Ctrl-C during training: the step under way is finished and saved; a second Ctrl-C stops at once."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from farfield.progress import say

__all__ = ["Interrupt", "command_again"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """While it is entered, the first SIGINT or SIGTERM sets `asked`, and a second one raises KeyboardInterrupt.

    Outside the main thread, where Python allows no handlers, it does nothing.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.asked, self.quiet = False, quiet
        self.before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        if not self.quiet:
            say("\nfarfield: stopping after this step. Press Ctrl-C once more to stop at once.")


def command_again() -> str:
    """What goes on with the run of this process: its command line with resume=true, or words where it has none."""
    program, *words = sys.argv
    if program == "farfield train":  # within a sweep
        words = ["train", *words]
    elif Path(program).name not in ("farfield", "__main__.py") or words[:1] != ["train"]:
        return "the same settings and resume=True."
    kept = [word for word in words if not word.startswith("resume=")]
    return f"`{shlex.join(['farfield', *kept, 'resume=true'])}`"
