"""lm-eval's command line with our model and our tasks: python -m farfield.harness run --model farfield ..."""

from __future__ import annotations

import sys
from importlib import import_module

from farfield.config import ConfigError, FarfieldError, unknown
from farfield.harness import TASKS


def main() -> int:
    """What lm-eval's own script does, with one line for a mistake in what is ours."""
    try:
        from lm_eval.__main__ import cli_evaluate

        import_module("farfield.harness.model")  # enters `farfield` in lm-eval's registry
        _name_heads()
    except ImportError as error:
        if error.name is None or not error.name.startswith("lm_eval"):
            raise
        sys.stderr.write("farfield: lm-eval is not installed: pip install 'farfield[harness]'.\n")
        return 2
    try:
        _check_tasks(sys.argv)
        sys.argv = _with_tasks(sys.argv)
        cli_evaluate()
    except ValueError as error:
        if not str(error).startswith("Tasks not found"):
            raise
        sys.stderr.write(f"farfield: {' '.join(str(error).split())} `lm_eval ls tasks` lists lm-eval's.\n")
        return 2
    except FarfieldError as error:
        sys.stderr.write(f"farfield: {' '.join(str(error).split())}\n")
        return 2
    return 0


def _name_heads() -> None:
    """Lets the heads of lm-eval's tables reach a pytablewriter that calls them by their older name.

    Newer ones need a chardet older than the one that reads our documents.
    """
    from pytablewriter import MarkdownTableWriter  # type: ignore[import-untyped]  # lm-eval depends on it

    if not hasattr(MarkdownTableWriter, "headers"):
        MarkdownTableWriter.headers = MarkdownTableWriter.header_list


def _check_tasks(words: list[str]) -> None:
    """Raises a ConfigError where a task reads as one of ours, and is none."""
    known = [file.stem for file in TASKS.glob("*.yaml")]
    given = [after for word, after in zip(words, [*words[1:], ""], strict=True) if word in ("--tasks", "-t")]
    given += [word.split("=", 1)[1] for word in words if word.startswith("--tasks=")]
    for name in ",".join(given).split(","):
        ours = name.startswith("farfield") and not name.endswith(".yaml")
        if ours and name not in known and not _included(words):
            raise ConfigError("--tasks: " + unknown("unknown task", name, known))


def _included(words: list[str]) -> bool:
    """Whether the user names a folder of tasks."""
    return any(word.split("=")[0] == "--include_path" for word in words)


def _with_tasks(words: list[str]) -> list[str]:
    """The words with the folder of our tasks, unless the user names another one."""
    return words if _included(words) or len(words) < 3 else [*words, "--include_path", str(TASKS)]


if __name__ == "__main__":
    sys.exit(main())
