"""Every command says the same of a dead push, of a dead job, of an empty home and of one that can only be read."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import pytest

from flexai.checkpoints.catalog.checkpoint_rows import CUT_OFF, INTERRUPTED
from flexai.checkpoints.catalog.job_nodes import RUNNER_GONE
from flexai.checkpoints.errors import ConflictError, NotFoundError
from tests.cli.conftest import Run
from tests.cli.program import Program
from tests.support.machine import fast_folder

_DIE = """
import os
from pathlib import Path
from flexai.checkpoints.models import CheckpointStatus, Source
from flexai.checkpoints.names import parse_name
from flexai.checkpoints.service.system import System

system = System.open()
checkpoints, jobs = system.catalog.checkpoints, system.catalog.jobs
ours = {"owner": system.owner, "source": Source(from_local_files=("a.bin",)), "store_id": system.store_id}
checkpoints.begin_push(parse_name("dead"), status=CheckpointStatus.UPLOADING, parent_id=None, **ours)
log = Path("job.log").absolute()
log.write_text("step 1\\n")
job = jobs.begin(
    parse_name("dead-job"),
    owner=system.owner,
    command=["true"],
    env_names=[],
    layout=lambda job_id, attempt: (str(log.parent / "out"), str(log)),
).job
print(checkpoints.begin_capture(job_id=job.id, name="checkpoint-5", node="0", parent_id=None, **ours)[0].id, flush=True)
os._exit(0)
"""


@pytest.fixture(scope="module")
def template() -> Iterator[tuple[Path, str]]:
    """A folder with the home of a whole push, and of a push and a job whose process has died; the dead capture's id.

    Not among pytest's folders, into which it lets no other user.
    """
    with tempfile.TemporaryDirectory(prefix="flexai-", dir=fast_folder()) as folder:
        program = Program(Path(folder))
        program.file("whole.bin")
        assert program.run("checkpoint", "push", "whole", "-f", "whole.bin").code == 0
        yield program.home.parent, program.python(_DIE).strip()


@pytest.fixture
def captured(program: Program, template: tuple[Path, str]) -> str:
    """That home as the program's; the id of the dead capture."""
    folder, captured_id = template
    for name in ("home", "cwd"):
        shutil.copytree(folder / name, program.home.parent / name, dirs_exist_ok=True)
    program.file("a.bin")
    return captured_id


