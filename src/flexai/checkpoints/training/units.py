"""What of an output directory is a checkpoint: units that a framework can load, by their names alone.

A *unit* is a folder of a known layout at whatever depth, a file that is a checkpoint by itself, or a folder whose
layout no rule knows. Whether a unit is whole is another question (``completeness``).

What tells them apart, in this order, for each folder from the top down:

1. A temporary folder is none, nor is what a logger writes (``wandb``).
2. A folder with a layout's mark (DCP's ``.metadata``, Orbax's ``_METADATA``, ``saved_model.pb``), or with a step in its
   name (``checkpoint-500``, ``step=100``, ``200``), is one unit, with all that is in it. One that only holds folders
   with steps in their names is a place for them (``epoch_3/step_100``).
3. DeepSpeed's and Megatron's folders are units together with the text file beside them that names the latest of them:
   the loader wants both.
4. In any other folder, each checkpoint file with a number in its name is a unit. What is left is one unit where a
   model's parts are among it (``config.json``, an index, ``optimizer.pt``); else each checkpoint file is one, and where
   there is none, the folder with all that is no log.

Files that point at a unit (links, ``latest``) are no content: ``Units.pointers``.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from functools import lru_cache

from flexai.checkpoints.errors import UnsafePathError
from flexai.checkpoints.paths import is_path, parse_path
from flexai.checkpoints.training.completeness.by_format import FileRole, is_temporary_folder, is_unfinished, role_of
from flexai.checkpoints.training.formats.verdict import shown
from flexai.checkpoints.training.output_dir import Listing, OutputTree

ROOT = ""
"""The name of the unit that the files in the output directory's root form."""

DEEPSPEED_LATEST = "latest"
MEGATRON_LATEST = "latest_checkpointed_iteration.txt"
TENSORFLOW_LATEST = "checkpoint"

Peek = Callable[[str, int], bytes]
"""Reads at most so many bytes from the start of a file of the output directory; none where it cannot be read."""


@dataclass(frozen=True, slots=True)
class Unit:
    """What a framework can load."""

    name: str
    """Its path below the output directory."""
    place: str
    """The folder that its files are named from, below the output directory."""
    files: tuple[str, ...]
    """Paths below ``place``."""
    texts: Mapping[str, bytes] = field(default_factory=dict)
    """Files that point at this unit and that its loader wants, as they are to be when this unit is the latest."""
    has_known_layout: bool = True
    folders: tuple[str, ...] = ()
    """The paths of its empty folders, below ``place``."""
    excluded: tuple[str, ...] = field(default=(), compare=False)
    """Files of it, or texts, that are there and are not taken: paths below ``place``. They may come and go."""

    @property
    def is_rewritten(self) -> bool:
        """Whether its name tells no number, so that the trainer may write the next checkpoint over it."""
        return not has_number(posixpath.basename(self.name))


@dataclass(slots=True)
class Units:
    """The units of an output directory."""

    units: dict[str, Unit] = field(default_factory=dict)
    pointers: dict[str, str] = field(default_factory=dict)
    """Links and files that point at a unit, and the unit's name."""
    notes: dict[str, str] = field(default_factory=dict)
    """What is left out of a unit, and why."""
    unfinished: set[str] = field(default_factory=set)
    """Files that their writer has yet to rename, within the folders of units."""


class _Kind(Enum):
    TEMPORARY = auto()
    LOG = auto()
    TEXT = auto()
    """Belongs to a unit that is there, and makes none."""
    DOCUMENT = auto()
    """Says what the model beside it is."""
    PART = auto()
    CHECKPOINT = auto()
    UNKNOWN = auto()


