"""What a run was made with: versions, commit, machine."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PLACE = "packages/aida-bench/src/aida_bench/storage/"
"""This folder, in the repository."""


@cache
def versions() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "aida": _version("aida-optim"),
        "lightning": _version("lightning-fabric"),
        "commit": _commit(),
        "machine": f"{platform.system()} {platform.machine()}",
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the source tree that this file lies in; None for an installed package, even one whose
    environment lies within a repository of the user's.
    """
    here = Path(__file__).parent
    own = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, timeout=10, env=own)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        ours = git("rev-parse", "--show-prefix") == PLACE and git("ls-files", Path(__file__).name)
        return (git("rev-parse", "HEAD") or None) if ours else None
    except (OSError, subprocess.TimeoutExpired):
        return None
