"""``flexai catalog grants``."""

from __future__ import annotations

from flexai.cli import terminal
from flexai.cli.commands import command


@command("grants")
def grants() -> None:
    """Print the SQL of a team's roles in PostgreSQL.

    It makes the roles flexai_reader, flexai_writer and flexai_admin, and grants them what they need of the
    catalog's tables. Run it as the user who owns these, once a command of that user has made them, and again
    after each upgrade. Users become members of a role: GRANT flexai_writer TO alice.

    \b
    flexai catalog grants
    flexai catalog grants | psql postgresql://owner@host/flexai
    """
    from flexai.checkpoints.catalog.grants import grants_sql

    terminal.write(grants_sql(), newline=False)
