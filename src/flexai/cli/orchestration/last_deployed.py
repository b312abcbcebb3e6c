"""What was deployed last. Deploying again, and Prefect's import, are left out where nothing has changed since.

That is so where the installation is the same, file by file, and the API has all that was deployed as it was left: the
work pool, the kinds of connections, the deployments with the schedules of then, and every automation that can be made.
Nothing here imports Prefect.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from flexai.checkpoints.errors import NotFoundError
from flexai.checkpoints.foreign_json import parse_json
from flexai.checkpoints.private_folders import make_private_folder
from flexai.checkpoints.storage.kinds import KINDS
from flexai.cli.orchestration.automations import read_automations
from flexai.cli.orchestration.deploy_steps import read_document
from flexai.prefect_server.finding import PrefectAPI
from flexai.prefect_server.processes import folder

if TYPE_CHECKING:
    from flexai.prefect_server.rest import PrefectREST

_NAME = "deployed.json"
_VOLATILE = {"updated", "updated_by", "status", "last_polled", "paused", "schedules", "global_concurrency_limit"}
"""Fields of a deployment that are the user's, or change by themselves."""


def forget_deployed(home: Path) -> None:
    """Have the next ``flexai up`` deploy, whatever there is."""
    (folder(home) / _NAME).unlink(missing_ok=True)


def remember_deployed(home: Path, api: PrefectAPI, pool: str) -> None:
    """Write down what there is now, after deploying. Raises what the API raises."""
    from flexai.prefect_server.rest import PrefectREST

    path = folder(home) / _NAME
    make_private_folder(path.parent)
    temporary = path.with_name(f".{_NAME}.{os.getpid()}")
    temporary.write_text(json.dumps(_state(PrefectREST(api), pool)), encoding="utf-8")
    temporary.replace(path)


@dataclass(frozen=True, slots=True)
class AlreadyDeployed:
    """What there is already."""

    count: int
    """Deployments."""
    pool_type: str


def deployed(home: Path, api: PrefectAPI, pool: str) -> AlreadyDeployed | None:
    """What there is, where deploying would change nothing; None where it might.

    Raises what the API raises.
    """
    try:
        known = parse_json((folder(home) / _NAME).read_bytes())
    except (OSError, ValueError):
        return None
    from flexai.prefect_server.rest import PrefectREST

    server = PrefectREST(api)
    try:
        found = _state(server, pool)
    except NotFoundError:
        return None
    if known != found or _can_make_automations(server):
        return None
    return AlreadyDeployed(len(found["deployments"]), found["pool"][-1])


def _state(server: PrefectREST, pool: str) -> dict[str, Any]:
    """What is installed, and what the API has of it. Raises NotFoundError where it lacks something."""
    names = sorted({str(entry["name"]) for entry in read_document()["deployments"]})
    deployments = server.post("/deployments/filter", {"deployments": {"name": {"any_": names}}, "limit": 200})
    kinds = [server.get(f"/block_types/slug/{kind.block}") for kind in KINDS.values()]
    pool_found = server.get(f"/work_pools/{quote(pool, safe='')}")
    schemas = {"block_type_id": {"any_": [kind["id"] for kind in kinds]}}
    return {
        "api": server.api.url,
        "pool": [pool, pool_found["id"], pool_found["type"]],
        "installation": _installation(),
        "kinds": sorted(kind["id"] for kind in kinds),
        "schemas": sorted(
            schema["id"] for schema in server.post("/block_schemas/filter", {"block_schemas": schemas, "limit": 200})
        ),
        "deployments": sorted(map(_deployment, deployments)),
    }


def _deployment(document: dict[str, Any]) -> list[str]:
    kept = {name: value for name, value in document.items() if name not in _VOLATILE}
    # A schedule is switched on and off, and changed, by its user; one that is gone is made again.
    kept["schedules"] = sorted(str(schedule["id"]) for schedule in document["schedules"])
    return [str(document["id"]), hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()]


def _can_make_automations(server: PrefectREST) -> bool:
    """Whether an automation is missing, for want of nothing but being made."""
    for entry in read_automations():
        filter_ = {"automations": {"name": {"any_": [str(entry["name"])]}}}
        if not server.post("/automations/filter", filter_) and all(
            _has_block(server, action) for action in entry["actions"]
        ):
            return True
    return False


def _has_block(server: PrefectREST, action: dict[str, Any]) -> bool:
    kind, _, name = str(action.get("notification_block", "")).partition("/")
    try:
        if kind:
            server.get(f"/block_types/slug/{quote(kind, safe='')}/block_documents/name/{quote(name, safe='')}")
    except NotFoundError:
        return False
    return True


def _installation() -> str:
    """A digest of what is installed: names, sizes and times of the package's files, the versions, and the Python."""
    with as_file(files("flexai")) as package:
        entries = sorted(_entries(package))
    seen = repr((version("prefect"), version("flexai-checkpoints"), sys.executable, entries))
    return hashlib.sha256(seen.encode()).hexdigest()


def _entries(folder: Path) -> Iterator[tuple[str, int, int]]:
    for entry in os.scandir(folder):
        if entry.is_dir():
            if entry.name != "__pycache__":
                yield from _entries(Path(entry.path))
        elif not entry.name.endswith(".pyc"):
            known = entry.stat()
            yield entry.path, known.st_size, known.st_mtime_ns
