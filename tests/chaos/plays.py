"""What is played on a stage, whatever its store and its catalog are."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

from flexai.checkpoints.errors import StorageError
from flexai.checkpoints.models import CheckpointStatus
from flexai.checkpoints.service.support.export_manifest import EXPORT_MANIFEST
from flexai.checkpoints.storage.checks import PARTIAL_SUFFIX
from flexai.checkpoints.storage.protocol import BytesBody
from tests.chaos.processes import SMALL_SETTINGS
from tests.chaos.stage import Stage
from tests.support.machine import Machine, check_all, check_nothing_is_left_over, check_nothing_is_torn
from tests.support.trees import Tree, read_tree

KILLS = 3
"""How often an operation is killed before it may finish."""

GC = ("checkpoint", "gc", "--grace-period", "0s")


def size_of(files: Tree) -> int:
    """Bytes of all files together."""
    return sum(map(len, files.values()))


def _check_all_are_of(files: Tree, found: Tree) -> None:
    """What was found is some of the files, each as it is."""
    wrong = {
        path: f"{len(content)} bytes of {len(files.get(path, b''))}, {content[:20]!r}"
        for path, content in found.items()
        if files.get(path) != content
    }
    assert not wrong, wrong


def push_of(name: str, folder: Path) -> tuple[str, ...]:
    """The command that pushes a folder."""
    return ("checkpoint", "push", name, "-f", str(folder))


def _clear(stage: Stage, *names: str) -> None:
    """Let what is not needed any more go, so that a stage stays small however long it is played on."""
    for name in names:
        stage.succeed("checkpoint", "delete", name)
    stage.succeed(*GC)


def check_end(stage: Stage) -> None:
    """Nothing is torn; after gc no byte is left that no checkpoint needs, and no upload, the providers' included."""
    with stage.look() as machine:
        machine.collect()
        check_nothing_is_torn(machine)
        check_nothing_is_left_over(machine)
    # The bucket of Google Cloud Storage has those of other tests.
    if stage.bucket is None or stage.bucket.scheme == "s3":
        assert list(stage.provider.storage.list_uploads("")) == []


def _kill_until_available(stage: Stage, chance: random.Random, name: str, *push: str) -> int:
    """Push a checkpoint that is killed a few times; returns how often it was."""
    kills = 0
    for _ in range(KILLS):
        ended = stage.run_and_kill(chance, *push)
        with stage.look() as machine:
            check_nothing_is_torn(machine)
            is_there = name in {one.name for one in machine.checkpoints(CheckpointStatus.AVAILABLE)}
        if is_there:
            return kills
        assert ended.was_killed
        kills += 1
    stage.succeed(*push)
    return kills


def play_push(stage: Stage, chance: random.Random, rounds: int) -> None:
    """A push that is killed at any instant."""
    stage.measure(*push_of("probe", stage.write("probe", stage.files("probe"))))
    _clear(stage, "probe")
    for number in range(rounds):
        name, files = f"name-{number}", stage.files(number)
        push = push_of(name, stage.write("run", files))
        stage.log.unlink(missing_ok=True)
        kills = _kill_until_available(stage, chance, name, *push)
        assert stage.noted("sent", below=stage.blobs) <= size_of(files) + kills * stage.in_flight
        with stage.look() as machine:
            check_all(machine, [name], files)
        _clear(stage, name)
    check_end(stage)


def play_push_from_provider(stage: Stage, chance: random.Random, rounds: int) -> None:
    """A push from a provider that is killed at any instant; its store may be in the same service."""
    files = stage.files("provider")
    stage.put_at_provider("source/", files)
    push = ("push-from", "name", f"{stage.provider.bucket}/source", stage.provider.place)
    stage.measure(*push)
    _clear(stage, "name")
    for _ in range(rounds):
        stage.log.unlink(missing_ok=True)
        kills = _kill_until_available(stage, chance, "name", *push)
        # A directory keeps no versions: files of it that had arrived whole are read, and stored, again.
        if stage.provider.storage.service_identity:
            assert stage.noted("sent", below=stage.blobs) <= size_of(files) + kills * stage.in_flight
        with stage.look() as machine:
            check_all(machine, ["name"], files)
        _clear(stage, "name")
    check_end(stage)


