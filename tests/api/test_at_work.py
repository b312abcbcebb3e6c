"""While an operation works: what it tells, who may call it, and what an interruption leaves."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import flexai
from flexai.checkpoints.progress import CalledProgress
from tests.cli.program import Program
from tests.support.fixtures import work_in_a_deleted_directory

SIZE = 3_000_000
SLOW = {"FLEXAI_BANDWIDTH_LIMIT": "1MB", "FLEXAI_PART_SIZE": "1MiB"}
"""Takes seconds."""


class Stages:
    """Keeps what it is told, and by whom."""

    def __init__(self) -> None:
        self.told: list[flexai.StageProgress] = []
        self.at_once = 0
        self._inside = 0

    def __call__(self, stage: flexai.StageProgress) -> None:
        self._inside += 1
        self.at_once = max(self.at_once, self._inside)
        self.told.append(stage)
        self._inside -= 1


def test_progress_is_told_from_nothing_to_all(files: Path) -> None:
    told = Stages()
    flexai.push("my-model", files=files, progress=told)
    assert (told.told[0].fraction, told.told[-1].fraction) == (0.0, 1.0)
    assert told.told[-1].verb == "push my-model"
    assert (told.told[-1].moved + told.told[-1].skipped, told.told[-1].files) == (1024, 1)
    fetched = Stages()
    flexai.fetch("my-model", "restored", progress=fetched)
    assert [stage.verb for stage in (fetched.told[0], fetched.told[-1])] == ["fetch my-model"] * 2
    verified = Stages()
    flexai.verify(progress=verified)
    assert verified.told[-1].is_whole


def test_progress_is_told_to_one_thread_at_a_time_and_not_for_each_block() -> None:
    told = Stages()
    progress = CalledProgress(told, interval=0.0)
    progress.begin("push", total_bytes=8000, total_files=0)

    def work() -> None:
        for _ in range(1000):
            progress.advance(moved=1)

    with ThreadPoolExecutor(8) as pool:
        for _ in range(8):
            pool.submit(work)
    progress.end()
    progress.end()
    assert told.at_once == 1
    assert told.told[-1].moved == 8000
    seldom = Stages()
    progress = CalledProgress(seldom, interval=3600.0)
    progress.begin("push", total_bytes=10, total_files=0)
    for _ in range(10):
        progress.advance(moved=1)
    progress.end()
    assert [stage.moved for stage in seldom.told] == [0, 10]


def test_what_progress_raises_ends_the_operation_which_goes_on_when_it_is_called_again(
    program: Program, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class TooLongError(Exception):
        pass

    def stop(stage: flexai.StageProgress) -> None:
        if stage.moved:
            raise TooLongError

    for name, value in SLOW.items():
        monkeypatch.setitem(os.environ, name, value)
    program.file("out/large.bin", os.urandom(SIZE))
    with pytest.raises(TooLongError):
        flexai.push("my-model", files="out", progress=stop)
    assert [one.status.value for one in flexai.list_checkpoints()] == ["failed"]
    monkeypatch.delitem(os.environ, "FLEXAI_BANDWIDTH_LIMIT")
    assert flexai.push("my-model", files="out").status.value == "available"


@pytest.mark.parametrize("raised", [ValueError, KeyboardInterrupt])
def test_a_push_that_is_stopped_as_it_begins_goes_on_in_the_same_process(
    files: Path, raised: type[BaseException]
) -> None:
    def stop(_stage: flexai.StageProgress) -> None:
        raise raised

    with pytest.raises(raised):
        flexai.push("my-model", files=files, progress=stop)
    assert [one.status.value for one in flexai.list_checkpoints()] == ["failed"]
    assert flexai.push("my-model", files=files).status.value == "available"


def test_threads_push_and_fetch_at_once(files: Path) -> None:
    def work(number: int) -> int:
        flexai.push(f"model-{number}", files="out")
        flexai.fetch(f"model-{number}", f"restored-{number}")
        return flexai.verify(f"model-{number}").checked_bytes

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(16))) == [1024] * 16
    assert len(flexai.list_checkpoints()) == 16


def test_of_threads_that_push_one_name_one_has_it(files: Path) -> None:
    def push(_: int) -> str:
        try:
            return flexai.push("my-model", files="out").status.value
        except flexai.errors.ConflictError:
            return "conflict"

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(push, range(8)))
    assert outcomes.count("available") == 1
    assert outcomes.count("conflict") == 7
    assert [one.status.value for one in flexai.list_checkpoints()] == ["available"]


def test_asyncio_does_other_work_meanwhile(files: Path) -> None:
    async def both() -> list[flexai.CheckpointDetails]:
        names = ("one-model", "two-model")
        return await asyncio.gather(*(asyncio.to_thread(flexai.push, name, "out") for name in names))

    assert [pushed.name for pushed in asyncio.run(both())] == ["one-model", "two-model"]


def test_below_a_working_directory_that_was_deleted_paths_from_the_root_are_found(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work_in_a_deleted_directory(tmp_path, monkeypatch)
    flexai.push("my-model", files=files)
    assert flexai.fetch("my-model", tmp_path / "restored").fetched_files == 1
    for call in (lambda: flexai.fetch("my-model"), lambda: flexai.push("other", files="out")):
        with pytest.raises(flexai.errors.UsageError, match="the working directory has been deleted"):
            call()


def test_no_operation_touches_signals_the_directory_or_the_environment(files: Path) -> None:
    def state() -> tuple[object, ...]:
        handlers = [signal.getsignal(number) for number in signal.valid_signals()]
        return handlers, Path.cwd(), dict(os.environ), threading.excepthook, sys.excepthook

    before = state()
    changed: list[str] = []

    def look(_: flexai.StageProgress) -> None:
        if state() != before:
            changed.append("meanwhile")

    flexai.push("my-model", files="out", progress=look)
    flexai.fetch("my-model", "restored", progress=look)
    flexai.verify(repair=True, progress=look)
    flexai.undelete(flexai.delete("my-model").id)
    assert changed == []
    assert state() == before


@pytest.mark.parametrize("verb", ["push", "fetch"])
def test_control_c_raises_keyboard_interrupt_and_the_same_call_goes_on(program: Program, verb: str) -> None:
    program.file("out/large.bin", os.urandom(SIZE))
    script = program.file(
        "script.py",
        "import sys, flexai\n"
        "def show(stage):\n"
        "    if stage.moved > 1_000_000:\n"
        "        print('begun', flush=True)\n"
        "verb = sys.argv[1]\n"
        "if verb == 'fetch' and 'again' not in sys.argv:\n"
        "    flexai.push('model', files='out')\n"
        "    import os\n"
        "    os.environ['FLEXAI_BANDWIDTH_LIMIT'] = '1MB'\n"
        "try:\n"
        "    if verb == 'push':\n"
        "        flexai.push('model', files='out', progress=show)\n"
        "    else:\n"
        "        flexai.fetch('model', 'restored', progress=show)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', [one.status.value for one in flexai.list_checkpoints()])\n"
        "    sys.exit(3)\n"
        "print('done')\n",
    )
    slow = SLOW if verb == "push" else {"FLEXAI_PART_SIZE": "1MiB"}
    process = subprocess.Popen(
        [sys.executable, script, verb],
        cwd=program.cwd,
        env=program.environment | slow,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 3, err
    assert out.splitlines()[-1] == f"interrupted ['{'failed' if verb == 'push' else 'available'}']"
    again = subprocess.run(
        [sys.executable, script, verb, "again"],
        cwd=program.cwd,
        env=program.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.stdout.splitlines()[-1] == "done", again.stderr
    if verb == "fetch":
        content = (program.cwd / "out" / "large.bin").read_bytes()
        assert (program.cwd / "restored" / "large.bin").read_bytes() == content
        assert [path.name for path in (program.cwd / "restored").iterdir()] == ["large.bin"]