_LOG = re.compile(
    r"events\.out\.tfevents\..*|.*\.(log|csv|tsv|jsonl|out|err|lock|pid|prof|trace|png|jpe?g|gif|webp|mp4|wav)"
    r"|(.*[-_.])?(metrics|results|history|hparams|summary|timings?|args)\.(json|ya?ml|txt)|nohup\..*"
    r"|zero_to_fp32\.py|latest(_.*)?|latest_checkpointed_iteration\.txt|\..*",
    re.IGNORECASE,
)
_TEXT = re.compile(
    r".*\.(json|txt|md|rst|ya?ml|toml|ini|cfg|py|sh|ipynb|html|svg|pdf|jinja|diff|patch|tiktoken|parquet|arrow)"
    r"|README|LICENSE|NOTICE|checkpoint",
    re.IGNORECASE,
)
_DOCUMENT = re.compile(
    r"(adapter_|generation_|preprocessor_|processor_|sentence_bert_|video_preprocessor_|feature_extractor_)?config\.json"
    r"|trainer_state\.json|model_index\.json|modules\.json|config_sentence_transformers\.json|params\.json"
    r"|tokenizer.*\.(json|model)|special_tokens_map\.json|added_tokens\.json|vocab\.(json|txt)|merges\.txt"
    r"|(spiece|sentencepiece(\.bpe)?|spm)\.model|chat_template\..*"
)
_CHECKPOINT = re.compile(
    r".*\.(ckpt|pt|pth|pth\.tar|pt\.tar|tar|tar\.gz|tgz|keras|h5|hdf5|msgpack|npz|joblib|pkl|pickle|ubj|nemo|zip|safetensors"
    r"|bin|cbm|model|gguf|onnx|eqx|pdparams)",
    re.IGNORECASE,
)
_PARTS = {
    FileRole.OPTIMIZER,
    FileRole.STATE,
    FileRole.INDEX,
    FileRole.DEEPSPEED_MODEL,
    FileRole.DEEPSPEED_OPTIMIZER,
    FileRole.DCP_SHARD,
}
_SHARD = re.compile(r".*-\d{5}-of-\d{5}\..*|consolidated\.\d+\..*|.*mp_rank_\d+.*", re.IGNORECASE)
_MODEL = re.compile(
    r"(pytorch_|adapter_|diffusion_pytorch_|tf_|flax_)?model(\.(fp|bf)16)?\.(safetensors|bin|h5|msgpack)|model\.npz"
)
"""Weights that lie beside other files of their model, by the names that Hugging Face's libraries give them."""
_ONE_OF_SEVERAL = re.compile(r"(pytorch_)?model_\d+\.(safetensors|bin)")
"""Beside other parts, the second and later models of a folder of accelerate (``utils/constants.py``)."""

_MARKS = frozenset(
    {"_CHECKPOINT_METADATA", "_METADATA", "manifest.ocdbt", "saved_model.pb", "model_index.json", "modules.json"}
)
"""Files that say that all of their folder, with what is in it, is one unit."""
_DCP = re.compile(r"__\d+_\d+\.distcp|\.metadata|__\d+\.metadata")
_NEMO = {"weights", "context"}
"""The two folders of a checkpoint of NeMo 2 (``nemo/lightning/io/pl.py``)."""

_STEP_FOLDER = re.compile(
    r"(?:.*[^a-z])?(?:step|iter|iteration|checkpoint|chkpt|ckpt|cp|epoch|ep|ba|batch|update|save|snapshot|state|model)s?"
    r"[-_=.]{0,2}\d+(?:[^a-z0-9].*)?"
    r"|(?:.*[^a-z0-9])?\d+[-_]?(?:step|iter|iteration|epoch|update|k)s?|.*\.(?:ckpt|pt|pth|keras)",
    re.IGNORECASE,
)
_DIGITS = re.compile(r"\d{1,12}")
_MEGATRON = re.compile(r"iter_\d{7,}|release")
_LOGGERS = frozenset({"wandb", "mlruns", "__pycache__", "node_modules"})
_LOG_FOLDERS = frozenset({"runs", "logs", "log", "tensorboard", "tb", "lightning_logs", "samples", "images", "profile"})
"""Folders in which only a known layout or a checkpoint file is a unit."""

