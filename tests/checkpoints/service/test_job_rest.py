"""What a job writes beside its checkpoints: stored once, listed, fetched, deleted with the job."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from flexai.checkpoints.errors import DestinationExistsError, IntegrityError, UnsafePathError
from flexai.checkpoints.models import JobStatus
from flexai.checkpoints.names import Id, new_id
from flexai.checkpoints.service.support import job_rest
from flexai.checkpoints.service.training import capture_left, delete_job, fetch_rest, list_rest
from flexai.checkpoints.service.training_requests import CaptureJobRequest, DeleteJobRequest
from flexai.checkpoints.storage.protocol import BytesBody
from tests.support.machine import Machine
from tests.support.training import SAVE, Notes, captured, kill_a_runner, left_of, run
from tests.support.trees import read_tree

LONG = "runs/" + "ä" * 90 + "/events.out.tfevents.1.host"
WRITE = f"""
step = 5; {SAVE}
for path, text in {{"runs/events.out.tfevents.1.host": "curve", "metrics.csv": "step,loss", {LONG!r}: "deep",
                    "empty.log": ""}}.items():
    (output() / path).parent.mkdir(parents=True, exist_ok=True)
    (output() / path).write_text(text)
os.mkfifo(output() / "pipe.log")
(output() / "link.log").symlink_to("/etc/passwd")
"""
WRITTEN = {
    "runs/events.out.tfevents.1.host": b"curve",
    "metrics.csv": b"step,loss",
    LONG: b"deep",
    "empty.log": b"",
}


def fetched(machine: Machine, job_id: Id, folder: Path, *, overwrite: bool = False) -> int:
    system = machine.system
    return fetch_rest(system, job_id, list_rest(system, job_id), folder, overwrite=overwrite)


def test_what_is_no_checkpoint_is_stored_with_the_job_and_fetched(machine: Machine, tmp_path: Path) -> None:
    job = run(machine, WRITE)
    assert (job.status, left_of(machine, job)) == (JobStatus.SUCCEEDED, {"log.txt"})
    assert [one.name for one in captured(machine)] == ["checkpoint-5"], "it makes no row"
    assert {one.path: one.size for one in list_rest(machine.system, job.id)} == {
        path: len(content) for path, content in WRITTEN.items()
    }
    assert fetched(machine, job.id, tmp_path / "out") == 4
    assert read_tree(tmp_path / "out" / "attempt-1") == WRITTEN
    assert fetched(machine, job.id, tmp_path / "out") == 0


def test_the_archive_is_one_that_tar_reads(machine: Machine) -> None:
    job = run(machine, WRITE)
    archive = machine.store_folder / "files" / job.id / "attempt-1.tar"
    with tarfile.open(archive) as tar:
        assert {info.name: tar.extractfile(info).read() for info in tar} == WRITTEN  # type: ignore[union-attr]


def test_each_attempt_has_its_own_and_a_directory_of_the_user_has_one(machine: Machine, tmp_path: Path) -> None:
    job = run(machine, "(output() / 'a.log').write_text('1'); exit(1)")
    run(machine, "(output() / 'a.log').write_text('2'); exit(1)")
    for number in (3, 4):
        run(machine, f"(output() / 'a-{number}.log').write_text('{number}'); exit(1)", output_dir=tmp_path / "o")
    assert [one.place for one in list_rest(machine.system, job.id)] == [
        "output/a-3.log",
        "output/a-4.log",
        "attempt-1/a.log",
        "attempt-2/a.log",
    ]


def test_other_content_in_the_way_is_not_replaced_unless_the_user_says_so(machine: Machine, tmp_path: Path) -> None:
    job = run(machine, WRITE)
    there = tmp_path / "out" / "attempt-1" / "metrics.csv"
    there.parent.mkdir(parents=True)
    there.write_text("mine here")
    with pytest.raises(DestinationExistsError, match=r"metrics\.csv is there with other content"):
        fetched(machine, job.id, tmp_path / "out")
    assert read_tree(tmp_path / "out") == {"attempt-1/metrics.csv": b"mine here"}
    assert fetched(machine, job.id, tmp_path / "out", overwrite=True) == 4
    assert there.read_bytes() == b"step,loss"


def test_a_link_in_the_way_is_not_followed(machine: Machine, tmp_path: Path) -> None:
    job = run(machine, WRITE)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "attempt-1").mkdir(parents=True)
    (tmp_path / "out" / "attempt-1" / "runs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafePathError, match="symbolic link"):
        fetched(machine, job.id, tmp_path / "out", overwrite=True)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_what_is_too_much_is_named(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_rest, "MAX_REST", 100)
    notes = Notes()
    job = run(
        machine, "(output() / 'a.log').write_text('x' * 90); (output() / 'b.log').write_text('x' * 90)", progress=notes
    )
    assert [one.path for one in list_rest(machine.system, job.id)] == ["a.log"]
    assert any("not stored with the job" in message and "b.log" in message for message in notes.messages)


ODD = """
for path in ("at-12:30.pt", "logs/a:b.csv", "checkpoint-5/loss:1.txt"):
    (output() / path).parent.mkdir(parents=True, exist_ok=True)
    (output() / path).write_text(path)
