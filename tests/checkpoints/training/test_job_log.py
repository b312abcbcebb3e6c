from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from flexai.checkpoints.training.job_log import JobLog, read_log


@pytest.fixture
def log(tmp_path: Path) -> JobLog:
    return JobLog(tmp_path / "log.txt")


def test_a_log_is_its_owners_alone(log: JobLog) -> None:
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600


def test_a_remark_begins_on_a_line_of_its_own(log: JobLog) -> None:
    log.write(b"50 %")
    log.note("captured checkpoint-5")
    log.note("captured checkpoint-6")
    log.write(b"100 %\n")
    log.note("done")
    assert log.path.read_text().splitlines() == [
        "50 %",
        "[flexai] captured checkpoint-5",
        "[flexai] captured checkpoint-6",
        "100 %",
        "[flexai] done",
    ]


def test_a_remark_about_a_name_that_is_no_text_is_written_all_the_same(log: JobLog) -> None:
    log.note("folder '\udcff' was left out")
    assert log.path.read_text() == "[flexai] folder '\\udcff' was left out\n"


def test_a_full_disk_does_not_end_a_training(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    (tmp_path / "log.txt").symlink_to(full)
    log = JobLog(tmp_path / "log.txt")
    log.write(b"epoch 1\n")
    log.write(b"epoch 2\n")
    assert "could not be written: No space left on device" in log.failure
    log.close()


def test_what_comes_after_the_end_is_dropped(log: JobLog) -> None:
    log.write(b"one\n")
    log.close()
    log.write(b"two\n")
    assert log.path.read_text() == "one\n"


def test_a_log_is_read_to_its_end(log: JobLog) -> None:
    log.write("épochs\n".encode() * 50_000)
    assert "".join(read_log(log.path, is_over=lambda: True)) == "épochs\n" * 50_000


def test_bytes_that_are_no_text_do_not_stop_the_reading(log: JobLog) -> None:
    log.write(b"a\xffb\xc3")
    assert "".join(read_log(log.path, is_over=lambda: True)) == "a�b�"


def test_a_log_is_followed_until_it_is_over_and_nothing_is_missed(log: JobLog) -> None:
    over = threading.Event()

    def write() -> None:
        for number in range(50):
            log.write("épo".encode()[: number % 5] + b"\n")
        log.write("last, without a newline: é".encode())
        over.set()

    log.write(b"first\n")
    text = read_log(log.path, is_over=over.is_set)
    assert next(text) == "first\n"
    writer = threading.Thread(target=write)
    writer.start()
    rest = "".join(text)
    writer.join()
    assert rest.endswith("last, without a newline: é")
