"""SIGKILL at any instant: nothing torn is ever available, a rerun finishes, nothing moves twice, nothing is left."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time

from flexai.checkpoints.models import CheckpointStatus
from flexai.checkpoints.service.exports import EXPORT_MANIFEST
from flexai.checkpoints.storage.keys import PARTIAL_SUFFIX
from flexai.checkpoints.storage.local import LocalStorage
from tests.chaos.conftest import NewStage
from tests.chaos.processes import SMALL_SETTINGS
from tests.chaos.stage import IN_FLIGHT, ROUNDS, Stage, checkpoint_files
from tests.support.machine import check_all, check_nothing_is_left_over, check_nothing_is_torn
from tests.support.trees import Tree, read_tree

KILLS = 3
"""How often an operation is killed before it may finish."""


def _size(files: Tree) -> int:
    return sum(map(len, files.values()))


def _play_push(stage: Stage, chance: random.Random, rounds: int) -> None:
    stage.measure("checkpoint", "push", "probe", "-f", str(stage.write("probe", checkpoint_files("probe"))))
    for number in range(rounds):
        name, files = f"name-{number}", checkpoint_files(number)
        source = stage.write("run", files)
        stage.log.unlink(missing_ok=True)
        push = ("checkpoint", "push", name, "-f", str(source))
        kills = 0
        for _ in range(KILLS):
            ended = stage.run_and_kill(chance, *push)
            with stage.look() as machine:
                check_nothing_is_torn(machine)
                is_there = name in {one.name for one in machine.checkpoints(CheckpointStatus.AVAILABLE)}
            if is_there:
                break
            assert ended.was_killed
            kills += 1
        else:
            stage.succeed(*push)
        assert stage.noted("sent", below=stage.root / "home" / "store" / "blobs") <= _size(files) + kills * IN_FLIGHT
        with stage.look() as machine:
            check_all(machine, [name], files)
        stage.succeed("checkpoint", "delete", name)


def test_a_push_that_is_killed_at_any_instant(new_stage: NewStage, chance: random.Random) -> None:
    _play_push(new_stage(), chance, ROUNDS)


def test_a_push_that_is_killed_with_its_catalog_in_postgresql(postgresql_stage: Stage, chance: random.Random) -> None:
    _play_push(postgresql_stage, chance, max(2, ROUNDS // 4))


def test_a_fetch_that_is_killed_at_any_instant(new_stage: NewStage, chance: random.Random) -> None:
    stage = new_stage()
    files = checkpoint_files("fetch")
    stage.succeed("checkpoint", "push", "llama", "-f", str(stage.write("run", files)))
    stage.measure("checkpoint", "fetch", "llama", "-d", str(stage.root / "probe"))
    for number in range(ROUNDS):
        out = stage.root / f"out-{number}"
        fetch = ("checkpoint", "fetch", "llama", "-d", str(out))
        stage.log.unlink(missing_ok=True)
        kills = 0
        for _ in range(KILLS):
            ended = stage.run_and_kill(chance, *fetch)
            found = {path: text for path, text in read_tree(out).items() if not path.endswith(PARTIAL_SUFFIX)}
            assert found.items() <= files.items(), "nothing half-written has its final name"
            kills += ended.was_killed
        stage.succeed(*fetch)
        assert read_tree(out) == files, "and no unfinished file is left"
        assert stage.noted("read", below=stage.root / "home" / "store" / "blobs") <= _size(files) + kills * IN_FLIGHT


def test_an_export_that_is_killed_at_any_instant(new_stage: NewStage, chance: random.Random) -> None:
    stage = new_stage()
    files = checkpoint_files("export")
    stage.succeed("checkpoint", "push", "llama", "-f", str(stage.write("run", files)))
    buckets = stage.root / "buckets"
    stage.measure("export", "llama", "bucket/probe", str(buckets))
    for number in range(ROUNDS):
        place = buckets / "bucket" / f"place-{number}"
        export = ("export", "llama", f"bucket/place-{number}", str(buckets))
        stage.log.unlink(missing_ok=True)
        restarted = 0
        for _ in range(KILLS):
            ended = stage.run_and_kill(chance, *export)
            found = {path: text for path, text in read_tree(place).items() if not path.endswith(PARTIAL_SUFFIX)}
            manifest = json.loads(found.pop(EXPORT_MANIFEST, b'{"complete": false}'))
            assert found.items() <= files.items()
            assert not manifest["complete"] or found == files, "a torn export never says that it is whole"
            with stage.look() as machine:
                recorded = machine.system.catalog.checkpoints.exports_of(str(machine.checkpoint("llama").id))
            assert export[2] not in {one.destination_path for one in recorded} or found == files
            # Files that were under way begin again: a provider does not tell which of their parts it has.
            restarted += ended.was_killed * _size({path: files[path] for path in files.keys() - found.keys()})
        stage.succeed(*export)
        found = read_tree(place)
        assert json.loads(found.pop(EXPORT_MANIFEST))["complete"] is True
        assert found == files
        assert list(LocalStorage(buckets / "bucket").list_uploads(f"place-{number}/")) == []
        contents = stage.noted("sent", below=place) - stage.noted("sent", below=place / EXPORT_MANIFEST)
        assert contents <= _size(files) + restarted + (KILLS + 1) * 2 * 100_000


def test_a_collection_that_is_killed_at_any_instant(new_stage: NewStage, chance: random.Random) -> None:
    stage = new_stage()
    kept = checkpoint_files("kept")
    source = stage.write("kept", kept)
    collect = ("checkpoint", "gc", "--grace-period", "0s")
    for number in range(ROUNDS + 1):
        stage.succeed("checkpoint", "push", f"kept-{number}", "-f", str(source))
        stage.succeed(
            "checkpoint",
            "push",
            "gone",
            "-f",
            str(stage.write("gone", checkpoint_files(number) | {"x": kept["config.json"]})),
        )
        stage.succeed("checkpoint", "delete", "gone")
        stage.start("checkpoint", "push", f"broken-{number}", "-f", str(stage.root / "gone")).kill(after=0.1).wait()
        if number == 0:
            stage.measure(*collect)
            continue
        for _ in range(KILLS):
            stage.run_and_kill(chance, *collect)
            with stage.look() as machine:
                check_nothing_is_torn(machine)
        stage.succeed(*collect)
        with stage.look() as machine:
            check_nothing_is_torn(machine)
            check_nothing_is_left_over(machine)
            assert machine.fetched(f"kept-{number}") == kept


def test_a_recovery_that_is_killed_at_any_instant(new_stage: NewStage, chance: random.Random) -> None:
    stage = new_stage()
    checkpoints = {f"name-{number}": checkpoint_files(number) for number in range(3)}
    for name, files in checkpoints.items():
        stage.succeed("checkpoint", "push", name, "-f", str(stage.write(name, files)))
    for number in range(ROUNDS // 2 + 2):
        for path in (stage.root / "home").glob("catalog.db*"):
            path.unlink()
        if number == 0:
            stage.measure("checkpoint", "recover")
            continue
        for _ in range(KILLS):
            stage.run_and_kill(chance, "checkpoint", "recover")
            with stage.look() as machine:
                check_nothing_is_torn(machine)
        stage.succeed("checkpoint", "recover")
        with stage.look() as machine:
            check_nothing_is_torn(machine)
            assert {one.name for one in machine.checkpoints()} == checkpoints.keys()
    with stage.look() as machine:
        for name, files in checkpoints.items():
            check_all(machine, [name], files)


def test_the_installed_program_that_is_killed_at_any_instant(new_stage: NewStage, chance: random.Random) -> None:
    """The whole program, its start included, as a user's shell runs it."""
    stage = new_stage()
    program = [sys.executable, "-m", "flexai.cli"]
    environment = {"PATH": "/usr/bin:/bin", "DO_NOT_TRACK": "1"} | SMALL_SETTINGS | stage.environment
    for number in range(max(1, ROUNDS // 6)):
        files = checkpoint_files(number)
        push = [*program, "checkpoint", "push", f"name-{number}", "-f", str(stage.write("run", files))]
        for _ in range(2):
            process = subprocess.Popen(push, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(chance.uniform(0.3, 2))
            process.kill()
            process.wait()
            with stage.look() as machine:
                check_nothing_is_torn(machine)
        done = subprocess.run([*push, "--if-not-exists"], env=environment, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        with stage.look() as machine:
            check_all(machine, [f"name-{number}"], files)
