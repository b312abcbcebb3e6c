"""A fetch to a directory that workers share, and a mirror: in shards, by threads, processes, a Dask cluster and Ray."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from prefect.task_runners import TaskRunner
from prefect_dask.task_runners import DaskTaskRunner

from flexai.checkpoints.storage.checks import PARTIAL_SUFFIX
from flexai.flows.fetch import fetch
from flexai.flows.forms import FetchForm
from flexai.flows.mirror import mirror
from flexai.flows.runners import task_runner
from flexai.flows.store_forms import MirrorForm
from flexai.tasks import push_checkpoint
from tests.flows.test_processes import Running, is_running, slow
from tests.flows.test_sharding import PART, SIZE, SOURCE, DaskCluster, cluster, sizes
from tests.servers.prefect import PrefectServer
from tests.support.trees import Tree, noise, read_tree, write_tree
from tests.support.waiting import until

__all__ = ["cluster", "sizes", "slow"]

PROGRAM = """
import sys

def main():
    from flexai.flows.fetch import fetch
    from flexai.flows.forms import FetchForm

    name, destination = sys.argv[1:]
    document = fetch(FetchForm.model_validate({"checkpoint": name, "destination": destination}))
    print(f"fetched {document['fetchedFiles']} files, kept {document['keptFiles']}")

if __name__ == "__main__":
    sys.exit(main())
