"""Question after question at a terminal.

? Who signs for it?          the answer is written as it comes; Ctrl-C ends it
? /sources                   of the last answer; /explain, /help, /quit; Ctrl-D ends the dialogue
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from typing import TextIO

from farfield.answers import Answered, explained, shown_sources
from farfield.config import FarfieldError, unknown
from farfield.progress import say

__all__ = ["HELP", "Dialogue", "typed"]

PROMPT = "? "
HELP = """/help      these lines
/sources   where the last answer is from, word for word
/explain   what each stage of its search found (with explain=true)
/quit      ends the dialogue, as Ctrl-D does; Ctrl-C ends an answer
Everything else is a question."""
COMMANDS = ("/explain", "/help", "/quit", "/sources")


class Dialogue:
    """Reads questions until there are no more, and has each answered.

    Args:
        answer: answers a question, and writes that. read: the next line; raises EOFError at the end. out: for the rest.
    """

    def __init__(self, answer: Callable[[str], Answered], read: Callable[[], str], out: TextIO) -> None:
        self._answer, self._read, self._out = answer, read, out
        self._last: Answered | None = None

    def run(self) -> None:
        """Goes on until the end of input, or /quit."""
        self._write("Ask; /help lists what else there is.")
        while True:
            try:
                line = self._read().strip()
            except EOFError:
                self._write("")
                return
            except KeyboardInterrupt:
                self._write("")
                continue
            if line == "/quit":
                return
            if line.startswith("/"):
                self._command(line)
            elif line:
                self._ask(line)

    def _ask(self, question: str) -> None:
        try:
            self._last = self._answer(question)
        except KeyboardInterrupt:
            self._write("\n(stopped)")
        except FarfieldError as error:  # this question's mistake; the next one may be better
            say(f"farfield: {error}")

    def _command(self, line: str) -> None:
        if line == "/help":
            self._write(HELP)
        elif line not in COMMANDS:
            self._write(unknown("no command is called", line, COMMANDS))
        elif self._last is None:
            self._write("Nothing has been answered yet.")
        elif line == "/sources":
            self._write("\n".join(shown_sources(self._last.sources)) or "No sources.")
        else:
            stages = explained(self._last.stages)
            self._write("\n".join(stages) or "Nothing to explain. Start with an index, and with explain=true.")

    def _write(self, text: str) -> None:
        self._out.write(text + "\n")
        self._out.flush()


def typed(out: TextIO) -> Callable[[], str]:
    """Reads lines from the terminal, with the keys and the history of readline where the system has it."""
    with contextlib.suppress(ImportError):
        importlib.import_module("readline")

    def read() -> str:
        # `input` edits lines only where standard output is what it began as.
        with contextlib.redirect_stdout(out):
            return input(PROMPT)

    return read
