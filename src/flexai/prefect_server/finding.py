"""Which Prefect API is configured, found without importing Prefect: that alone takes two seconds.

The sources and their order are Prefect's (https://docs.prefect.io/v3/concepts/settings-and-profiles): the environment,
``.env``, ``prefect.toml`` and ``pyproject.toml`` in the working directory, and the active profile. Where none of them
says anything, the server counts that ``flexai up`` has started.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flexai.checkpoints.settings import WITHHELD_VARIABLE, hide_secrets, home_path

UP = "flexai up"
"""The origin of the API of a server that this program has started."""
VARIABLE = "PREFECT_API_URL"
NO_TELEMETRY = {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
"""What keeps Prefect's client and server, in a process that this program starts or is, from reporting to its makers."""
_AUTH = "PREFECT_API_AUTH_STRING"
_TEST_MODES = (
    "PREFECT_TEST_MODE",
    "PREFECT_UNIT_TEST_MODE",
    "PREFECT_TESTING_UNIT_TEST_MODE",
    "PREFECT_TESTING_TEST_MODE",
)
_TRUE = frozenset({"1", "true", "t", "yes", "y", "on"})
_PROJECT_FILES = (("prefect.toml", ()), ("pyproject.toml", ("tool", "prefect")))


@dataclass(frozen=True, slots=True)
class PrefectAPI:
    """A Prefect API that the user configured, or that ``flexai up`` started."""

    url: str
    origin: str
    """Where: a variable or a file."""
    credential: str = field(default="", repr=False)
    """What it wants to be shown, where this program has made that."""

    @property
    def shown(self) -> str:
        """The address as people may see it."""
        return hide_secrets(self.url)


def find_api(environment: Mapping[str, str] | None = None) -> PrefectAPI | None:
    """The Prefect API to use: the one that Prefect itself would, else the server of ``flexai up``, else None.

    The first source that sets it decides, even to nothing.
    """
    environment = os.environ if environment is None else environment
    decided = _decided(environment)
    if decided is None:
        return started_api(environment)
    return configured_api(environment)


def configured_api(environment: Mapping[str, str] | None = None) -> PrefectAPI | None:
    """The Prefect API that Prefect itself would use, or None where it has to start one of its own."""
    environment = os.environ if environment is None else environment
    decided = _decided(environment)
    if decided is None or not decided.url:
        return None
    started = started_api(environment)
    if started is not None and started.url == decided.url.rstrip("/"):
        return replace(decided, credential=started.credential)
    return decided


def api_variables(api: PrefectAPI, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that tell Prefect of an API what it does not know by itself.

    That is the address of the server of ``flexai up``, and the credential that this program has made for it. Training
    commands do not get the credential, which their user has not set: flexai below them finds it by itself.
    """
    found = {VARIABLE: api.url} if api.origin == UP else {}
    if api.credential and environment.get(_AUTH) != api.credential:
        found |= {_AUTH: api.credential, WITHHELD_VARIABLE: _AUTH}
    return found


def started_api(environment: Mapping[str, str] | None = None) -> PrefectAPI | None:
    """The server that ``flexai up`` has started from this home folder, if it runs."""
    home = home_path(environment)
    if not (home / "prefect" / "server.json").is_file():
        return None  # nearly always: not worth an import
    from flexai.prefect_server.processes import recall

    server = recall(home, "server")
    if server is None:
        return None
    from flexai.prefect_server.credential import read_credential

    return PrefectAPI(server.url, UP, read_credential(home) if server.guarded else "")


def _decided(environment: Mapping[str, str]) -> PrefectAPI | None:
    """What the first source says that says anything; an empty address says that there is to be none."""
    for url, origin in _configured(environment):
        if isinstance(url, str):
            return PrefectAPI(url, origin)
    return None


def prefect_settings(environment: Mapping[str, str] | None = None) -> dict[str, object]:
    """What is configured of Prefect's settings, by the names of their variables; the first source that says it counts.

    The address of the server of ``flexai up`` is not among them.
    """
    found: dict[str, object] = {}
    for settings, _ in _sources(os.environ if environment is None else environment):
        for name, value in settings.items():
            found.setdefault(name, value)
    return found


def is_true(value: object) -> bool:
    """Whether a setting of Prefect's says yes."""
    return str(value).strip().lower() in _TRUE


def _configured(environment: Mapping[str, str]) -> Iterator[tuple[object, str]]:
    for settings, origin in _sources(environment):
        yield settings.get(VARIABLE), f"environment {VARIABLE}" if origin == "environment" else origin


def _sources(environment: Mapping[str, str]) -> Iterator[tuple[Mapping[str, object], str]]:
    """The settings of each source by the names of their variables, and what it is called, the first one first."""
    yield _upper(environment), "environment"
    dotenv = _read_dotenv()
    yield _upper(dotenv), ".env"
    for name, table in _PROJECT_FILES:
        yield dict(_flat("PREFECT", _read_toml(Path(name), *table))), name
    if not any(environment.get(variable) for variable in _TEST_MODES):
        path = _profiles_path(environment, dotenv)
        yield _active_profile(path, environment), str(path)


def _upper(variables: Mapping[str, str]) -> dict[str, object]:
    """Prefect reads variables without regard to case; the first one counts."""
    found: dict[str, object] = {}
    for name, value in variables.items():
        found.setdefault(name.upper(), value)
    return found


def _flat(name: str, value: object) -> Iterator[tuple[str, object]]:
    """A table of settings by the names of their variables."""
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield from _flat(f"{name}_{str(key).upper()}", below)
    yield name, value


def _profiles_path(environment: Mapping[str, str], dotenv: Mapping[str, str]) -> Path:
    for place in (environment.get("PREFECT_PROFILES_PATH"), dotenv.get("PREFECT_PROFILES_PATH")):
        if place:
            return Path(place)
    for name, table in _PROJECT_FILES:
        place = _read_toml(Path(name), *table).get("profiles_path")
        if isinstance(place, str) and place:
            return Path(place)
    home = environment.get("PREFECT_HOME")
    return (Path(home) if home else Path.home() / ".prefect") / "profiles.toml"


def _active_profile(path: Path, environment: Mapping[str, str]) -> Mapping[str, Any]:
    document = _read_toml(path)
    active = environment.get("PREFECT_PROFILE") or document.get("active")
    return _below(document, "profiles", str(active))


def _read_dotenv() -> dict[str, str]:
    if not Path(".env").is_file():
        return {}
    from dotenv import dotenv_values

    return {name: value for name, value in dotenv_values(".env").items() if value is not None}


def _read_toml(path: Path, *tables: str) -> Mapping[str, Any]:
    """A table of a TOML file; empty where there is none, or none that can be read: Prefect itself says why."""
    try:
        if not path.is_file():  # a FIFO would keep us waiting
            return {}
        text = path.read_text(encoding="utf-8")
        import tomllib  # nearly always there is none

        return _below(tomllib.loads(text), *tables)
    except (OSError, ValueError):
        return {}


def _below(document: Mapping[str, Any], *tables: str) -> Mapping[str, Any]:
    for table in tables:
        found = document.get(table)
        document = found if isinstance(found, dict) else {}
    return document
