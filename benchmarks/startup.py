"""How long commands take that people type all day, whole process, on a catalog of 10,000 checkpoints."""

from __future__ import annotations

import json
import tempfile
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.measure import alternate, flexai, print_costs, run
from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.catalog.tables import checkpoints
from flexai.checkpoints.catalog.times import to_text
from flexai.checkpoints.setting_sources import default_database_url

CHECKPOINTS = 10_000


def main() -> None:
    """Print the medians; the aims are 0.15 s for --help and 0.4 s for list."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        fill_catalog(home, CHECKPOINTS)
        environment = {"FLEXAI_HOME": str(home), "PREFECT_API_URL": ""}
        commands = {
            "flexai --help": ["--help"],
            "flexai checkpoint --help": ["checkpoint", "--help"],
            f"checkpoint list ({CHECKPOINTS:,})": ["checkpoint", "list"],
            "checkpoint inspect": ["checkpoint", "inspect", "checkpoint-00042"],
        }
        costs = alternate(
            {
                name: lambda arguments=arguments: run([flexai(), *arguments], environment)  # type: ignore[misc]
                for name, arguments in commands.items()
            },
            rounds=7,
        )
    print_costs(f"start-up, a catalog of {CHECKPOINTS:,} checkpoints", costs)


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