@pytest.fixture(autouse=True)
def no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is never opened, so that no command waits for Prefect."""
    for module in ("tracking", "dry_run"):
        monkeypatch.setattr(f"flexai.cli.{module}.load_connection", lambda _name: None)


_TO = ["--storage-provider", "share", "--destination-path", "bucket/place"]

NOT_FOUND, CONFLICT = NotFoundError.exit_code, ConflictError.exit_code

Case: TypeAlias = tuple[list[str], int, str]
"""A command, the code that it ends with, and what it says."""

REFUSED = f"checkpoint 'dead' is failed, not available: {INTERRUPTED}"

OF_A_DEAD_PUSH: list[Case] = [
    (["checkpoint", "list"], 0, "| failed "),
    (["checkpoint", "list", "--json"], 0, f'"status": "failed",\n    "reason": "{INTERRUPTED}"'),
    (["checkpoint", "inspect", "dead"], 0, "status: failed\n"),
    (["checkpoint", "inspect", "dead"], 0, INTERRUPTED),
    (["checkpoint", "inspect", "dead", "--json"], 0, '"status": "failed"'),
    (["checkpoint", "fetch", "dead", "-d", "out"], CONFLICT, REFUSED),
    (["checkpoint", "fetch", "dead", "-d", "out", "--dry-run"], CONFLICT, REFUSED),
    (["checkpoint", "export", "dead", *_TO], CONFLICT, REFUSED),
    (["checkpoint", "export", "dead", *_TO, "--dry-run"], CONFLICT, REFUSED),
    (["checkpoint", "verify", "dead"], CONFLICT, REFUSED),
    (["checkpoint", "push", "other", "--from-checkpoint", "dead"], CONFLICT, REFUSED),
    (["checkpoint", "push", "other", "--from-checkpoint", "dead", "--dry-run"], CONFLICT, REFUSED),
    (["training", "run", "job", "-C", "dead", "--", "true"], CONFLICT, REFUSED),
    (["checkpoint", "protect", "dead"], CONFLICT, "checkpoint dead is not available, so there is nothing to protect"),
    (["checkpoint", "prune", "--pushed", "de*", "--keep-last", "1", "--json"], 0, '"status": "failed"'),
    (["checkpoint", "gc", "--dry-run", "--grace-period", "0s"], 0, "interrupted, and not continued"),
    (["checkpoint", "delete", "dead", "--dry-run"], 0, "delete would"),
    (["checkpoint", "undelete", "dead"], NOT_FOUND, "there is no deleted checkpoint 'dead'"),
    (["checkpoint", "push", "dead", "-f", "a.bin", "--dry-run"], 0, "push would"),
    (["checkpoint", "push", "dead", "-f", "a.bin", "--if-not-exists"], 0, "checkpoint 'dead' is available"),
    (["checkpoint", "push", "dead", "-f", "a.bin"], 0, "checkpoint 'dead' is available"),
    (["checkpoint", "delete", "dead"], 0, "deleted checkpoint dead"),
]


def _of(cases: Sequence[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("arguments", "code", "truth"), cases, ids=[" ".join(case[0]) for case in cases])


def _told(flexai: Run, arguments: Sequence[str]) -> tuple[int, str]:
    done = flexai(*arguments)
    return done.code, done.out + done.err


@_of(OF_A_DEAD_PUSH)
def test_a_dead_push_has_failed(captured: str, flexai: Run, arguments: list[str], code: int, truth: str) -> None:
    ended, told = _told(flexai, arguments)
    assert truth in told
    assert ended == code
    assert "uploading" not in told


OF_A_DEAD_JOB: list[Case] = [
    (["training", "list"], 0, "| interrupted "),
    (["training", "list", "--json"], 0, f'"status": "interrupted",\n    "reason": "{RUNNER_GONE}"'),
    (["training", "inspect", "dead-job"], 0, "status: interrupted\n"),
    (["training", "inspect", "dead-job", "--json"], 0, RUNNER_GONE),
    (["training", "checkpoints", "dead-job"], 0, f"checkpoint 'checkpoint-5' was not captured: {CUT_OFF}"),
    (["checkpoint", "list", "--job", "dead-job", "--status", "failed", "--json"], 0, CUT_OFF),
    (["training", "logs", "dead-job"], 0, "step 1\n"),
    (["training", "logs", "dead-job", "--follow"], 0, "step 1\n"),
    (["training", "stop", "dead-job"], 0, "training job 'dead-job' is interrupted"),
    (["training", "delete", "dead-job"], 0, "deleted training job 'dead-job'"),
    (["checkpoint", "inspect", "CAPTURED"], 0, CUT_OFF),
    (["checkpoint", "fetch", "CAPTURED", "-d", "out"], CONFLICT, f"is failed, not available: {CUT_OFF}"),
    (["checkpoint", "export", "CAPTURED", *_TO], CONFLICT, f"is failed, not available: {CUT_OFF}"),
    (["checkpoint", "delete", "CAPTURED"], 0, "deleted checkpoint"),
]


@_of(OF_A_DEAD_JOB)
def test_a_dead_job_was_interrupted(captured: str, flexai: Run, arguments: list[str], code: int, truth: str) -> None:
    ended, told = _told(flexai, [captured if word == "CAPTURED" else word for word in arguments])
    assert truth in told
    assert ended == code
    assert "in progress" not in told and "uploading" not in told


NOTHING = "there is no checkpoint 'unknown'"
NO_JOB = "there is no training job 'unknown'"

LOOKING: list[Case] = [
    (["checkpoint", "list"], 0, "NAME"),
    (["checkpoint", "list", "--json"], 0, "[]"),
    (["checkpoint", "list", "--deleted"], 0, "NAME"),
    (["checkpoint", "inspect", "unknown"], NOT_FOUND, NOTHING),
    (["checkpoint", "fetch", "unknown", "-d", "out", "--dry-run"], NOT_FOUND, NOTHING),
    (["checkpoint", "export", "unknown", *_TO, "--dry-run"], NOT_FOUND, NOTHING),
    (["checkpoint", "delete", "unknown", "--dry-run"], NOT_FOUND, NOTHING),
    (["checkpoint", "push", "other", "--from-checkpoint", "unknown", "--dry-run"], NOT_FOUND, NOTHING),
    (["checkpoint", "push", "other", "-f", "a.bin", "--dry-run"], 0, "push would move 1 file"),
    (["checkpoint", "prune", "--pushed", "*", "--keep-last", "1"], 0, "would delete 0 of 0"),
    (["checkpoint", "gc", "--dry-run"], 0, "gc would do nothing"),
    (["training", "list"], 0, "NAME"),
    (["training", "list", "--json"], 0, "[]"),
    (["training", "inspect", "unknown"], NOT_FOUND, NO_JOB),
    (["training", "checkpoints", "unknown"], NOT_FOUND, NO_JOB),
    (["training", "logs", "unknown"], NOT_FOUND, NO_JOB),
]

WORKING: list[Case] = [
    (["checkpoint", "fetch", "unknown", "-d", "out"], NOT_FOUND, NOTHING),
    (["checkpoint", "export", "unknown", *_TO], NOT_FOUND, NOTHING),
    (["checkpoint", "verify", "unknown"], NOT_FOUND, NOTHING),
    (["checkpoint", "protect", "unknown"], NOT_FOUND, NOTHING),
    (["checkpoint", "delete", "unknown"], NOT_FOUND, NOTHING),
    (["checkpoint", "push", "other", "--from-checkpoint", "unknown"], NOT_FOUND, NOTHING),
    (["training", "run", "job", "-C", "unknown", "--", "true"], NOT_FOUND, NOTHING),
    (["training", "stop", "unknown"], NOT_FOUND, NO_JOB),
    (["training", "delete", "unknown"], NOT_FOUND, NO_JOB),
]


@_of(LOOKING)
def test_an_empty_home_is_empty_and_stays_so(
    program: Program, flexai: Run, arguments: list[str], code: int, truth: str
) -> None:
    program.file("a.bin")
    ended, told = _told(flexai, arguments)
    assert truth in told
    assert ended == code
    assert not program.home.exists()


@_of(WORKING)
def test_in_an_empty_home_nothing_is_found(flexai: Run, arguments: list[str], code: int, truth: str) -> None:
    ended, told = _told(flexai, arguments)
    assert truth in told
    assert ended == code


READ: list[Case] = [
    (["checkpoint", "list"], 0, "whole"),
    (["checkpoint", "inspect", "whole", "--json"], 0, '"status": "available"'),
    (["checkpoint", "inspect", "dead", "--json"], 0, '"status": "failed"'),
    (["checkpoint", "fetch", "whole", "-d", "out"], 0, "fetched whole"),
    (["checkpoint", "fetch", "dead", "-d", "out"], CONFLICT, REFUSED),
    (["checkpoint", "fetch", "whole", "-d", "out", "--dry-run"], 0, "fetch would"),
    (["checkpoint", "delete", "whole", "--dry-run"], 0, "delete would"),
    (["checkpoint", "push", "other", "-f", "a.bin", "--dry-run"], 0, "push would"),
    (["checkpoint", "prune", "--pushed", "*", "--keep-last", "1"], 0, "would delete"),
    (["checkpoint", "gc", "--dry-run"], 0, "gc would"),
    (["training", "list"], 0, "interrupted"),
    (["training", "inspect", "dead-job", "--json"], 0, '"status": "interrupted"'),
    (["training", "checkpoints", "dead-job"], 0, "was not captured"),
    (["training", "logs", "dead-job"], 0, "step 1"),
]

WRITE = [
    ["checkpoint", "push", "other", "-f", "a.bin"],
    ["checkpoint", "delete", "whole"],
    ["checkpoint", "delete", "dead"],
    ["checkpoint", "protect", "whole"],
    ["checkpoint", "gc"],
    ["training", "stop", "dead-job"],
    ["training", "run", "other-job", "--", "true"],
]

_AS_USER = """
import json, os, sys
from click.testing import CliRunner
from flexai.cli.root import cli

