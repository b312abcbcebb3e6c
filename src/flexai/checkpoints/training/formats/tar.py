"""The tar rule: a whole archive's headers lead from one to the next, and then come two blocks of zeros.

NeMo writes `.nemo` so, and PyTorch wrote so in its first versions. Only headers are read; what they describe is jumped
over. Layout: POSIX.1-1988 `ustar` and GNU tar's binary sizes, as in `tar(5)`.
"""

from __future__ import annotations

from flexai.checkpoints.training.formats.content import Content
from flexai.checkpoints.training.formats.verdict import CannotTellError, NotWholeError, shown

BLOCK = 512
MAX_MEMBERS = 10_000
_SUM = slice(148, 156)


def is_tar(head: bytes) -> bool:
    """Whether a file that begins so is a tar archive."""
    return head[257:262] == b"ustar"


def check_tar(content: Content, path: str) -> None:
    """Return when the file is a whole tar archive. Raises NotWholeError, CannotTellError."""
    torn = NotWholeError(f"{shown(path)} has no end of archive, so it is cut off")
    position = 0
    for _ in range(MAX_MEMBERS):
        header = content.read(position, BLOCK)
        if len(header) < BLOCK:
            raise torn
        if not header.strip(b"\0"):
            if len(end := content.read(position + BLOCK, BLOCK)) < BLOCK or end.strip(b"\0"):
                raise torn
            return
        size = tar_size(header[124:136])
        if not is_tar(header) or size is None or not _adds_up(header):
            raise NotWholeError(f"{shown(path)} has a damaged header at byte {position}")
        position += BLOCK + (size + BLOCK - 1) // BLOCK * BLOCK
        if position > content.size:
            raise torn
    raise CannotTellError(f"{shown(path)} has more than {MAX_MEMBERS} members, so its end was not reached")


def tar_size(field: bytes) -> int | None:
    """A size in a tar header: octal, or binary with the first bit set; None for anything else."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    try:
        size = int(field.strip(b" \0") or b"0", 8)
    except ValueError:
        return None
    return size if size >= 0 else None


def _adds_up(header: bytes) -> bool:
    told = tar_size(header[_SUM])
    return told == sum(header) - sum(header[_SUM]) + 8 * ord(" ")
