"""Where a secret is read from."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest

from flexai.checkpoints.errors import UsageError
from flexai.cli.storage.secrets import read_secret


def test_a_fifo_to_which_no_process_writes_keeps_no_command_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "secret")
    with pytest.raises(UsageError, match="secret is a FIFO to which no process writes"):
        read_secret("--secret-from", f"file:{tmp_path}/secret", "secret")


def test_what_a_program_writes_to_a_pipe_is_read_to_its_end() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 0.2; printf first; sleep 0.2; printf -- -last"], stdout=-1) as program:
        assert program.stdout is not None
        source = f"file:/dev/fd/{program.stdout.fileno()}"
        assert read_secret("--secret-from", source, "secret") == "first-last"


def test_a_fifo_of_a_program_that_has_written_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "secret")
    held = os.open(tmp_path / "secret", os.O_RDWR)
    os.write(held, b"a-secret\n")
    closing = threading.Timer(0.2, os.close, [held])
    closing.start()
    assert read_secret("--secret-from", f"file:{tmp_path}/secret", "secret") == "a-secret"
    closing.join()


def test_a_device_is_read_as_far_as_a_secret_can_be_long() -> None:
    with pytest.raises(UsageError, match="more than 65536 bytes"):
        read_secret("--secret-from", "file:/dev/zero", "secret")
    with pytest.raises(UsageError, match="the secret is empty"):
        read_secret("--secret-from", "file:/dev/null", "secret")
