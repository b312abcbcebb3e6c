"""Files of checkpoints, of every format whose headers are read or that is walked to its end."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence

from flexai.checkpoints.training.formats.folder import CheckpointFolder
from flexai.checkpoints.training.formats.verdict import CannotTellError, NotWholeError
from tests.checkpoints.training.layouts import (
    CONFIG,
    DATA,
    FILES,
    STATE,
    index,
    npy,
    npz,
    safetensors,
    tensorflow_index,
    torch_save,
)
from tests.fuzz.parsers.table import Kinds, Reading, Table
from tests.hostile.pickles import HOSTILE

PARSERS = Table()

_FLAWS: Kinds = (NotWholeError, CannotTellError)


class _Files(CheckpointFolder):
    """A folder in memory."""

    def __init__(self, **contents: bytes) -> None:
        self.name = "checkpoint-5"
        self._contents = {path.replace("__", "."): content for path, content in contents.items()}
        self.files = {path: len(content) for path, content in self._contents.items()}

    def read(self, path: str, start: int, length: int) -> bytes:
        return self._contents[path][start : start + length]


def _headers() -> list[bytes]:
    long = {f"layers.{number}.weight": 2 for number in range(20)}
    return [safetensors(), safetensors(w=4), safetensors(**long)]


@PARSERS.add("safetensors", _headers, b'"data_offsets":', b'"__metadata__":', b'"dtype":"F4"', b"[0,0]", allowed=_FLAWS)
def _(data: bytes) -> object:
    from flexai.checkpoints.training.formats.safetensors import read_tensor_names

    return read_tensor_names(_Files(a__safetensors=data), "a.safetensors")


def _of_tensors() -> list[bytes]:
    return [safetensors(w=4), torch_save(), npz(1.0, 2.0), npy(1.0)]


@PARSERS.add("tensors", _of_tensors, b"'descr': '<f8'", b"(3, 4)", b'"shape":[2]', b"PK\x01\x02", allowed=_FLAWS)
def _(data: bytes) -> object:
    from flexai.checkpoints.service.support.found_tensors import find_tensors

    names = ("a__safetensors", "a__pt", "a__npz", "a__npy", "__metadata")
    told, _ = find_tensors(_Files(**dict.fromkeys(names, data)), located=True)
    for path, tensors in told.items():
        for one in tensors:
            assert one.start is None or one.start >= 0, path
            assert one.start is None or one.size is None or one.start + one.size <= len(data), path
    return list(told.values())


@PARSERS.add("weight-map", lambda: [index(a="1.safetensors", b="2.safetensors"), index(a="../1")], allowed=_FLAWS)
def _(data: bytes) -> object:
    from flexai.checkpoints.training.formats.safetensors import read_weight_map

    return read_weight_map(_Files(**{"1__safetensors": b"", "2__safetensors": b"", "i__json": data}), "i.json")


def _in_layout(file: str, data: bytes) -> object:
    from flexai.checkpoints.training.completeness.by_format import completeness
    from flexai.checkpoints.training.formats.facts import read_facts

    contents = {
        "config__json": json.dumps(CONFIG).encode(),
        "model__safetensors": safetensors(w=4),
        "trainer_state__json": json.dumps(STATE).encode(),
    }
    folder = _Files(**contents | {file: data})
    return completeness(folder), read_facts(folder)


_LOGS = [
    b"epoch,step,loss,val_loss\n0,10,0.5,\n0,20,,0.25\n",
    b'[{"step": 10, "loss": 0.5}, {"step": 20, "metrics": {"f1": 1}}]',
    b'{"step": 10, "loss": 0.5}\n{"step": 20, "loss": NaN}\n',
]


@PARSERS.add("log", lambda: _LOGS, b"step,", b'"step":', b"\n", b'"', b"1e999", allowed=())
def _(data: bytes) -> object:
    from flexai.checkpoints.training.formats.logged import metrics_by_step

    return metrics_by_step(_Files(metrics__csv=data)), metrics_by_step(_Files(metrics__json=data, log__jsonl=data))


def _packed_states() -> list[bytes]:
    return [(DATA / "flax.msgpack").read_bytes(), b"\x82\xa4step\x07\xa9opt_state\x81\xa1w\x01"]


@PARSERS.add("packed-state", _packed_states, b"\xdf\xff\xff\xff\xff", b"\xa4step", b"\xcf", allowed=())
def _(data: bytes) -> object:
    from flexai.checkpoints.training.formats.pickled_state import read_state

    return read_state(_Files(a__msgpack=data), "a.msgpack")


@PARSERS.add("trainer-state", lambda: [json.dumps(STATE).encode()], b'"global_step":', b'"loss":', allowed=())
def _(data: bytes) -> object:
    return _in_layout("trainer_state__json", data)


@PARSERS.add("config", lambda: [json.dumps(CONFIG).encode()], b'"architectures":', allowed=())
def _(data: bytes) -> object:
    return _in_layout("config__json", data)


@PARSERS.add("zip-directory", lambda: [torch_save()], b"PK\5\6", b"PK\6\7", b"PK\1\2", b"PK\3\4", allowed=())
def _(data: bytes) -> object:
    return _in_layout("optimizer__pt", data)


# Each format that is walked to its end: a file's name, seeds among `layouts.FILES`, and words of the format.
_WALKED: dict[str, tuple[str, tuple[str, ...], tuple[bytes, ...]]] = {
    "hdf5": ("a.h5", ("model.weights.h5", "model.hdf5"), (b"\x89HDF\r\n\x1a\n", b"\x08\x08", b"\xff" * 8)),
    "msgpack": ("a.msgpack", ("flax_model.msgpack",), (b"\xdf\xff\xff\xff\xff", b"\xdc\xff\xff", b"\xc9", b"\xc1")),
    "ubjson": ("a.ubj", ("model.ubj",), (b"[$d#L", b"{#", b"[#U\xff", b"SL", b"}", b"]")),
    "tar": ("a.nemo", ("model.nemo",), (b"ustar", b"\x80", b"77777777777\0", bytes(512))),
    "legacy-torch": ("a.pt", ("old.pth", "model.joblib"), (b"Q", b"X\1\0\0\0a", b"(", b"tQ", b"e.")),
    "packed-pickle": ("a.joblib", ("packed.joblib",), (b"\x78\x9c", b"\xfd7zXZ\x00", b"BZh9")),
    "numpy": ("a.npy", ("weights.npy",), (b"'shape': (", b"9" * 50, b"'<f8'")),
    "lightgbm": ("a.txt", ("model.txt",), (b"\npandas_categorical:", b"end of parameters", b"tree\n")),
    "catboost": ("a.cbm", ("model.cbm",), (b"CBM1", b"\xff\xff\xff\xff")),
}


def _walked(name: str, file: str, seeds: tuple[str, ...], tokens: tuple[bytes, ...]) -> None:
    @PARSERS.add(name, lambda: [FILES[seed][0]() for seed in seeds], *tokens, allowed=_FLAWS)
    def _(data: bytes) -> object:
        from flexai.checkpoints.training.formats.whole_file import check_file

        return check_file(_Files(**{file.replace(".", "__"): data}), file)


for _name, (_file, _seeds, _tokens) in _WALKED.items():
    _walked(_name, _file, _seeds, _tokens)


def _indexes() -> list[bytes]:
    return [(DATA / "tensorflow.index").read_bytes(), tensorflow_index("a", "b/c")]


@PARSERS.add("tensorflow-index", _indexes, b"\x57\xfb\x80\x8b\x24\x75\x47\xdb", b"\xff" * 9, bytes(5), allowed=_FLAWS)
def _(data: bytes) -> object:
    from flexai.checkpoints.training.formats.tensorflow import check_index

    check_index(_Files(**{"a__index": data, "a__data-00000-of-00001": bytes(100)}), "a.index")
    return "whole"


@PARSERS.add("saved-model", lambda: [b"\x08\x01\x12\x04\x0a\x02ab"], b"\x12", b"\xff" * 9, b"\x1b", allowed=_FLAWS)
def _(data: bytes) -> object:
    from flexai.checkpoints.training.formats.tensorflow import check_saved_model

    check_saved_model(_Files(**{"saved_model__pb": data}), "saved_model.pb")
    return "whole"


def _dcp_metadata() -> list[bytes]:
    return [(DATA / "dcp-small.metadata").read_bytes()]


@PARSERS.add("dcp-metadata", _dcp_metadata, b"__0_0.distcp", b"../a", allowed=_FLAWS)
def _(data: bytes) -> object:
    from flexai.checkpoints.training.formats.pickle_ends import check_dcp_metadata

    folder = _Files(**{"__metadata": data})
    folder.files = {**folder.files, "__0_0.distcp": 4096}
    check_dcp_metadata(folder, ".metadata")
    return "whole"


_OPCODES = (
    b"\x93",
    b"R",
    b"\x94",
    b"h\0",
    b"cposix\nsystem\n",
    b"}",
    b"(",
    b"]",
    b"\x8c\5posix",
    b"C\2N.",
    b"0",
    b"b",
    b".",
)


def _pickles() -> list[bytes]:
    return [*(make() for make in HOSTILE.values()), torch_save(), *_dcp_metadata()]


@PARSERS.add_several("pickle", _pickles, *_OPCODES, b"PK\3\4", b"\x1f\x8b", allowed=())
def _(data: bytes) -> Sequence[Reading]:
    from flexai.checkpoints.training.formats.executable import find_code
    from flexai.checkpoints.training.formats.pickled_file import PickledFile
    from flexai.checkpoints.training.formats.pickled_state import read_dcp, read_state

    files = _Files(model__pkl=data)

    def tensors() -> object:
        with contextlib.suppress(NotWholeError):
            return list(PickledFile(files, "model.pkl").tensors())
        return None

    return [
        tensors,
        lambda: find_code(files),
        lambda: read_state(files, "model.pkl"),
        lambda: read_dcp(files, "model.pkl"),
    ]


def _code_documents() -> list[bytes]:
    layer = {"class_name": "Lambda", "module": "keras.layers", "config": {"function": {"class_name": "__lambda__"}}}
    return [
        json.dumps({"auto_map": {"AutoModel": "modeling.Model", "AutoConfig": "org/repo--configuration.C"}}).encode(),
        json.dumps({"class_name": "Functional", "module": "keras", "config": {"layers": [layer]}}).encode(),
    ]


@PARSERS.add("model-code", _code_documents, b'"auto_map":', b'"class_name":', b'"module":', b"--", allowed=())
def _(data: bytes) -> object:
    from flexai.checkpoints.training.formats.executable import find_code
    from tests.hostile.pickles import archive

    found = find_code(
        _Files(config__json=data, modeling__py=b"", saved_model__pb=data, model__h5=b"\x89HDF\r\n\x1a\n" + data)
    )
    return found, find_code(_Files(model__keras=archive({"config.json": data})))
