"""One training job on several machines: processes with homes of their own, one catalog, and one store."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.checkpoints.training import trainers
from tests.cli.program import Done
from tests.servers.postgresql import PostgreSQL
from tests.support.machines import Machines, finish, kill, machines
from tests.support.training import wait_until

pytestmark = pytest.mark.slow

SHARD = 134
"""Bytes of each rank's shard."""


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """Where the catalog of all machines is."""
    if request.param == "sqlite":
        yield {}
        return
    server: PostgreSQL = request.getfixturevalue("postgresql")
    name = server.create_database()
    yield {"FLEXAI_DATABASE_URL": server.url(name)}
    server.drop_database(name)


@pytest.fixture
def two(tmp_path: Path, database: dict[str, str]) -> Iterator[Machines]:
    """Two machines."""
    with machines(tmp_path, 2, **database) as found:
        yield found


@pytest.fixture
def three(tmp_path: Path, database: dict[str, str]) -> Iterator[Machines]:
    """Three machines."""
    with machines(tmp_path, 3, **database) as found:
        yield found


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Machines]:
    """Two machines that share an SQLite file."""
    with machines(tmp_path, 2) as found:
        yield found


def shards(step: int, ranks: Sequence[int]) -> set[str]:
    return {f"__{rank}_0.distcp" for rank in ranks} | {".metadata"}


def errors(done: Sequence[Done]) -> list[str]:
    return [one.error for one in done]


def test_four_machines_bring_their_shards_of_each_save_and_one_checkpoint_results(tmp_path: Path) -> None:
    with machines(tmp_path, 4) as four:
        done = four.run("for step in (5, 10):\n    save_shards(step, ranks=2)\n    meet(step)\n")
        assert [one.code for one in done] == [0, 0, 0, 0], errors(done)
        assert four.rows() == [("step-5", "available", "0-3"), ("step-10", "available", "0-3")]
        assert four.fetched("run/step-10").keys() == shards(10, range(8))
        assert four.fetched("run/step-10", node=2).keys() == {"__4_0.distcp", "__5_0.distcp"}
        job = four.job()["runtime"]
        assert (job["status"], job["nodesCount"], job["checkpointsCount"]) == ("succeeded", 4, 2)
        assert [(one["node"], one["status"], bool(one["host"])) for one in job["nodes"]] == [
            (rank, "succeeded", True) for rank in range(4)
        ]


def test_what_a_machine_that_dies_has_not_brought_leaves_a_checkpoint_incomplete(three: Machines) -> None:
    text = "save_shards(5)\nmeet('a')\nif rank == 1:\n    time.sleep(600)\nsave_shards(10)\n"
    processes = [three.start(rank, text) for rank in range(3)]
    wait_until(lambda: ("step-5", "available", "0-2") in three.rows())
    kill(processes[1])
    for rank in (0, 2):
        assert finish(processes[rank]).code == 0
    assert three.rows() == [("step-5", "available", "0-2"), ("step-10", "incomplete", "0,2")]
    shown = three.flexai("training", "checkpoints", "run")
    assert "STATUS" in shown.out
    assert "checkpoint 'step-10' is incomplete: node 1 has not brought a part of it" in shown.err
    job = three.job()["runtime"]
    assert (job["status"], job["reason"]) == ("interrupted", "the process that ran node 1 is gone")
    assert [one["status"] for one in job["nodes"]] == ["succeeded", "interrupted", "succeeded"]
    refused = three.flexai("checkpoint", "fetch", "run/step-10", "-d", "x")
    assert (refused.code, "is incomplete, not available" in refused.error) == (4, True)
    assert three.fetched("run/step-10", node=2).keys() == {"__2_0.distcp"}
    # What goes on next goes on from what is whole.
    again = three.run("say(sorted(read_input()))\n", "--checkpoint", "latest")
    assert [one.code for one in again] == [0, 0, 0], errors(again)
    assert all("'__2_0.distcp'" in one.out for one in again)
    assert three.job()["spec"]["inputCheckpoint"] == "step-5"


def test_an_incomplete_checkpoint_is_deleted_with_its_parts_and_gc_takes_their_bytes(pair: Machines) -> None:
    pair.run("if rank:\n    save_shards(5)\n")
    assert pair.rows() == [("step-5", "incomplete", "1")]
    assert pair.flexai("checkpoint", "gc", "--grace-period", "0s").code == 0
    assert pair.fetched("run/step-5", node=1).keys() == {"__1_0.distcp"}
    assert pair.flexai("checkpoint", "delete", "run/step-5").code == 0
    assert pair.rows() == []
    freed = pair.flexai("checkpoint", "gc", "--grace-period", "0s", "--json").json()
    assert freed["freedBytes"] == SHARD


