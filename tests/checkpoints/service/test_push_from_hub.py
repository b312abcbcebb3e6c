"""Pushing a repository of the Hugging Face Hub, from the stand-in to a store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from flexai.checkpoints.errors import AccessDeniedError, IntegrityError, StorageUnavailableError, UnsafePathError
from flexai.checkpoints.models import Checkpoint, CheckpointStatus
from flexai.checkpoints.names import Id, new_id
from flexai.checkpoints.service.push import push
from flexai.checkpoints.service.push_requests import PushRequest
from flexai.checkpoints.storage.connection import RemotePath
from flexai.checkpoints.storage.hub.repo_paths import parse_hub_path
from flexai.checkpoints.storage.hub.repository import HubStorage
from flexai.checkpoints.storage.retry import RetryPolicy
from flexai.checkpoints.transfer.digest import parts_of
from tests.servers.hub import Fault, Hub, HubFile, serve_hub
from tests.support.fixtures import NewMachine
from tests.support.machine import PART, THRESHOLD, Machine, check_all
from tests.support.trees import noise

SHARD = noise(5 * PART + 17, "one")
FILES: dict[str, bytes | HubFile] = {
    "config.json": b'{"layers": 2}',
    "README.md": b"",
    "model-00001-of-00002.safetensors": HubFile(SHARD, is_large=True),
    "model-00002-of-00002.safetensors": HubFile(noise(2 * PART, "two"), is_large=True),
    "tokenizer.model": HubFile(noise(THRESHOLD - 1, "tokens"), is_large=True),
    "onnx/model.onnx": HubFile(noise(PART, "onnx"), is_large=True),
}
TREE = {path: file.content if isinstance(file, HubFile) else file for path, file in FILES.items()}


@dataclass
class HubConnection:
    """A connection to the stand-in."""

    endpoint: str
    connection_name: str = "hf"
    connection_id: Id = field(default_factory=new_id)

    def open(self, path: str) -> RemotePath:
        repo, revision, key = parse_hub_path(path)
        policy = RetryPolicy(attempts=3, sleep=lambda seconds: None)
        storage = HubStorage(repo, revision=revision, endpoint=self.endpoint, policy=policy)
        return RemotePath(storage=storage, key=key, revision=storage.commit)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve_hub() as hub:
        hub.add("org/model", FILES)
        yield hub


def push_from_hub(
    machine: Machine, hub: Hub, name: str = "model", path: str = "org/model", exclude: Sequence[str] = ()
) -> Checkpoint:
    machine.system.connect = lambda _: HubConnection(hub.endpoint)
    return push(machine.system, PushRequest(name, storage_provider="hf", source_path=path, exclude=exclude))


@pytest.mark.parametrize("concurrency", [1, 8])
def test_a_repository_becomes_a_checkpoint(new_machine: NewMachine, hub: Hub, concurrency: int) -> None:
    machine = new_machine(concurrency=concurrency)
    checkpoint = push_from_hub(machine, hub)
    assert checkpoint.status is CheckpointStatus.AVAILABLE
    assert checkpoint.source.source_path == "org/model"
    assert checkpoint.source.revision == hub.repositories[0].revisions["main"]
    check_all(machine, ["model"], TREE)


def test_a_folder_of_a_repository_becomes_a_checkpoint(machine: Machine, hub: Hub) -> None:
    push_from_hub(machine, hub, path="org/model@main/onnx")
    assert machine.fetched("model") == {"model.onnx": TREE["onnx/model.onnx"]}


def test_every_byte_is_read_once_with_few_questions_to_the_hub(new_machine: NewMachine, hub: Hub) -> None:
    push_from_hub(new_machine(concurrency=4), hub)
    assert len(hub.asked("hub", "/revision/")) == 1
    assert len(hub.asked("hub", "/tree/")) == 1
    # One address for each large file, and the one small file that is not empty.
    assert len(hub.asked("hub", "/resolve/")) == 4 + 1
    assert len(hub.asked("hub", "/resolve-cache/")) == 1
    large = [file for file in FILES.values() if isinstance(file, HubFile)]
    assert len(hub.asked("cdn")) == sum(len(parts_of(len(file.content), PART)) for file in large)


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("position", [0, PART, len(SHARD) - 1])
def test_a_large_file_that_is_damaged_on_its_way_is_noticed_and_the_next_try_mends_it(
    new_machine: NewMachine, hub: Hub, concurrency: int, position: int
) -> None:
    machine = new_machine(concurrency=concurrency)
    damaged = SHARD[:position] + bytes([SHARD[position] ^ 1]) + SHARD[position + 1 :]
    part = HubFile(SHARD, is_large=True).sha256
    hub.faults.append(Fault("cdn", part, times=99, content=damaged))
    with pytest.raises(IntegrityError, match="model-00001-of-00002"):
        push_from_hub(machine, hub)
    assert machine.checkpoint("model").status is CheckpointStatus.FAILED
    hub.faults.clear()
    push_from_hub(machine, hub)
    check_all(machine, ["model"], TREE)


def test_a_push_that_the_hub_breaks_off_goes_on_with_the_next_try(machine: Machine, hub: Hub) -> None:
    hub.faults.append(Fault("cdn", HubFile(SHARD, is_large=True).sha256, times=99, cut=0))
    with pytest.raises(StorageUnavailableError):
        push_from_hub(machine, hub)
    hub.faults.clear()
    push_from_hub(machine, hub)
    check_all(machine, ["model"], TREE)


def test_a_gated_repository_is_refused_and_leaves_no_name_behind(machine: Machine, hub: Hub) -> None:
    hub.add("org/gated", FILES, is_gated=True)
    with pytest.raises(AccessDeniedError, match="gated"):
        push_from_hub(machine, hub, path="org/gated")
    assert machine.checkpoints() == []


def test_a_repository_with_a_name_that_cannot_be_pushed_is_pushed_without_it(new_machine: NewMachine, hub: Hub) -> None:
    machine = new_machine()
    hub.add("org/odd", {**FILES, "figures/aux.png": b"odd"})
    with pytest.raises(UnsafePathError, match=r"org/odd@main/figures/aux.png' cannot be pushed") as raised:
        push_from_hub(machine, hub, path="org/odd")
    assert raised.value.hint == "--exclude 'figures/aux.png' leaves it out, or give it another name there"
    push_from_hub(machine, hub, path="org/odd", exclude=["figures/aux.png"])
    check_all(machine, ["model"], TREE)


def test_a_folder_of_a_repository_may_end_with_a_slash(new_machine: NewMachine, hub: Hub) -> None:
    machine = new_machine()
    push_from_hub(machine, hub, path="org/model/onnx/")
    check_all(machine, ["model"], {"model.onnx": TREE["onnx/model.onnx"]})
