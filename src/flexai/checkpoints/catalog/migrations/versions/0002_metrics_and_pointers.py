"""A checkpoint's metrics and pointers, whether it can be told if it resumes a training, and what a job has lost."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_NOT_UNPICKLED = "cannot be told without unpickling it."


def upgrade() -> None:
    """Add the columns.

    A checkpoint of which earlier versions could not tell whether it resumes a training is not known to be unfit.
    """
    op.add_column("jobs", sa.Column("lost", sa.Integer(), nullable=False, server_default=sa.text("0")))
    op.add_column("checkpoints", sa.Column("metrics", sa.Text(), nullable=False, server_default=sa.text("'{}'")))
    op.add_column("checkpoints", sa.Column("pointers", sa.Text(), nullable=False, server_default=sa.text("'[]'")))
    op.add_column("checkpoints", sa.Column("best_by", sa.Text(), nullable=False, server_default=sa.text("''")))
    op.add_column(
        "checkpoints", sa.Column("resumable_unknown", sa.Boolean(), nullable=False, server_default=sa.text("false"))
    )
    # The only reason in its list.
    op.execute(
        "UPDATE checkpoints SET resumable_unknown = true "
        f"WHERE resumable_missing LIKE '[\"Whether %{_NOT_UNPICKLED}\"]' AND resumable_missing NOT LIKE '%\", \"%'"
    )


def downgrade() -> None:
    """Drop the columns."""
    for column in ("resumable_unknown", "best_by", "pointers", "metrics"):
        op.drop_column("checkpoints", column)
    op.drop_column("jobs", "lost")
