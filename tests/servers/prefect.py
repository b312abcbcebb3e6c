"""A real Prefect server for the tests: one for all processes of a run, since it takes ten seconds to start.

Runs and blocks of all tests are in one database: a test uses names of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import requests
from requests.adapters import HTTPAdapter
from sqlalchemy import MetaData, Text, cast, create_engine, or_, select
from urllib3.util import Retry

from .lease import Lease


@dataclass(frozen=True)
class PrefectServer:
    """A running Prefect server."""

    api_url: str
    database: str = ""
    """The SQLAlchemy URL of its database, for those who look into it."""
    credential: str = field(default="", repr=False)
    """What the server of ``flexai up`` wants to be shown."""

    def environment(self, home: Path) -> dict[str, str]:
        """What a process needs to use it, with a Prefect home of its own."""
        return {
            "PREFECT_API_URL": self.api_url,
            "PREFECT_HOME": str(home),
            "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
            # Prefect's own last word on a task without a flow comes when its run is over.
            "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
            "DO_NOT_TRACK": "1",
        } | ({"PREFECT_API_AUTH_STRING": self.credential} if self.credential else {})

    def post(self, path: str, document: dict[str, Any] | None = None) -> Any:
        """Ask its API."""
        return self._ask("POST", path, json=document or {})

    def patch(self, path: str, document: dict[str, Any]) -> None:
        """Change what its API has."""
        self._ask("PATCH", path, json=document)

    def get(self, path: str) -> Any:
        """Read from its API."""
        return self._ask("GET", path)

    def delete(self, path: str) -> None:
        """Remove what its API has."""
        try:
            self._ask("DELETE", path)
        except requests.HTTPError as error:
            # The answer to an earlier try may have been lost.
            if error.response.status_code != HTTPStatus.NOT_FOUND:
                raise

    def _ask(self, method: str, path: str, **options: Any) -> Any:
        # Its database may be locked for longer than is patient; Prefect's own client asks again as well. A run that is
        # made twice for that is one that no worker takes up.
        again = Retry(5, status_forcelist=[HTTPStatus.SERVICE_UNAVAILABLE], backoff_factor=1, allowed_methods=None)
        with requests.Session() as session:
            session.mount(self.api_url, HTTPAdapter(max_retries=again))
            if self.credential:
                user, _, password = self.credential.partition(":")
                session.auth = (user, password)
                if method != "GET":
                    client = str(uuid4())
                    token = session.get(f"{self.api_url}/csrf-token", params={"client": client}, timeout=60).json()
                    session.headers.update({"Prefect-Csrf-Client": client, "Prefect-Csrf-Token": token["token"]})
            answer = session.request(method, f"{self.api_url}{path}", timeout=60, **options)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def database_holds(self, text: str) -> list[str]:
        """The tables of its database in which a text occurs anywhere."""
        engine = create_engine(self.database.replace("postgresql:", "postgresql+psycopg:"))
        tables = MetaData()
        tables.reflect(engine)
        found = []
        with engine.connect() as connection:
            for table in tables.tables.values():
                holds = or_(*(cast(column, Text).contains(text, autoescape=True) for column in table.columns))
                if connection.execute(select(1).select_from(table).where(holds).limit(1)).first():
                    found.append(table.name)
        engine.dispose()
        return found


@pytest.fixture(scope="session")
def prefect_server(lease: Lease) -> PrefectServer:
    """A running Prefect server; ``prefect_api`` points this process to it."""
    address = lease.server("prefect")
    return PrefectServer(f"{address.url}/api", address.database)


@pytest.fixture
def prefect_api(
    prefect_server: PrefectServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[PrefectServer]:
    """The Prefect server, for this process and those that a test starts."""
    with using(prefect_server, tmp_path / "prefect-home", monkeypatch):
        yield prefect_server


@contextmanager
def using(server: PrefectServer, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Point this process, and those that it starts, to a server, with a Prefect home of their own."""
    from prefect.settings import (
        PREFECT_API_AUTH_STRING,
        PREFECT_API_URL,
        PREFECT_HOME,
        PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW,
        PREFECT_SERVER_ALLOW_EPHEMERAL_MODE,
        temporary_settings,
    )

    for name, value in server.environment(home).items():
        monkeypatch.setenv(name, value)
    with temporary_settings(
        {
            PREFECT_API_URL: server.api_url,
            PREFECT_HOME: home,
            PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW: "ignore",
            PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: False,
        }
        | ({PREFECT_API_AUTH_STRING: server.credential} if server.credential else {})
    ):
        yield
        _hand_over_logs_and_events()


def _hand_over_logs_and_events() -> None:
    """Left to the end of the process, they would look for a server that has stopped, for more than a minute."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=60, at_exit=False)
