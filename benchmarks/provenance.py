"""Where numbers come from: commit, machine and versions."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["provenance"]

PACKAGES = (
    "farfield",
    "torch",
    "numpy",
    "lightning",
    "tokenizers",
    "faiss-cpu",
    "faiss-gpu",
    "flash-attn",
    "flash-linear-attention",
    "fla-core",
    "triton",
    "transformers",
)


def provenance() -> dict[str, object]:
    """Commit of this code (None outside a checkout, `dirty` with uncommitted changes), machine and package versions."""
    here = Path(__file__).resolve()
    tracked = _git(here.parent, "ls-files", "--error-unmatch", here.name) is not None
    return {
        "commit": _git(here.parent, "rev-parse", "HEAD") if tracked else None,
        "dirty": bool(_git(here.parent, "status", "--porcelain", "--untracked-files=no")) if tracked else None,
        "machine": {
            "system": platform.platform(),
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
        },
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints, None if it fails or is not there."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
