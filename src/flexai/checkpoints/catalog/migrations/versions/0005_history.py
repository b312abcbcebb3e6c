"""Which catalog this is, who made what, what was changed by whom, and what a folder is beside its files' content."""

from __future__ import annotations

import uuid

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the tables and the columns."""
    empty, none = sa.text("''"), sa.text("'[]'")
    op.add_column("jobs", sa.Column("creator", sa.Text(), nullable=False, server_default=empty))
    op.add_column("checkpoints", sa.Column("creator", sa.Text(), nullable=False, server_default=empty))
    op.add_column("checkpoints", sa.Column("folders", sa.Text(), nullable=False, server_default=none))
    op.add_column("files", sa.Column("is_executable", sa.Boolean(), nullable=False, server_default=sa.text("false")))
    op.create_table(
        "identity",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("owner_org_id", sa.String(length=36), nullable=True),
        sa.Column("created_at", sa.String(length=32), nullable=False),
        sa.CheckConstraint("number = 1", name=op.f("ck_identity_number")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_identity")),
    )
    op.create_table(
        "history",
        sa.Column("id", _SERIAL, nullable=False),
        sa.Column("at", sa.String(length=32), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("flow_run_id", sa.Text(), nullable=False),
        sa.Column("action", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("subject_id", sa.String(length=36), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("before", sa.Text(), nullable=False),
        sa.Column("after", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_history")),
    )
    op.create_index(op.f("ix_history_subject_id"), "history", ["subject_id"], unique=False)
    op.create_index(op.f("ix_history_at"), "history", ["at"], unique=False)
    op.create_table(
        "records_due",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("since", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_records_due")),
    )
    # All that a catalog knows belongs to the organisation of who made the first thing.
    op.execute(
        sa.text(
            "INSERT INTO identity (number, id, owner_org_id, created_at) SELECT 1, :id, owner_org_id, created_at FROM ("
            " SELECT owner_org_id, created_at FROM checkpoints UNION ALL SELECT owner_org_id, created_at FROM jobs"
            ") made ORDER BY created_at LIMIT 1"
        ).bindparams(id=str(uuid.uuid4()))
    )
    # The store has to learn what its manifests do not say.
    op.execute(
        "INSERT INTO records_due (id, kind, since) SELECT id, 'checkpoint', '' FROM checkpoints c"
        " WHERE manifest_digest IS NOT NULL AND (deleted_at IS NOT NULL OR is_protected OR kind = 'captured'"
        " OR EXISTS (SELECT 1 FROM exports e WHERE e.checkpoint_id = c.id))"
    )
    op.execute("INSERT INTO records_due (id, kind, since) SELECT id, 'job', '' FROM jobs")


def downgrade() -> None:
    """Drop the tables and the columns."""
    for table in ("records_due", "history", "identity"):
        op.drop_table(table)
    op.drop_column("files", "is_executable")
    for column in ("folders", "creator"):
        op.drop_column("checkpoints", column)
    op.drop_column("jobs", "creator")
