"""The settings in force: what each may be, where it is written, and reading all of them.

They come from the environment (``FLEXAI_…``), then from ``config.toml`` in the home folder, then from defaults.

Every command reads them, and some take no longer than that, so nothing here but the standard library is imported.
"""

import contextlib
import math
import os
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from flexai.checkpoints.errors import SettingsError
from flexai.checkpoints.local_paths import expanded, from_root
from flexai.checkpoints.names import in_unicode

ENVIRONMENT_PREFIX = "FLEXAI_"
DEFAULT_HOME = "~/.flexai"
CONFIG_FILE = "config.toml"
DATABASE_FILE = "catalog.db"
STORE_FOLDER = "store"
DEFAULT_PART_SIZE = 64 * 1024 * 1024
"""Bytes of a part of a large file: what is digested, moved, verified and tried again as one."""
LEAST_PART_SIZE = 64 * 1024
MOST_PART_SIZE = 5 * 1024**3
"""S3's limit: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html."""
WITHHELD_VARIABLE = "_FLEXAI_WITHHELD"
"""The environment variable that has the name of another one: a credential that a training command must not get."""

# Texts, which are compiled where they are first used: every command imports this module.
_SIZE = r"(?i)(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?"
_DURATION = r"(?i)(\d+(?:\.\d+)?)\s*([smhdw]?)"
# Greedy up to the last `@`: a password may hold one. A text without a scheme is taken for what follows one.
_PASSWORD = r"(?s)((?:://|^(?!.*://))[^:/@\s]*):.*@"
_PARAMETER = r"(?<=[?&])([^=&]*=)[^&]*"
_SECRET = r"(?i)pass|pwd|secret|token|key|credential|auth"
_OWNER = (
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    r"|[^\s/@]{1,100}@[^\s/@]{1,255}"
)
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_LONGEST = timedelta(days=36_500)
_FOR_EVER = timedelta(days=365_000)
"""What longer durations are taken for: it can still be subtracted from the present."""


def parse_size(value: object) -> object:
    """Read ``64MiB`` (1024-based), ``64MB`` (1000-based) or plain bytes; other things are left as they are."""
    match = re.fullmatch(_SIZE, value.strip()) if isinstance(value, str) else None
    if match is None:
        return value
    from fractions import Fraction  # it imports decimal, which takes time

    number, unit, binary = match.groups()
    base = 1024 if binary else 1000
    return int(Fraction(number) * base ** " kmgt".index(unit.lower() or " "))


def parse_duration(value: object) -> object:
    """Read ``90s``, ``15m``, ``24h``, ``7d``, ``2w`` or plain seconds; other things are left as they are."""
    match = re.fullmatch(_DURATION, value.strip()) if isinstance(value, str) else None
    return _duration(float(match[1]) * _SECONDS[match[2].lower()]) if match else value


def _duration(seconds: float) -> timedelta:
    longest = _FOR_EVER.total_seconds()
    return timedelta(seconds=max(-longest, min(seconds, longest)))


class TextRule:
    """What a setting may be: any text.

    ``description`` says what the setting is for, with its unit. The rules are plain classes, since to make a dataclass
    takes half a millisecond, and every command would wait for five.
    """

    def __init__(self, *, description: str, default: Any = "") -> None:
        self.description = description
        self.default = default

    def read(self, value: object) -> Any:
        """The setting's value; ValueError, which never quotes what was written, for what it cannot be."""
        if not isinstance(value, str):
            raise ValueError("a text is needed")
        return value

    def write(self, value: Any) -> str:
        """A value as it can be set."""
        return str(value)


class FolderRule(TextRule):
    """A path."""

    def read(self, value: object) -> Path:
        """The path."""
        return value if isinstance(value, Path) else Path(super().read(value))


class NumberRule(TextRule):
    """A whole number from ``least`` to ``most``."""

    def __init__(self, *, description: str, default: Any = 0, least: Any = 0, most: Any = None) -> None:
        super().__init__(description=description, default=default)
        self.least = least
        self.most = most

    def read(self, value: object) -> Any:
        """The number, which keeps to its limits."""
        found = self._parse(value)
        if found < self.least:
            raise ValueError(f"at least {self.write(self.least)} is needed")
        if self.most is not None and found > self.most:
            raise ValueError(f"at most {self.write(self.most)} can be used")
        return found

    def _parse(self, value: object) -> Any:
        number = _whole(value)
        if number is None:
            raise ValueError("a whole number is needed")
        return number


class SizeRule(NumberRule):
    """Bytes."""

    def write(self, value: int) -> str:
        """Bytes in their largest unit."""
        return _in_largest_unit(value, {"GiB": 1024**3, "MiB": 1024**2, "KiB": 1024}, "")

    def _parse(self, value: object) -> int:
        size = _whole(parse_size(value))
        if size is None:
            raise ValueError("a number of bytes is needed, such as 64MiB")
        return size


