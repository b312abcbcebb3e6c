"""The folder of Prefect's own files: its database has the key of all saved secrets inside."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from flexai.checkpoints.private_folders import close_to_others, make_private_file, make_private_folder, rights_of_others

_ELSEWHERE = ("PREFECT_API_DATABASE_CONNECTION_URL", "PREFECT_SERVER_DATABASE_CONNECTION_URL")
_DATABASE = ("prefect.db", "prefect.db-wal", "prefect.db-shm")


def prefect_home(environment: Mapping[str, str] | None = None) -> Path:
    """Where Prefect keeps its files, found without importing Prefect."""
    environment = os.environ if environment is None else environment
    return Path(environment.get("PREFECT_HOME") or "~/.prefect").expanduser()


def close_prefect_home(home: Path, environment: Mapping[str, str] | None = None) -> None:
    """Make Prefect's home and its database, where they are missing, and close them to other users.

    The database is made before Prefect does: SQLite gives the files beside it the same rights. Raises OSError.
    """
    make_private_folder(home)
    close_to_others(home)
    for name in _DATABASE:
        close_to_others(home / name)
    environment = os.environ if environment is None else environment
    if not any(environment.get(name) for name in _ELSEWHERE):
        make_private_file(home / _DATABASE[0])


def open_places(home: Path, environment: Mapping[str, str] | None = None) -> list[str]:
    """What of flexai's home and of Prefect's other users have rights at, in a sentence without its full stop each."""
    prefect = prefect_home(environment)
    found = [home] if rights_of_others(home) else []
    if rights_of_others(prefect):
        found += [prefect / name for name in _DATABASE[:1] if rights_of_others(prefect / name)]
    return [f"{path} is open to other users (mode {rights_of_others(path)}): chmod go= {path}" for path in found]
