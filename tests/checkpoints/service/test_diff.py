"""What two checkpoints have in common: files by their digests, tensors by the headers, values by ranges."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from flexai.checkpoints.errors import ConflictError, NotFoundError, StorageUnavailableError
from flexai.checkpoints.service.diff import DiffReport, DiffRequest, diff
from flexai.checkpoints.service.recover import recover
from flexai.checkpoints.storage.protocol import BLOCK_SIZE
from tests.checkpoints.training.layouts import DATA
from tests.support.machine import PART, Machine, lose_catalog
from tests.support.trees import Tree, noise

SOURCE: Tree = {"config.json": b"{}", "model.bin": noise(2 * PART), "gone.txt": b"x"}


def compare(machine: Machine, before: str, after: str, **options: bool) -> DiffReport:
    return diff(machine.system, DiffRequest(before, after, **options))


def pushed(machine: Machine, name: str, tree: Mapping[str, bytes]) -> None:
    machine.push(name, machine.write(name, dict(tree)))


def safetensors(tensors: Mapping[str, bytes], dtype: str = "U8") -> bytes:
    header: dict[str, Any] = {}
    at = 0
    for name, data in tensors.items():
        header[name] = {"dtype": dtype, "shape": [len(data)], "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(tensors.values())


def of_tensors(report: DiffReport) -> dict[str, tuple[str, bool | None]]:
    return {one.name: (one.change.value, one.are_values_equal) for one in report.tensors or ()}


def test_files_are_compared_by_their_digests_and_nothing_is_read(machine: Machine) -> None:
    pushed(machine, "one", SOURCE)
    after = {**SOURCE, "config.json": b"[]", "new.txt": b"y"}
    del after["gone.txt"]
    pushed(machine, "two", after)
    machine.storage.reset()
    found = compare(machine, "one", "two")
    assert machine.storage.calls == []
    assert {one.path: one.change.value for one in found.files} == {
        "config.json": "changed",
        "gone.txt": "removed",
        "model.bin": "same",
        "new.txt": "added",
    }
    assert found.tensors is None


def test_a_file_that_may_be_executed_now_has_changed(machine: Machine) -> None:
    folder = machine.write("one", {"run.sh": b"x"})
    machine.push("one", folder)
    (folder / "run.sh").chmod(0o755)
    machine.push("two", folder)
    (file,) = compare(machine, "one", "two").files
    assert file.change == "changed" and file.before is not None and file.after is not None
    assert (file.before.is_executable, file.after.is_executable) == (False, True)


def test_tensors_are_told_by_name_type_and_shape_also_where_one_moved(machine: Machine) -> None:
    pushed(machine, "one", {"a.safetensors": safetensors({"a": b"12", "moved": b"1", "wider": b"1", "gone": b"1"})})
    pushed(
        machine,
        "two",
        {
            "a.safetensors": safetensors({"a": b"34", "wider": b"12"}),
            "b.safetensors": safetensors({"moved": b"1", "new": b"1"}),
        },
    )
    found = compare(machine, "one", "two", tensors=True)
    assert of_tensors(found) == {
        "a": ("same", None),
        "gone": ("removed", None),
        "moved": ("same", None),
        "new": ("added", None),
        "wider": ("changed", None),
    }
    assert of_tensors(compare(machine, "one", "two", values=True)) == {
        "a": ("changed", False),
        "gone": ("removed", None),
        "moved": ("same", True),
        "new": ("added", None),
        "wider": ("changed", None),
    }


def test_values_of_what_torch_and_numpy_wrote_are_compared_where_they_lie(machine: Machine) -> None:
    arrays = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(3, np.float32)}
    torch_file = bytearray((DATA / "training.pt").read_bytes())
    tree = {"training.pt": bytes(torch_file), "stored.npz": npz(arrays), "w.npy": npy(arrays["w"])}
    pushed(machine, "one", tree)
    with zipfile.ZipFile(io.BytesIO(bytes(torch_file))) as archive:
        storage = next(one for one in archive.infolist() if one.filename.endswith("/data/0"))
        with archive.open(storage) as opened:
            first = opened.read(4)
    at = torch_file.index(first, storage.header_offset + 30)
    torch_file[at] ^= 1
    changed = arrays | {"w": arrays["w"] + 1}
    pushed(
        machine,
        "two",
        {"training.pt": bytes(torch_file), "stored.npz": npz(changed), "w.npy": npy(np.asfortranarray(arrays["w"]))},
    )
    found = compare(machine, "one", "two", values=True)
    told = {(one.after and one.after.path, one.name): one.are_values_equal for one in found.tensors or ()}
    of_torch = [equal for (path, _), equal in told.items() if path == "training.pt"]
    assert of_torch.count(False) == 1 and set(of_torch) == {True, False}
    assert (told["stored.npz", "w"], told["stored.npz", "b"]) == (False, True)
    assert told["w.npy", "w"] is None, "what lies in another order is not compared"


def npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    room = io.BytesIO()
    np.savez(room, allow_pickle=False, **arrays)
    return room.getvalue()


def npy(array: np.ndarray) -> bytes:
    room = io.BytesIO()
    np.save(room, array)
    return room.getvalue()


def test_tensors_of_files_that_are_the_same_are_equal_without_reading_them(machine: Machine) -> None:
    pushed(machine, "one", {"a.safetensors": safetensors({"a": noise(4 * PART)})})
    machine.push("two", machine.root / "one")
    machine.storage.reset()
    found = compare(machine, "one", "two", values=True)
    assert of_tensors(found) == {"a": ("same", True)}
    assert machine.storage.delivered < PART


def test_one_byte_of_a_large_tensor_makes_a_difference(machine: Machine) -> None:
    content = noise(3 * BLOCK_SIZE)
    pushed(machine, "one", {"a.safetensors": safetensors({"a": content, "b": content})})
    pushed(machine, "two", {"a.safetensors": safetensors({"a": b"\0" + content[1:], "b": content})})
    assert content[0]
    assert of_tensors(compare(machine, "one", "two", values=True)) == {"a": ("changed", False), "b": ("same", True)}


def test_views_of_one_storage_are_not_read_again_and_again(machine: Machine) -> None:
    # 1,000 tensors that are all of the file: each overlaps the others, with another start.
    size = 200_000
    pushed(machine, "one", {"a.pt": overlapping(1000, size, b"\0")})
    pushed(machine, "two", {"a.pt": overlapping(1000, size, b"\0") + b"\0"})
    machine.storage.reset()
    found = compare(machine, "one", "two", values=True)
    assert len(found.tensors or ()) == 1000
    assert {one.are_values_equal for one in found.tensors or ()} == {True, None}
    assert machine.storage.delivered < 8 * size


def overlapping(count: int, size: int, fill: bytes) -> bytes:
    """What ``torch.save`` writes of many views of one storage."""
    rows = []
    for number in range(count):
        rows.append(
            f"X{_text(f't{number}')}".encode("latin-1")
            + b"ctorch._utils\n_rebuild_tensor_v2\n((X"
            + _text("storage").encode("latin-1")
            + b"ctorch\nByteStorage\nX"
            + _text("0").encode("latin-1")
            + b"X"
            + _text("cpu").encode("latin-1")
            + f"I{size}\ntQI{number}\n(I{size - count}\nt(I1\nt\x89NtR".encode("latin-1")
        )
    pickle = b"\x80\x02}(" + b"".join(rows) + b"u."
    room = io.BytesIO()
    with zipfile.ZipFile(room, "w") as archive:
        archive.writestr("archive/data.pkl", pickle)
        archive.writestr("archive/data/0", fill * size)
    return room.getvalue()


def _text(text: str) -> str:
    return len(text).to_bytes(4, "little").decode("latin-1") + text


def test_a_file_whose_tensors_cannot_be_told_is_named_with_its_side(machine: Machine) -> None:
    pushed(machine, "one", {"a.safetensors": safetensors({"a": b"1"})})
    pushed(machine, "two", {"a.safetensors": b"torn"})
    found = compare(machine, "one", "two", tensors=True)
    assert of_tensors(found) == {"a": ("removed", None)}
    assert [(one.checkpoint, one.path) for one in found.untold] == [("after", "a.safetensors")]


def test_content_without_a_digest_is_read(machine: Machine) -> None:
    pushed(machine, "one", {"model.bin": noise(2 * PART), "same.bin": noise(PART, "b")})
    pushed(machine, "two", {"model.bin": noise(2 * PART, "a"), "same.bin": noise(PART, "b")})
    machine = lose_catalog(machine)
    recover(machine.system)
    machine.storage.reset()
    found = compare(machine, "one", "two").files
    assert [(one.change.value, one.after and one.after.digest) for one in found] == [("changed", ""), ("same", "")]
    assert 0 < machine.storage.delivered <= 4 * PART


def test_only_checkpoints_that_are_there_and_available_are_compared(machine: Machine) -> None:
    pushed(machine, "one", SOURCE)
    with pytest.raises(NotFoundError):
        compare(machine, "one", "two")
    machine.storage.down_from = 3
    with pytest.raises(StorageUnavailableError):
        pushed(machine, "two", {"b": noise(2 * PART, "b")})
    with pytest.raises(ConflictError):
        compare(machine, "one", "two")