class DurationRule(NumberRule):
    """A length of time."""

    def __init__(self, *, description: str, default: timedelta) -> None:
        super().__init__(description=description, default=default, least=timedelta(0), most=_LONGEST)

    def write(self, value: timedelta) -> str:
        """A duration in its largest unit."""
        return write_duration(value)

    def _parse(self, value: object) -> timedelta:
        seconds = value if isinstance(value, float) and math.isfinite(value) else _whole(value)
        if seconds is not None:
            return _duration(seconds)
        duration = parse_duration(value)
        if not isinstance(duration, timedelta):
            raise ValueError("a duration is needed, such as 90s or 7d")
        return duration


class ChoiceRule(TextRule):
    """One of several words."""

    def __init__(self, *, description: str, choices: tuple[str, ...]) -> None:
        super().__init__(description=description, default=choices[0])
        self.choices = choices

    def read(self, value: object) -> str:
        """The word."""
        text = str(super().read(value))
        if text not in self.choices:
            raise ValueError(f"one of these is needed: {', '.join(self.choices)}")
        return text


class OwnerRule(TextRule):
    """A person, ``user@host``; or two UUIDs, the user's and the organisation's, with a slash between them."""

    def read(self, value: object) -> str:
        """The owner as it was written, or nothing."""
        text = str(super().read(value))
        if text and not (re.fullmatch(_OWNER, text) and text.isprintable()):
            raise ValueError("user@host is needed, or two UUIDs with a slash between them")
        return text


def hide_secrets(url: str) -> str:
    """A URL as people may see it: without a password, and without parameters that speak of anything secret.

    A URL that is none is cut in the same way: what cannot be used may hold a password all the same.
    """
    from urllib.parse import unquote_plus

    def hide(parameter: re.Match[str]) -> str:
        return f"{parameter[1]}***" if re.search(_SECRET, unquote_plus(parameter[0])) else parameter[0]

    return re.sub(_PARAMETER, hide, re.sub(_PASSWORD, r"\1:***@", url))


def write_duration(value: timedelta) -> str:
    """A duration in its largest unit without a rest, as it can be set: ``7d``, ``36h``, ``90s``."""
    return _in_largest_unit(int(value.total_seconds()), {"d": 86400, "h": 3600, "m": 60}, "s")


def _whole(value: object) -> int | None:
    """A whole number, also as Python writes it (``400_000``)."""
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            return None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _in_largest_unit(number: int, units: Mapping[str, int], smallest: str) -> str:
    for unit, factor in units.items():
        if number and number % factor == 0:
            return f"{number // factor}{unit}"
    return f"{number}{smallest}"


class Limits(NamedTuple):
    """How a transfer uses the machine; sizes in bytes, the bandwidth in bytes a second (0: no limit)."""

    concurrency: int
    bandwidth: int
    part_size: int
    pack_threshold: int
    pack_size: int