def play_fetch(stage: Stage, chance: random.Random, rounds: int) -> None:
    """A fetch that is killed at any instant."""
    files = stage.files("fetch")
    stage.succeed(*push_of("llama", stage.write("run", files)))
    stage.measure("checkpoint", "fetch", "llama", "-d", str(stage.root / "probe"))
    for number in range(rounds):
        out = stage.root / f"out-{number}"
        fetch = ("checkpoint", "fetch", "llama", "-d", str(out))
        stage.log.unlink(missing_ok=True)
        kills = 0
        for _ in range(KILLS):
            ended = stage.run_and_kill(chance, *fetch)
            found = {path: text for path, text in read_tree(out).items() if not path.endswith(PARTIAL_SUFFIX)}
            # Nothing half-written has its final name.
            _check_all_are_of(files, found)
            kills += ended.was_killed
        stage.succeed(*fetch)
        assert read_tree(out) == files, "and no unfinished file is left"
        assert stage.noted("read", below=stage.blobs) <= size_of(files) + kills * stage.in_flight
        shutil.rmtree(out)
    check_end(stage)


def play_export(stage: Stage, chance: random.Random, rounds: int) -> None:
    """An export that is killed at any instant."""
    files = stage.files("export")
    stage.succeed(*push_of("llama", stage.write("run", files)))
    provider = stage.provider
    stage.measure("export", "llama", f"{provider.bucket}/probe", provider.place)
    for number in range(rounds):
        prefix, path = f"place-{number}/", f"{provider.bucket}/place-{number}"
        export = ("export", "llama", path, provider.place)
        stage.log.unlink(missing_ok=True)
        restarted = 0
        for _ in range(KILLS):
            ended = stage.run_and_kill(chance, *export)
            found = provider.tree(prefix)
            manifest = json.loads(found.pop(EXPORT_MANIFEST, b'{"complete": false}'))
            if stage.bucket is not None:
                # SeaweedFS makes an empty object where a client dies before the first byte of its body.
                found = {path: content for path, content in found.items() if content or not files[path]}
            _check_all_are_of(files, found)
            assert not manifest["complete"] or found == files, "a torn export never says that it is whole"
            with stage.look() as machine:
                recorded = machine.system.catalog.checkpoints.list_exports(str(machine.checkpoint("llama").id))
            assert path not in {one.destination_path for one in recorded} or found == files
            # Files that were under way begin again: a provider does not tell which of their parts it has.
            restarted += ended.was_killed * size_of({path: files[path] for path in files.keys() - found.keys()})
        stage.succeed(*export)
        found = provider.tree(prefix)
        assert json.loads(found.pop(EXPORT_MANIFEST))["complete"] is True
        assert found == files
        assert list(provider.storage.list_uploads(prefix)) == []
        place = f"{provider.storage.location}/place-{number}"
        contents = stage.noted("sent", below=place) - stage.noted("sent", below=f"{place}/{EXPORT_MANIFEST}")
        assert contents <= size_of(files) + restarted
        provider.storage.delete([info.key for info in provider.storage.list(prefix)])
    check_end(stage)


def play_repair(stage: Stage, chance: random.Random, rounds: int) -> None:
    """A verification and repair of damaged content that is killed at any instant."""
    files = stage.files("repair")
    source = stage.write("run", files)
    provider = stage.provider
    names = ("llama", "mistral")
    for name in names:
        stage.succeed(*push_of(name, source))
    stage.succeed("export", "llama", f"{provider.bucket}/copy", provider.place)
    repair = ("repair", provider.place)
    for number in range(rounds + 1):
        damaged = chance.sample([path for path, content in files.items() if content], 2)
        with stage.look() as machine:
            for path in damaged:
                _damage(machine, "llama", path)
        if number == 0:
            stage.measure(*repair)
            continue
        for _ in range(KILLS):
            stage.run_and_kill(chance, *repair)
            for name in names:
                _check_sound_or_refused(stage, name, files)
        stage.succeed(*repair)
        with stage.look() as machine:
            check_all(machine, names, files)
    check_end(stage)


