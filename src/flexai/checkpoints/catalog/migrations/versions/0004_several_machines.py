"""The machines of a training job, and the parts of a checkpoint that they bring."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table and the columns."""
    op.add_column("jobs", sa.Column("nodes", sa.Integer(), nullable=False, server_default=sa.text("1")))
    op.add_column("checkpoints", sa.Column("nodes", sa.Text(), nullable=False, server_default=sa.text("''")))
    op.add_column("checkpoints", sa.Column("parts", sa.Integer(), nullable=False, server_default=sa.text("0")))
    op.add_column("checkpoints", sa.Column("attempt", sa.Integer(), nullable=False, server_default=sa.text("0")))
    op.add_column("checkpoints", sa.Column("part_of", sa.String(length=36), nullable=True))
    parts = sa.text("part_of IS NOT NULL")
    op.create_index(
        op.f("ix_checkpoints_part_of"),
        "checkpoints",
        ["part_of"],
        unique=False,
        sqlite_where=parts,
        postgresql_where=parts,
    )
    op.create_table(
        "job_nodes",
        sa.Column("job_id", sa.String(length=36), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("node", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("input_checkpoint_id", sa.String(length=36), nullable=True),
        sa.Column("output_dir", sa.Text(), nullable=False),
        sa.Column("log_path", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("started_at", sa.String(length=32), nullable=False),
        sa.Column("ended_at", sa.String(length=32), nullable=True),
        sa.Column("claim_token", sa.String(length=32), nullable=True),
        sa.Column("claim_host", sa.Text(), nullable=True),
        sa.Column("claim_pid", sa.Integer(), nullable=True),
        sa.Column("claim_started", sa.Text(), nullable=True),
        sa.Column("claim_until", sa.String(length=32), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_nodes_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "attempt", "node", name=op.f("pk_job_nodes")),
    )


def downgrade() -> None:
    """Drop the table and the columns."""
    op.drop_table("job_nodes")
    op.drop_index(op.f("ix_checkpoints_part_of"), table_name="checkpoints")
    for column in ("part_of", "attempt", "parts", "nodes"):
        op.drop_column("checkpoints", column)
    op.drop_column("jobs", "nodes")
