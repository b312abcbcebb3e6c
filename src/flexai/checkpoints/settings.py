"""The settings in force, from the environment (``FLEXAI_…``), ``config.toml`` in the home folder, and defaults."""

from __future__ import annotations

import re
from datetime import timedelta
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, field_validator

from flexai.checkpoints import setting_sources
from flexai.checkpoints.errors import SettingsError
from flexai.checkpoints.limits import DEFAULT_PART_SIZE, Limits

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw]?)", re.IGNORECASE)
_LONGEST = timedelta(days=36_500)
_FOR_EVER = timedelta(days=365_000)
"""What longer durations are taken for: it can still be subtracted from the present."""
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def parse_size(value: object) -> object:
    """Read ``64MiB`` (1024-based), ``64MB`` (1000-based) or plain bytes; other things are left to pydantic."""
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        return value
    number, unit, binary = match.groups()
    base = 1024 if binary else 1000
    return int(Fraction(number) * base ** " kmgt".index(unit.lower() or " "))


def parse_duration(value: object) -> object:
    """Read ``90s``, ``15m``, ``24h``, ``7d``, ``2w`` or plain seconds; other things are left to pydantic."""
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        return value
    seconds = float(match[1]) * _SECONDS[match[2].lower()]
    return timedelta(seconds=min(seconds, _FOR_EVER.total_seconds()))


Size = Annotated[int, BeforeValidator(parse_size)]
Duration = Annotated[timedelta, BeforeValidator(parse_duration)]


class Settings(BaseModel):
    """Every setting, with its unit in its description."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    home: Path = Field(
        default_factory=setting_sources.home_path,
        description="Folder of the catalog, the store, training jobs and the configuration file (environment only)",
    )
    database_url: SecretStr = Field(
        default=SecretStr(""),
        description="The catalog: the URL of an SQLite file or of PostgreSQL; `catalog.db` in the home folder if unset",
    )
    store: str = Field(
        default="",
        description="The managed store: a directory, `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or"
        " `CONNECTION:BUCKET/PREFIX`; the folder `store` in the home folder by default",
    )
    concurrency: int = Field(
        default=32,
        ge=1,
        le=256,
        description="Parts that are moved at a time, at most; fewer where more would gain nothing",
    )
    bandwidth_limit: Size = Field(
        default=0, ge=0, description="Bytes that an operation moves a second, at most (`100MiB`); 0 for no limit"
    )
    part_size: Size = Field(
        default=DEFAULT_PART_SIZE,
        ge=64 * 1024,
        le=5 * 1024**3,
        description="Bytes of a part (`64MiB`); more where a provider's limit of 10,000 parts asks for it",
    )
    pack_threshold: Size = Field(
        default=4 * 1024**2, ge=0, description="Files below this many bytes are stored in packs"
    )
    pack_size: Size = Field(
        default=16 * 1024**2,
        ge=64 * 1024,
        le=1024**3,
        description="Bytes of a pack, and of memory for each one in the making",
    )
    shard_size: Size = Field(
        default=32 * 1024**3,
        ge=64 * 1024,
        description="Bytes of a shard (`32GiB`): flows give out larger pushes and exports in shards of about this size",
    )
    task_runner: str = Field(
        default="threads",
        description="What does the shards of a flow: `threads` or `threads:SHARDS` at a time in its own process,"
        " `processes` (one for each core) or `processes:SHARDS`,"
        " `dask:tcp://SCHEDULER:8786`, `ray:ray://HEAD:10001`; `dask` or `ray` for a cluster of its own",
    )
    grace_period: Duration = Field(
        default=timedelta(days=7),
        ge=timedelta(0),
        le=_LONGEST,
        description="How long the bytes of deleted and abandoned checkpoints are kept (`7d`, `24h`, seconds)",
    )
    quiet_period: Duration = Field(
        default=timedelta(seconds=5),
        ge=timedelta(0),
        le=_LONGEST,
        description="How long a folder of unknown format must not change before a training job's checkpoint is whole",
    )

    @field_validator(
        *("concurrency", "bandwidth_limit", "part_size", "pack_threshold", "pack_size", "shard_size"),
        *("grace_period", "quiet_period"),
        mode="before",
    )
    @classmethod
    def _no_boolean(cls, value: object) -> object:
        if isinstance(value, bool):
            raise ValueError("a number is needed")
        return value

    @property
    def effective_database_url(self) -> str:
        """The catalog's URL, password included: never print it."""
        return self.database_url.get_secret_value() or setting_sources.default_database_url(self.home)

    @property
    def effective_store(self) -> str:
        """The managed store: a directory, or a bucket and prefix, by URL or in a connection."""
        if self.store.startswith("~"):
            return str(Path(self.store).expanduser())
        return self.store or str(self.home / setting_sources.STORE_FOLDER)

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


def load_settings(**overrides: Any) -> Settings:
    """The settings in force; ``overrides`` win over every source.

    Raises SettingsError naming the setting, what is wrong with it, and where it was set.
    """
    found = setting_sources.read_raw_settings()
    # Other programs may use variables of our prefix; a wrong key in our own file is a mistake.
    known = {
        name: raw.value
        for name, raw in found.items()
        if name != "home" and (name in Settings.model_fields or not raw.origin.startswith("environment"))
    }
    try:
        return Settings(**{**known, **overrides})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        raw = None if name in overrides else found.get(name)
        origin = f" (from {raw.origin})" if raw else ""
        raise SettingsError(f"setting {name!r}{origin}: {first['msg'].lower()}") from None
