"""Which of a checkpoint's facts its trainer reported."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("checkpoints", sa.Column("reported", sa.Text(), nullable=False, server_default=sa.text("'[]'")))


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("checkpoints", "reported")
