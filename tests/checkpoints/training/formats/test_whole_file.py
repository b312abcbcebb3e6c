"""Files that are walked to their own end: HDF5, MessagePack, Universal Binary JSON, tar, pickles and others."""

from __future__ import annotations

import bz2
import gzip
import lzma
import pickle
import struct
import tarfile
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexai.checkpoints.training.formats.folder import CheckpointFolder
from flexai.checkpoints.training.formats.tensorflow import check_saved_model
from flexai.checkpoints.training.formats.verdict import CannotTellError, NotWholeError
from flexai.checkpoints.training.formats.whole_file import check_file
from tests.checkpoints.training.layouts import FILES, tensorflow_index


class Pieces(CheckpointFolder):
    """A folder in memory whose file may have a hole of any size, and which counts what is read."""

    def __init__(self, name: str, head: bytes, hole: int = 0, tail: bytes = b"", **others: int) -> None:
        self.name = "unit"
        self.head, self.hole, self.tail = head, hole, tail
        self.files = {name: len(head) + hole + len(tail)} | others
        self.bytes_read = self.reads = 0

    def read(self, path: str, start: int, length: int) -> bytes:
        self.reads += 1
        size = self.files[path]
        length = max(0, min(length, size - start))
        self.bytes_read += length
        behind = len(self.head) + self.hole
        data = self.head[start : start + length]
        zeros = max(0, min(start + length, behind) - max(start, len(self.head)))
        data += bytes(zeros)
        if start + length > behind:
            data += self.tail[max(0, start - behind) : start + length - behind]
        return data


def judged(name: str, content: bytes, **others: int) -> str:
    """`whole`, `torn` or `cannot tell`."""
    try:
        check_file(Pieces(name, content, 0, b"", **others), name)
    except NotWholeError:
        return "torn"
    except CannotTellError:
        return "cannot tell"
    return "whole"


# HDF5


@pytest.mark.parametrize(("name", "flags"), [("model.weights.h5", 20), ("model.hdf5", 11)])
def test_a_file_of_hdf5_that_is_open_for_writing_is_torn(name: str, flags: int) -> None:
    content = bytearray(FILES[name][0]())
    assert judged("a.h5", bytes(content)) == "whole"
    content[flags] |= 1
    assert judged("a.h5", bytes(content)) == "torn"
    content[flags] = 4
    assert judged("a.h5", bytes(content)) == "torn"


def test_a_file_of_hdf5_is_as_long_as_its_superblock_says() -> None:
    content = FILES["model.hdf5"][0]()
    assert judged("a.h5", content[:-1]) == "torn"
    assert judged("a.h5", content + b"\0") == "torn"


def test_a_superblock_may_stand_behind_a_block_of_the_user() -> None:
    content = FILES["model.weights.h5"][0]()
    assert judged("a.h5", b"mine".ljust(1024) + content) == "whole"
    assert judged("a.h5", b"mine".ljust(1024) + content[:-1]) == "torn"
    assert judged("a.h5", b"mine".ljust(1000) + content) == "cannot tell"


# MessagePack

_SIMPLE: st.SearchStrategy[bytes] = st.one_of(
    st.sampled_from([b"\xc0", b"\xc2", b"\xc3", b"\x07", b"\xe0", b"\xff"]),
    st.sampled_from([b"\xca" + bytes(4), b"\xcb" + bytes(8), b"\xcc\1", b"\xcd\1\2", b"\xce" + bytes(4)]),
    st.sampled_from([b"\xcf" + bytes(8), b"\xd0\1", b"\xd1\1\2", b"\xd2" + bytes(4), b"\xd3" + bytes(8)]),
    st.sampled_from([bytes((0xD4 + power, 1)) + bytes(2**power) for power in range(5)]),
    st.binary(max_size=31).map(lambda text: bytes((0xA0 | len(text),)) + text),
    st.binary(max_size=40).map(lambda data: b"\xc4" + bytes((len(data),)) + data),
    st.binary(max_size=40).map(lambda data: b"\xc5" + struct.pack(">H", len(data)) + data),
    st.binary(max_size=40).map(lambda data: b"\xc6" + struct.pack(">L", len(data)) + data),
    st.binary(max_size=40).map(lambda data: b"\xc7" + bytes((len(data), 5)) + data),
    st.binary(max_size=40).map(lambda data: b"\xc9" + struct.pack(">LB", len(data), 5) + data),
    st.binary(max_size=40).map(lambda text: b"\xd9" + bytes((len(text),)) + text),
    st.binary(max_size=40).map(lambda text: b"\xdb" + struct.pack(">L", len(text)) + text),
)


