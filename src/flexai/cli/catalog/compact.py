"""``flexai catalog compact``."""

from __future__ import annotations

from flexai.checkpoints.documents import human_size
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.parameters import json_option
from flexai.cli.tracking import load_connection


@command("compact", usage="[--json]")
@json_option
def compact(as_json: bool) -> None:
    """Give back the room of what was deleted.

    An SQLite file is written anew, for which the disk needs room for another one as large; readers go on meanwhile,
    and writers wait. A PostgreSQL database is vacuumed. gc does it by itself after it has collected much from a file.

    \b
    flexai catalog compact
    """
    from flexai.checkpoints.service.gc import compact_catalog
    from flexai.checkpoints.service.system import System

    with System.open(connect=load_connection) as system:
        before, after = compact_catalog(system)
    if as_json:
        terminal.write_document({"sizeBytesBefore": before, "sizeBytes": after}, as_json=True)
    else:
        terminal.write(f"the catalog takes {human_size(after)}; before it took {human_size(before)}")
