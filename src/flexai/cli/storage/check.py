"""``flexai storage check``."""

from __future__ import annotations

import click

from flexai.checkpoints.errors import AccessDeniedError, CheckpointError
from flexai.checkpoints.names import parse_name
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.parameters import json_option
from flexai.cli.tracking import open_api


@command("check", usage="NAME [BUCKET[/PREFIX]] [--json]")
@click.argument("name", metavar="NAME")
@click.argument("path", metavar="[BUCKET[/PREFIX]]", default="")
@json_option
def check(name: str, path: str, as_json: bool) -> None:
    """Try out what a connection may do.

    Without a bucket only whether the provider answers. With one, each ability of the store is tried on small
    objects below a scratch prefix, which is empty again afterwards, and what was found is saved with the
    connection. What the store lacks, and transfers do without, is absent. Where nothing may be written, an object
    that is at the path is read instead. Exits with 1 where something failed, with 5 where it was refused.

    \b
    flexai storage check models-share
    flexai storage check models-share checkpoints
    flexai storage check hf-storage Qwen/Qwen2.5-7B
    flexai storage check models-share checkpoints --json
    """
    parse_name(name, what="connection name")
    open_api("to read the connection")
    from flexai import blocks

    probes = blocks.check_connection(name, path)
    if as_json:
        rows = [
            {"name": one.name, "outcome": one.outcome.value, "detail": one.detail, "denied": one.denied}
            for one in probes
        ]
        terminal.write_document({"storageProvider": name, "path": path, "probes": rows}, as_json=True)
    else:
        from flexai.cli.tables import Column, table

        shown = table(
            probes,
            Column("PROBE", lambda one: one.name),
            Column("OUTCOME", lambda one: one.outcome.value),
            Column("DETAIL", lambda one: one.detail, is_text=True),
        )
        terminal.write(shown)
    failed = [probe for probe in probes if probe.outcome is blocks.ProbeOutcome.FAILED]
    if failed:
        kind = AccessDeniedError if any(probe.denied for probe in failed) else CheckpointError
        names = ", ".join(probe.name for probe in failed)
        passed = {probe.name for probe in probes if probe.outcome is blocks.ProbeOutcome.PASSED}
        hint = "" if path else f"flexai storage inspect {name} shows what is saved"
        if "put" not in passed and passed >= {"list", "head", "get", "range"}:
            hint = "it is enough to push from it; an export to it needs the rest"
        raise kind(
            f"connection {name!r} failed {terminal.count(len(failed), 'probe')}: {names}",
            hint=hint,
        )
