"""How Alembic reaches the catalog: on the connection, and in the transaction, that it is given."""

from __future__ import annotations

from alembic import context

from flexai.checkpoints.catalog.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite cannot alter most things in place; Alembic then copies the table.
    render_as_batch=True,
    transactional_ddl=True,
)
context.run_migrations()
