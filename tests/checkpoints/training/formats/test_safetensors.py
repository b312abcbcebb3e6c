"""The safetensors rule."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexai.checkpoints.training.formats.folder import CheckpointFolder
from flexai.checkpoints.training.formats.safetensors import BITS, MAX_HEADER, read_tensor_names, read_weight_map
from flexai.checkpoints.training.formats.verdict import CannotTellError, NotWholeError


class Memory(CheckpointFolder):
    """A folder in memory that remembers what was read."""

    def __init__(self, **files: bytes) -> None:
        self.name = "checkpoint"
        self.contents = {name.replace("__", "."): data for name, data in files.items()}
        self.files = {name: len(data) for name, data in self.contents.items()}
        self.most_read = 0

    def read(self, path: str, start: int, length: int) -> bytes:
        self.most_read = max(self.most_read, length)
        return self.contents[path][start : start + length]


def file_of(header: Any, data: bytes = b"", *, text: bytes | None = None) -> bytes:
    text = json.dumps(header).encode() if text is None else text
    return len(text).to_bytes(8, "little") + text + data


def tensor(start: int, end: int, dtype: str = "U8", shape: list[Any] | None = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [end - start] if shape is None else shape, "data_offsets": [start, end]}


def names(data: bytes) -> frozenset[str]:
    return read_tensor_names(Memory(a__safetensors=data), "a.safetensors")


@st.composite
def whole_files(draw: st.DrawFn) -> tuple[bytes, frozenset[str]]:
    header: dict[str, Any] = draw(st.sampled_from([{}, {"__metadata__": {"format": "pt"}}]))
    header = dict(header)
    end = 0
    tensors = draw(st.lists(st.text(min_size=1, max_size=5), unique=True, max_size=4))
    for name in tensors:
        dtype = draw(st.sampled_from(sorted(kind for kind, bits in BITS.items() if bits % 8 == 0)))
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        size = BITS[dtype] // 8
        for side in shape:
            size *= side
        header[name] = tensor(end, end + size, dtype, shape)
        end += size
    shuffled = dict(draw(st.permutations(list(header.items()))))
    text = json.dumps(shuffled).encode() + b" " * draw(st.integers(0, 8))
    return file_of(None, bytes(end), text=text), frozenset(tensors)


@given(whole_files())
def test_a_whole_file_tells_the_names_of_its_tensors(file: tuple[bytes, frozenset[str]]) -> None:
    data, tensors = file
    assert names(data) == tensors


@given(whole_files())
def test_no_truncation_of_a_whole_file_is_whole(file: tuple[bytes, frozenset[str]]) -> None:
    data, _ = file
    for length in range(len(data)):
        with pytest.raises(NotWholeError):
            names(data[:length])


@given(whole_files(), st.binary(min_size=1, max_size=9))
def test_a_file_with_bytes_after_its_last_tensor_is_not_whole(file: tuple[bytes, frozenset[str]], more: bytes) -> None:
    with pytest.raises(NotWholeError, match="longer than its header says"):
        names(file[0] + more)


@given(whole_files(), st.data())
def test_a_damaged_file_is_whole_or_not_and_nothing_else(
    file: tuple[bytes, frozenset[str]], data: st.DataObject
) -> None:
    content = bytearray(file[0])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        names(bytes(content))
    except NotWholeError as flaw:
        assert str(flaw).isprintable()


@given(st.binary(max_size=64))
def test_any_bytes_at_all_are_judged_without_another_error(data: bytes) -> None:
    try:
        names(data)
    except NotWholeError:
        return


@pytest.mark.parametrize("length", [MAX_HEADER + 1, 2**63, 2**64 - 1])
def test_a_huge_header_length_is_refused_before_anything_is_read(length: int) -> None:
    folder = Memory(a__safetensors=length.to_bytes(8, "little") + b"{}")
    with pytest.raises(NotWholeError, match="more than safetensors allows"):
        read_tensor_names(folder, "a.safetensors")
    assert folder.most_read == 8


def test_a_header_longer_than_its_file_is_not_read() -> None:
    folder = Memory(a__safetensors=(1000).to_bytes(8, "little") + b"{}")
    with pytest.raises(NotWholeError, match="ends inside its header"):
        read_tensor_names(folder, "a.safetensors")
    assert folder.most_read == 8


@pytest.mark.parametrize(
    ("header", "data", "flaw"),
    [
        ({"a": tensor(0, 4), "b": tensor(2, 6)}, 6, "overlaps"),
        ({"a": tensor(0, 4), "b": tensor(0, 4)}, 4, "overlaps"),
        ({"a": tensor(0, 4), "b": tensor(6, 8)}, 8, "hole"),
        ({"a": tensor(2, 4)}, 4, "hole"),
        ({"a": tensor(4, 0, shape=[4])}, 4, "hole"),
        ({"a": tensor(0, 9)}, 8, "ends inside tensor a"),
        ({"a": tensor(0, 2**62, shape=[2**62])}, 8, "ends inside tensor a"),
        ({"a": tensor(0, 8, "F32", [3])}, 8, "not what its shape needs"),
        ({"a": tensor(0, 8, "F32", [2**62] * 1000)}, 8, "not what its shape needs"),
        ({"a": tensor(0, 8, "U8", [-8, -1])}, 8, "no valid dtype and shape"),
        ({"a": tensor(0, 8, "U8", [True, 8])}, 8, "no valid dtype and shape"),
        ({"a": {"data_offsets": [0, 8]}}, 8, "no valid dtype and shape"),
        ({"a": tensor(0, 8) | {"data_offsets": [0, 8.0]}}, 8, "data_offsets"),
        ({"a": tensor(0, 8) | {"data_offsets": [8]}}, 8, "data_offsets"),
        ({"a": tensor(0, 8) | {"data_offsets": [-8, 8]}}, 8, "data_offsets"),
        ({"a": None}, 0, "data_offsets"),
        ({"__metadata__": {"step": 5}}, 0, "__metadata__"),
        ({"__metadata__": ["pt"]}, 0, "__metadata__"),
        ([], 0, "not a JSON object"),
        (None, 0, "not a JSON object"),
        ({"a": tensor(0, 0)}, 1, "longer than its header says"),
    ],
)
def test_a_header_that_does_not_account_for_its_file_is_refused(header: Any, data: int, flaw: str) -> None:
    with pytest.raises(NotWholeError, match=flaw):
        names(file_of(header, bytes(data)))


@pytest.mark.parametrize(
    ("text", "flaw"),
    [
        (b'{"a":%s,"a":%s}' % ((json.dumps(tensor(0, 1)).encode(),) * 2), "duplicate key"),
        (b'{"a":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}}', "duplicate key"),
        (b'{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,0]}}', "not valid JSON"),
        (b"[" * 200_000, "not valid JSON"),
        (b'{"a":' * 100_000, "not valid JSON"),
        (b'{"a": %s}' % (b"9" * 5000), "not valid JSON"),
        (b'{"\xff": 1}', "not valid JSON"),
        (b" {}", "not a JSON object"),
        (b"", "not valid JSON"),
        (bytes(16), "not valid JSON"),
    ],
)
def test_a_header_that_is_not_plain_json_is_refused(text: bytes, flaw: str) -> None:
    with pytest.raises(NotWholeError, match=flaw):
        names(file_of(None, b"\0", text=text))


def test_a_type_that_the_format_gained_later_does_not_make_a_file_partial() -> None:
    assert names(file_of({"a": tensor(0, 3, "F3_E1M1", [8])}, bytes(3))) == {"a"}


def test_a_tensor_of_half_bytes_fills_whole_bytes() -> None:
    assert names(file_of({"a": tensor(0, 2, "F4", [4])}, bytes(2))) == {"a"}
    with pytest.raises(NotWholeError):
        names(file_of({"a": tensor(0, 2, "F4", [3])}, bytes(2)))


@pytest.mark.parametrize("size", [0, 1, 7])
def test_a_file_too_short_for_a_header_length_is_not_whole(size: int) -> None:
    with pytest.raises(NotWholeError, match="empty" if size == 0 else "too short"):
        names(bytes(size))


def index_of(weight_map: Any) -> bytes:
    return json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}).encode()


def test_an_index_tells_which_tensors_each_shard_holds() -> None:
    folder = Memory(i__json=index_of({"a": "s1", "b": "s2", "c": "s1"}), s1=b"", s2=b"")
    assert read_weight_map(folder, "i.json") == {"s1": {"a", "c"}, "s2": {"b"}}


def test_the_shards_of_an_index_lie_beside_it() -> None:
    folder = Memory()
    folder.contents = {"unet/i.json": index_of({"a": "s"}), "unet/s": b"", "s": b""}
    folder.files = {path: len(data) for path, data in folder.contents.items()}
    assert read_weight_map(folder, "unet/i.json") == {"unet/s": {"a"}}


@pytest.mark.parametrize(
    "value",
    [
        *("/etc/passwd", "../s1", "sub/s1", "s1/../s1", "..", ".", "", "file:///etc/passwd", "s1\0.txt", "\x1b[31m/s1"),
        *("..\\s1", "C:\\s1", "\\\\host\\share"),
        *(5, None, True, ["s1"], {"s1": "s1"}),
    ],
)
def test_an_index_that_names_anything_but_a_bare_file_is_refused_and_nothing_is_opened(value: Any) -> None:
    folder = Memory(i__json=index_of({"a": "s1", "b": value}), s1=b"secret")
    opened: list[str] = []
    read = folder.read

    def remember(path: str, start: int, length: int) -> bytes:
        opened.append(path)
        return read(path, start, length)

    folder.read = remember  # type: ignore[method-assign]
    with pytest.raises(NotWholeError, match="not a bare file name") as caught:
        read_weight_map(folder, "i.json")
    assert str(caught.value).isprintable()
    assert opened == ["i.json"]


def test_an_index_that_names_a_file_that_is_not_there_is_refused() -> None:
    with pytest.raises(NotWholeError, match="missing"):
        read_weight_map(Memory(i__json=index_of({"a": "s1", "b": "C:s2"}), s1=b""), "i.json")


@pytest.mark.parametrize("weight_map", [None, [], {}, "s1", 5])
def test_an_index_without_a_weight_map_is_refused(weight_map: Any) -> None:
    with pytest.raises(NotWholeError, match="no weight_map"):
        read_weight_map(Memory(i__json=index_of(weight_map)), "i.json")


def test_a_huge_index_is_left_unread() -> None:
    folder = Memory(i__json=b"")
    folder.files = {"i.json": 64 * 1024 * 1024 + 1}
    with pytest.raises(CannotTellError, match="longer than 64 MiB"):
        read_weight_map(folder, "i.json")
    assert folder.most_read == 0
