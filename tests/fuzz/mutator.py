"""Inputs that are nearly right: real ones with a few things changed."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from typing import Any

MAX_SIZE = 64 * 1024
"""Bytes of an input at most; what floods memory is tried by tests/hostile."""

_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")
_NUMBERS = (
    [str(2**bits + more).encode() for bits in (0, 7, 8, 15, 16, 31, 32, 53, 63, 64) for more in (-1, 0, 1)]
    + [b"-1", b"-0", b"0.5", b"1e400", b"-1e400", b"1E-9", b"NaN", b"Infinity", b"-Infinity", b"9" * 30, b"9" * 5000]
    + [b"0x10", b"007", b"1_000", "٣".encode(), b""]
)
_ODD: Sequence[Any] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**53 + 1, 2**63, 2**64, 10**30, 0.5, 1e308, float("nan"), float("inf")),
    *(
        "",
        " ",
        "\0",
        "\ud800",
        "\x1b]0;x\x07",
        "..",
        "/",
        "a" * 300,
        "0001-01-01T00:00:00+00:00",
        "9999-12-31T23:59:59Z",
    ),
    *("cd" * 32, "CD" * 32, "1", [], {}, [[]], [{}], {"": None}, [[[[[[[[]]]]]]]]),
)
_EDGES = [
    edge.to_bytes(8, "little") for bits in (7, 8, 15, 16, 31, 32, 63, 64) for edge in (2**bits - 1, 2**bits % 2**64)
]


class Mutator:
    """Makes inputs from real ones, the same ones again for the same numbers drawn."""

    def __init__(self, draw: random.Random, seeds: Sequence[bytes], tokens: Sequence[bytes] = ()) -> None:
        """``tokens`` are what the format's own words are."""
        self._draw = draw
        self._seeds = seeds
        self._tokens = tokens or (b"\0", b"{", b'"', b"/")
        self._documents = [seed for seed in seeds if _is_document(seed)]

    def make(self) -> bytes:
        """The next input."""
        draw = self._draw
        if self._documents and draw.random() < 0.5:
            data = self._odd_document(draw.choice(self._documents))
        else:
            data = draw.choice(self._seeds)
        for _ in range(draw.choice((0, 1, 1, 1, 2, 3, 6))):
            data = self._change(data)[:MAX_SIZE]
        return data

    def _odd_document(self, seed: bytes) -> bytes:
        """A document with an odd value somewhere in it, or with something left out or doubled."""
        document = json.loads(seed)
        node = document
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = self._draw.choice(keys)
            if isinstance(node[key], (dict, list)) and node[key] and self._draw.random() < 0.7:
                node = node[key]
                continue
            what = self._draw.randrange(4)
            if what == 0:
                del node[key]
            elif what == 1 and isinstance(node, list):
                node.append(node[key])
            elif what == 1:
                node[self._draw.choice(("", "x", "__metadata__"))] = node[key]
            else:
                node[key] = self._draw.choice(_ODD)
            break
        return json.dumps(document, ensure_ascii=self._draw.random() < 0.9).encode("utf-8", "surrogatepass")

    def _change(self, data: bytes) -> bytes:
        draw = self._draw
        start = draw.randrange(len(data) + 1)
        end = min(len(data), start + draw.choice((1, 1, 2, 4, 8, 30, 200)))
        what = draw.randrange(10)
        if what == 0:  # a bit
            return (
                data[:start] + bytes([data[start] ^ (1 << draw.randrange(8))]) + data[start + 1 :]
                if data[start:]
                else b"\xff"
            )
        if what == 1:  # a byte
            return data[:start] + draw.randbytes(1) + data[start + 1 :]
        if what == 2:  # less
            return data[:start] + data[end:]
        if what == 3:  # more of the same
            return data[:end] + data[start:end] * draw.choice((1, 1, 3, 100)) + data[end:]
        if what == 4:  # moved
            place = draw.randrange(len(data) + 1)
            rest = data[:start] + data[end:]
            return rest[:place] + data[start:end] + rest[place:]
        if what == 5:  # a word of the format's
            token = draw.choice(self._tokens)
            return data[:start] + token + data[start + draw.choice((0, len(token))) :]
        if what == 6:  # a number in text
            found = list(_NUMBER.finditer(data[: 4 * 1024]))
            if found:
                one = draw.choice(found)
                return data[: one.start()] + draw.choice(_NUMBERS) + data[one.end() :]
        if what == 7:  # a number in binary
            width = draw.choice((2, 4, 8))
            return data[:start] + draw.choice(_EDGES)[:width] + data[start + width :]
        if what == 8:  # the beginning of one and the end of another
            other = draw.choice(self._seeds)
            return data[:start] + other[draw.randrange(len(other) + 1) :]
        return data[:start]  # cut off


def _is_document(seed: bytes) -> bool:
    try:
        return isinstance(json.loads(seed), (dict, list)) and len(seed) <= MAX_SIZE
    except ValueError:
        return False
