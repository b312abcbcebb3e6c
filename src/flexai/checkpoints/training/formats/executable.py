"""Which files of a checkpoint run code when they are loaded, and what they import.

    for path, code in find_code(folder).items():
        code.executable     # ("os.system", "pickle, nested: builtins.eval")
        code.unfollowed     # ("a 7z archive",)

Nothing is loaded. Pickles are followed instruction by instruction (`pickles.py`), inside archives, compressed
files and one another. A name that is not known to be harmless counts as code. What cannot be followed is said: a file
without `executable` and `unfollowed` imports harmless names only, or nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from flexai.checkpoints.training.formats.content import (
    Content,
    ContentRange,
    ContentStream,
    RangeStream,
    UnpackedStream,
    content_of,
    unpacked,
)
from flexai.checkpoints.training.formats.folder import RangedFiles
from flexai.checkpoints.training.formats.harmless_globals import HARMLESS
from flexai.checkpoints.training.formats.model_code import code_of_folder, keras_code, keras_h5_code, tensorflow_code
from flexai.checkpoints.training.formats.pickle_values import MAX_BYTES, Budget, Global, Pickle, PickleLimitError
from flexai.checkpoints.training.formats.pickles import follow
from flexai.checkpoints.training.formats.tar import is_tar, tar_size
from flexai.checkpoints.training.formats.verdict import NotWholeError, sentence, shown
from flexai.checkpoints.training.formats.zip_members import Member, list_members, readings

MAX_DEPTH = 6
"""Of archives and pickles in one another."""
MAX_LOOKED_INTO = 4_000
"""Archives, their members and pickles in one file."""
MAX_IN_MEMORY = 16 * 1024 * 1024
"""Bytes that an archive or a document inside another one may unpack to."""
MAX_TOLD = 100
"""Names that are told of one file."""

_HEAD = 1024
_SMALL = 128 * 1024
_PICKLE_NAMES = re.compile(
    r".*\.(pt|pth|pt2|ckpt|pkl|pickle|pck|th|t7|joblib|dill|cloudpickle|distcp)|\.metadata", re.IGNORECASE
)
_NO_CODE_NAMES = re.compile(
    r".*\.(safetensors|gguf|onnx|txt|md|rst|csv|tsv|jsonl?|ya?ml|toml|log|png|jpe?g|gif|svg|jinja|py|sh)"
    r"|\.git(attributes|ignore)|LICENSE|NOTICE|README|(tokenizer|spiece|sentencepiece\.bpe)\.model",
    re.IGNORECASE,
)
_STORAGE = re.compile(
    r"[^/]+/(\.data/serialization_id|data/\d+|version|byteorder|\.format_version|\.storage_alignment)"
)
_CODE_NAME = re.compile(r"[A-Za-z_][\w.<>]*")
_PACKED = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bz2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x5d\x00\x00", "xz"),
    (b"\x78\x01", "zlib"),
    (b"\x78\x5e", "zlib"),
    (b"\x78\x9c", "zlib"),
    (b"\x78\xda", "zlib"),
)
_NOT_FOLLOWED = (
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a rar archive"),
    (b"\x28\xb5\x2f\xfd", "content compressed with zstd"),
    (b"\x04\x22\x4d\x18", "content compressed with lz4"),
)


@dataclass(slots=True)
class FoundCode:
    """What one file runs when it is loaded. All texts are printable."""

    imports: tuple[str, ...] = ()
    """All that its pickles import, harmless or not."""
    executable: tuple[str, ...] = ()
    """What is not known to be harmless."""
    unfollowed: tuple[str, ...] = ()
    """What could not be followed, and so may run anything."""


@dataclass(slots=True)
class _Findings:
    imports: dict[str, None] = field(default_factory=dict)
    executable: dict[str, None] = field(default_factory=dict)
    unfollowed: dict[str, None] = field(default_factory=dict)

    def told(self) -> FoundCode:
        return FoundCode(_told(self.imports), _told(self.executable), _told(self.unfollowed))


def find_code(folder: RangedFiles, paths: Iterable[str] | None = None) -> dict[str, FoundCode]:
    """Look into the files of a checkpoint (all, or `paths`); those that import or run anything, or are not understood.

    Never raises for what the files hold.
    """
    found: dict[str, _Findings] = {}
    for path in folder.files if paths is None else paths:
        findings = _Findings()
        try:
            _Search(findings).look(content_of(folder, path), path)
        except NotWholeError as flaw:
            findings.unfollowed[str(flaw)] = None
        found[path] = findings
    for path, code, unread in code_of_folder(folder):
        findings = found.setdefault(path, _Findings())
        if code:
            findings.executable[code] = None
        else:
            findings.unfollowed[unread] = None
    told = {path: findings.told() for path, findings in found.items()}
    return {path: code for path, code in told.items() if code.imports or code.executable or code.unfollowed}


def may_hold_code(path: str) -> bool:
    """Whether a file's name is one of a format that can hold code; any file can, in the hands of an attacker."""
    return _NO_CODE_NAMES.fullmatch(path.rpartition("/")[2]) is None


