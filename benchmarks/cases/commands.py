"""What people type all day: whole processes, on a catalog of 10,000 checkpoints; and what a shard's task run costs."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks import shards as task_runs
from benchmarks.bench import Bench
from benchmarks.measure import flexai, run
from benchmarks.own import Own
from benchmarks.race import Contestant
from benchmarks.results import Bar
from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.catalog.tables import checkpoints
from flexai.checkpoints.catalog.times import to_text
from flexai.checkpoints.setting_sources import default_database_url

_LIMITS = {"--help": 0.15, "checkpoint list": 0.4, "checkpoint inspect": 0.4}
"""Seconds."""


def commands(bench: Bench) -> None:
    """Help, list and inspect, whole processes, on a catalog of 10,000 checkpoints."""
    with bench.disk_folder() as folder:
        count = bench.count(10_000)
        own = Own(folder / "home")
        own.begin_anew()
        fill_catalog(own.home, count)
        lines = {
            "--help": ["--help"],
            "checkpoint list": ["checkpoint", "list"],
            "checkpoint inspect": ["checkpoint", "inspect", f"checkpoint-{count // 2:05}"],
        }

        def typing(line: list[str]) -> Contestant:
            return Contestant(lambda: run([flexai(), *line], own.environment))

        contestants = {name: typing(line) for name, line in lines.items()}
        result = bench.race("commands", f"start-up, a catalog of {count:,} checkpoints", contestants)
    for name in result.runs:
        result.bars.append(Bar(f"wall, {name}", result.median(name), _LIMITS[name], " s"))


def shards(bench: Bench) -> None:
    """What a shard costs for being a task run of its own; prints its own table, and needs a minute."""
    task_runs.main()


def fill_catalog(home: Path, count: int) -> None:
    """Make a catalog with ``count`` available checkpoints, without content."""
    catalog = Catalog.open(default_database_url(home))
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    owner = str(uuid.uuid4())
    rows = [
        {
            "id": str(uuid.uuid4()),
            "kind": "pushed",
            "name": f"checkpoint-{number:05}",
            "name_key": f"checkpoint-{number:05}",
            "creator_user_id": owner,
            "owner_org_id": owner,
            "source": json.dumps({"from_local_files": ["output/ckpt.pt"]}),
            "status": "available",
            "reason": "",
            "size": number * 1_000_003,
            "file_count": 3,
            "manifest_digest": "0" * 64,
            "store_id": owner,
            "node": "0",
            "sequence": 0,
            "model": "",
            "version": "",
            "inference_ready": False,
            "inference_missing": "[]",
            "resumable": False,
            "resumable_missing": "[]",
            "created_at": to_text(begin + timedelta(minutes=number)),
            "updated_at": to_text(begin + timedelta(minutes=number)),
        }
        for number in range(count)
    ]
    with catalog.database.writing() as connection:
        connection.execute(checkpoints.insert(), rows)
    catalog.close()
