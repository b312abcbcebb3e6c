"""Code that a model brings along other than in pickles: Hugging Face's `auto_map`, Keras layers, TensorFlow graphs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from flexai.checkpoints.foreign_json import parse_json
from flexai.checkpoints.training.formats.content import Content
from flexai.checkpoints.training.formats.folder import RangedFiles
from flexai.checkpoints.training.formats.json_object import read_object
from flexai.checkpoints.training.formats.verdict import CannotTellError, NotWholeError

_MAX_CONFIG = 4 * 1024 * 1024
_MAX_SCANNED = 64 * 1024 * 1024
_SCANNED_END = 8 * 1024 * 1024
_BLOCK = 1024 * 1024

_LAMBDAS = ("Lambda", "__lambda__", "TFOpLambda", "SlicingOpLambda")
# Modules in which a Keras document may name a class; `keras.utils` has functions that fetch and unpack files.
_KERAS_MODULES = re.compile(
    r"(keras|keras\.src|tensorflow\.keras|tf_keras|tf_keras\.src|keras\.api)"
    r"(\.(activations|constraints|dtype_policies|initializers|layers|losses|metrics|models|ops|optimizers|random"
    r"|regularizers)(\.\w+)*)?"
)
_IN_H5 = re.compile(rb'"class_name"\s*:\s*"(Lambda|__lambda__|TFOpLambda|SlicingOpLambda)"')
# Operations of a graph that run Python, or read and write files of the machine that loads it.
_OPERATIONS = re.compile(
    rb"\b(PyFunc|PyFuncStateless|EagerPyFunc|ReadFile|WriteFile|MatchingFiles|LoadDataset|SaveDataset|PrintV2"
    rb"|RestoreSlice|WholeFileReaderV2|ReaderReadV2|FixedLengthRecordDatasetV2)\b"
)


def code_of_folder(folder: RangedFiles) -> Iterator[tuple[str, str]]:
    """The Python files that `auto_map` in a configuration names, or the configuration where it names another place.

    Pairs of a path and what runs. Hugging Face's libraries run it with `trust_remote_code=True`.
    """
    for path, size in folder.files.items():
        if not path.endswith("config.json") or not 0 < size <= _MAX_CONFIG:
            continue
        try:
            mapping = read_object(folder, path).get("auto_map")
        except (NotWholeError, CannotTellError):
            continue
        beside = path.rpartition("/")[0]
        for reference in dict.fromkeys(_texts(mapping)):
            repository, _, target = reference.rpartition("--")
            module = target.rpartition(".")[0]
            file = f"{beside}/{module.replace('.', '/')}.py".lstrip("/")
            if not repository and file in folder.files:
                yield file, f"{target} (auto_map in {path})"
            else:
                yield path, f"{reference} (auto_map)"


def keras_code(document: bytes) -> list[str]:
    """Lambda layers in a model's description as JSON, and imports from outside of Keras."""
    try:
        described = parse_json(document, lenient=True)
    except ValueError:
        return []
    found: dict[str, None] = {}
    waiting = [described]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
            if code := _keras_object(value):
                found[code] = None
    return list(found)


def keras_h5_code(content: Content) -> tuple[list[str], list[str]]:
    """Lambda layers in an HDF5 file, found by their text; and what of a large file was not searched."""
    executable: dict[str, None] = {}
    whole = content.size <= _MAX_SCANNED
    ranges = [(0, content.size)] if whole else [(0, _SCANNED_END), (content.size - _SCANNED_END, content.size)]
    for match in _search(content, _IN_H5, ranges):
        executable[f"Keras layer {match[1].decode()}"] = None
    rest = [] if whole else [f"an HDF5 file of which only {2 * _SCANNED_END // 1024**2} MiB were searched"]
    return list(executable), rest


def tensorflow_code(content: Content) -> tuple[list[str], list[str]]:
    """That a SavedModel is a program, and which of its operations reach outside; and what was not searched."""
    executable = {"a TensorFlow graph": None}
    for match in _search(content, _OPERATIONS, [(0, min(content.size, _MAX_SCANNED))]):
        executable[f"TensorFlow operation {match[1].decode()}"] = None
    rest = [] if content.size <= _MAX_SCANNED else ["a TensorFlow graph that was not searched to its end"]
    return list(executable), rest


def _search(content: Content, pattern: re.Pattern[bytes], ranges: list[tuple[int, int]]) -> Iterator[re.Match[bytes]]:
    for start, end in ranges:
        kept = b""
        while start < end and (block := content.read(start, min(_BLOCK, end - start))):
            start += len(block)
            yield from pattern.finditer(kept + block)
            kept = block[-128:]


def _keras_object(value: dict[str, Any]) -> str:
    kind, module = value.get("class_name"), value.get("module")
    if kind in _LAMBDAS:
        return f"Keras layer {kind}"
    if "config" in value and isinstance(kind, str) and isinstance(module, str) and module:
        return "" if _KERAS_MODULES.fullmatch(module) else f"{module}.{kind}"
    return ""


def _texts(mapping: object) -> Iterator[str]:
    if isinstance(mapping, dict):
        for value in mapping.values():
            if isinstance(value, str):
                yield value
            elif isinstance(value, list):
                yield from (each for each in value if isinstance(each, str))
