"""Which commit of its own code a training command runs: what Git says of the directory that it runs in.

Only asked, never trusted to run anything: no hook, no file system monitor, no pager and no prompt, and none of the
variables by which Git could be led to another repository. Git that is missing, slow or of another opinion is no error:
then nothing is known.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

CHANGED = "-dirty"
"""After the commit where tracked files differ from it, as ``git describe --dirty`` writes it."""
UNCHECKED = "-unchecked"
"""After the commit where Git did not say in time whether files differ."""

_SECONDS = 5.0
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
# A repository's own configuration may name programs for these.
_SAFE = ("-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}", "-c", "core.pager=cat")


def find_code_commit(directory: Path) -> str:
    """The commit of the code in a directory, in hex, with ``-dirty`` where tracked files differ from it.

    Empty where the directory is in no Git repository, or in one that has none of its files: a checkout may well lie
    in a home folder that is a repository of something else.
    """
    try:
        commit = _ask(directory, "rev-parse", "--verify", "--quiet", "HEAD^{commit}").strip()
        if _COMMIT.fullmatch(commit) is None or not _ask(directory, "ls-tree", "--name-only", "-z", "HEAD"):
            return ""
    except (OSError, subprocess.SubprocessError):
        return ""
    try:
        # Of untracked files there are always some: outputs, caches, notes.
        changes = _ask(directory, "status", "--porcelain", "--untracked-files=no", "--ignore-submodules=dirty", "-z")
    except (OSError, subprocess.SubprocessError):
        return commit + UNCHECKED
    return commit + CHANGED if changes else commit


def _ask(directory: Path, *words: str) -> str:
    """What Git answers; raises OSError where there is no Git, subprocess.SubprocessError where it fails or is slow."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    answer = subprocess.run(
        ["git", "--no-optional-locks", "-C", str(directory), *_SAFE, *words],
        env=environment | {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=_SECONDS,
        check=True,
    )
    return answer.stdout.decode(errors="replace")
