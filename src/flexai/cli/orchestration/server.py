"""A Prefect server of one's own, in the background."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from flexai.checkpoints.errors import ConflictError, UsageError
from flexai.checkpoints.foreign_json import parse_json
from flexai.checkpoints.private_folders import make_private_folder
from flexai.prefect_server.finding import NO_TELEMETRY
from flexai.prefect_server.home import close_prefect_home
from flexai.prefect_server.processes import Background, folder, start, wait_until
from flexai.prefect_server.ui import ui_address

SERVER = "server"
HOST = "127.0.0.1"
FIRST_PORT = 4200
"""Where Prefect's own programs and pages expect a server."""

_LOCK = "flexai-up.lock"
_READY_SECONDS = 180.0
_ANSWER_SECONDS = 5.0
_LEASES = "prefect.server.concurrency.lease_storage"
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


def answers(url: str) -> bool:
    """Whether a Prefect API answers at this address."""
    request = urllib.request.Request(f"{url.rstrip('/')}/health")
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as answer:
            return parse_json(answer.read(1024)) is True
    except (OSError, ValueError):
        return False


def answers_without_password(url: str) -> bool:
    """Whether a Prefect API tells its version to those who show no credential."""
    request = urllib.request.Request(f"{url.rstrip('/')}/admin/version")
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as answer:
            return isinstance(parse_json(answer.read(1024)), str)
    except (OSError, ValueError):
        return False


def is_here(url: str) -> bool:
    """Whether an address is one of this machine's, at which a server could be started."""
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname in _LOOPBACK and parts.path.rstrip("/") == "/api"


def listen(wanted: int | None) -> socket.socket:
    """Listen on the port that is wanted, or else on Prefect's own, or on a free one.

    From now on no other process can have it that starts a server at the same moment. Raises ConflictError where the
    wanted port is taken.
    """
    if wanted is None:
        listener = _listen(FIRST_PORT) or _listen(0)
        assert listener is not None  # the system gives a port that is free
        return listener
    if listener := _listen(wanted):
        return listener
    what = "another Prefect server" if answers(f"http://{HOST}:{wanted}/api") else "another program"
    raise ConflictError(
        f"{what} listens on port {wanted} of this machine",
        hint="flexai up without --port takes a free one; PREFECT_API_URL makes it use a server that is there",
    )


def start_server(home: Path, listener: socket.socket, environment: Mapping[str, str], *, credential: str) -> Background:
    """Start a Prefect server, which answers after ten seconds, or twenty for the first one: see ``await_server``.

    It answers to those who know the ``credential``, or where that is empty to every user and page of this machine.
    ``listener`` becomes the server's, and is closed here. Its database is the one in the user's Prefect home, so that
    what was saved without a server is there as well, and stays when it is stopped. Raises ConflictError where another
    home folder's server is at work on that database.
    """
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    prefect_home = settings.home
    port = listener.getsockname()[1]
    url = f"http://{HOST}:{port}/api"
    # What `prefect server start` runs, without the process around it, which would not take it along when it ends.
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "--factory",
        "flexai.cli.orchestration.guarded_server:create_app",
        f"--fd={listener.fileno()}",
        "--log-level=warning",
    ]
    surroundings = dict(environment) | {
        "PREFECT_HOME": str(prefect_home),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_UI_API_URL": url,
        # Where what an automation sends leads.
        "PREFECT_UI_URL": f"{ui_address(url)}/v2" if settings.server.ui.v2_enabled else ui_address(url),
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": _lease_storage(),
        # A page of another place gets nothing and changes nothing.
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": environment.get(
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS", f"http://{HOST}:{port},http://localhost:{port}"
        ),
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
    }
    surroundings |= NO_TELEMETRY
    if credential:
        surroundings |= {"PREFECT_SERVER_API_AUTH_STRING": credential, "PREFECT_API_AUTH_STRING": credential}
    else:
        surroundings.pop("PREFECT_SERVER_API_AUTH_STRING", None)
    make_private_folder(folder(home))
    close_prefect_home(prefect_home, environment)
    with listener, _held(prefect_home) as lock:
        return start(
            home,
            SERVER,
            command,
            environment=surroundings,
            cwd=folder(home),
            url=url,
            guarded=bool(credential),
            private=True,
            keep_open=[lock, listener.fileno()],
        )


def await_server(server: Background, home: Path) -> None:
    """Wait until a server answers; raises StorageUnavailableError where it does not start."""
    wait_until(server, home, lambda: answers(server.url), seconds=_READY_SECONDS)


def _lease_storage() -> str:
    """Where the server remembers which runs have the places of a limit: in files, unless the user has decided.

    In its memory, Prefect's default, they are forgotten with it. The place of a run that dies then is never free again.
    """
    from prefect.settings import get_current_settings

    storage = get_current_settings().server.concurrency.lease_storage
    return storage if storage != f"{_LEASES}.memory" else f"{_LEASES}.filesystem"


def port_of(url: str) -> int:
    """The port in an address."""
    try:
        return urlsplit(url).port or 80
    except ValueError as error:
        raise UsageError(f"{url} is no address", hint="correct PREFECT_API_URL") from error


@contextlib.contextmanager
def _held(prefect_home: Path) -> Iterator[int]:
    """A lock on a Prefect home that the server inherits and holds as long as it lives, however it ends."""
    descriptor = os.open(prefect_home / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConflictError(
            f"another flexai up has a server at work on the database in {prefect_home}",
            hint="flexai down in its home folder (FLEXAI_HOME) stops it; with another PREFECT_HOME both can run",
        ) from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _listen(port: int) -> socket.socket | None:
    listener = socket.socket()
    try:
        # A server that has just ended leaves connections behind, which must not keep the port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen()
    except OSError:
        listener.close()
        return None
    return listener