COPY = re.compile(r"(?:.*[-_.])?(?:(?P<last>last|latest)|best|newest|current|final)(?:[-_.].*)?", re.IGNORECASE)
"""Names of files that may be copies of a checkpoint beside them; the last one even where its bytes differ."""

# Numbers in names that tell neither a step nor an epoch.
_NO_NUMBER = re.compile(
    r"-\d{5}-of-\d{5}|rank[-_]?\d+|(fp|bf|int|uint|float)\d+|\d+(\.\d+)?[bm](?![a-z])|(?<![a-z])v\d+(\.\d+)*|fp32|pth?\d"
    r"|gpt\d|t5|llama\d|\.h5$",
    re.IGNORECASE,
)
_TENSORFLOW = re.compile(r"(?P<prefix>.+)\.(?:index|meta|data-\d{5}-of-\d{5})")
_TENSORFLOW_DATA = re.compile(r"(?P<prefix>.+)\.data-\d{5}-of-\d{5}")
_TENSORFLOW_NAMES = re.compile(rb'^model_checkpoint_path: "(?:.*/)?([^"/]+)"', re.MULTILINE)
_BOOSTER = re.compile(rb'\{\s*"learner"|tree\nversion=')
_MAX_TEXT = 4096


@lru_cache(maxsize=16384)
def has_number(name: str) -> bool:
    """Whether a name tells a number that may be a step or an epoch: not ``fp16``, ``7b``, ``v2`` or ``rank0``."""
    return any(letter.isdigit() for letter in _NO_NUMBER.sub("", name))


@lru_cache(maxsize=16384)
def _kind(name: str) -> _Kind:
    if is_unfinished(name):
        return _Kind.TEMPORARY
    if any(pattern.fullmatch(name) for pattern in (_DCP, _SHARD, _MODEL)) or role_of(name) in _PARTS:
        return _Kind.PART
    if _LOG.fullmatch(name):
        return _Kind.LOG
    if _DOCUMENT.fullmatch(name):
        return _Kind.DOCUMENT
    if _CHECKPOINT.fullmatch(name) or ("." not in name and _STEP_FOLDER.fullmatch(name)):
        return _Kind.CHECKPOINT
    return _Kind.TEXT if _TEXT.fullmatch(name) else _Kind.UNKNOWN


def is_checkpoint_name(path: str, *, is_folder: bool = False) -> bool:
    """Whether the path of a file, or of a folder, that is gone is that of a checkpoint by itself."""
    *folders, name = path.split("/")
    if any(is_temporary_folder(folder) or folder in _LOGGERS for folder in folders):
        return False
    return _tells_step(name) and not is_temporary_folder(name) if is_folder else _kind(name) is _Kind.CHECKPOINT


@lru_cache(maxsize=4096)
def _tells_step(folder: str) -> bool:
    return bool(_STEP_FOLDER.fullmatch(folder) or _DIGITS.fullmatch(folder))


def find_units(tree: OutputTree, peek: Peek) -> Units:
    """Find the units of an output directory as it was listed."""
    return _Finder(tree, peek).find()


