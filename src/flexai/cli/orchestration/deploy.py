"""``flexai deploy``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.parameters import json_option
from flexai.cli.tracking import required_api

if TYPE_CHECKING:
    from flexai.cli.orchestration.deploy_steps import Deployed


@command("deploy", usage="[--pool NAME] [--json]")
@click.option("--pool", metavar="NAME", default="flexai-local", show_default=True, help="The work pool of the runs.")
@json_option
def deploy(pool: str, as_json: bool) -> None:
    """Deploy every flow to the Prefect API.

    Then its UI can run and schedule them. Makes the work pool if there is none (of processes), registers the
    blocks, and sets up the ready automations. Deployed again, everything is brought up to date, except for
    schedules, automations and what is set in the UI (parameters, tags, limits, job variables): once there they
    stay as they are. Deployments that an earlier version has made under other names are taken over.

    \b
    flexai deploy
    flexai deploy --pool kubernetes-pool
    """
    required_api("flexai deploy")
    from flexai.cli.orchestration.automations import create_automations
    from flexai.cli.orchestration.deploy_steps import deploy as deploy_flows

    done = deploy_flows(pool)
    automations = create_automations()
    if as_json:
        terminal.write_document(document_of(done, automations), as_json=True)
        return
    from flexai.cli.tables import Column, table

    shown = table(
        done.deployments,
        Column("DEPLOYMENT", lambda one: str(one["name"]), is_name=True),
        Column("SCHEDULES", _schedules, rank=2, is_text=True),
        Column("STATE", lambda one: "new" if one["isNew"] else "up to date", rank=1),
    )
    terminal.write(shown)
    made = "made" if done.pool_created else "there"
    terminal.say(
        f"{terminal.count(len(done.deployments), 'deployment')} in work pool {pool!r} ({done.pool_type}, {made})"
    )
    for name in done.replaced:
        terminal.say(f"{name!r} is replaced, and stays until its runs have ended and flexai deploy is run again")
    for automation in automations:
        if automation["problem"]:
            terminal.warn(f"automation {automation['name']!r} is not there: {automation['problem']}")


def document_of(done: Deployed, automations: list[dict[str, Any]]) -> dict[str, Any]:
    """What there is after deploying, for programs."""
    return {
        "workPool": {"name": done.pool, "type": done.pool_type, "isNew": done.pool_created},
        "blockTypes": done.block_types,
        "deployments": done.deployments,
        "replaced": done.replaced,
        "automations": automations,
    }


def _schedules(entry: dict[str, Any]) -> str:
    return ", ".join(
        f"{schedule['slug'] or 'unnamed'} ({'on' if schedule['active'] else 'off'})" for schedule in entry["schedules"]
    )
