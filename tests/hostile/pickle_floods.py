"""Files that would take hours and gigabytes of a reader that follows them without bounds.

    python -m tests.hostile.pickle_floods NAME

prints the seconds, the peak of memory in MiB, and what was said of the file.
"""

from __future__ import annotations

import gzip
import io
import json
import lzma
import resource
import struct
import sys
import time
import zipfile
from collections.abc import Callable

_N = 2_400_000


def _archive_of_many(method: int, payload: bytes, count: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method, compresslevel=9) as made:
        for number in range(count):
            made.writestr(f"a/{number}.pkl", payload)
    return file.getvalue()


def _quine_like() -> bytes:
    inner = b"\x80\x04."
    for _ in range(40):
        inner = _archive_of_many(zipfile.ZIP_STORED, inner, 2)
        if len(inner) > 2_000_000:
            break
    return inner


FLOODS: dict[str, Callable[[], bytes]] = {
    "dicts, memorised": lambda: b"\x80\x04" + b"}\x94" * _N,
    "marks": lambda: b"\x80\x04" + b"(" * _N,
    "marks with lists": lambda: b"\x80\x04" + b"(]" * _N,
    "doubled tuples": lambda: b"\x80\x04)" + b"2\x86" * _N + b".",
    "memo out of order": lambda: b"\x80\x04N" + b"".join(b"r" + struct.pack("<L", 97 * n) for n in range(200_000)),
    "names": lambda: b"\x80\x04" + b"".join(b"cm%d\nn\n" % n for n in range(50_000)),
    "short texts": lambda: b"\x80\x04" + b"\x8c\x05hello" * _N,
    "long texts": lambda: b"\x80\x04" + (b"X" + struct.pack("<L", 65_000) + b"t" * 65_000) * 1_000,
    "bytes": lambda: b"\x80\x04" + (b"B" + struct.pack("<L", 1_000_000) + b"b" * 1_000_000) * 100,
    "announced bytes": lambda: b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x",
    "announced text": lambda: b"\x80\x04\x8d" + struct.pack("<Q", 2**63) + b"x",
    "long number": lambda: b"\x80\x04\x8b" + struct.pack("<l", 50_000_000) + b"\x7f" * 50_000_000 + b".",
    "long number as text": lambda: b"L" + b"9" * 50_000_000 + b"L\n.",
    "line without end": lambda: b"V" + b"x" * 100_000_000,
    "pickles one after the other": lambda: b"\x80\x04N." * _N,
    "pickles in pickles": lambda: b"\x80\x04" + b"C\x04\x80\x04N." * _N,
    "packed zeros": lambda: gzip.compress(bytes(400_000_000), 1),
    "packed zeros, by xz": lambda: lzma.compress(
        b"\x80\x04B" + struct.pack("<L", 2**31) + bytes(300_000_000), preset=0
    ),
    "archive of packed dicts": lambda: _archive_of_many(zipfile.ZIP_DEFLATED, b"\x80\x04" + b"}" * 2_000_000, 200),
    "archive of many": lambda: _archive_of_many(zipfile.ZIP_STORED, b"\x80\x04N.", 60_000),
    "archives in archives": _quine_like,
    "header of an array": lambda: b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b"(" * 50_000_000,
}


class OneFile:
    """A checkpoint in memory with one file."""

    def __init__(self, path: str, content: bytes) -> None:
        self._content = content
        self.files = {path: len(content)}

    def read(self, path: str, start: int, length: int) -> bytes:
        return self._content[start : start + length]


def main(name: str) -> None:
    from flexai.checkpoints.training.formats.executable import find_code

    folder = OneFile("model.pkl", FLOODS[name]())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    found = find_code(folder)
    seconds = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    told = found.get("model.pkl")
    print(
        json.dumps(
            {
                "seconds": round(seconds, 1),
                "more": max(0, after - before) // 1024,
                "said": list(told.unfollowed) if told else [],
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1])