def run(home, commands):
    os.environ["FLEXAI_HOME"] = home
    ended = [CliRunner().invoke(cli, words) for words in commands]
    return [(one.exit_code, one.stdout + one.stderr) for one in ended]

commands, practice, home, user = json.load(sys.stdin)
# Everything is imported before the process becomes a user who may not read the standard library.
run(practice, commands)
if user:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
print("ENDED" + json.dumps(run(home, commands)))
"""


@pytest.mark.parametrize("is_journal_there", [True, False])
def test_a_home_that_can_only_be_read_is_read_by_all_and_written_by_none(
    template: tuple[Path, str], tmp_path: Path, is_journal_there: bool
) -> None:
    folder = template[0] / f"read-only-{is_journal_there}"
    program = Program(folder)
    program.file("a.bin")
    home = shutil.copytree(template[0] / "home", program.home)
    practice = shutil.copytree(home, tmp_path / "practice")
    if not is_journal_there:
        # The last connection that may write merges the journal and takes it away.
        sqlite3.connect(home / "catalog.db").execute("PRAGMA user_version").connection.close()
        assert not list(home.glob("catalog.db-*"))
    user = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else 0
    template[0].chmod(0o755)
    for path in (home, *home.rglob("*"), program.cwd, *program.cwd.rglob("*")):
        if user:
            os.chown(path, user, user)
        if path.is_relative_to(home):
            path.chmod(0o555 if path.is_dir() else 0o444)
    commands = [arguments for arguments, _, _ in READ] + WRITE
    done = subprocess.run(
        [sys.executable, "-c", _AS_USER],
        cwd=program.cwd,
        env=program.environment,
        input=json.dumps([commands, str(practice), str(home), user]),
        capture_output=True,
        text=True,
        check=True,
    )
    ended = json.loads(done.stdout.rpartition("ENDED")[2])
    for path in (home, *home.rglob("*")):
        path.chmod(0o755)
    for (arguments, code, truth), (was, told) in zip(READ, ended, strict=False):
        assert (was, truth in told) == (code, True), (arguments, told)
    for arguments, (was, told) in zip(WRITE, ended[len(READ) :], strict=True):
        assert was != 0, (arguments, told)
        assert "readonly database" in told or "cannot be made" in told or "permission denied" in told, (arguments, told)
