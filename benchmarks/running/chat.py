"""Where the prompts of tasks stand in a chat, and what tables say of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from farfield.benchmarks.subjects.subject import Chat, Subject
from farfield.benchmarks.tasks.sample import Task, Turn, Turned

__all__ = ["chat_notes", "turn_of"]


def turn_of(task: Task) -> Turn:
    """Where a task's prompts stand in a chat."""
    return task.turn if isinstance(task, Turned) else "begun"


def chat_notes(subject: Subject, tasks: Sequence[Task]) -> Iterator[str]:
    """What a reader should know of the chat in which `tasks` are put to `subject`; nothing where there is none."""
    if not isinstance(subject, Chat) or not subject.turns:
        return
    plain = ", ".join(task.name for task in tasks if turn_of(task) == "none")
    if plain and "none" in subject.turns:
        yield f"{subject.name}: asked without its chat template, as published: {plain}."
    elif plain:
        yield f"{subject.name}: asked in its chat template, and published without one (endpoint.chat=false): {plain}."
    if "begun" not in subject.turns and any(turn_of(task) == "begun" for task in tasks):
        yield (
            f"{subject.name}: whole prompts stand in the user's turn; with hf.chat the beginning of an answer begins "
            "the assistant's."
        )
