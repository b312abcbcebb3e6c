"""Folders of files as plain values, to be made, compared and looked through."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Mapping
from pathlib import Path

Tree = dict[str, bytes]
"""The content of each file by its path below a folder."""


def noise(size: int, seed: object = 0) -> bytes:
    """Bytes without repetition, the same for the same seed."""
    return random.Random(f"{seed}").randbytes(size)


def write_tree(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Make a folder with these files; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return folder


def read_tree(folder: Path) -> Tree:
    """Every file below a folder, hidden and unfinished ones included; links are not followed."""
    found: Tree = {}
    for base, _, names in os.walk(folder):
        for name in names:
            path = Path(base, name)
            found[str(path.relative_to(folder))] = b"-> a link" if path.is_symlink() else path.read_bytes()
    return found


def written_bytes(folder: Path, below: Iterable[str] = ("",)) -> int:
    """Bytes that the files below some of a folder's folders take on disk, holes not counted."""
    return sum(path.stat().st_blocks * 512 for part in below for path in (folder / part).rglob("*") if path.is_file())


def flip_byte(path: Path, position: int = 0) -> None:
    """Damage a file in place: its size and its times stay."""
    times = path.stat()
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)
        file.seek(position)
        file.write(bytes([byte[0] ^ 0xFF]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
