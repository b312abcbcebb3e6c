"""A file system with little room."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_NO_MOUNT = "mounting a small file system needs root: run the tests as root, or allow `sudo -n mount`"


class SmallDisk:
    """A file system in memory with little room."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]

    def mount(self, kibibytes: int) -> None:
        """Mount it."""
        self.folder.mkdir()
        options = f"size={kibibytes}k,mode=0700,uid={os.geteuid()}"
        command = [*self._sudo, "mount", "-t", "tmpfs", "-o", options, "flexai-small-disk", str(self.folder)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (subprocess.CalledProcessError, FileNotFoundError):
            pytest.skip(_NO_MOUNT)

    def grow(self, kibibytes: int) -> None:
        """Make room."""
        options = f"remount,size={kibibytes}k"
        subprocess.run([*self._sudo, "mount", "-o", options, str(self.folder)], check=True, capture_output=True)

    def unmount(self) -> None:
        """Take it away, with what is on it."""
        subprocess.run([*self._sudo, "umount", str(self.folder)], check=True, capture_output=True)


@contextlib.contextmanager
def small_disk(folder: Path, kibibytes: int) -> Iterator[SmallDisk]:
    """A small file system while the block runs."""
    disk = SmallDisk(folder)
    disk.mount(kibibytes)
    try:
        yield disk
    finally:
        disk.unmount()


needs_tmpfs = pytest.mark.skipif(sys.platform != "linux", reason="a small file system in memory needs Linux's tmpfs")
