"""What a checkpoint's files would run when they are loaded, told without loading them."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import pickle
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from fickling.analysis import Severity, check_safety
from fickling.fickle import Pickled
from hypothesis import example, given, settings
from hypothesis import strategies as st
from picklescan.scanner import SafetyLevel, scan_file_path

from flexai.checkpoints.training.formats.content import ContentRange, RangeStream
from flexai.checkpoints.training.formats.executable import FoundCode, find_code, summary
from flexai.checkpoints.training.formats.harmless_globals import HARMLESS
from flexai.checkpoints.training.formats.pickle_values import Budget, Global, Made, Persistent, Pickle, Table
from flexai.checkpoints.training.formats.pickles import follow
from tests.hostile.pickle_floods import FLOODS
from tests.hostile.pickles import HOSTILE, SYSTEM, archive, harmless, system

TORCH_SAVE = Path(__file__).parents[1] / "data" / "torch-save.pt"
UNREADABLE = {"seven_zip.pt", "archive_without_an_end.pt"}
"""Hostile files whose pickle no reader here can reach."""


class Files:
    """A checkpoint in memory."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._content = dict(files)
        self.files = {path: len(content) for path, content in files.items()}
        self.bytes_read = 0

    def read(self, path: str, start: int, length: int) -> bytes:
        self.bytes_read += length
        return self._content[path][start : start + length]


def look(path: str, content: bytes) -> FoundCode:
    return find_code(Files({path: content})).get(path, FoundCode())


def followed(content: bytes) -> Pickle:
    return follow(RangeStream(ContentRange.of(content), lambda _: None), Budget())


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_told_with_what_it_runs(name: str) -> None:
    found = look(name, HOSTILE[name]())
    if name in UNREADABLE:
        assert found.unfollowed and not found.executable
    elif name.startswith("way_of") or "dotted" in name:
        assert found.executable
    else:
        assert "posix.system" in found.executable


# Fickling takes a quarter of a minute for the deep one.
@pytest.mark.parametrize("name", [name for name in HOSTILE if name != "deep_tuples.pkl"])
def test_what_other_scanners_find_is_found(name: str, tmp_path: Path) -> None:
    content = HOSTILE[name]()
    found = look(name, content)
    path = tmp_path / name
    path.write_bytes(content)
    logging.disable(logging.CRITICAL)
    try:
        listed = {f"{each.module}.{each.name}" for each in _picklescan(path)}
        overt = _fickling(content)
    finally:
        logging.disable(logging.NOTSET)
    # picklescan guesses where a name was duplicated on the stack, and it follows no nested pickle.
    assert {name for name in listed if not name.startswith("unknown.")} <= {*found.imports, *found.executable}
    if overt:
        assert found.executable or found.unfollowed


def _picklescan(path: Path) -> list[Any]:
    try:
        return [each for each in scan_file_path(str(path)).globals if each.safety is not SafetyLevel.Innocuous]
    except Exception:  # noqa: BLE001 - it raises what it meets, of many kinds
        return []


def _fickling(content: bytes) -> bool:
    try:
        return bool(check_safety(Pickled.load(io.BytesIO(content))).severity > Severity.LIKELY_SAFE)
    except Exception:  # noqa: BLE001 - likewise
        return False


@pytest.mark.parametrize("name", harmless())
def test_an_honest_file_runs_nothing(name: str) -> None:
    found = look(name, harmless()[name])
    assert not found.executable
    assert not found.unfollowed


def test_a_checkpoint_of_torch_imports_harmless_names_only() -> None:
    found = look("model.pt", TORCH_SAVE.read_bytes())
    assert found == FoundCode(
        ("torch._utils._rebuild_tensor_v2", "torch.FloatStorage", "collections.OrderedDict"), (), ()
    )


def test_of_a_torch_archive_only_what_is_no_tensor_is_read() -> None:
    folder = Files({"model.pt": archive({"a/data.pkl": pickle.dumps(1), "a/data/0": bytes(8_000_000)})})
    assert find_code(folder) == {}
    assert folder.bytes_read < 500_000


