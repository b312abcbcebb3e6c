"""Whether one file is whole by its own format, whatever lies beside it.

The format is told by the file's first bytes, and by its name where they do not tell. Each is checked by its own rule:
zip archives (`archives`), HDF5 (`hdf5`), MessagePack and Universal Binary JSON (`packed_values`), tar (`tar`), pickles
and compressed files (`pickle_ends`), safetensors (`safetensors`), TensorFlow's index (`tensorflow`), and below those of
LightGBM, CatBoost and NumPy. Reads are few and bounded, and nothing is unpickled.
"""

from __future__ import annotations

import math
import re

from flexai.checkpoints.training.formats.archives import check_archive
from flexai.checkpoints.training.formats.content import Content, content_of
from flexai.checkpoints.training.formats.folder import CheckpointFolder
from flexai.checkpoints.training.formats.hdf5 import SIGNATURE, check_hdf5
from flexai.checkpoints.training.formats.json_object import read_object
from flexai.checkpoints.training.formats.packed_values import check_msgpack, check_ubjson
from flexai.checkpoints.training.formats.pickle_ends import begins_as_pickle, check_compressed, check_pickle
from flexai.checkpoints.training.formats.safetensors import read_tensor_names
from flexai.checkpoints.training.formats.tar import BLOCK, check_tar, is_tar
from flexai.checkpoints.training.formats.tensorflow import check_index
from flexai.checkpoints.training.formats.verdict import CannotTellError, NotWholeError, shown

_HEAD = 512
_TAIL = 64 * 1024
_MAX_ARRAYS = 1_000
_COMPRESSED: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bz2"),
    (b"\xfd7zXZ\x00", "xz"),
)
_COMPRESSED_PICKLES: tuple[tuple[bytes, str], ...] = (
    (b"\x5d\x00\x00", "xz"),
    (b"\x78\x01", "zlib"),
    (b"\x78\x5e", "zlib"),
    (b"\x78\x9c", "zlib"),
    (b"\x78\xda", "zlib"),
)
"""As joblib writes them: beginnings that other files may have by chance."""
_ZIP = b"PK\x03\x04"
_NUMPY = b"\x93NUMPY"
_CATBOOST = b"CBM1"
_XGBOOST = b"{L" + (7).to_bytes(8, "big") + b"learner"
_LIGHTGBM = b"tree\n"
_MAGICS = (SIGNATURE, _NUMPY, _CATBOOST, _LIGHTGBM, b"\x80\x02")
_FLAX_NAME = re.compile(r"checkpoint_\d+")
"""What flax names a file with MessagePack in it (`flax/training/checkpoints.py`, legacy)."""
_NUMPY_HEADER = re.compile(
    rb"\{'descr': '[<>|=]?[a-zA-Z](\d+)', 'fortran_order': (?:True|False), 'shape': \(([\d, ]{0,200})\), \}\s*"
)


def check_file(folder: CheckpointFolder, path: str) -> str:
    """Return the name of the file's format when the file is whole by it.

    Raises NotWholeError when it is torn, CannotTellError when its format is not known or its end cannot be checked.
    """
    size = folder.files[path]
    if size == 0:
        raise NotWholeError(f"{shown(path)} is empty")
    name = path.rpartition("/")[2].lower()
    if name.endswith(".safetensors"):
        read_tensor_names(folder, path)
        return "safetensors"
    if name.endswith(".json"):
        read_object(folder, path)
        return "json"
    if name.endswith(".index"):
        check_index(folder, path)
        return "tensorflow"
    content = content_of(folder, path)
    head = content.read(0, _HEAD)
    if name.endswith((".h5", ".hdf5")) or head.startswith(SIGNATURE):
        check_hdf5(content, path)
        return "hdf5"
    if not head.strip(b"\0"):
        raise NotWholeError(f"{shown(path)} has no beginning yet")
    if name.endswith(".msgpack"):
        check_msgpack(content, path)
        return "msgpack"
    if name.endswith(".ubj") or head.startswith(_XGBOOST):
        check_ubjson(content, path)
        return "ubjson"
    if _ZIP.startswith(head[:4]):
        check_archive(folder, path)
        return "zip"
    if begins_as_pickle(head):
        check_pickle(content, path)
        return "pickle"
    return _check_by_head(content, head, path, name)


