"""An attacker who puts a link in a folder's place and the folder back, as often as a process can."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PROGRAM = """
import itertools, os, sys, time
folder, outside = sys.argv[1:]
def attempt(act, *paths):
    try:
        act(*paths)
    except OSError:
        pass  # the folder is not there yet, or another process has made it anew
print("at work", flush=True)
for count in itertools.count():
    aside = f"{folder}.{count}"
    attempt(os.rename, folder, aside)
    attempt(os.symlink, outside, folder)
    attempt(os.unlink, folder)
    attempt(os.rename, aside, folder)
    if count % 16 == 0:
        time.sleep(0.0005)  # long enough for the folder to be met in its place, too
"""


@contextmanager
def swapping(folder: Path, outside: Path) -> Iterator[None]:
    """While this lasts another process swaps ``folder`` for a link to ``outside``, again and again."""
    command = [sys.executable, "-S", "-E", "-c", _PROGRAM, str(folder), str(outside)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as attacker:
        try:
            assert attacker.stdout is not None
            assert attacker.stdout.readline() == b"at work\n"
            yield
        finally:
            attacker.kill()


def swap(folder: Path, outside: Path) -> Path:
    """Swap a folder for a link once; returns where the folder is now."""
    aside = folder.with_name(f"{folder.name}.aside")
    folder.rename(aside)
    folder.symlink_to(outside)
    return aside
