"""Where settings are written: the environment (``FLEXAI_…``), then ``config.toml`` in the home folder.

Apart from ``settings``, which has what they may be: a command that only looks at the catalog needs no more than to find
it.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from flexai.checkpoints.errors import SettingsError
from flexai.checkpoints.names import in_unicode

ENVIRONMENT_PREFIX = "FLEXAI_"
DEFAULT_HOME = "~/.flexai"
CONFIG_FILE = "config.toml"
DATABASE_FILE = "catalog.db"


class RawSetting(NamedTuple):
    """A value as it was written, and where."""

    value: object
    origin: str
    """``environment FLEXAI_…``, a file's path, or ``default``."""


def read_raw_settings(environment: Mapping[str, str] | None = None) -> dict[str, RawSetting]:
    """Collect the settings that were written down, by their names; the environment wins over the file.

    Raises SettingsError for a file that cannot be read.
    """
    environment = os.environ if environment is None else environment
    found: dict[str, RawSetting] = {}
    config = config_path(environment)
    if config.is_file():
        for name, value in _read_toml(config).items():
            if name == "home":
                raise SettingsError(
                    f"setting 'home' (from {config}) cannot be set there", hint="set FLEXAI_HOME instead"
                )
            found[name] = RawSetting(value, str(config))
    for variable, text in environment.items():
        if variable.startswith(ENVIRONMENT_PREFIX) and text:
            name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
            found[name] = RawSetting(text, f"environment {variable}")
    return found


def home_path(environment: Mapping[str, str] | None = None) -> Path:
    """The home folder: FLEXAI_HOME or ``~/.flexai``. The TOML file lies in it, so only the environment moves it.

    Raises SettingsError where ``~`` means nothing, as for a container's user without a home directory, and where its
    path is no UTF-8.
    """
    environment = os.environ if environment is None else environment
    written = environment.get("FLEXAI_HOME") or DEFAULT_HOME
    try:
        path = Path(written).expanduser().absolute()
    except RuntimeError as error:
        raise SettingsError(
            f"the home folder {written} cannot be found", hint="set FLEXAI_HOME to a directory"
        ) from error
    if in_unicode(str(path)) != str(path):
        raise SettingsError(
            f"the home folder {str(path)!r} has a byte in its name that is no UTF-8",
            hint="set FLEXAI_HOME to a directory whose path is UTF-8 throughout",
        )
    return path


def config_path(environment: Mapping[str, str] | None = None) -> Path:
    """The TOML file: ``config.toml`` in the home folder."""
    return home_path(environment) / CONFIG_FILE


def database_url(environment: Mapping[str, str] | None = None) -> str:
    """The catalog's URL: the setting ``database_url``, or an SQLite file in the home folder."""
    raw = read_raw_settings(environment).get("database_url")
    return str(raw.value) if raw and raw.value else default_database_url(home_path(environment))


def default_database_url(home: Path) -> str:
    """The embedded catalog below a home folder."""
    return f"sqlite:///{home / DATABASE_FILE}"


def _read_toml(path: Path) -> dict[str, object]:
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{path} is not valid TOML: {error}", hint=f"correct or remove {path}") from error
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