def _check_by_head(content: Content, head: bytes, path: str, name: str) -> str:
    compressed = _COMPRESSED + (_COMPRESSED_PICKLES if name.endswith((".joblib", ".pkl", ".z")) else ())
    for magic, kind in compressed:
        if head.startswith(magic):
            check_compressed(kind, content, path)
            return kind
    if is_tar(head) or (name.endswith((".nemo", ".tar")) and content.size < BLOCK):
        check_tar(content, path)
        return "tar"
    if head.startswith(_LIGHTGBM):
        _check_lightgbm(content, path)
        return "lightgbm"
    if head.startswith(_CATBOOST):
        _check_catboost(content, path)
        return "catboost"
    if head.startswith(_NUMPY):
        _check_numpy(content, path)
        return "numpy"
    if _FLAX_NAME.fullmatch(name):
        check_msgpack(content, path)
        return "msgpack"
    beginnings = (*_MAGICS, *(magic for magic, _ in compressed))
    if any(beginning.startswith(head) for beginning in beginnings):
        raise NotWholeError(f"{shown(path)} has no beginning yet")
    raise CannotTellError(f"{shown(path)} is of no known format, so its end cannot be checked")


def _check_lightgbm(content: Content, path: str) -> None:
    """The text ends with `end of parameters`; Python's package appends a line (`basic.py`, `_dump_pandas_categorical`).

    In between, the file is closed once without that line: what has none may be about to get it.
    """
    tail = content.read(max(0, content.size - _TAIL), _TAIL)
    before, found, line = tail.rpartition(b"\npandas_categorical:")
    if found and line.endswith(b"\n") and b"end of parameters" in before:
        return
    if not found and tail.rstrip().endswith(b"end of parameters"):
        raise CannotTellError(f"{shown(path)} ends as LightGBM's model does before its last line is added")
    raise NotWholeError(f"{shown(path)} has no last line, so it is cut off")


def _check_catboost(content: Content, path: str) -> None:
    """A length and a FlatBuffer of that length; where its field `ModelPartIds` is set, tables whose end is not told.

    Sources: `catboost/libs/model/model.cpp`, `TFullModel::Save`; `flatbuffers/model.fbs`, `TModelCore`.
    """
    end = 8 + int.from_bytes(content.read(4, 4), "little")
    if content.size < max(end, 16):
        raise NotWholeError(f"{shown(path)} is shorter than it says")
    root = 8 + int.from_bytes(content.read(8, 4), "little")
    table = root - int.from_bytes(content.read(root, 4), "little", signed=True)
    length = int.from_bytes(content.read(table, 2), "little") if table >= 8 else 0
    has_parts = length >= 12 and any(content.read(table + 10, 2))
    if has_parts or content.size != end:
        raise CannotTellError(f"{shown(path)} has tables behind its model, whose end is not told")


def _check_numpy(content: Content, path: str) -> None:
    """A header that tells the shape, and then the numbers (`numpy/lib/format.py`).

    Equinox writes one array behind the other (`equinox/_serialisation.py`): no end of the last one is the file's.
    """
    position = count = 0
    while position < content.size and count < _MAX_ARRAYS:
        position = _array_end(content, position, path)
        count += 1
    if position > content.size:
        raise NotWholeError(f"{shown(path)} is shorter than its header says")
    if count > 1:
        raise CannotTellError(f"{shown(path)} holds several arrays, and may get more")


def _array_end(content: Content, start: int, path: str) -> int:
    """Where the array that begins at `start` ends, as its header says."""
    head = content.read(start, 12)
    if not head.startswith(_NUMPY):
        if _NUMPY.startswith(head):
            raise NotWholeError(f"{shown(path)} ends inside a header")
        raise CannotTellError(f"{shown(path)} goes on behind its array")
    wide = head[6:7] != b"\x01"
    begin = 12 if wide else 10
    length = int.from_bytes(head[8:begin], "little")
    if len(head) < begin or start + begin + length > content.size:
        raise NotWholeError(f"{shown(path)} ends inside a header")
    header = _NUMPY_HEADER.fullmatch(content.read(start + begin, min(length, _TAIL)))
    if header is None:
        raise CannotTellError(f"{shown(path)} holds no plain array")
    sides = [int(side) for side in header[2].replace(b",", b" ").split()]
    width = int(header[1]) * (4 if b"U" in header[0][:20] else 1)
    return start + begin + length + math.prod(sides) * width
