"""What a training does with a save: report it to flexai, or upload it, at once or from a thread beside the training.

Imported by the programs beside it, in an environment that has what the saver needs.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

_BUCKET = "flexai-bench"
_PART = 64 * 1024**2
_BLOCK = 1024**2


class Saver(Protocol):
    """Takes saves."""

    def save(self, path: Path, step: int) -> None:
        """What the training's loop waits for."""

    def settle(self) -> None:
        """Wait until all is stored; raises where something was not."""

    def is_settled(self) -> bool:
        """Whether all is stored."""

    def close(self) -> None:
        """End it."""


class FlexAI:
    """Reports to flexai, whose helper process stores."""

    def __init__(self, folder: Path, _size: int) -> None:
        from flexai.training import Run

        self._run = Run("bench", output_dir=folder)

    def save(self, path: Path, step: int) -> None:
        self._run.saved(path, step=step)

    def settle(self) -> None:
        self._run.wait(check=True)

    def is_settled(self) -> bool:
        return self._run.wait(0)

    def close(self) -> None:
        self._run.close()


class Upload:
    """Uploads, and trains no step meanwhile."""

    def __init__(self, _folder: Path, _size: int) -> None:
        self._client = _client()

    def save(self, path: Path, step: int) -> None:
        self._client.upload_file(str(path), _BUCKET, f"{step}/{path.name}")

    def settle(self) -> None:
        """Nothing: all is stored."""

    def is_settled(self) -> bool:
        return True

    def close(self) -> None:
        """Nothing is open."""


class Thread:
    """Uploads from one thread of the same interpreter, as the Trainer's `push_to_hub` does."""

    def __init__(self, _folder: Path, _size: int) -> None:
        self._client = _client()
        self._thread = ThreadPoolExecutor(1)
        self._uploads: list[Future[None]] = []

    def save(self, path: Path, step: int) -> None:
        self._uploads.append(self._thread.submit(self._client.upload_file, str(path), _BUCKET, f"{step}/{path.name}"))

    def settle(self) -> None:
        for upload in self._uploads:
            upload.result()
        self._uploads.clear()

    def is_settled(self) -> bool:
        return all(upload.done() for upload in self._uploads)

    def close(self) -> None:
        self._thread.shutdown()


class Lightning:
    """Lightning's AsyncCheckpointIO around a `torch.save` and an upload; what it saves is a tensor of that size."""

    def __init__(self, _folder: Path, size: int) -> None:
        import torch
        from lightning.pytorch.plugins import AsyncCheckpointIO

        self._state = {"weights": torch.zeros(size, dtype=torch.uint8)}
        self._inner = _upload_io(self._done)
        self._io: Any = AsyncCheckpointIO(self._inner)
        self._waiting = 0
        self._changed = threading.Condition()

    def save(self, path: Path, step: int) -> None:
        with self._changed:
            self._waiting += 1
        self._io.save_checkpoint(self._state, f"{path}.{step}")

    def settle(self) -> None:
        with self._changed:
            self._changed.wait_for(self.is_settled)

    def is_settled(self) -> bool:
        return self._waiting == 0

    def close(self) -> None:
        self._io.teardown()

    def _done(self) -> None:
        with self._changed:
            self._waiting -= 1
            self._changed.notify_all()


def _upload_io(done: Callable[[], None]) -> Any:
    import torch
    from lightning.pytorch.plugins import TorchCheckpointIO

    client = _client()

    class UploadIO(TorchCheckpointIO):
        """Saves, uploads, and keeps no file."""

        def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
            """Called by AsyncCheckpointIO in its thread."""
            del storage_options
            torch.save(checkpoint, path)
            client.upload_file(str(path), _BUCKET, Path(path).name)
            Path(path).unlink()
            done()

    return UploadIO()


SAVERS: dict[str, Callable[[Path, int], Saver]] = {
    "flexai": FlexAI,
    "upload": Upload,
    "thread": Thread,
    "lightning": Lightning,
}


def _client() -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=os.environ["AWS_ENDPOINT_URL"],
        config=Config(
            s3={"addressing_style": "path", "payload_signing_enabled": False},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def write_save(path: Path, size: int, step: int, *, is_full: bool = False) -> None:
    """A file of that size in the format of safetensors, other than that of any other step.

    Most of it is holes, or bytes that are on the disk with ``is_full``. A file that is there is written over where it
    is, as some trainings do.
    """
    header = b'{"w":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (size, size)
    with path.open("r+b" if path.exists() else "xb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        begin = file.tell()
        file.truncate(begin + size)
        if is_full:
            block = os.urandom(_BLOCK)
            for at in range(0, size, _BLOCK):
                file.write(block[: size - at])
        for at in range(begin, begin + size - 8, _PART):
            file.seek(at)
            file.write(struct.pack("<q", step))
        if is_full:
            file.flush()
            os.fsync(file.fileno())
