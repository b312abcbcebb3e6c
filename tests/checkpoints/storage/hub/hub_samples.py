"""A repository on the stand-in Hub, and ways to read it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from flexai.checkpoints.storage.hub.repository import HubStorage
from flexai.checkpoints.storage.protocol import BLOCK_SIZE, Block, ObjectStorage
from flexai.checkpoints.storage.retry import RetryPolicy
from tests.servers.hub import HubFile

TOKEN = "hf_CanaryThatMustNeverBeSeen"
WEIGHTS = random.Random(1).randbytes(3 * BLOCK_SIZE + 4567)
CONFIG = b'{"model_type": "qwen2"}\n'
FILES: dict[str, bytes | HubFile] = {
    "config.json": CONFIG,
    "model.safetensors": HubFile(WEIGHTS, is_large=True),
    "empty.txt": b"",
    "onnx/model.onnx": HubFile(WEIGHTS[:1000], is_large=True),
    "onnx/int8/config.json": b"{}",
    "onnx-extra/notes.txt": b"notes",
}

OpenRepo: TypeAlias = Callable[..., HubStorage]
"""Opens a repository of the stand-in; takes what HubStorage takes, but for the endpoint."""


@dataclass
class Waits:
    """Notes the waits between tries instead of waiting."""

    seconds: list[float] = field(default_factory=list)

    def policy(self, attempts: int = 4) -> RetryPolicy:
        """A policy that waits so."""
        return RetryPolicy(attempts=attempts, sleep=self.seconds.append)


def read(storage: ObjectStorage, key: str, *, start: int = 0, length: int | None = None, etag: str = "") -> bytes:
    """The bytes of a file's range."""
    return join(storage.get(key, start=start, length=length, etag=etag))


def join(blocks: Iterator[Block]) -> bytes:
    """The bytes of some blocks, each copied before the next is asked for."""
    return b"".join(bytes(block) for block in blocks)


def content_of(file: bytes | HubFile) -> bytes:
    """What a file holds."""
    return file.content if isinstance(file, HubFile) else file
