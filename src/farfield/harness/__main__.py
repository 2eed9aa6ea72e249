"""lm-eval's command line with our model and our tasks: python -m farfield.harness run --model farfield ..."""

from __future__ import annotations

import sys
from importlib import import_module

from farfield.config import FarfieldError
from farfield.harness import TASKS


def main() -> int:
    """What lm-eval's own script does, with one line for a mistake in what is ours."""
    try:
        from lm_eval.__main__ import cli_evaluate

        import_module("farfield.harness.model")  # enters `farfield` in lm-eval's registry
    except ImportError as error:
        if error.name is None or not error.name.startswith("lm_eval"):
            raise
        sys.stderr.write("farfield: lm-eval is not installed: pip install 'farfield[harness]'.\n")
        return 2
    sys.argv = _with_tasks(sys.argv)
    try:
        cli_evaluate()
    except FarfieldError as error:
        sys.stderr.write(f"farfield: {' '.join(str(error).split())}\n")
        return 2
    return 0


def _with_tasks(words: list[str]) -> list[str]:
    """The words with the folder of our tasks, unless the user names another one."""
    named = any(word.split("=")[0] == "--include_path" for word in words)
    return words if named or len(words) < 3 else [*words, "--include_path", str(TASKS)]


if __name__ == "__main__":
    sys.exit(main())
