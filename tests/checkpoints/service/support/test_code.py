"""Checkpoints whose files run code when they are loaded: told, warned of, refused."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator

import pytest

from flexai.checkpoints.errors import ExecutableContentError
from flexai.checkpoints.models import CheckpointStatus
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.service.fetch import fetch
from flexai.checkpoints.service.naming import name_checkpoint
from flexai.checkpoints.service.preview import preview_fetch, preview_name, preview_push
from flexai.checkpoints.service.push import push
from flexai.checkpoints.service.push_requests import AnyPushRequest, NameRequest, PushRequest
from flexai.checkpoints.service.requests import FetchRequest
from flexai.checkpoints.service.support import code
from flexai.checkpoints.service.support.code import code_of, stored_files
from flexai.checkpoints.storage.protocol import BLOCK_SIZE
from flexai.checkpoints.transfer.steps import Preview
from tests.checkpoints.service.test_push_from_hub import HubConnection
from tests.hostile.pickles import system, torch_archive
from tests.servers.hub import Hub, HubFile, serve_hub
from tests.support.machine import Machine
from tests.support.progress import Counter
from tests.support.trees import Tree, noise

HOSTILE: Tree = {
    "config.json": b'{"auto_map": {"AutoModel": "modeling_x.X"}}',
    "modeling_x.py": b"import os",
    "model.safetensors": noise(200_000, "weights"),
    "pytorch_model.bin": torch_archive(system(protocol=2)) + b"",
    "state.pkl": pickle.dumps({"step": 3}),
}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve_hub() as hub:
        hub.add("org/model", {path: HubFile(content) for path, content in HOSTILE.items()})
        yield hub


def test_what_the_files_of_a_checkpoint_run_is_told_from_the_store(machine: Machine) -> None:
    machine.push("model", machine.write("run", HOSTILE))
    machine.storage.reset()
    found = {path: code.executable for path, code in code_of(machine.system, "model").items() if code.executable}
    assert found == {
        "pytorch_model.bin": ("posix.system",),
        "modeling_x.py": ("modeling_x.X (auto_map in config.json)",),
    }


def test_a_range_of_several_blocks_is_read_as_it_is(machine: Machine) -> None:
    content = noise(3 * BLOCK_SIZE)
    machine.push("model", machine.write("run", {"model.bin": content}))
    _, files = machine.system.available_files("model")
    assert stored_files(machine.system.store, files).read("model.bin", 5, len(content)) == content[5:]


def test_a_push_of_code_can_be_refused_and_leaves_nothing(machine: Machine) -> None:
    source = machine.write("run", HOSTILE)
    with pytest.raises(ExecutableContentError, match=r"pytorch_model\.bin runs posix\.system"):
        push(machine.system, PushRequest("model", [str(source)], refuse_executable=True))
    assert not list(machine.system.store.list_blobs())
    harmless = machine.write("good", {path: HOSTILE[path] for path in ("model.safetensors", "state.pkl")})
    pushed = push(machine.system, PushRequest("model", [str(harmless)], refuse_executable=True))
    assert pushed.status is CheckpointStatus.AVAILABLE


def test_a_fetch_of_code_can_be_refused_before_anything_is_written(machine: Machine) -> None:
    machine.push("model", machine.write("run", HOSTILE))
    out = machine.root / "out"
    with pytest.raises(ExecutableContentError):
        fetch(machine.system, FetchRequest("model", str(out), refuse_executable=True))
    assert not out.exists()


def test_a_push_from_the_hub_and_its_fetch_warn_in_one_line(machine: Machine, hub: Hub) -> None:
    machine.system.connect = lambda _: HubConnection(hub.endpoint)
    progress = Counter()
    push(machine.system, PushRequest("model", storage_provider="hf", source_path="org/model"), progress=progress)
    fetch(machine.system, FetchRequest("model", str(machine.root / "out")), progress=progress)
    warnings = [note for note in progress.notes if "runs code" in note]
    assert len(warnings) == 2
    for warning in warnings:
        assert "posix.system" in warning and "modeling_x.X" in warning
        assert "\n" not in warning


def test_files_of_this_machine_are_pushed_without_a_warning(machine: Machine) -> None:
    progress = Counter()
    push(machine.system, PushRequest("model", [str(machine.write("run", HOSTILE))]), progress=progress)
    assert not progress.notes


def _push_from_hub(machine: Machine, hub: Hub, name: str) -> None:
    machine.system.connect = lambda _: HubConnection(hub.endpoint)
    push(machine.system, PushRequest(name, storage_provider="hf", source_path="org/model"))


def test_one_file_with_code_behind_a_thousand_without_is_warned_of(machine: Machine, hub: Hub) -> None:
    many = {f"{number:04}.pkl": HubFile(pickle.dumps(number)) for number in range(1000)}
    hub.add("org/many", many | {"z.pkl": HubFile(system())})
    machine.system.connect = lambda _: HubConnection(hub.endpoint)
    push(machine.system, PushRequest("model", storage_provider="hf", source_path="org/many"))
    progress = Counter()
    fetch(machine.system, FetchRequest("model", str(machine.root / "out")), progress=progress)
    assert [note for note in progress.notes if "z.pkl runs posix.system" in note]


@pytest.mark.parametrize("limit", ["WARNING_BYTES", "WARNING_SECONDS"])
def test_what_a_warning_may_not_cost_is_said(
    machine: Machine, hub: Hub, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    _push_from_hub(machine, hub, "model")
    monkeypatch.setattr(code, limit, 1)
    if limit == "WARNING_SECONDS":
        monkeypatch.setattr(code, limit, 0.0)
    progress = Counter()
    fetch(machine.system, FetchRequest("model", str(machine.root / "out")), progress=progress)
    assert "was not looked through for code to its end" in progress.notes[-1]
    with pytest.raises(ExecutableContentError, match=r"pytorch_model\.bin runs posix\.system"):
        fetch(machine.system, FetchRequest("model", str(machine.root / "no"), refuse_executable=True))


def test_dry_runs_look_as_the_operations_do(machine: Machine, hub: Hub) -> None:
    _push_from_hub(machine, hub, "model")
    source = str(machine.write("run", HOSTILE))
    plans: list[Callable[[bool, Progress], Preview]] = [
        lambda refuse, progress: preview_push(
            machine.system,
            PushRequest("new", storage_provider="hf", source_path="org/model", refuse_executable=refuse),
            progress=progress,
        ),
        lambda refuse, progress: preview_name(
            machine.system, NameRequest("new", "model", refuse_executable=refuse), progress=progress
        ),
        lambda refuse, progress: preview_fetch(
            machine.system, FetchRequest("model", str(machine.root / "x"), refuse_executable=refuse), progress=progress
        ),
    ]
    for plan in plans:
        progress = Counter()
        plan(False, progress)
        assert [note for note in progress.notes if "posix.system" in note and "modeling_x.X" in note]
        with pytest.raises(ExecutableContentError):
            plan(True, Counter())
    with pytest.raises(ExecutableContentError):
        preview_push(machine.system, PushRequest("new", [source], refuse_executable=True))
    progress = Counter()
    preview_push(machine.system, PushRequest("new", [source]), progress=progress)
    assert not progress.notes


def test_another_name_for_code_is_warned_of_or_refused(machine: Machine, hub: Hub) -> None:
    _push_from_hub(machine, hub, "model")
    asked = AnyPushRequest("other", from_checkpoint="model", refuse_executable=True).request()
    assert isinstance(asked, NameRequest)
    with pytest.raises(ExecutableContentError):
        name_checkpoint(machine.system, asked)
    progress = Counter()
    name_checkpoint(machine.system, NameRequest("other", "model"), progress=progress)
    assert [note for note in progress.notes if "posix.system" in note]