def _in_containers(values: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    several = st.lists(values, max_size=4)
    pairs = st.lists(st.tuples(values, values).map(b"".join), max_size=4)
    return st.one_of(
        several.map(lambda items: bytes((0x90 | len(items),)) + b"".join(items)),
        several.map(lambda items: b"\xdd" + struct.pack(">L", len(items)) + b"".join(items)),
        pairs.map(lambda items: bytes((0x80 | len(items),)) + b"".join(items)),
        pairs.map(lambda items: b"\xde" + struct.pack(">H", len(items)) + b"".join(items)),
    )


@given(st.recursive(_SIMPLE, _in_containers, max_leaves=15), st.data())
def test_one_value_of_messagepack_is_whole_and_no_beginning_of_it_is(value: bytes, data: st.DataObject) -> None:
    if value.strip(b"\0"):
        assert judged("a.msgpack", value) == "whole"
        assert judged("a.msgpack", value + value) == "cannot tell"
    if len(value) > 1:
        assert judged("a.msgpack", value[: data.draw(st.integers(0, len(value) - 1))]) == "torn"


def test_what_messagepack_never_writes_is_no_messagepack() -> None:
    assert judged("a.msgpack", b"\xc1 text") == "cannot tell"


# Universal Binary JSON


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        (b"{}", "whole"),
        (b"{U\1aT}", "whole"),
        (b"{L" + struct.pack(">q", 1) + b"a[$d#L" + struct.pack(">q", 3) + bytes(12) + b"}", "whole"),
        (b"{L" + struct.pack(">q", 1) + b"a[$d#L" + struct.pack(">q", 3) + bytes(11) + b"}", "torn"),
        (b"{i\1a[#i\2SU\1xU\5i\1b{#U\1i\1cZ}", "whole"),
        (b"{i\1a[U\1U\2]i\1bD" + bytes(8) + b"}", "whole"),
        (b"{i\1a[[[]]]}", "whole"),
        (b"{i\1a[[[]]", "torn"),
        (b"{i\1a[[[]]}", "cannot tell"),
        (b"{}{}", "cannot tell"),
        (b"{i\xffa", "cannot tell"),
        (b"{i\1a[$S#U\2", "cannot tell"),
        (b"{U\1a" + b"[" * 5000, "cannot tell"),
        (b"[]", "cannot tell"),
    ],
)
def test_one_object_of_universal_binary_json_is_whole(body: bytes, verdict: str) -> None:
    assert judged("a.ubj", body) == verdict


# Tar


def _header(size: int, name: str = "a") -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.GNU_FORMAT)


def test_a_tar_archive_needs_two_blocks_of_zeros_and_sums_that_add_up() -> None:
    whole = _header(5) + b"hello".ljust(512, b"\0") + bytes(1024)
    assert judged("a.nemo", whole) == "whole"
    assert judged("a.nemo", whole + bytes(8192)) == "whole"
    assert judged("a.nemo", whole[:-512]) == "torn"
    assert judged("a.nemo", whole[:-1024] + _header(0)[:200]) == "torn"
    assert judged("a.nemo", b"b" + whole[1:]) == "torn"
    assert judged("a.nemo", _header(2**40) + bytes(2048)) == "torn"
    assert judged("a.nemo", _header(0) * 10_001 + bytes(1024)) == "cannot tell"


# Compressed files and pickles