def test_the_first_machine_may_come_last(pair: Machines) -> None:
    early = pair.start(1, "save_shards(5)\nmeet('a')\n")
    wait_until((pair.meeting / "a-1").exists)
    late = finish(pair.start(0, "meet('a')\nsave_shards(5)\n"))
    assert (finish(early).code, late.code) == (0, 0)
    assert pair.rows() == [("step-5", "available", "0-1")]
    assert pair.job()["runtime"]["attempt"] == 1


def test_a_machine_that_died_comes_again_to_the_attempt_that_the_others_run(pair: Machines) -> None:
    lives = pair.start(0, "save_shards(5)\nwait_for(Path(os.environ['MEETING']) / 'end')\n")
    dies = pair.start(1, "save_shards(5)\nmeet('a')\n")
    wait_until(lambda: ("step-5", "available", "0-1") in pair.rows())
    kill(dies)
    assert pair.job()["runtime"]["status"] == "in progress"
    again = finish(pair.start(1, "save_shards(10)\n(Path(os.environ['MEETING']) / 'end').touch()\n"))
    assert (again.code, finish(lives).code) == (0, 0)
    job = pair.job()["runtime"]
    assert (job["status"], job["attempt"]) == ("succeeded", 1)
    assert pair.rows() == [("step-5", "available", "0-1"), ("step-10", "incomplete", "1")]


def test_a_number_that_another_machine_has_is_refused(pair: Machines) -> None:
    waits = pair.start(0, "meet('a')\n")
    wait_until((pair.meeting / "a-0").exists)
    same = finish(pair.start(0, ""))
    assert (same.code, "node 0 of training job 'run' is being run by process" in same.error) == (4, True)
    more = pair.flexai("training", "run", "run", "--node-rank", "2", "--nodes", "3", "--", "true")
    assert (more.code, "is being run on 2 machines, not on 3 machines" in more.error) == (4, True)
    alone = pair.flexai("training", "run", "run", "--", "true")
    assert (alone.code, "training job 'run' is being run" in alone.error) == (4, True)
    assert finish(pair.start(1, "meet('a')\n")).code == 0
    assert finish(waits).code == 0


def test_the_end_of_a_job_is_the_worst_of_its_machines(pair: Machines) -> None:
    done = pair.run("sys.exit(3 * rank)\n")
    assert [one.code for one in done] == [0, 3]
    job = pair.job()["runtime"]
    assert (job["status"], job["exitCode"]) == ("failed", 3)
    assert job["reason"] == "node 1: the command ended with exit code 3"


def test_a_stop_reaches_all_machines(pair: Machines) -> None:
    text = "say('ready')\n(Path(os.environ['MEETING']) / f'ready-{rank}').touch()\ntime.sleep(600)\n"
    processes = [pair.start(rank, text) for rank in range(2)]
    wait_until(lambda: len(list(pair.meeting.iterdir())) == 2)
    assert pair.flexai("training", "stop", "run").code == 0
    for process in processes:
        finish(process)
    job = pair.job()["runtime"]
    assert (job["status"], job["reason"]) == ("stopped", "stopped on request")
    assert [one["status"] for one in job["nodes"]] == ["stopped", "stopped"]


def test_what_one_machine_saves_for_all_is_available_at_once_and_once(pair: Machines) -> None:
    text = """
if rank == 0:
    save(output() / "checkpoint-5", trainer_files(5))
meet("saved")
"""
    early = pair.start(0, text)
    wait_until(lambda: pair.rows() == [("checkpoint-5", "available", "0")])
    finish(pair.start(1, text))
    assert finish(early).code == 0
    assert pair.rows() == [("checkpoint-5", "available", "0")]


def test_what_the_others_add_to_a_save_that_can_be_used_by_itself_is_in_it_when_all_have_come(pair: Machines) -> None:
    text = """
folder = output() / "checkpoint-5"
if rank == 0:
    save(folder, {"rng_state_0.pth": archive(1), **trainer_files(5)})
    (Path(os.environ["MEETING"]) / "first").touch()
wait_for(Path(os.environ["MEETING"]) / "first")
meet("a")
if rank == 1:
    wait_for(Path(os.environ["MEETING"]) / "seen")
    save(folder, {"rng_state_1.pth": archive(2)})
"""
    processes = [pair.start(rank, text) for rank in range(2)]
    wait_until(lambda: pair.rows() == [("checkpoint-5", "available", "0")])
    before = pair.flexai("training", "checkpoints", "run", "--json").json()[0]["id"]
    (pair.meeting / "seen").touch()
    for process in processes:
        assert finish(process).code == 0
    assert pair.rows() == [("checkpoint-5", "available", "0-1")]
    assert {"rng_state_0.pth", "rng_state_1.pth", "model.safetensors"} <= pair.fetched("run/checkpoint-5").keys()
    assert "rng_state_1.pth" not in pair.fetched(before), "its UUID means what it meant"