@pytest.mark.parametrize("compress", [0, ("zlib", 3), ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3)])
def test_joblib_files_with_arrays_are_followed_to_their_end(tmp_path: Path, compress: object) -> None:
    path = tmp_path / "model.joblib"
    random = np.random.default_rng(7)
    joblib.dump(
        {"a": random.normal(size=(300, 70)), "b": [np.arange(9, dtype="i2"), np.array(["x", "yz"])]}, path, compress
    )
    assert look("model.joblib", path.read_bytes()).unfollowed == ()
    hidden = {"a": np.arange(1000.0), "b": _Runs(), "c": np.arange(5)}
    joblib.dump(hidden, path, compress)
    assert "builtins.eval" in look("model.joblib", path.read_bytes()).executable


class _Runs:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("1+1",)


def test_arrays_of_objects_in_joblib_are_followed(tmp_path: Path) -> None:
    path = tmp_path / "model.joblib"
    joblib.dump([np.array([_Runs(), None], dtype=object), np.arange(4)], path)
    found = look("model.joblib", path.read_bytes())
    assert "builtins.eval" in found.executable
    assert not found.unfollowed


def test_arrays_of_numpy_run_nothing_and_arrays_of_objects_are_followed() -> None:
    plain, objects = io.BytesIO(), io.BytesIO()
    np.save(plain, np.random.default_rng(3).normal(size=4000))
    np.save(objects, np.array([{"a": 1}, _Runs()], dtype=object))
    assert look("a.npy", plain.getvalue()) == FoundCode()
    assert look("a.npy", objects.getvalue()).executable == ("builtins.eval",)