def is_named_as_pickle(path: str) -> bool:
    """Whether a file's name is such as pickles have, and archives of them."""
    return _PICKLE_NAMES.fullmatch(path.rpartition("/")[2]) is not None


def summary(found: Mapping[str, FoundCode]) -> str:
    """One sentence without its full stop on what would run; empty where nothing would."""
    reasons = [
        f"{shown(path)} runs {sentence(list(code.executable))}" for path, code in found.items() if code.executable
    ]
    reasons += [
        f"{shown(path)} could not be followed ({sentence(list(code.unfollowed))})"
        for path, code in found.items()
        if code.unfollowed and not code.executable
    ]
    return sentence(reasons)


def _told(names: Iterable[str]) -> tuple[str, ...]:
    told = list(dict.fromkeys(shown(name) for name in names))
    more = len(told) - MAX_TOLD
    return tuple(told[:MAX_TOLD]) + ((f"and {more} more",) if more > 0 else ())


class _Search:
    """Looks into one file, and into what is in it, with one budget."""

    def __init__(self, findings: _Findings) -> None:
        self.findings = findings
        self.budget = Budget()
        self.looked_into = 0

    def spend(self, count: int) -> None:
        self.budget.bytes -= count
        if self.budget.bytes < 0:
            raise PickleLimitError(f"more than {MAX_BYTES // 1024**2} MiB of it would have to be read")

    def look(self, content: Content, name: str, depth: int = 0, *, loaded: bool = False) -> None:
        """Read the content as everything that it could be; `loaded` where something is known to load it."""
        if content.size == 0:
            return
        self.looked_into += 1
        if depth > MAX_DEPTH or self.looked_into > MAX_LOOKED_INTO:
            self.not_followed(
                f"what is nested more than {MAX_DEPTH} deep"
                if depth > MAX_DEPTH
                else f"more than {MAX_LOOKED_INTO} members of archives"
            )
            return
        head = content.read(0, _HEAD)
        base = name.rpartition("/")[2]
        named = loaded or is_named_as_pickle(base)
        expected = _begins_as_pickle(head) or (named and not _is_other(head))
        self._pickles(lambda: RangeStream(content, self.spend), expected, depth)
        self._archive(content, depth)
        if is_tar(head):
            self._tar(content, depth)
        if head.startswith(b"\x93NUMPY"):
            self._numpy(content, head, depth)
        for magic, kind in _PACKED:
            if head.startswith(magic):
                self._unpack(kind, content, name, depth, sure=kind != "zlib" and magic != b"\x5d\x00\x00")
        for magic, kind in _NOT_FOLLOWED:
            if head.startswith(magic):
                self.not_followed(kind)
        if head.startswith(b"\x89HDF\r\n\x1a\n"):
            self._tell(keras_h5_code(content))
        if base == "saved_model.pb":
            self._tell(tensorflow_code(content))

    def not_followed(self, what: str) -> None:
        self.findings.unfollowed[what] = None

    def _tell(self, code: tuple[list[str], list[str]]) -> None:
        executable, unfollowed = code
        self.findings.executable |= dict.fromkeys(executable)
        self.findings.unfollowed |= dict.fromkeys(unfollowed)

    # Pickles

    def _pickles(self, opened: Callable[[], ContentStream], expected: bool, depth: int) -> None:
        """Follow pickle after pickle, as torch's old format and some loaders do, until one breaks."""
        first = self._in_turn(opened(), expected, depth, joblib=False)
        if any(found.module.startswith("joblib.numpy_pickle") for found in first.globals):
            # joblib jumps over the arrays' bytes, another loader runs them: both readings count.
            again = self._in_turn(opened(), expected, depth, joblib=True)
            first = again if again.ended else first
        if first.limit or (first.broken and (expected or _would_run(first))):
            self.not_followed(f"a pickle: {first.limit or first.broken}")

    def _in_turn(self, stream: ContentStream, expected: bool, depth: int, *, joblib: bool) -> Pickle:
        """Follow pickle after pickle; returns the first."""
        first = one = self._one(stream, expected, depth, joblib)
        while one.ended:
            one = self._one(stream, expected, depth, joblib)
            if one.limit:
                self.not_followed(f"a pickle: {one.limit}")
        return first

    def _one(self, stream: ContentStream, expected: bool, depth: int, joblib: bool) -> Pickle:
        try:
            seen = follow(stream, self.budget, joblib=joblib)
        except NotWholeError as flaw:
            seen = Pickle(broken=str(flaw))
        if expected or seen.ended or _would_run(seen):
            self._judge(seen)
        for nested in seen.nested:
            self.look(nested, "", depth + 1, loaded=True)
        return seen

    def _judge(self, seen: Pickle) -> None:
        for found in seen.globals:
            self.findings.imports[str(found)] = None
            if (found.module, found.name) not in HARMLESS:
                self.findings.executable[str(found)] = None
        for what in seen.uncertain:
            self.not_followed(what)

    # What holds pickles

    def _archive(self, content: Content, depth: int) -> None:
        listing = list_members(content)
        if listing is None:
            return
        names = {member.name.casefold() for member in listing.members}
        is_torch = any(name.endswith("/data.pkl") for name in names)
        wanted = [member for member in listing.members if not (is_torch and _STORAGE.fullmatch(member.name.casefold()))]
        wanted.sort(key=lambda member: not is_named_as_pickle(member.name))
        is_script = any(name.endswith("/constants.pkl") for name in names)
        for member in wanted[: MAX_LOOKED_INTO + 1]:
            for reading, packed in readings(content, member, listing):
                self._member(reading, packed, depth)
            if member.name.endswith(".py"):
                kind = "TorchScript" if is_script else "Python"
                self.findings.executable[f"{kind} code in {member.name}"] = None
        for flaw in listing.flaws:
            self.not_followed(flaw)

    def _member(self, member: Member, packed: ContentRange, depth: int) -> None:
        if member.encrypted:
            self.not_followed("an encrypted member of a zip archive")
        if member.method == 0:
            self._inside(packed, member.name, depth)
        elif member.method in _ZIP_METHODS:
            self._unpack(_ZIP_METHODS[member.method], packed, member.name, depth, sure=True)
        else:
            self.not_followed(f"a member of a zip archive that is packed by method {member.method}")

    def _inside(self, content: ContentRange, name: str, depth: int) -> None:
        if content.size <= _SMALL:
            content = ContentRange.of(content.read(0, content.size))
        self.look(content, name, depth + 1)
        if name.rpartition("/")[2] == "config.json":
            try:
                if content.size > MAX_IN_MEMORY:
                    self.not_followed(f"a document of more than {MAX_IN_MEMORY // 1024**2} MiB")
                else:
                    self.findings.executable |= dict.fromkeys(keras_code(content.read(0, content.size)))
            except ValueError as flaw:
                self.not_followed(f"a description of a model: {flaw}")

    def _unpack(self, kind: str, content: Content, name: str, depth: int, *, sure: bool) -> None:
        """Look into compressed content: in memory where it is small, else as a stream of pickles."""
        pieces: list[bytes] = []
        length = 0
        try:
            for piece in unpacked(kind, content):
                self.spend(len(piece))
                pieces.append(piece)
                length += len(piece)
                if length > MAX_IN_MEMORY:
                    break
        except (NotWholeError, PickleLimitError) as flaw:
            if sure:
                self.not_followed(str(flaw))
        data = b"".join(pieces)
        pieces.clear()
        if length <= MAX_IN_MEMORY:
            self._inside(ContentRange.of(data), name, depth)
            return
        head = data[:_HEAD]
        del data
        expected = _begins_as_pickle(head) or (is_named_as_pickle(name) and not _is_other(head))
        self._pickles(lambda: UnpackedStream(unpacked(kind, content), self.spend), expected, depth)
        if _is_container(head):
            self.not_followed(f"an archive that unpacks to more than {MAX_IN_MEMORY // 1024**2} MiB")

    def _tar(self, content: Content, depth: int) -> None:
        """The members of a tar archive, such as torch's first format and NeMo's."""
        position = members = 0
        while position + 512 <= content.size:
            header = content.read(position, 512)
            if not header.strip(b"\0"):
                position += 512
                continue
            size = tar_size(header[124:136])
            members += 1
            if not is_tar(header) or size is None or members > MAX_LOOKED_INTO:
                self.not_followed("a tar archive that cannot be read to its end")
                return
            name = header[:100].rstrip(b"\0").decode("utf-8", "replace")
            self._inside(ContentRange.within(content, position + 512, size), name, depth)
            position += 512 + (size + 511) // 512 * 512

    def _numpy(self, content: Content, head: bytes, depth: int) -> None:
        """The pickle behind the header of an array of objects (numpy's `format.py`, `read_array`)."""
        wide = head[6:7] != b"\x01"
        length = int.from_bytes(head[8 : 12 if wide else 10], "little")
        start = (12 if wide else 10) + length
        text = content.read(12 if wide else 10, min(length, 64 * 1024))
        objects = length > len(text) or b"O" in re.sub(rb"'fortran_order'.*", b"", text)
        rest = ContentRange.within(content, start, content.size)
        self._pickles(lambda: RangeStream(rest, self.spend), objects, depth)


_ZIP_METHODS = {8: "deflate", 12: "bz2", 14: "xz"}


def _begins_as_pickle(head: bytes) -> bool:
    return len(head) > 1 and head[0] == 0x80 and 1 < head[1] < 6


def _would_run(seen: Pickle) -> bool:
    """Whether a pickle that broke calls something before; text that happens to begin as one does not."""
    return seen.called and all(_is_name(found) for found in seen.globals)


def _is_name(found: Global) -> bool:
    return _CODE_NAME.fullmatch(found.module) is not None and _CODE_NAME.fullmatch(found.name) is not None


def _is_container(head: bytes) -> bool:
    return head.startswith((b"PK\x03\x04", b"\x93NUMPY")) or is_tar(head)


def _is_other(head: bytes) -> bool:
    """Whether a head is that of another format than a pickle, which a pickle's name does not promise then."""
    magics = [magic for magic, _ in (*_PACKED, *_NOT_FOLLOWED)]
    return _is_container(head) or head.startswith((*magics, b"\x89HDF", b"PK\x05\x06", b"GGUF", b"{", b"ggml"))