def test_machines_that_save_at_the_same_moment_make_one_checkpoint_each_time(two: Machines) -> None:
    steps = range(1, 13)
    done = two.run(f"for step in range({steps.start}, {steps.stop}):\n    save_shards(step)\n    meet(step)\n")
    assert [one.code for one in done] == [0, 0], errors(done)
    assert two.rows() == [(f"step-{step}", "available", "0-1") for step in steps]
    told = [line for one in done for line in one.err.splitlines() if "of nodes 0-1) as " in line]
    assert len(told) == len(steps), "each is told of by the machine that has made it available"


def test_machines_that_share_a_disk_make_one_checkpoint_of_what_all_of_them_see(pair: Machines, tmp_path: Path) -> None:
    text = 'if rank == 0:\n    save(output() / "checkpoint-5", trainer_files(5))\nmeet("saved")\ntime.sleep(1)\n'
    done = pair.run(text, "--output-dir", str(tmp_path / "shared"))
    assert [one.code for one in done] == [0, 0], errors(done)
    assert pair.rows() == [("checkpoint-5", "available", "0-1")]
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".shared")]


def test_of_two_files_of_one_path_that_of_the_lowest_machine_stands(pair: Machines) -> None:
    text = 'save(output() / "step-5", {f"part-{rank}.bin": b"part", "same.bin": str(rank).encode()})\n'
    pair.run(text)
    assert pair.rows() == [("step-5", "available", "0-1")]
    assert pair.fetched("run/step-5")["same.bin"] == b"0"
    assert pair.fetched("run/step-5", node=1) == {"part-1.bin": b"part", "same.bin": b"1"}


def test_parts_that_are_not_whole_together_are_not_available(pair: Machines) -> None:
    pair.run("if rank:\n    save_shards(5)\nelse:\n    save(output() / 'step-5', {'__0_0.distcp': weights(5)})\n")
    assert pair.rows() == [("step-5", "incomplete", "0-1")]
    shown = pair.flexai("training", "checkpoints", "run").err
    assert "all parts are there, and together they are not whole" in shown


def test_of_saves_that_are_written_over_and_tell_no_step_the_last_is_put_together_at_the_end(pair: Machines) -> None:
    text = """
for step in (5, 10):
    save(output() / "last", {f"__{rank}_0.distcp": weights(step)})
    if rank == 0:
        save(output() / "last", {".metadata": b"metadata"})
    time.sleep(1)
    meet(step)
sys.exit(int(os.environ["CODE"]))
"""
    for one in pair.programs:
        one.environment["CODE"] = "1"
    pair.run(text)
    assert {status for _, status, _ in pair.rows()} == {"incomplete"}
    for path in pair.meeting.iterdir():
        path.unlink()
    for one in pair.programs:
        one.environment["CODE"] = "0"
    pair.run(text)
    assert [row for row in pair.rows() if row[1] == "available"] == [("last", "available", "0-1")]
    assert {name[:4] for name in pair.fetched("run/last")} == {"__0_", "__1_", ".met"}
    assert set(map(len, pair.fetched("run/last").values())) == {SHARD, len(b"metadata")}


def test_shards_of_a_command_that_failed_are_brought_without_a_quiet_period(tmp_path: Path) -> None:
    with machines(tmp_path, 2, FLEXAI_QUIET_PERIOD="1h") as pair:
        done = pair.run("save_shards(5)\nmeet('a')\nsys.exit(1)\n")
        assert [one.code for one in done] == [1, 1], errors(done)
        assert pair.rows() == [("step-5", "available", "0-1")]