class Settings(NamedTuple):
    """Every setting, with its unit in its description; made by :func:`load_settings`."""

    home: Annotated[
        Path,
        FolderRule(
            description="Folder of the catalog, the store, training jobs and the configuration file (environment only)"
        ),
    ]
    database_url: Annotated[
        str,
        TextRule(
            description="The catalog: the URL of an SQLite file or of PostgreSQL; `catalog.db` in the home folder if"
            " unset"
        ),
    ]
    """May hold a password: never print it."""
    store: Annotated[
        str,
        TextRule(
            description="The managed store: a directory, `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or"
            " `CONNECTION:BUCKET/PREFIX`; the folder `store` in the home folder by default"
        ),
    ]
    store_mode: Annotated[
        str,
        ChoiceRule(
            choices=("auto", "private", "group"),
            description="Whose the files of a store in a directory are: the user's alone (`private`), or its group's,"
            " with the rights that the umask leaves it (`group`); `auto`: the group's where the folder's setgid bit is"
            " set",
        ),
    ]
    concurrency: Annotated[
        int,
        NumberRule(
            default=32,
            least=1,
            most=256,
            description="Parts that are moved at a time, at most; fewer where more would gain nothing",
        ),
    ]
    bandwidth_limit: Annotated[
        int, SizeRule(description="Bytes that an operation moves a second, at most (`100MiB`); 0 for no limit")
    ]
    part_size: Annotated[
        int,
        SizeRule(
            default=DEFAULT_PART_SIZE,
            least=LEAST_PART_SIZE,
            most=MOST_PART_SIZE,
            description="Bytes of a part (`64MiB`); less, down to 16 MiB, in files of fewer than 32 such parts, and"
            " more where a provider's limit of 10,000 parts asks for it",
        ),
    ]
    pack_threshold: Annotated[
        int, SizeRule(default=4 * 1024**2, description="Files below this many bytes are stored in packs")
    ]
    pack_size: Annotated[
        int,
        SizeRule(
            default=16 * 1024**2,
            least=64 * 1024,
            most=1024**3,
            description="Bytes of a pack, and of memory for each one in the making; less, down to 4 MiB, in a store"
            " that is not on this machine, where all small files are fewer than 32 such packs",
        ),
    ]
    shard_size: Annotated[
        int,
        SizeRule(
            default=32 * 1024**3,
            least=64 * 1024,
            description="Bytes of a shard (`32GiB`): flows give out larger transfers in shards of about this size",
        ),
    ]
    task_runner: Annotated[
        str,
        TextRule(
            default="threads",
            description="What does the shards of a flow: `threads` or `threads:SHARDS` at a time in its own process,"
            " `processes` (one for each core) or `processes:SHARDS`,"
            " `dask:tcp://SCHEDULER:8786`, `ray:ray://HEAD:10001`; `dask` or `ray` for a cluster of its own",
        ),
    ]
    grace_period: Annotated[
        timedelta,
        DurationRule(
            default=timedelta(days=7),
            description="How long the bytes of deleted and abandoned checkpoints are kept (`7d`, `24h`, seconds)",
        ),
    ]
    quiet_period: Annotated[
        timedelta,
        DurationRule(
            default=timedelta(seconds=5),
            description="How long a folder of unknown format must not change before a training job's checkpoint is"
            " whole",
        ),
    ]
    grace: Annotated[
        timedelta,
        DurationRule(
            default=timedelta(seconds=30),
            description="How long a training command may take to save and end once it was told to (`30s`, `2m`), before"
            " it is killed; where the machine is taken away, also how long what it saved may take to be stored",
        ),
    ]
    patience: Annotated[
        timedelta,
        DurationRule(
            default=timedelta(minutes=2),
            description="How long a command waits for a catalog that is away or locked (`30s`, `10m`); at the end of a"
            " training job for the store as well, once in all",
        ),
    ]
    owner: Annotated[
        str,
        OwnerRule(
            description="Who makes and owns what is made here: `user@host`, which gives the same ids on each machine,"
            " or `USER_ID/ORG_ID`. If unset the login's `user@host`, with ids that are made on first use and kept in"
            " the home folder: a machine that begins with an empty one, and is to go on with the same owner's jobs,"
            " needs this setting"
        ),
    ]

    def __repr__(self) -> str:
        return f"Settings(home={str(self.home)!r}, …)"

    @property
    def effective_database_url(self) -> str:
        """The catalog's URL, password included: never print it."""
        return self.database_url or default_database_url(self.home)

    @property
    def effective_store(self) -> str:
        """The managed store: a directory, or a bucket and prefix, by URL or in a connection."""
        if self.store.startswith("~"):
            return str(expanded(Path(self.store)))
        return self.store or str(self.home / STORE_FOLDER)

    @property
    def is_store_shared(self) -> bool:
        """Whether the files of a store in a directory are its group's."""
        if self.store_mode != "auto" or not self.store:
            return self.store_mode == "group"
        from flexai.checkpoints.private_folders import is_shared

        return is_shared(Path(self.effective_store).absolute(), home=self.home)

    @property
    def limits(self) -> Limits:
        """How a transfer may use the machine."""
        return Limits(
            concurrency=self.concurrency,
            bandwidth=self.bandwidth_limit,
            part_size=self.part_size,
            pack_threshold=min(self.pack_threshold, self.pack_size),
            pack_size=self.pack_size,
        )

    @property
    def jobs_path(self) -> Path:
        """Where training jobs of this machine keep their output and logs."""
        return self.home / "jobs"


RULES: Mapping[str, TextRule] = {name: hint.__metadata__[0] for name, hint in Settings.__annotations__.items()}
"""What each setting may be, by its name."""

_overrides: dict[str, object] = {}


@contextlib.contextmanager
def overriding(**values: object) -> Iterator[None]:
    """Have settings of this process be what a command was told, whatever is written elsewhere, until the block ends.

    with overriding(bandwidth_limit="100MiB"):
        load_settings().bandwidth_limit  # 104857600
    """
    before = dict(_overrides)
    _overrides.update(values)
    try:
        yield
    finally:
        _overrides.clear()
        _overrides.update(before)


def load_settings(**overrides: Any) -> Settings:
    """The settings in force; ``overrides`` win over every source, and so do those of :func:`overriding`.

    Raises SettingsError naming the setting, what is wrong with it, and where it was set.
    """
    found = read_raw_settings()
    # Other programs may use variables of our prefix; a wrong key in our own file is a mistake.
    written = {
        name: raw.value
        for name, raw in found.items()
        if name != "home" and (name in RULES or not raw.origin.startswith("environment"))
    }
    values: dict[str, Any] = {name: rule.default for name, rule in RULES.items()}
    values["home"] = home_path()
    for name, value in (written | _overrides | overrides).items():
        try:
            if name not in RULES:
                raise ValueError("there is no such setting")
            values[name] = RULES[name].read(value)
        except ValueError as error:
            origin = f" (from {found[name].origin})" if name in found and name not in _overrides | overrides else ""
            raise SettingsError(f"setting {name!r}{origin}: {error}") from None
    return Settings(**values)


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
    if config.exists():
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
        path = from_root(written)
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

    if not path.is_file():
        raise SettingsError(f"{path} is no file", hint=f"remove {path}, or write the settings to a file of that name")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{path} is not valid TOML: {error}", hint=f"correct or remove {path}") from error
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
