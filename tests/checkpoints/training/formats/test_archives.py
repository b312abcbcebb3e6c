"""The zip rule, for what torch.save and numpy.savez write."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexai.checkpoints.training.formats.archives import MAX_DIRECTORY, check_archive
from flexai.checkpoints.training.formats.folder import CheckpointFolder
from flexai.checkpoints.training.formats.verdict import CannotTellError, NotWholeError
from tests.support.folders import local_folder

TORCH_SAVE = Path(__file__).parents[1] / "data" / "torch-save.pt"
"""`torch.save({"weight": torch.arange(6.).reshape(2, 3)}, ...)` of PyTorch 2.13."""


class OneFile(CheckpointFolder):
    """A folder in memory with one file, which remembers how much of it was read."""

    name = "checkpoint"

    def __init__(self, content: bytes, size: int | None = None) -> None:
        self.content = content
        self.files = {"ckpt.pt": len(content) if size is None else size}
        self.bytes_read = 0

    def read(self, path: str, start: int, length: int) -> bytes:
        self.bytes_read += length
        return self.content[start : start + length]


def check(content: bytes) -> None:
    check_archive(OneFile(content), "ckpt.pt")


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    """Archives as zipfile writes them: stored or packed, with zip64 records or without."""
    buffer = io.BytesIO()
    wide = draw(st.sampled_from(["never", "entries", "everywhere"]))
    limit = 10 if wide == "everywhere" else zipfile.ZIP64_LIMIT
    with mock.patch.object(zipfile, "ZIP64_LIMIT", limit), zipfile.ZipFile(buffer, "w") as archive:
        for number in range(draw(st.integers(1, 4))):
            entry = zipfile.ZipInfo(f"archive/data/{number}" + draw(st.text(max_size=3)))
            entry.compress_type = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
            with archive.open(entry, "w", force_zip64=wide != "never") as file:
                file.write(draw(st.binary(max_size=40)))
    return buffer.getvalue()


@given(archives())
def test_a_whole_archive_is_whole(content: bytes) -> None:
    check(content)


@settings(max_examples=30)
@given(archives())
def test_no_truncation_of_a_whole_archive_is_whole(content: bytes) -> None:
    for length in range(len(content)):
        with pytest.raises(NotWholeError):
            check(content[:length])


@given(archives(), st.binary(min_size=1, max_size=30))
def test_an_archive_with_bytes_after_its_end_is_not_whole(content: bytes, more: bytes) -> None:
    with pytest.raises(NotWholeError):
        check(content + more)


@given(archives(), st.data())
def test_a_damaged_archive_is_judged_without_another_error(content: bytes, data: st.DataObject) -> None:
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        check(bytes(damaged))
    except (NotWholeError, CannotTellError) as flaw:
        assert str(flaw).isprintable()


@given(st.binary(max_size=200).map(lambda rest: b"PK\x03\x04" + rest))
def test_bytes_that_only_begin_as_an_archive_are_not_whole(content: bytes) -> None:
    with pytest.raises(NotWholeError):
        check(content)


def test_what_torch_saved_is_whole_and_none_of_its_truncations_is() -> None:
    content = TORCH_SAVE.read_bytes()
    check(content)
    for length in range(len(content)):
        with pytest.raises(NotWholeError):
            check(content[:length])


def test_what_numpy_saved_is_whole_and_none_of_its_truncations_is() -> None:
    buffer = io.BytesIO()
    np.savez(buffer, weight=np.arange(6.0), bias=np.zeros(2))
    content = buffer.getvalue()
    check(content)
    for length in range(0, len(content), 7):
        with pytest.raises(NotWholeError):
            check(content[:length])


def test_a_torn_archive_that_ends_with_a_whole_archive_inside_it_is_not_whole() -> None:
    inner = TORCH_SAVE.read_bytes()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("inner.pt", inner)
        archive.writestr("more", b"x" * 100)
    content = buffer.getvalue()
    check(content)
    torn = content[: content.index(inner) + len(inner)]
    with pytest.raises(NotWholeError):
        check(torn)


def test_an_archive_whose_front_was_lost_is_not_whole() -> None:
    content = TORCH_SAVE.read_bytes()
    with pytest.raises(NotWholeError):
        check(b"PK\x03\x04" + content[200:])


def test_a_comment_at_the_end_is_part_of_a_whole_archive() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", b"data")
        archive.comment = b"PK\x05\x06 is no end record here" + b"." * 60_000
    check(buffer.getvalue())
    with pytest.raises(NotWholeError):
        check(buffer.getvalue()[:-1])


def test_only_the_ends_of_a_large_archive_are_read() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("weights", bytes(5_000_000))
    folder = OneFile(buffer.getvalue())
    check_archive(folder, "ckpt.pt")
    assert folder.bytes_read < 70_000


def test_an_archive_that_misstates_its_number_of_entries_is_not_whole() -> None:
    content = bytearray(zip_of("a", "b"))
    struct.pack_into("<H", content, len(content) - 12, 3)
    with pytest.raises(NotWholeError, match="does not match its content"):
        check(bytes(content))


def test_an_archive_whose_entry_reaches_into_its_directory_is_not_whole() -> None:
    content = bytearray(zip_of("a"))
    struct.pack_into("<L", content, content.index(b"PK\x01\x02") + 20, 5000)
    with pytest.raises(NotWholeError, match="does not match its content"):
        check(bytes(content))


def test_an_entry_that_promises_a_zip64_number_and_has_none_is_not_whole() -> None:
    content = bytearray(zip_of("a"))
    struct.pack_into("<L", content, content.index(b"PK\x01\x02") + 20, 0xFFFFFFFF)
    with pytest.raises(NotWholeError, match="does not match its content"):
        check(bytes(content))


def test_other_extra_fields_of_an_entry_are_passed_over() -> None:
    buffer = io.BytesIO()
    with mock.patch.object(zipfile, "ZIP64_LIMIT", 2), zipfile.ZipFile(buffer, "w") as archive:
        entry = zipfile.ZipInfo("archive/data/0")
        entry.extra = struct.pack("<HH", 0x4246, 6) + b"ZZZZZZ"  # PyTorch pads with such a field
        archive.writestr(entry, b"data")
    assert b"PK\x06\x06" in buffer.getvalue()
    check(buffer.getvalue())


def test_an_entry_beyond_four_gibibytes_is_found(tmp_path: Path) -> None:
    data = 5 * 1024**3
    wide = struct.pack("<HH3Q", 1, 24, data, data, 0)
    entry = struct.pack(
        "<4s6H3L5H2L", b"PK\x01\x02", 45, 45, 0, 0, 0, 0, 0, *(2**32 - 1,) * 2, 1, 28, 0, 0, 0, 0, 2**32 - 1
    )
    listing = entry + b"w" + wide
    start = 30 + 1 + data
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, len(listing), start)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, start + len(listing), 1)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, len(listing), 2**32 - 1, 0)
    with (tmp_path / "ckpt.pt").open("wb") as file:
        file.write(b"PK\x03\x04")
        file.seek(start)  # a sparse file: it takes no room on the disk
        file.write(listing + end64 + locator + end)
    check_archive(local_folder(tmp_path), "ckpt.pt")
    with zipfile.ZipFile(tmp_path / "ckpt.pt") as archive:
        assert archive.getinfo("w").file_size == data
    os.truncate(tmp_path / "ckpt.pt", start + len(listing))
    with pytest.raises(NotWholeError):
        check_archive(local_folder(tmp_path), "ckpt.pt")


def test_a_directory_of_absurd_size_is_not_read() -> None:
    listing = MAX_DIRECTORY + 1
    size = 4 + listing + 22

    class Sparse(OneFile):
        def read(self, path: str, start: int, length: int) -> bytes:
            assert length < 100_000
            end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, listing, 4, 0)
            content = b"PK\x03\x04" if start == 0 else bytes(max(0, size - 22 - start)) + end
            return content[:length]

    with pytest.raises(CannotTellError, match="was not read"):
        check_archive(Sparse(b"", size), "ckpt.pt")


@pytest.mark.parametrize(
    "content", [b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", b"hello", bytes(100), b"PK\x05\x06" + bytes(18)]
)
def test_a_file_that_is_no_archive_with_content_is_unknown(content: bytes) -> None:
    with pytest.raises(CannotTellError, match="not a zip archive"):
        check(content)


def test_an_empty_file_is_not_whole() -> None:
    with pytest.raises(NotWholeError, match="empty"):
        check(b"")


def zip_of(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"data")
    return buffer.getvalue()
