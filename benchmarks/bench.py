"""What every case gets: how often, whom against, where files and servers are."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from benchmarks.clients import Client, Ready
from benchmarks.peers import Environment, PeerMissingError, environment
from benchmarks.race import Contestant, race
from benchmarks.results import Result
from benchmarks.servers import RealServers, S3Server, Server, real_servers, sink
from benchmarks.sources import roomy_folder

GIB = 1024**3
MIB = 1024**2
KIB = 1024
_ROOM = 10 * GIB


@dataclass
class Bench:
    """One call of the program."""

    rounds: int
    cache: Path
    peers: frozenset[str] | None = None
    """Whom to race against; None for everybody."""
    scale: float = 1.0
    """What sizes and counts are multiplied by, for trials."""
    warm_up: bool = True
    results: list[Result] = field(default_factory=list)
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *reason: object) -> None:
        self._stack.close()

    @cached_property
    def sink(self) -> S3Server:
        """The server in memory."""
        return self._stack.enter_context(sink(self.cache))

    @cached_property
    def real(self) -> RealServers:
        """Real servers."""
        return self._stack.enter_context(real_servers())

    def environment(self, name: str) -> Environment:
        """A peer's environment."""
        return environment(name, self.cache)

    @contextmanager
    def memory_folder(self, needed: int = _ROOM) -> Iterator[Path]:
        """A folder in memory, or on the disk where there is too little of it."""
        with tempfile.TemporaryDirectory(prefix="flexai-bench-", dir=roomy_folder(int(needed * self.scale))) as folder:
            yield Path(folder)

    @contextmanager
    def disk_folder(self) -> Iterator[Path]:
        """A folder on the disk, which is where people have their home."""
        with tempfile.TemporaryDirectory(prefix="flexai-bench-") as folder:
            yield Path(folder)

    def size(self, size: int) -> int:
        """A size at this scale."""
        return max(int(size * self.scale), 64 * KIB)

    def count(self, count: int) -> int:
        """A number of files at this scale."""
        return max(int(count * self.scale), 10)

    def wants(self, peer: str) -> bool:
        """Whether a peer is to take part."""
        return self.peers is None or peer in self.peers or peer.split()[0] in self.peers

    def ready(self, clients: Sequence[Client], server: S3Server) -> tuple[list[Ready], dict[str, str]]:
        """The clients that can take part, and why others cannot."""
        able, skipped = [], {}
        for client in clients:
            if not self.wants(client.name):
                continue
            try:
                able.append(Ready.install(client, self.cache, server))
            except PeerMissingError as error:
                skipped[client.name] = str(error)
        return able, skipped

    def race(
        self,
        case: str,
        title: str,
        contestants: Mapping[str, Contestant],
        *,
        server: Server | None = None,
        skipped: Mapping[str, str] | None = None,
        reference: str = "flexai",
        rounds: int | None = None,
        warm_up: bool = True,
        chart: bool = False,
    ) -> Result:
        """Race, and keep the result; bars and notes can be added to it."""
        warm_up = warm_up and self.warm_up
        runs, wrong = race(contestants, rounds=rounds or self.rounds, server=server, warm_up=warm_up)
        result = Result(
            case=case,
            title=title,
            runs=runs,
            reference=reference,
            skipped=dict(skipped or {}),
            wrong=wrong,
            chart=chart,
        )
        self.results.append(result)
        return result