def test_random_arrays_in_an_archive_run_nothing(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", *(np.random.default_rng(n).integers(0, 256, 5000, np.uint8) for n in range(20)))
    assert look("a.npz", (tmp_path / "a.npz").read_bytes()) == FoundCode()


def test_python_in_an_archive_is_told() -> None:
    made = archive({"a/data.pkl": pickle.dumps(1), "a/code/model.py": b"pass", "a/constants.pkl": pickle.dumps(())})
    assert look("m.pt", made).executable == ("TorchScript code in a/code/model.py",)


def test_a_pickle_that_is_only_named_so_is_told_as_not_followed() -> None:
    assert look("model.pkl", b"what is this").unfollowed
    assert look("model.zst", b"\x28\xb5\x2f\xfd" + bytes(50)).unfollowed == ("content compressed with zstd",)


def test_what_is_computed_is_not_called_clean() -> None:
    name = b"c__builtin__\nstr\n" + b"\x8c\x06system\x85R"
    computed = b"\x80\x04\x8c\x02os" + name + b"\x93\x8c\x04true\x85R."
    assert look("a.pkl", computed).unfollowed
    assert look("a.pkl", b"\x80\x02\x82\x07)R.").unfollowed
    assert look("a.pkl", b"\x80\x04ccollections\nOrderedDict\n}\x8c\x01xNsb.").unfollowed


def test_the_code_that_a_configuration_maps_to_is_told() -> None:
    config = {"auto_map": {"AutoModel": "modeling_x.X", "AutoConfig": ["conf_x.Y", None], "Other": "me/there--z.Z"}}
    found = find_code(Files({"config.json": json.dumps(config).encode(), "modeling_x.py": b"pass", "unused.py": b""}))
    assert {path: code.executable for path, code in found.items()} == {
        "modeling_x.py": ("modeling_x.X (auto_map in config.json)",),
        "config.json": ("conf_x.Y (auto_map)", "me/there--z.Z (auto_map)"),
    }


def test_keras_layers_with_code_are_told() -> None:
    layers = [
        {"module": "keras.layers", "class_name": "Dense", "config": {}},
        {"module": "keras.layers", "class_name": "Lambda", "config": {"function": {"class_name": "__lambda__"}}},
        {"module": "os", "class_name": "system", "config": {}},
    ]
    model = json.dumps({"class_name": "Sequential", "config": {"layers": layers}}).encode()
    assert set(look("m.keras", archive({"config.json": model})).executable) == {
        "Keras layer Lambda",
        "Keras layer __lambda__",
        "os.system",
    }
    assert look("m.keras", archive({"config.json": json.dumps(layers[:1]).encode()})) == FoundCode()
    h5 = b"\x89HDF\r\n\x1a\n" + bytes(3_000_000) + model + bytes(99)
    assert look("m.h5", h5).executable == ("Keras layer Lambda", "Keras layer __lambda__")


def test_a_layer_with_code_is_told_wherever_in_a_large_file_it_lies() -> None:
    class Sparse:
        """A file of 300 MiB, with a layer anywhere in it."""

        def __init__(self) -> None:
            self.files = {"m.h5": 300 * 1024**2}

        def read(self, path: str, start: int, length: int) -> bytes:
            content = bytearray(min(length, self.files[path] - start))
            layer = 150 * 1024**2 - 11  # across the end of a block
            for offset, text in ((0, b"\x89HDF\r\n\x1a\n"), (layer, b'{"class_name": "Lambda"}')):
                for number, byte in enumerate(text, offset - start):
                    if 0 <= number < len(content):
                        content[number] = byte
            return bytes(content)

    assert find_code(Sparse())["m.h5"] == FoundCode(executable=("Keras layer Lambda",))


@pytest.mark.parametrize(
    "model",
    [
        b'{"class_n\\u0061me": "Lambda"}',
        b'{"class_name": "L\\u0061mbda"}',
        b'{"class_name"' + b" " * 2_000_000 + b': "Lambda"}',
        b'{"class_name":' + b"\n" * 2_000_000 + b'"Lambda"}',
    ],
)
def test_a_layer_whose_text_is_disguised_is_said_to_be_not_followed(model: bytes) -> None:
    assert look("m.h5", b"\x89HDF\r\n\x1a\n" + bytes(3_000_000) + model + bytes(99)).unfollowed


def test_a_configuration_that_is_too_large_or_too_deep_is_said_to_be_not_followed() -> None:
    code = b'{"auto_map": {"AutoModel": "modeling_x.X"}, "x": '
    for padding in (b'"' + b"x" * 5_000_000 + b'"}', b"[" * 200_000 + b"]" * 200_000 + b"}"):
        assert look("config.json", code + padding).unfollowed
    layer = b'{"class_name": "Lambda", "config": {}, "x": '
    for padding in (b'"' + b"x" * 20_000_000 + b'"}', b"[" * 200_000 + b"]" * 200_000 + b"}"):
        assert look("m.keras", archive({"config.json": layer + padding})).unfollowed


@given(st.binary(max_size=20) | st.text("\\x0179afn'\"\n ", max_size=20).map(str.encode))
def test_the_text_of_a_pickle_is_read_as_a_loader_reads_it(text: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seen = followed(b"S'" + text + b"'\n.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            loaded = pickle.loads(b"S'" + text + b"'\n.", encoding="latin-1")  # noqa: S301 - a text alone
        except (ValueError, pickle.UnpicklingError, EOFError):
            return
    if seen.ended and isinstance(seen.value, str):
        assert seen.value == loaded


def test_a_tensorflow_graph_is_a_program() -> None:
    assert look("x/saved_model.pb", b"\x0a\x08ReadFile\x12\x01").executable == (
        "a TensorFlow graph",
        "TensorFlow operation ReadFile",
    )


def test_hostile_names_are_told_printably() -> None:
    found = look("a.pkl", b"c\x1b]0;title\x07\n\xe2\x80\xaename\n.")
    assert all(text.isprintable() for text in found.executable)
    assert summary({"a\x1b.pkl": found}).isprintable()


def test_every_harmless_name_stays_harmless_where_a_loader_renames_it() -> None:
    from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING

    for module, name in HARMLESS:
        renamed = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        assert renamed in HARMLESS or renamed in {("builtins", "int"), ("builtins", "str")}


def test_the_structure_of_a_pickle_is_known_without_loading_it() -> None:
    with zipfile.ZipFile(TORCH_SAVE) as file:
        value = followed(file.read("torch-save/data.pkl")).value
    assert isinstance(value, Table)
    weight = value.get("weight")
    assert isinstance(weight, Made) and isinstance(weight.arguments, tuple)
    assert weight.callable == Global("torch._utils", "_rebuild_tensor_v2")
    storage, _, shape = weight.arguments[:3]
    assert shape == (2, 3)
    assert isinstance(storage, Persistent) and isinstance(storage.id, tuple)
    assert storage.id[:2] == ("storage", Global("torch", "FloatStorage"))


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOODS)
def test_no_file_takes_much_memory_or_time(name: str) -> None:
    run = [sys.executable, "-m", "tests.hostile.pickle_floods", name]
    answer = subprocess.run(run, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[4])
    told = json.loads(answer.stdout)
    print(f"{name}: {told['more']} MiB, {told['seconds']} s")
    assert told["more"] <= 250
    assert told["said"] or "number" in name


class Recorder(pickle._Unpickler):
    """Python's own machine, which imports nothing and writes down what it would."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self.asked: set[tuple[str, str]] = set()

    def find_class(self, module: str, name: str) -> object:
        self.asked.add((module, name))
        return Stub

    def persistent_load(self, pid: object) -> object:
        return None


class Stub:
    """Stands for everything that a pickle imports; it can be called, filled and changed."""

    def __new__(cls, *_: object, **__: object) -> Stub:
        return object.__new__(cls)

    def __setstate__(self, state: object) -> None: ...

    def append(self, item: object) -> None: ...

    def __setitem__(self, key: object, value: object) -> None: ...

    def add(self, item: object) -> None: ...


_SEEDS = [HOSTILE[name]() for name in HOSTILE if name.endswith(".pkl") and "large" not in name and "deep" not in name]
_PIECES = [
    *(bytes([code]) for code in b"\x80\x95.(012NIJKMGLFSVTUXBC]lae)td}su\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8f\x90\x91"),
    *(bytes([code]) for code in b"pqrghj\x94c\x93\x82Riob\x81\x92PQ\x97\x98\x00\x01\x02\n"),
    b"q\x00", b"q\x01", b"h\x00", b"h\x01", b"cos\nsystem\n", b"\x8c\x02os", b"\x8c\x06system", b"p3\n", b"g3\n",
    b"K\x05", b"I01\n", b"S'os'\n", b"Vos\n", b"\x85R", b"(tR", b")\x81", b")}\x92", b"}b",
]  # fmt: skip


@st.composite
def pickles(draw: st.DrawFn) -> bytes:
    """Programs out of instructions, and hostile pickles in which some bytes were changed."""
    if draw(st.booleans()):
        return b"".join(draw(st.lists(st.sampled_from(_PIECES), max_size=30)))
    made = bytearray(draw(st.sampled_from(_SEEDS)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(made)))
        made[at : at + draw(st.integers(0, 2))] = draw(st.sampled_from(_PIECES))
    return bytes(made)


@settings(max_examples=600, deadline=None)
@given(pickles())
@example(b"cos\nsystem")
@example(b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93q\x000h\x00.")
@example(b"c\nFloatStorage\n0cos\nsystem\n(S'true'\ntR.")
def test_nothing_that_python_would_import_is_missed(content: bytes) -> None:
    recorder = Recorder(content)
    with contextlib.suppress(Exception):  # whatever breaks the loader: what it had imported by then counts
        recorder.load()
    seen = followed(content)
    asked = {Global(module, name) for module, name in recorder.asked if module}
    assert asked <= set(seen.globals) or seen.uncertain


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=2000), st.sampled_from(sorted(HOSTILE)), st.data())
def test_no_content_raises(noise: bytes, name: str, data: st.DataObject) -> None:
    hostile = HOSTILE[name]() if "large" not in name and "deep" not in name else SYSTEM
    at = data.draw(st.integers(0, len(hostile)))
    for content in (noise, hostile[:at], hostile[:at] + noise[:50] + hostile[at:], hostile[:at] + noise[:9]):
        find_code(Files({name: content, "config.json": noise}))


def test_the_payload_is_seen_wherever_a_file_is_cut() -> None:
    whole = system()
    called = whole.index(b"R")
    for end in range(called + 1, len(whole)):
        assert look("a.pkl", whole[:end]).executable == ("posix.system",)
