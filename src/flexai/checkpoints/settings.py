"""The settings in force, from the environment (``FLEXAI_…``), ``config.toml`` in the home folder, and defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from flexai.checkpoints import setting_sources
from flexai.checkpoints.errors import SettingsError
from flexai.checkpoints.setting_rules import Duration, Folder, Number, Size, Text
from flexai.checkpoints.transfer_limits import DEFAULT_PART_SIZE, Limits


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting, with its unit in its description; made by :func:`load_settings`."""

    home: Annotated[
        Path,
        Folder(
            description="Folder of the catalog, the store, training jobs and the configuration file (environment only)"
        ),
    ]
    database_url: Annotated[
        str,
        Text(
            description="The catalog: the URL of an SQLite file or of PostgreSQL; `catalog.db` in the home folder if"
            " unset"
        ),
    ] = field(repr=False)
    """May hold a password: never print it."""
    store: Annotated[
        str,
        Text(
            description="The managed store: a directory, `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or"
            " `CONNECTION:BUCKET/PREFIX`; the folder `store` in the home folder by default"
        ),
    ]
    concurrency: Annotated[
        int,
        Number(
            default=32,
            least=1,
            most=256,
            description="Parts that are moved at a time, at most; fewer where more would gain nothing",
        ),
    ]
    bandwidth_limit: Annotated[
        int, Size(description="Bytes that an operation moves a second, at most (`100MiB`); 0 for no limit")
    ]
    part_size: Annotated[
        int,
        Size(
            default=DEFAULT_PART_SIZE,
            least=64 * 1024,
            most=5 * 1024**3,
            description="Bytes of a part (`64MiB`); more where a provider's limit of 10,000 parts asks for it",
        ),
    ]
    pack_threshold: Annotated[
        int, Size(default=4 * 1024**2, description="Files below this many bytes are stored in packs")
    ]
    pack_size: Annotated[
        int,
        Size(
            default=16 * 1024**2,
            least=64 * 1024,
            most=1024**3,
            description="Bytes of a pack, and of memory for each one in the making",
        ),
    ]
    shard_size: Annotated[
        int,
        Size(
            default=32 * 1024**3,
            least=64 * 1024,
            description="Bytes of a shard (`32GiB`): flows give out larger pushes and exports in shards of about this"
            " size",
        ),
    ]
    task_runner: Annotated[
        str,
        Text(
            default="threads",
            description="What does the shards of a flow: `threads` or `threads:SHARDS` at a time in its own process,"
            " `processes` (one for each core) or `processes:SHARDS`,"
            " `dask:tcp://SCHEDULER:8786`, `ray:ray://HEAD:10001`; `dask` or `ray` for a cluster of its own",
        ),
    ]
    grace_period: Annotated[
        timedelta,
        Duration(
            default=timedelta(days=7),
            description="How long the bytes of deleted and abandoned checkpoints are kept (`7d`, `24h`, seconds)",
        ),
    ]
    quiet_period: Annotated[
        timedelta,
        Duration(
            default=timedelta(seconds=5),
            description="How long a folder of unknown format must not change before a training job's checkpoint is"
            " whole",
        ),
    ]

    @property
    def effective_database_url(self) -> str:
        """The catalog's URL, password included: never print it."""
        return self.database_url or setting_sources.default_database_url(self.home)

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


RULES: Mapping[str, Text] = {
    name: hint.__metadata__[0] for name, hint in get_type_hints(Settings, include_extras=True).items()
}
"""What each setting may be, by its name."""


def load_settings(**overrides: Any) -> Settings:
    """The settings in force; ``overrides`` win over every source.

    Raises SettingsError naming the setting, what is wrong with it, and where it was set.
    """
    found = setting_sources.read_raw_settings()
    # Other programs may use variables of our prefix; a wrong key in our own file is a mistake.
    written = {
        name: raw.value
        for name, raw in found.items()
        if name != "home" and (name in RULES or not raw.origin.startswith("environment"))
    }
    values: dict[str, Any] = {name: rule.default for name, rule in RULES.items()}
    values["home"] = setting_sources.home_path()
    for name, value in (written | overrides).items():
        try:
            if name not in RULES:
                raise ValueError("there is no such setting")
            values[name] = RULES[name].read(value)
        except ValueError as error:
            origin = f" (from {found[name].origin})" if name in found and name not in overrides else ""
            raise SettingsError(f"setting {name!r}{origin}: {error}") from None
    return Settings(**values)
