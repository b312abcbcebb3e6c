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
_MAX_GRAPH = 64 * 1024**2
_MAX_H5 = 4 * 1024**3
"""Bytes that are searched, a block at a time."""
_BLOCK = 1024 * 1024

_LAMBDAS = ("Lambda", "__lambda__", "TFOpLambda", "SlicingOpLambda")
# Modules in which a Keras document may name a class; `keras.utils` has functions that fetch and unpack files.
_KERAS_MODULES = re.compile(
    r"(keras|keras\.src|tensorflow\.keras|tf_keras|tf_keras\.src|keras\.api)"
    r"(\.(activations|constraints|dtype_policies|initializers|layers|losses|metrics|models|ops|optimizers|random"
    r"|regularizers)(\.\w+)*)?"
)
_IN_H5 = re.compile(rb'"class_name"\s{0,50}:\s{0,50}"(Lambda|__lambda__|TFOpLambda|SlicingOpLambda)"')
# What no writer of JSON makes, and a text is not found by: letters of ASCII that are escaped, and space without end.
_DISGUISED = (
    re.compile(rb"\\u00[2-7][0-9a-fA-F]"),
    re.compile(rb'"class_name"(?:\s{51}|\s{0,50}:\s{51})'),
)
# Operations of a graph that run Python, or read and write files of the machine that loads it.
_OPERATIONS = re.compile(
    rb"\b(PyFunc|PyFuncStateless|EagerPyFunc|ReadFile|WriteFile|MatchingFiles|LoadDataset|SaveDataset|PrintV2"
    rb"|RestoreSlice|WholeFileReaderV2|ReaderReadV2|FixedLengthRecordDatasetV2)\b"
)


def code_of_folder(folder: RangedFiles) -> Iterator[tuple[str, str, str]]:
    """The Python files that `auto_map` in a configuration names, or the configuration where it names another place.

    Triples of a path, what runs, and what of it could not be read instead. Hugging Face's libraries run it with
    `trust_remote_code=True`.
    """
    for path, size in folder.files.items():
        if not path.endswith("config.json") or not size:
            continue
        try:
            mapping = read_object(folder, path, _MAX_CONFIG).get("auto_map")
        except (NotWholeError, CannotTellError) as flaw:
            yield path, "", str(flaw)
            continue
        beside = path.rpartition("/")[0]
        for reference in dict.fromkeys(_texts(mapping)):
            repository, _, target = reference.rpartition("--")
            module = target.rpartition(".")[0]
            file = f"{beside}/{module.replace('.', '/')}.py".lstrip("/")
            if not repository and file in folder.files:
                yield file, f"{target} (auto_map in {path})", ""
            else:
                yield path, f"{reference} (auto_map)", ""


def keras_code(document: bytes) -> list[str]:
    """Lambda layers in a model's description as JSON, and imports from outside of Keras.

    Raises ValueError for what cannot be read.
    """
    described = parse_json(document, lenient=True)
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
    """Lambda layers in an HDF5 file, found by their text; and what was not searched, or could hide them."""
    executable: dict[str, None] = {}
    unfollowed: dict[str, None] = {}
    for match in _search(content, _MAX_H5, _IN_H5, *_DISGUISED):
        if match.re in _DISGUISED:
            unfollowed["an HDF5 file whose text is disguised"] = None
        else:
            executable[f"Keras layer {match[1].decode()}"] = None
    if content.size > _MAX_H5:
        unfollowed[f"an HDF5 file of which only the first {_MAX_H5 // 1024**3} GiB were searched"] = None
    return list(executable), list(unfollowed)


def tensorflow_code(content: Content) -> tuple[list[str], list[str]]:
    """That a SavedModel is a program, and which of its operations reach outside; and what was not searched."""
    executable = {"a TensorFlow graph": None}
    for match in _search(content, _MAX_GRAPH, _OPERATIONS):
        executable[f"TensorFlow operation {match[1].decode()}"] = None
    rest = [] if content.size <= _MAX_GRAPH else ["a TensorFlow graph that was not searched to its end"]
    return list(executable), rest


def _search(content: Content, limit: int, *patterns: re.Pattern[bytes]) -> Iterator[re.Match[bytes]]:
    """What the patterns, none of which matches more than 256 bytes, find in the first ``limit`` bytes."""
    start, kept = 0, b""
    while start < limit and (block := content.read(start, min(_BLOCK, limit - start))):
        start += len(block)
        searched = kept + block
        for pattern in patterns:
            yield from pattern.finditer(searched)
        kept = searched[-256:]


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