def test_shards_that_a_machine_had_written_when_it_died_are_brought_when_it_runs_again(tmp_path: Path) -> None:
    with machines(tmp_path, 2, FLEXAI_QUIET_PERIOD="1h") as pair:
        text = "save_shards(5)\nmeet('a')\nif rank:\n    time.sleep(600)\n"
        lives, dies = (pair.start(rank, text) for rank in range(2))
        assert finish(lives).code == 0
        kill(dies)
        assert pair.rows() == [("step-5", "incomplete", "0")]
        again = pair.start(1, "say(sorted(read_input()))\nmeet('b')\n", "--checkpoint", "latest")
        wait_until((pair.meeting / "b-1").exists)
        other = finish(pair.start(0, "say(sorted(read_input()))\nmeet('b')\n", "--checkpoint", "latest"))
        assert (finish(again).code, other.code) == (0, 0)
        assert pair.rows() == [("step-5", "available", "0-1")]
        assert "'__1_0.distcp'" in other.out


REPORTING = """
import os
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from trainers import save, weights
from flexai.training import Run
rank = int(os.environ["THIS_NODE"])
with Run.current() or Run("run", "out") as run:
    for step in (5, 10):
        folder = run.output_dir / f"step-{step}"
        save(folder, {f"__{rank}_0.distcp": weights(step + rank)} | ({".metadata": b"metadata"} if rank == 0 else {}))
        run.saved(folder, step=step, metrics={"eval_loss": 1 / step} if rank else {})
    assert run.wait()
"""


@pytest.mark.parametrize("is_below_a_runner", [True, False])
def test_what_the_trainer_of_each_machine_reports_waits_for_no_quiet_period(
    tmp_path: Path, is_below_a_runner: bool
) -> None:
    folder = str(Path(trainers.__file__).parent)
    command = [sys.executable, "-c", REPORTING, folder]
    with machines(tmp_path, 2, FLEXAI_QUIET_PERIOD="1h") as pair:
        processes = []
        for rank, one in enumerate(pair.programs):
            told = {"GROUP_RANK": str(rank), "GROUP_WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
            if is_below_a_runner:
                processes.append(pair.begin(rank, "training", "run", "run", "--", *command, env=told))
            else:
                environment = one.environment | told
                output = subprocess.PIPE
                processes.append(
                    subprocess.Popen(command, cwd=one.cwd, env=environment, text=True, stdout=output, stderr=output)
                )
        done = [finish(process) for process in processes]
        assert [one.code for one in done] == [0, 0], errors(done)
        assert pair.rows() == [("step-5", "available", "0-1"), ("step-10", "available", "0-1")]
        told_of = pair.flexai("checkpoint", "inspect", "run/step-10", "--json").json()["status"]["metadata"]
        assert (told_of["step"], told_of["evalLoss"], told_of["reported"]) == (10, 0.1, ["step", "eval_loss"])
        assert pair.job()["runtime"]["status"] == "succeeded"


def test_reports_of_all_ranks_of_a_machine_make_one_part(tmp_path: Path) -> None:
    text = """
import subprocess, sys, os
ranks = [
    subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]], env=os.environ | {
        "LOCAL_RANK": str(local), "LOCAL_WORLD_SIZE": "2", "MINE": str(2 * int(os.environ["THIS_NODE"]) + local)
    })
    for local in range(2)
]
sys.exit(max(rank.wait() for rank in ranks))
"""
    rank = """
import os, sys
sys.path.insert(0, sys.argv[1])
from trainers import save, weights
from flexai.training import Run
run, mine = Run.current(), int(os.environ["MINE"])
folder = run.output_dir / "step-5"
save(folder, {f"__{mine}_0.distcp": weights(mine)} | ({".metadata": b"metadata"} if mine == 0 else {}))
run.saved(folder, step=5)
"""
    folder = str(Path(trainers.__file__).parent)
    with machines(tmp_path, 2, FLEXAI_QUIET_PERIOD="1h") as pair:
        which = [("--node-rank", str(number), "--nodes", "2") for number in range(2)]
        command = ("--", sys.executable, "-c", text, rank, folder)
        processes = [pair.begin(number, "training", "run", "run", *which[number], *command) for number in range(2)]
        done = [finish(process) for process in processes]
        assert [one.code for one in done] == [0, 0], errors(done)
        assert pair.rows() == [("step-5", "available", "0-1")]
        assert pair.fetched("run/step-5").keys() == shards(5, range(4))


def test_the_launcher_tells_which_machine_it_is(pair: Machines) -> None:
    told = [
        {"SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0", "SLURM_NODEID": str(rank), "SLURM_NNODES": "2"} for rank in range(2)
    ]
    processes = [pair.start(rank, "save_shards(5)\n", env=told[rank]) for rank in range(2)]
    assert [finish(one).code for one in processes] == [0, 0]
    assert pair.rows() == [("step-5", "available", "0-1")]
