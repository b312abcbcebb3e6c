"""Which exports are of a part of their checkpoint."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("exports", sa.Column("is_part", sa.Boolean(), nullable=False, server_default=sa.text("false")))


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("exports", "is_part")
