"""JSON documents that would take gigabytes of a reader that parses them without bounds.

    python -m tests.hostile.documents NAME

reads one as it would come from a store, and prints the peak of memory in MiB and what came of it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_SIZE = 64 * 1024**2
_BLOCK = 1024**2


def _full_of(unit: bytes, size: int = _SIZE) -> bytes:
    return b"[" + b",".join([unit] * ((size - 2) // (len(unit) + 1))) + b"]"


def manifest_of(count: int) -> bytes:
    """A manifest as a store has it of ``count`` files, but for digests that fit."""
    files = [
        {
            "checksums": {},
            "digest": f"{number:064x}",
            "part_size": 1_234_567 + number,
            "parts": [],
            "path": f"model/layers/{number:07}/weights.safetensors",
            "size": 1_234_567 + number,
        }
        for number in range(count)
    ]
    contents = [[f"{number % 1000:032x}", number * 1000] for number in range(count)]
    document = {"contents": contents, "format": 1, "manifest": {"files": files}}
    return json.dumps(document, separators=(",", ":")).encode()


def whole_manifest(count: int, change: Callable[[dict[str, Any]], object] = lambda _: None) -> bytes:
    """A manifest as a store has it of ``count`` files, with digests that fit, after a change."""
    from blake3 import blake3

    from flexai.checkpoints.models import canonical_json, plain
    from tests.checkpoints.samples import checkpoint

    document = json.loads(manifest_of(count)) | {"checkpoint": plain(checkpoint())}
    del document["checkpoint"]["is_protected"]
    document["manifestDigest"] = blake3(canonical_json(document["manifest"])).hexdigest()
    change(document)
    return canonical_json(document)


def _numbers(count: int) -> dict[str, int]:
    return {str(number): number for number in range(count)}


FLAWS: dict[str, Callable[[dict[str, Any]], object]] = {
    "numbers as sources": lambda manifest: manifest["checkpoint"]["source"].update(from_local_files=[1] * 3_000_000),
    "texts as sources": lambda manifest: manifest["checkpoint"]["source"].update(from_local_files=[""] * 3_000_000),
    "numbers as reasons": lambda manifest: manifest["checkpoint"]["facts"].update(resumable_missing=[1] * 3_000_000),
    "texts as metrics": lambda manifest: manifest["checkpoint"]["facts"].update(
        metrics={str(number): "" for number in range(900_000)}
    ),
    "numbers as pointers": lambda manifest: manifest["checkpoint"].update(pointers=[1] * 3_000_000),
    "lists as files": lambda manifest: manifest["manifest"].update(files=[[]] * 1_000_000),
    "texts as parts": lambda manifest: manifest["manifest"]["files"][0].update(parts=["x"] * 2_000_000),
    "fields of a manifest": lambda manifest: manifest["manifest"].update(_numbers(900_000)),
    "fields of a file": lambda manifest: manifest["manifest"]["files"][0].update(_numbers(900_000)),
    "checksums": lambda manifest: manifest["manifest"]["files"][0].update(checksums=_numbers(900_000)),
    "fields of a checkpoint": lambda manifest: manifest["checkpoint"].update(_numbers(900_000)),
}
"""Manifests of which a validator could describe millions of flaws."""


def _many_keys(size: int) -> bytes:
    return b"{" + b",".join(b'"%07x":"a%06d"' % (number, number) for number in range(size // 20)) + b"}"


FLOODS: dict[str, Callable[[], bytes]] = {
    "lists": lambda: _full_of(b"[]"),
    "lists, as many as pass": lambda: _full_of(b"[]", 4 * 1024**2),
    "lists of one": lambda: _full_of(b"[1]"),
    "objects": lambda: _full_of(b'{"a":1}'),
    "objects, as many as pass": lambda: _full_of(b'{"a":1}', 4 * 1024**2),
    "whole numbers": lambda: _full_of(b"1"),
    "long numbers": lambda: _full_of(b"9" * 4299),
    "fractions": lambda: _full_of(b"1.5"),
    "fractions, as many as pass": lambda: _full_of(b"1.5", 12 * 1024**2),
    "short texts": lambda: _full_of(b'"ab"'),
    "short texts, as many as pass": lambda: _full_of(b'"ab"', 14 * 1024**2),
    "wide texts": lambda: _full_of('"Ā"'.encode()),
    "keys": lambda: _many_keys(_SIZE),
    "keys, as many as pass": lambda: _many_keys(19 * 1024**2),
    "one text": lambda: b'"%s"' % (b"a" * (_SIZE - 2)),
    "one text with one wide character": lambda: b'"%s\xf0\x9f\x98\x80"' % (b"a" * (_SIZE - 6)),
    "one text with one wide character, as long as passes": lambda: b'"%s\\ud83d\\ude00"' % (b"a" * 27 * 1024**2),
    "brackets": lambda: b"[" * _SIZE,
    "spaces": lambda: b" " * _SIZE,
    "halves of pairs": lambda: _full_of(rb'"\ud800"', 8 * 1024**2),
    "longer than the limit": lambda: b" " * (3 * _SIZE),
    "a manifest of 100,000 files": lambda: manifest_of(100_000),
    "a manifest of 400,000 files": lambda: manifest_of(400_000),
}


def peak_of(name: str) -> tuple[int, str]:
    """The peak of memory of a process that reads this document, in MiB, and what came of it."""
    run = [sys.executable, "-m", "tests.hostile.documents", name]
    done = subprocess.run(run, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    peak, said = done.stdout.split()
    return int(peak), said


def _blocks(path: str) -> Iterator[bytes]:
    with Path(path).open("rb") as file:
        while block := file.read(_BLOCK):
            yield block


def _read(path: str) -> None:
    from flexai.checkpoints.foreign_json import parse_json, read_bounded

    try:
        parse_json(read_bounded(_blocks(path)))
        said = "read"
    except ValueError as error:
        said = type(error).__name__
    # Not what getrusage says, which a process takes over from the one that starts it.
    status = Path("/proc/self/status").read_text()
    print(int(status.partition("VmHWM:")[2].split()[0]) // 1024, said)


if __name__ == "__main__":
    if sys.argv[1] == "--read":
        _read(sys.argv[2])
    else:
        import tempfile

        with tempfile.NamedTemporaryFile() as made:
            made.write(FLOODS[sys.argv[1]]())
            made.flush()
            # Another process, which has not made the document.
            subprocess.run([sys.executable, "-m", "tests.hostile.documents", "--read", made.name], check=True)
