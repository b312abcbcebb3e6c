"""What bounds a transfer, for several rooms."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_PART_SIZE = 64 * 1024 * 1024
"""Bytes of a part of a large file: what is digested, moved, verified and tried again as one."""

MAX_PARTS = 10_000
"""S3's limit for one upload: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How a transfer uses the machine; sizes in bytes, the bandwidth in bytes a second (0: no limit)."""

    concurrency: int
    bandwidth: int
    part_size: int
    pack_threshold: int
    pack_size: int