class _Finder:
    def __init__(self, tree: OutputTree, peek: Peek) -> None:
        self._tree = tree
        self._peek = peek
        self._found = Units()

    def find(self) -> Units:
        for unit in self._walk(ROOT, in_logs=False):
            kept = self._without_excluded(self._without_odd_names(unit))
            if kept.files:
                self._found.units[unit.name] = replace(kept, folders=tuple(sorted(self._empty_folders(kept))))
        self._find_links()
        found, is_excluded = self._found, self._tree.excluded.name
        found.notes = {path: why for path, why in found.notes.items() if not is_excluded(path)}
        found.pointers = {path: name for path, name in found.pointers.items() if not is_excluded(path)}
        found.unfinished = {path for path in found.unfinished if not is_excluded(path)}
        return found

    # Folders.

    def _walk(self, place: str, *, in_logs: bool) -> list[Unit]:
        listing = self._tree.folders.get(place)
        if listing is None:
            return []
        if self._is_one(place, listing):
            return self._one(place, listing)
        kinds = {name: self._kind(place, name) for name in listing.files}
        units = [*self._tagged(place, listing), *self._tensorflow(place, listing)]
        for unit in units:
            for path in (*unit.files, *unit.texts):
                kinds.pop(path, None)
        tags = {unit.name for unit in units}
        for name in sorted(listing.folders):
            if not is_temporary_folder(name) and name not in _LOGGERS and (path := _join(place, name)) not in tags:
                units += self._walk(path, in_logs=in_logs or name in _LOG_FOLDERS)
        return self._of_files(place, kinds, units, in_logs=in_logs)

    def _of_files(self, place: str, kinds: dict[str, _Kind], inner: list[Unit], *, in_logs: bool) -> list[Unit]:
        """The units that a folder's own files form, and ``inner`` but for what is a part of them."""

        def of(*wanted: _Kind) -> list[str]:
            return sorted(name for name, kind in kinds.items() if kind in wanted)

        checkpoints = of(_Kind.CHECKPOINT)
        has_parts = bool(of(_Kind.PART))
        files = [
            name for name in checkpoints if has_number(name) and not (has_parts and _ONE_OF_SEVERAL.fullmatch(name))
        ]
        rest = [name for name in checkpoints if name not in files]
        has_model = bool(of(_Kind.DOCUMENT)) and bool(rest)
        if has_parts or has_model:
            parts = sorted(rest + of(_Kind.PART, _Kind.DOCUMENT, _Kind.UNKNOWN, _Kind.TEXT))
            if place:
                parts += self._parts_below(place, inner)
                inner = [unit for unit in inner if unit.has_known_layout]
            folders = [Unit(place, place, tuple(parts))]
        elif checkpoints:
            files, folders = checkpoints, []
        elif of(_Kind.UNKNOWN) and not in_logs:
            parts = of(_Kind.UNKNOWN, _Kind.TEXT, _Kind.DOCUMENT)
            if place:
                parts += self._parts_below(place, inner)
                inner = [unit for unit in inner if unit.has_known_layout]
            folders = [Unit(place, place, tuple(parts), has_known_layout=False)]
        else:
            folders = []
        return [*folders, *(Unit(_join(place, name), place, (name,)) for name in files), *inner]

    def _parts_below(self, place: str, inner: Iterable[Unit]) -> list[str]:
        """Files in the folders of a unit's folder that are in no unit of their own, but for logs."""
        apart = {_join(unit.place, path) for unit in inner if unit.has_known_layout for path in unit.files}
        return [
            path
            for path in self._below(place)
            if "/" in path
            and _join(place, path) not in apart
            and _kind(posixpath.basename(path)) is not _Kind.LOG
            and not any(part in _LOGGERS or part in _LOG_FOLDERS for part in path.split("/"))
        ]

    def _is_one(self, place: str, listing: Listing) -> bool:
        """Whether a folder is one unit, with all that is in it."""
        if not listing.files.keys().isdisjoint(_MARKS) or any(_DCP.fullmatch(name) for name in listing.files):
            return True
        if listing.folders >= _NEMO:
            return True
        name = posixpath.basename(place)
        if not name or not _tells_step(name):
            return False
        kinds = [self._kind(place, file) for file in listing.files]
        if _DIGITS.fullmatch(name) and any(
            kind is _Kind.CHECKPOINT and has_number(file) for kind, file in zip(kinds, listing.files, strict=True)
        ):
            return False  # a run's folder, whose checkpoints have numbers themselves
        holds_content = any(kind not in {_Kind.LOG, _Kind.TEXT, _Kind.TEMPORARY} for kind in kinds)
        return holds_content or not any(_tells_step(folder) or folder == "checkpoints" for folder in listing.folders)

    def _one(self, place: str, listing: Listing) -> list[Unit]:
        apart: list[str] = []
        if not _tells_step(posixpath.basename(place)):
            # A final model beside the checkpoints of its training.
            apart = [
                name
                for name in sorted(listing.folders)
                if _STEP_FOLDER.fullmatch(name) and not is_temporary_folder(name)
            ]
        prefixes = tuple(f"{name}/" for name in apart)
        loose = _tells_step(posixpath.basename(place))
        files = [
            path
            for path in self._below(place)
            if not path.startswith(prefixes)
            and (loose or _kind(posixpath.basename(path)) is not _Kind.LOG)
            and (loose or path.partition("/")[0] not in _LOGGERS | _LOG_FOLDERS)
        ]
        has_content = any(_kind(posixpath.basename(path)) not in {_Kind.LOG, _Kind.TEXT} for path in files)
        unit = Unit(place, place, tuple(files), has_known_layout=has_content)
        inner = [found for name in apart for found in self._walk(_join(place, name), in_logs=False)]
        return [unit, *inner] if files else inner

    def _below(self, place: str) -> Iterator[str]:
        """The files in a folder and its folders, but for temporary ones, which are noted as unfinished."""
        pending = [("", False)]
        while pending:
            prefix, is_temporary = pending.pop()
            listing = self._tree.folders.get(_join(place, prefix.rstrip("/")) if prefix else place)
            if listing is None:
                continue
            for name in sorted(listing.files):
                if is_temporary or is_unfinished(name):
                    self._found.unfinished.add(_join(place, prefix + name))
                else:
                    yield prefix + name
            for name in listing.special:
                self._found.notes[_join(place, prefix + name)] = "is neither a file nor a folder, so it is left out"
            pending += [(f"{prefix}{name}/", is_temporary or is_unfinished(name)) for name in sorted(listing.folders)]

    def _empty_folders(self, unit: Unit) -> Iterator[str]:
        """The empty folders in a unit's folder, but for those of which logs, or other units, may be made."""
        pending = [unit.name] if unit.name else []
        while pending:
            place = pending.pop()
            listing = self._tree.folders.get(place)
            if listing is None:
                continue
            for name in listing.folders:
                if not (is_unfinished(name) or _tells_step(name) or name in _LOGGERS | _LOG_FOLDERS):
                    pending.append(_join(place, name))
            path = posixpath.relpath(place, unit.place or ".")
            is_excluded = self._tree.excluded.name(place, is_folder=True)
            if place != unit.name and listing == Listing() and is_path(path) and not is_excluded:
                yield path

    # Layouts with a text file that names the latest of several units.

    def _tagged(self, place: str, listing: Listing) -> Iterator[Unit]:
        for name in sorted(listing.folders):
            inside = self._tree.folders.get(_join(place, name))
            if inside is None or is_temporary_folder(name):
                continue
            roles = {role_of(file) for file in inside.files}
            if roles & {FileRole.DEEPSPEED_MODEL, FileRole.DEEPSPEED_OPTIMIZER}:
                latest, text = DEEPSPEED_LATEST, name
            elif _MEGATRON.fullmatch(name):
                latest, text = MEGATRON_LATEST, name if name == "release" else str(int(name.removeprefix("iter_")))
            else:
                continue
            path = _join(place, latest)
            texts: dict[str, bytes] = {}
            if latest in listing.files and _is_no_later(text, self._peek(path, _MAX_TEXT)):
                texts[latest] = text.encode()
            if latest in listing.files and self._peek(path, _MAX_TEXT).strip() == text.encode():
                self._found.pointers[path] = _join(place, name)
            files = tuple(f"{name}/{file}" for file in self._below(_join(place, name)))
            if files:
                yield Unit(_join(place, name), place, files, texts)

    def _tensorflow(self, place: str, listing: Listing) -> Iterator[Unit]:
        prefixes = {match["prefix"] for name in listing.files if (match := _TENSORFLOW_DATA.fullmatch(name))}
        if not prefixes:
            return
        if TENSORFLOW_LATEST in listing.files:
            path = _join(place, TENSORFLOW_LATEST)
            named = _TENSORFLOW_NAMES.search(self._peek(path, _MAX_TEXT))
            if named and (name := named[1].decode("utf-8", "replace")) in prefixes:
                self._found.pointers[path] = _join(place, name)
        for prefix in sorted(prefixes):
            files = [
                name for name in listing.files if (match := _TENSORFLOW.fullmatch(name)) and match["prefix"] == prefix
            ]
            text = f'model_checkpoint_path: "{prefix}"\nall_model_checkpoint_paths: "{prefix}"\n'.encode()
            yield Unit(_join(place, prefix), place, tuple(sorted(files)), {TENSORFLOW_LATEST: text})

    # Names.

    def _kind(self, place: str, name: str) -> _Kind:
        kind = _kind(name)
        if kind not in {_Kind.LOG, _Kind.TEMPORARY} and self._tree.excluded.name(_join(place, name)):
            return _Kind.TEXT  # it may tell that a unit is whole, and makes none
        if (
            kind is _Kind.TEXT
            and name.endswith((".json", ".txt"))
            and _BOOSTER.match(self._peek(_join(place, name), 64))
        ):
            return _Kind.CHECKPOINT  # XGBoost's and LightGBM's models
        return kind

    def _without_odd_names(self, unit: Unit) -> Unit:
        if not unit.name.isprintable():
            self._found.notes[unit.name] = "has a name with characters that cannot be shown, so it is not captured"
            return replace(unit, files=())
        kept = []
        for path in unit.files:
            try:
                kept.append(parse_path(path))
            except UnsafePathError as error:
                self._found.notes[_join(unit.place, path)] = f"is left out of checkpoint {unit.name!r}: {error.message}"
        return unit if len(kept) == len(unit.files) else replace(unit, files=tuple(kept))

    def _without_excluded(self, unit: Unit) -> Unit:
        is_excluded = self._tree.excluded.name
        excluded = {path: None for path in (*unit.files, *unit.texts) if is_excluded(_join(unit.place, path))}
        if not excluded:
            return unit
        kept = tuple(path for path in unit.files if path not in excluded)
        return replace(unit, files=kept, excluded=tuple(excluded))

    def _find_links(self) -> None:
        owners = {unit.name: unit.name for unit in self._found.units.values() if unit.name}
        owners |= {_join(unit.place, path): unit.name for unit in self._found.units.values() for path in unit.files}
        folders = {unit.place for unit in self._found.units.values() if unit.place == unit.name}
        for place, listing in self._tree.folders.items():
            for name in listing.links:
                path = _join(place, name)
                target = self._tree.target(path)
                if target in owners:
                    self._found.pointers[path] = owners[target]
                elif target is None and (
                    listing.links[name].startswith(("/", "../")) or any(_is_in(place, folder) for folder in folders)
                ):
                    self._found.notes[path] = "is a link that leads elsewhere, so it is left out"


def _is_no_later(tag: str, latest: bytes) -> bool:
    """Whether a unit's tag is the one that the text file names, or an earlier one."""
    named = latest.decode("utf-8", "replace").strip()
    if named == tag:
        return True
    ours, theirs = (re.findall(r"\d+", text) for text in (tag, named))
    return bool(ours and theirs) and int(ours[-1][:18]) <= int(theirs[-1][:18])


def _is_in(place: str, folder: str) -> bool:
    return place == folder or not folder or place.startswith(f"{folder}/")


def _join(place: str, name: str) -> str:
    return f"{place}/{name}" if place else name


def note_of(path: str, why: str) -> str:
    """A sentence about what is left out."""
    return f"{shown(path)!r} {why}"