"""


def push_source(folder: Path, source: Tree = SOURCE) -> str:
    """Push a checkpoint that is worth several shards; returns its name."""
    name = f"fetched-{uuid.uuid4().hex[:8]}"
    push_checkpoint.fn(name, files=[str(write_tree(folder / "run", source))])
    return name


def task_runs_of(server: PrefectServer, flow_run_id: str) -> list[str]:
    """The names of the tasks that a flow run has run."""
    wanted = {"flow_runs": {"id": {"any_": [flow_run_id]}}}
    return [str(run["name"]) for run in server.post("/task_runs/filter", wanted)]


def test_threads_fetch_a_large_checkpoint_in_shards(
    prefect_api: PrefectServer, home: Path, sizes: None, tmp_path: Path
) -> None:
    name = push_source(tmp_path)
    request = {"checkpoint": name, "destination": str(tmp_path / "out")}
    document = fetch(FetchForm.model_validate(request))
    assert (document["fetchedFiles"], document["movedBytes"]) == (len(SOURCE), SIZE)
    assert read_tree(tmp_path / "out") == SOURCE
    (tmp_path / "out" / "large.safetensors").unlink()
    # Nothing of what is there moves; the shard that is left is one all the same.
    again = fetch(FetchForm.model_validate(request))
    assert (again["fetchedFiles"], again["keptFiles"]) == (1, len(SOURCE) - 1)
    # Below the size of a shard there is one ordinary task run.
    small: Any = fetch(FetchForm.model_validate(request | {"shard_size": "1GiB"}), return_state=True)
    assert small.result()["keptFiles"] == len(SOURCE)
    names = task_runs_of(prefect_api, str(small.state_details.flow_run_id))
    assert len(names) == 1
    assert names[0].startswith(f"fetch {name} (")


@pytest.mark.slow
def test_a_killed_flow_leaves_no_half_file_and_the_next_goes_on(
    prefect_api: PrefectServer,
    home: Path,
    sizes: None,
    slow: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FLEXAI_TASK_RUNNER", "processes:2")
    name, out, program = push_source(tmp_path), tmp_path / "out", tmp_path / "fetch-in-shards"
    program.write_text(PROGRAM)

    def begin(log: str) -> Running:
        with (tmp_path / log).open("wb") as output:
            command = [sys.executable, str(program), name, str(out)]
            return Running(subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT), tmp_path / log)

    def half_files() -> list[Path]:
        return list(out.rglob(f".huge*{PARTIAL_SUFFIX}"))

    killed = begin("killed.log")
    try:
        until(half_files, "a file on its way")
        processes = killed.workers
    finally:
        killed.process.kill()
        killed.end()
    until(lambda: not any(map(is_running, processes)), "the end of its processes")
    assert half_files()
    left = read_tree(out)
    assert {path: text for path, text in left.items() if not path.endswith(PARTIAL_SUFFIX)}.items() <= SOURCE.items()

    last = begin("last.log")
    assert last.end() == 0, last.log.read_text()
    assert read_tree(out) == SOURCE


@pytest.mark.slow
def test_four_workers_of_a_dask_cluster_fetch_and_one_of_them_is_killed(
    prefect_api: PrefectServer, cluster: DaskCluster, slow: None, tmp_path: Path
) -> None:
    source = SOURCE | {f"layer-{number}.safetensors": noise(PART, str(number)) for number in range(6)}
    name = push_source(tmp_path, source)
    for worker in ("one", "two", "three", "four"):
        cluster.start_worker(worker)
    runner: TaskRunner[Any] = DaskTaskRunner(address=cluster.address)
    killing = cluster.kill_at_work("two")
    request = {"checkpoint": name, "destination": str(tmp_path / "out"), "shard_size": str(PART)}
    state: Any = fetch.with_options(task_runner=runner)(FetchForm.model_validate(request), return_state=True)
    killing.join()
    assert cluster.running["two"].wait() == -signal.SIGKILL
    document = state.result()
    assert document["fetchedFiles"] + document["keptFiles"] == len(source)
    assert read_tree(tmp_path / "out") == source
    names = {run for run in task_runs_of(prefect_api, str(state.state_details.flow_run_id)) if " of " in run}
    # Two of the files are cut, between their parts.
    assert names == {f"fetch {name} {number} of 16" for number in range(1, 17)}


def push_several(folder: Path) -> dict[str, Tree]:
    """Push a large checkpoint and four small ones; returns what they hold, by their names."""
    small: dict[str, Tree] = {
        f"small-{number}": {"model.safetensors": noise(PART, f"small-{number}")} for number in range(4)
    }
    trees: dict[str, Tree] = small | {"large": SOURCE}
    for name, tree in trees.items():
        push_checkpoint.fn(name, files=[str(write_tree(folder / f"run-{name}", tree))])
    return trees


def check_mirror(folder: Path, trees: dict[str, Tree]) -> None:
    """Each checkpoint lies in a folder of its name, and the manifest of its export beside its files."""
    for name, tree in trees.items():
        found = read_tree(folder / name)
        assert json.loads(found.pop("flexai-manifest.json"))["complete"]
        assert found == tree


@pytest.mark.slow
def test_threads_mirror_in_shards_and_again_nothing(
    prefect_api: PrefectServer, home: Path, sizes: None, share: str, tmp_path: Path
) -> None:
    trees = push_several(tmp_path)
    request = MirrorForm.model_validate({"storage_provider": share, "destination_path": "copies"})
    state: Any = mirror(request, return_state=True)
    assert {row["name"] for row in state.result()["copied"]} == trees.keys()
    check_mirror(tmp_path / "share" / "copies", trees)
    names = task_runs_of(prefect_api, str(state.state_details.flow_run_id))
    assert {name for name in names if name.startswith("mirror to ")} == {
        f"mirror to {share} 1 of 2",
        f"mirror to {share} 2 of 2",
    }
    assert len([name for name in names if name.startswith("export large ")]) >= 3
    state = mirror(request, return_state=True)
    assert {row["name"] for row in state.result()["skipped"]} == trees.keys()
    assert task_runs_of(prefect_api, str(state.state_details.flow_run_id)) == []


@pytest.mark.slow
def test_four_workers_of_a_dask_cluster_mirror_and_one_of_them_is_killed(
    prefect_api: PrefectServer, cluster: DaskCluster, slow: None, share: str, tmp_path: Path
) -> None:
    trees = push_several(tmp_path)
    for worker in ("one", "two", "three", "four"):
        cluster.start_worker(worker)
    runner: TaskRunner[Any] = DaskTaskRunner(address=cluster.address)
    killing = cluster.kill_at_work("two")
    request = {"storage_provider": share, "destination_path": "copies", "shard_size": str(PART)}
    done = mirror.with_options(task_runner=runner)(MirrorForm.model_validate(request))
    killing.join()
    assert cluster.running["two"].wait() == -signal.SIGKILL
    assert {row["name"] for row in [*done["copied"], *done["skipped"]]} == trees.keys()
    check_mirror(tmp_path / "share" / "copies", trees)


@pytest.mark.slow
def test_ray_fetches_and_mirrors_in_shards(
    prefect_api: PrefectServer, home: Path, sizes: None, share: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("prefect_ray", reason="Ray is not installed: pip install 'flexai-checkpoints[ray]'")
    import ray

    monkeypatch.setenv("FLEXAI_TASK_RUNNER", "ray")
    name = push_source(tmp_path)
    request = {"checkpoint": name, "destination": str(tmp_path / "out")}
    try:
        state: Any = fetch.with_options(task_runner=task_runner())(FetchForm.model_validate(request), return_state=True)
        document = state.result()
        place = {"storage_provider": share, "destination_path": "copies"}
        mirrored = mirror.with_options(task_runner=task_runner())(MirrorForm.model_validate(place))
    finally:
        ray.shutdown()
    assert [row["name"] for row in mirrored["copied"]] == [name]
    check_mirror(tmp_path / "share" / "copies", {name: SOURCE})
    # Four of them bring the parts of one file.
    assert len(task_runs_of(prefect_api, str(state.state_details.flow_run_id))) == 6
    assert (document["fetchedFiles"], document["movedBytes"]) == (len(SOURCE), SIZE)
    assert read_tree(tmp_path / "out") == SOURCE