@pytest.mark.parametrize(
    ("name", "pack"),
    [("a.joblib", zlib.compress), ("a.nemo", gzip.compress), ("a.pkl", bz2.compress), ("a.joblib", lzma.compress)],
)
def test_a_compressed_file_is_whole_when_it_ends_as_its_format_says(name: str, pack: Callable[[bytes], bytes]) -> None:
    packed = pack(pickle.dumps(list(range(1000))))
    assert judged(name, packed) == "whole"
    for length in (2, len(packed) // 2, len(packed) - 4, len(packed) - 1):
        assert judged(name, packed[:length]) == "torn", length
    middle = len(packed) // 2
    assert judged(name, packed[:middle] + bytes(20) + packed[middle + 20 :]) == "torn"


def test_a_compressed_file_that_is_too_long_is_not_unpacked() -> None:
    folder = Pieces("a.joblib", zlib.compress(b"x"), 2**30)
    with pytest.raises(CannotTellError):
        check_file(folder, "a.joblib")
    assert folder.bytes_read < 2**20


def test_a_file_of_pytorch_before_its_archives_has_all_bytes_of_its_storages() -> None:
    whole = FILES["old.pth"][0]()
    assert judged("a.pt", whole) == "whole"
    assert judged("a.pt", whole[:-1]) == "torn"
    assert judged("a.pt", whole + b"\0") == "cannot tell"
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
    assert judged("a.pt", magic + pickle.dumps({"a": 1}, 2) + pickle.dumps([], 2)) == "whole"
    assert judged("a.pt", magic + pickle.dumps({"a": 1}, 2) + pickle.dumps(["0"], 2)) == "cannot tell"


# Others


def test_lightgbms_text_may_be_about_to_get_its_last_line() -> None:
    whole = FILES["model.txt"][0]()
    before = whole[: whole.index(b"\npandas_categorical")]
    assert judged("a.txt", whole) == "whole"
    assert judged("a.txt", before) == "cannot tell"
    assert judged("a.txt", before[:-20]) == "torn"
    assert judged("a.txt", whole[:-3]) == "torn"


def test_catboosts_tables_behind_a_model_tell_no_end() -> None:
    whole = FILES["model.cbm"][0]()
    assert judged("a.cbm", whole) == "whole"
    assert judged("a.cbm", whole + b"tables") == "cannot tell"
    # A FlatBuffer whose fourth field is set.
    core = struct.pack("<L6H", 16, 12, 16, 0, 0, 0, 12) + struct.pack("<l", 12) + bytes(12)
    assert judged("a.cbm", b"CBM1" + struct.pack("<L", len(core)) + core) == "cannot tell"


def test_arrays_one_behind_the_other_may_get_more() -> None:
    one = FILES["weights.npy"][0]()
    assert judged("a.eqx", one) == "whole"
    assert judged("a.eqx", one + one) == "cannot tell"
    assert judged("a.eqx", one + one[:-1]) == "torn"
    assert judged("a.eqx", one + one[:5]) == "torn"
    assert judged("a.npy", one + b"text") == "cannot tell"


def test_a_booster_is_known_by_what_it_begins_with() -> None:
    whole = FILES["model.ubj"][0]()
    assert judged("xgboost.model", whole) == "whole"
    assert judged("xgboost.model", whole[:-1]) == "torn"


@pytest.mark.parametrize(
    ("files", "verdict"),
    [
        ({"c.data-00000-of-00001": 0}, "whole"),
        ({}, "torn"),
        ({"c.data-00000-of-00002": 0}, "torn"),
    ],
)
def test_tensorflows_index_names_its_data_files(files: dict[str, int], verdict: str) -> None:
    assert judged("c.index", tensorflow_index("a/b", "c"), **files) == verdict


def test_an_index_that_another_library_calls_so_is_left_to_time() -> None:
    assert judged("faiss.index", b"IxF2" + bytes(100)) == "cannot tell"


@pytest.mark.parametrize(
    ("message", "is_whole"),
    [
        (b"\x08\x01\x12\x02ab", True),
        (b"\x08\x01\x12\x02a", False),
        (b"\x08\x01", False),
        (b"\x08", False),
        (b"", False),
    ],
)
def test_a_saved_model_is_one_message_with_a_graph(message: bytes, is_whole: bool) -> None:
    folder = Pieces("saved_model.pb", message)
    if is_whole:
        check_saved_model(folder, "saved_model.pb")
        return
    with pytest.raises(NotWholeError):
        check_saved_model(folder, "saved_model.pb")


_TIB = 2**40
_LARGE: dict[str, tuple[bytes, int, bytes]] = {
    "a.msgpack": (b"\x81\xa1a\xc6\xff\xff\xff\xff", 2**32 - 1, b""),
    "a.ubj": (b"{U\1a[$U#L" + struct.pack(">q", _TIB), _TIB, b"}"),
    "a.nemo": (_header(_TIB), _TIB, bytes(1024)),
    "a.pkl": (b"\x80\4\x8e" + struct.pack("<Q", _TIB), _TIB, b"."),
}


@pytest.mark.parametrize("name", _LARGE)
def test_what_a_large_file_holds_is_jumped_over(name: str) -> None:
    head, hole, tail = _LARGE[name]
    folder = Pieces(name, head, hole, tail)
    check_file(folder, name)
    assert folder.reads <= 6
    assert folder.bytes_read <= 300_000


def test_no_file_is_unpickled() -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return exec, ("raise SystemExit('it ran')",)

    assert judged("a.pkl", pickle.dumps(Bomb())) == "whole"
