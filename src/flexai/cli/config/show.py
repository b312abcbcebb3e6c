"""``flexai config show``."""

from __future__ import annotations

from datetime import timedelta
from operator import itemgetter
from typing import Any

from flexai.checkpoints.errors import SettingsError
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.parameters import json_option


@command("show", usage="[--json]")
@json_option
def show(as_json: bool) -> None:
    """Show every setting and where it comes from.

    From its environment variable, else from config.toml in the home folder, else its default. Secrets are
    left out. Shows also the user who makes what is made here, and which Prefect API operations are tracked by,
    if any.

    \b
    flexai config show
    flexai config show --json
    """
    from flexai.checkpoints.owner import login
    from flexai.checkpoints.settings import home_path
    from flexai.prefect_server.finding import find_api
    from flexai.prefect_server.home import open_places

    problem, settings = _settings(as_json)
    api = find_api()
    owner = str(settings["owner"]["value"])
    user = owner if "@" in owner else login()
    if as_json:
        found = None if api is None else {"url": api.shown, "origin": api.origin}
        terminal.write_document({"settings": settings, "prefectAPI": found, "user": user}, as_json=True)
    else:
        from flexai.cli.tables import Column, table

        rows = [(name, str(entry["value"]), str(entry["origin"])) for name, entry in settings.items()]
        rows.append(("user", user, "the setting owner" if user == owner else "the login"))
        rows.append(("Prefect API", api.shown if api else "none", api.origin if api else "not configured"))
        columns = (
            Column[tuple[str, str, str]]("SETTING", itemgetter(0)),
            Column[tuple[str, str, str]]("VALUE", itemgetter(1), is_name=True),
            Column[tuple[str, str, str]]("FROM", itemgetter(2), rank=1, is_text=True),
        )
        terminal.write(table(rows, *columns))
    for warning in open_places(home_path()):
        terminal.warn(warning)
    if problem is not None:
        raise problem


def _settings(as_json: bool) -> tuple[SettingsError | None, dict[str, dict[str, Any]]]:
    """Every setting; where one cannot be used, what was written stands for what is in force."""
    from flexai.checkpoints.owner import find_owner
    from flexai.checkpoints.settings import RULES, load_settings, read_raw_settings

    raw = read_raw_settings()
    values: dict[str, object] = {name: entry.value for name, entry in raw.items()}
    problem = None
    try:
        settings = load_settings()
        owner = settings.owner or find_owner(settings.home) or ""
    except SettingsError as error:
        problem = SettingsError(error.message, hint="correct it where it is set")
        names = dict.fromkeys([*RULES, *values])
    else:
        names = dict.fromkeys(RULES)
        values = {name: getattr(settings, name) for name in names} | {
            "database_url": settings.effective_database_url,
            "store": settings.effective_store,
            "owner": owner,
        }
    return problem, {
        name: {
            "value": _shown(name, values.get(name, ""), as_json),
            "origin": raw[name].origin if name in raw else "default",
        }
        for name in names
    }


def _shown(name: str, value: object, as_json: bool) -> str | int:
    from flexai.checkpoints.settings import RULES, hide_secrets

    if as_json and isinstance(value, int):
        return value
    if isinstance(value, int | timedelta) and name in RULES:
        return RULES[name].write(value)
    return hide_secrets(str(value))