step = 5; """


@pytest.mark.parametrize("is_killed", [False, True])
def test_what_has_a_name_that_cannot_be_stored_stays_on_this_machine(machine: Machine, is_killed: bool) -> None:
    text = ODD + SAVE
    if is_killed:
        kill_a_runner(machine, text)
        notes = Notes()
        capture_left(machine.system, CaptureJobRequest("run"), progress=notes)
        messages, job = notes.messages, machine.system.catalog.jobs.list()[0]
    else:
        notes = Notes()
        job = run(machine, text, progress=notes)
        messages = notes.messages
    kept = machine.settings.jobs_path / job.id / "attempt-1" / "unfinished"
    assert read_tree(kept) == {
        path: path.encode() for path in ("at-12:30.pt", "logs/a:b.csv", "checkpoint-5/loss:1.txt")
    }
    assert any(f"kept in {kept}" in message for message in messages)


def test_what_a_killed_runner_left_is_stored_and_a_store_that_was_away_gets_it_later(machine: Machine) -> None:
    kill_a_runner(machine, "(output() / 'a.log').write_text('1')")
    job = machine.system.catalog.jobs.list()[0]
    with refusing_files(machine):
        assert "could not be stored" in capture_left(machine.system, CaptureJobRequest("run")).left[0]
    assert capture_left(machine.system, CaptureJobRequest("run")).left == ()
    assert [one.path for one in list_rest(machine.system, job.id)] == ["a.log"]
    assert {path.name for path in (machine.settings.jobs_path / job.id / "attempt-1").iterdir()} == {"log.txt"}


def refusing_files(machine: Machine) -> Blocked:
    return Blocked(machine.store_folder / "files")


class Blocked:
    """A file in a folder's place while the block runs."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._path.write_text("in the way")

    def __exit__(self, *_: object) -> None:
        self._path.unlink()


def test_it_goes_with_its_job(machine: Machine) -> None:
    run(machine, WRITE)
    delete_job(machine.system, DeleteJobRequest("run"))
    assert not list(machine.storage.list("files/"))


def tar(*members: tuple[str, bytes, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as made:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(content), "/etc/passwd"
            made.addfile(info, io.BytesIO(content))
    return file.getvalue()


GOOD = tar(("a.log", tarfile.REGTYPE, b"content"))


@pytest.mark.parametrize(
    "archive",
    [
        tar(("../outside", tarfile.REGTYPE, b"x")),
        tar(("/etc/cron.d/x", tarfile.REGTYPE, b"x")),
        tar(("a", tarfile.SYMTYPE, b"")),
        tar(("a", tarfile.LNKTYPE, b"")),
        tar(("a", tarfile.FIFOTYPE, b"")),
        tar(("a", tarfile.DIRTYPE, b"")),
        tar(("a", tarfile.GNUTYPE_LONGNAME, b"x" * 70_000)),
        GOOD[:512],
        GOOD[:700],
        b"x" * 2048,
        b"",
    ],
)
def test_an_archive_that_is_no_archive_of_ours_is_damaged(machine: Machine, archive: bytes) -> None:
    job_id = new_id()
    machine.system.store.write_files(job_id, "attempt-1", BytesBody(archive))
    with pytest.raises(IntegrityError, match="are damaged in the store"):
        list_rest(machine.system, job_id)


def test_a_list_reads_little_of_an_archive(machine: Machine) -> None:
    job_id = new_id()
    members = [(f"{number}.log", tarfile.REGTYPE, bytes(1_000_000)) for number in range(10)]
    machine.system.store.write_files(job_id, "attempt-1", BytesBody(tar(*members)))
    assert [one.size for one in list_rest(machine.system, job_id)] == [1_000_000] * 10
    assert 0 < sum(call.size for call in machine.storage.named("get")) < 4_000_000