def _damage(machine: Machine, name: str, path: str) -> None:
    """Change a byte of what the store has of a file."""
    stored = machine.system.blobs.files_of(machine.checkpoint(name).id)
    content = next(file.content for file in stored if file.path == path)
    key = machine.system.store.blob_key(content.blob_id)
    blob = bytearray(b"".join(map(bytes, machine.storage.get(key))))
    blob[content.start + content.size // 2] ^= 1
    machine.storage.put(key, BytesBody(bytes(blob)))


def _check_sound_or_refused(stage: Stage, name: str, files: Tree) -> None:
    """A checkpoint whose content may be damaged gives its own bytes or none."""
    out = stage.root / "looked-at"
    ended = stage.run("checkpoint", "fetch", name, "-d", str(out))
    assert ended.code in {0, 6}, ended.text
    found = {path: text for path, text in read_tree(out).items() if not path.endswith(PARTIAL_SUFFIX)}
    _check_all_are_of(files, found)
    assert found == files or ended.code, ended.text
    shutil.rmtree(out)


def play_collection(stage: Stage, chance: random.Random, rounds: int) -> None:
    """A collection of garbage that is killed at any instant."""
    kept = stage.files("kept")
    source = stage.write("kept", kept)
    for number in range(rounds + 1):
        stage.succeed(*push_of(f"kept-{number}", source))
        gone = stage.write("gone", stage.files(number) | {"x": kept["config.json"]})
        stage.succeed(*push_of("gone", gone))
        stage.succeed("checkpoint", "delete", "gone")
        if number > 2:
            # All are looked at in each round: with each one kept, a round takes as long as all before it.
            stage.succeed("checkpoint", "delete", f"kept-{number - 2}")
        stage.start(*push_of(f"broken-{number}", gone)).kill(after=chance.uniform(0, 2 * stage.seconds)).wait()
        if number == 0:
            stage.measure(*GC)
            continue
        for _ in range(KILLS):
            stage.run_and_kill(chance, *GC)
            with stage.look() as machine:
                check_nothing_is_torn(machine)
        stage.succeed(*GC)
        with stage.look() as machine:
            check_nothing_is_torn(machine)
            check_nothing_is_left_over(machine)
            assert machine.fetched(f"kept-{number}") == kept
    check_end(stage)


def play_recovery(stage: Stage, chance: random.Random, rounds: int) -> None:
    """A recovery of a lost catalog that is killed at any instant."""
    checkpoints = {f"name-{number}": stage.files(number) for number in range(3)}
    for name, files in checkpoints.items():
        stage.succeed(*push_of(name, stage.write(name, files)))
    for number in range(rounds + 1):
        for path in (stage.root / "home").glob("catalog.db*"):
            path.unlink()
        if number == 0:
            stage.measure("checkpoint", "recover")
            continue
        for _ in range(KILLS):
            stage.run_and_kill(chance, "checkpoint", "recover")
            try:
                with stage.look() as machine:
                    check_nothing_is_torn(machine)
            except StorageError as error:
                # The tables were not made yet.
                assert "is empty or gone" in error.message
        stage.succeed("checkpoint", "recover")
        with stage.look() as machine:
            check_nothing_is_torn(machine)
            assert {one.name for one in machine.checkpoints()} == checkpoints.keys()
    with stage.look() as machine:
        for name, files in checkpoints.items():
            check_all(machine, [name], files)
    check_end(stage)


def play_one_name(stage: Stage, rounds: int) -> None:
    """Two pushes of one name at once: one of them wins."""
    sources = [stage.files("one"), stage.files("other")]
    folders = [stage.write(f"run-{number}", files) for number, files in enumerate(sources)]
    for number in range(rounds):
        name = f"name-{number}"
        runs = [stage.start(*push_of(name, folder)) for folder in folders]
        ended = [run.wait() for run in runs]
        assert sorted(one.code for one in ended) == [0, 4], [one.text for one in ended]
        (loser,) = [one for one in ended if one.code == 4]
        assert "hint: " in loser.text
        assert "being pushed by process" in loser.text or "already exists with other content" in loser.text
        winner = next(files for files, one in zip(sources, ended, strict=True) if one.code == 0)
        with stage.look() as machine:
            check_all(machine, [name], winner)
        stage.succeed("checkpoint", "delete", name)


def play_many_names(stage: Stage, count: int) -> None:
    """Pushes of different names at once: all arrive."""
    sources = {f"name-{number}": stage.files(number % 3) for number in range(count)}
    runs = [stage.start(*push_of(name, stage.write(name, files))) for name, files in sources.items()]
    for run in runs:
        ended = run.wait()
        assert ended.code == 0, ended.text
    with stage.look() as machine:
        check_nothing_is_torn(machine)
        assert {one.name for one in machine.checkpoints(CheckpointStatus.AVAILABLE)} == sources.keys()
        for name, files in sources.items():
            assert machine.fetched(name) == files
        machine.collect()
        check_nothing_is_torn(machine)
        check_nothing_is_left_over(machine)


def play_all_at_once(stage: Stage, chance: random.Random) -> None:
    """Pushes, deletions and collections at once, some of them killed: nothing is lost."""
    kept = {f"kept-{number}": stage.files(number) for number in range(3)}
    for name, files in kept.items():
        stage.write(name, files)
    stage.succeed(*push_of("shared", stage.root / "kept-0"))
    runs = [stage.start(*push_of(name, stage.root / name)) for name in kept]
    runs += [stage.start("checkpoint", "delete", "shared")]
    runs += [stage.start(*GC) for _ in range(3)]
    for number in range(3):
        run = stage.start(*push_of(f"killed-{number}", stage.root / f"kept-{number}"))
        runs.append(run.kill(after=chance.uniform(0, 0.2)))
    runs += [stage.start(*GC) for _ in range(3)]
    for run in runs:
        ended = run.wait()
        assert ended.code == 0 or ended.was_killed, ended.text
    with stage.look() as machine:
        check_nothing_is_torn(machine)
        for name, files in kept.items():
            assert machine.fetched(name) == files
        machine.collect()
        check_nothing_is_torn(machine)
        check_nothing_is_left_over(machine)


def play_vanishing_source(stage: Stage, chance: random.Random, rounds: int) -> None:
    """A source that vanishes at any instant is never half a checkpoint."""
    files = stage.files("run")
    stage.measure(*push_of("probe", stage.write("run", files)))
    _clear(stage, "probe")
    for number in range(rounds):
        name = f"name-{number}"
        source = stage.write("run", files)
        run = stage.start(*push_of(name, source))
        run.let_work(chance.uniform(0, stage.seconds))
        shutil.rmtree(source)
        ended = run.wait()
        assert ended.code in {0, 1, 2}, ended.text
        with stage.look() as machine:
            check_nothing_is_torn(machine)
            available = {one.name for one in machine.checkpoints(CheckpointStatus.AVAILABLE)}
            assert (name in available) == (ended.code == 0)
        if ended.code:
            assert any(word in ended.text for word in ("vanished", "does not exist", "cannot be read", "holds no file"))
            stage.succeed(*push_of(name, stage.write("run", files)))
        with stage.look() as machine:
            check_all(machine, [name], files)
        _clear(stage, name)


def play_fetches_at_once(stage: Stage, rounds: int) -> None:
    """Fetches into one folder at once all end right."""
    files = stage.files("fetch")
    stage.succeed(*push_of("llama", stage.write("run", files)))
    for number in range(rounds):
        out = stage.root / f"out-{number}"
        for run in [stage.start("checkpoint", "fetch", "llama", "-d", str(out)) for _ in range(4)]:
            ended = run.wait()
            assert ended.code == 0, ended.text
        assert read_tree(out) == files


def play_installed_program(stage: Stage, chance: random.Random, rounds: int) -> None:
    """The whole program that is killed at any instant, its start included, as a user's shell runs it."""
    program = [sys.executable, "-m", "flexai.cli"]
    environment = {"PATH": "/usr/bin:/bin", "DO_NOT_TRACK": "1"} | SMALL_SETTINGS | stage.environment
    for number in range(rounds):
        name, files = f"name-{number}", stage.files(number)
        push = [*program, *push_of(name, stage.write("run", files))]
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
            check_all(machine, [name], files)
