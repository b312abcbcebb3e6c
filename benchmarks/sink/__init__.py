"""A minimal S3 server in memory, written in C: see ``sink.c``."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import ssl
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.peers import PeerMissingError, environment

_SOURCE = Path(__file__).with_name("sink.c")
_FLAGS = ["-O2", "-pthread"]
_TLS_FLAGS = ["-DTLS", "-lssl", "-lcrypto"]


def find_compiler() -> list[str]:
    """The command of a C compiler that is here; empty where none is."""
    found = next(([name] for name in ("cc", "gcc", "clang") if shutil.which(name)), [])
    if not found and importlib.util.find_spec("ziglang"):
        found = [sys.executable, "-m", "ziglang", "cc"]
    return found


def build(cache: Path, *, tls: bool = False) -> Path:
    """Compile the server, with the machine's compiler or else with that of a wheel; PeerMissingError without either.

    One that speaks TLS takes OpenSSL's headers and library as well.
    """
    program = cache / f"sink-{hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:16]}{'-tls' if tls else ''}"
    if program.exists():
        return program
    cache.mkdir(parents=True, exist_ok=True)
    compiler = find_compiler() or [environment("zig", cache).python, "-m", "ziglang", "cc"]
    unfinished = program.with_suffix(".new")
    command = [*compiler, *_FLAGS, str(_SOURCE), "-o", str(unfinished), *(_TLS_FLAGS if tls else ())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PeerMissingError(f"{' '.join(compiler)} cannot compile the sink: {done.stderr[-500:]}")
    unfinished.replace(program)
    return program


@dataclass
class Sink:
    """The running server."""

    url: str
    process: subprocess.Popen[str]
    authority: Path | None = None
    """The certificate of the authority to trust, where it speaks TLS."""

    @classmethod
    def start(cls, program: Path, *options: str, authority: Path | None = None) -> Sink:
        """Start it on a free port with options of its own, which ``sink.c`` describes."""
        command = [str(program), "0", *options]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("listening on "):
            process.wait()
            raise PeerMissingError(f"the sink does not start: {line!r}")
        return cls(f"http{'s' if authority else ''}://127.0.0.1:{line.split()[-1]}", process, authority)

    def stats(self) -> dict[str, Any]:
        """Its counters since the last reset."""
        document: dict[str, Any] = json.loads(self._ask("stats"))
        return document

    def reset(self) -> None:
        """Set its counters to zero."""
        self._ask("reset", b"")

    def clear(self) -> None:
        """Let it forget everything it holds; its counters begin at zero."""
        self._ask("clear", b"")

    def limit(self, rate: int) -> None:
        """Let it move so many bytes a second at most, over all connections together; 0 for any number."""
        self._ask(f"limit/{rate}", b"")

    def network(self, is_there: bool) -> None:
        """Let it answer as its network's options say, or as fast as it can."""
        self._ask(f"network/{is_there:d}", b"")

    def _ask(self, what: str, data: bytes | None = None) -> bytes:
        try:
            trusted = ssl.create_default_context(cafile=self.authority) if self.authority else None
            with urllib.request.urlopen(f"{self.url}/-/{what}", data, timeout=30, context=trusted) as answer:
                content: bytes = answer.read()
                return content
        except OSError as error:
            # A negative code is the signal that ended it.
            raise RuntimeError(f"the sink does not answer ({error}); exit code: {self.process.poll()}") from error

    def stop(self) -> None:
        """End it; its content goes with it."""
        self.process.kill()
        self.process.communicate()

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
