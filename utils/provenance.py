"""What program and libraries a result comes from."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

VERSION = "0.1.0"  # as in pyproject.toml
LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn")
ROOT = Path(__file__).parent.parent


def provenance() -> dict[str, Any]:
    """Return the versions of the program, of Python and of the libraries that compute, as JSON.

    ``git_commit`` and ``git_dirty`` (whether tracked files differ from it) are None where the
    program does not run from a git checkout.
    """
    commit = git_commit(ROOT)
    versions = {name: metadata.version(name) for name in LIBRARIES}
    return {
        "version": VERSION,
        "git_commit": commit and commit.removesuffix("-dirty"),
        "git_dirty": commit and commit.endswith("-dirty"),
        "libraries": {"python": platform.python_version()} | versions,
    }


def git_commit(folder: Path) -> str | None:
    """Return the commit of a checkout, with "-dirty" when tracked files differ from it, or None."""
    if not (folder / ".git").exists():  # git itself would take a repository further up
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty"]
    try:
        done = subprocess.run(
            [*command, "--exclude=*"], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):  # no git, no commit yet, not our repository
        return None
    return done.stdout.strip()
