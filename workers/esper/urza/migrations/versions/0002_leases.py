"""Leases: which run uses which artifact until when."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table of leases, empty."""
    op.create_table(
        "leases",
        sa.Column("artifact_id", _key(96), nullable=False),
        sa.Column("run", _key(128), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["artifact_id"], ["artifacts.artifact_id"], name="fk_leases_artifact_id"),
        sa.PrimaryKeyConstraint("artifact_id", "run", name="pk_leases"),
    )
    op.create_index("ix_leases_run", "leases", ["run"])
    op.create_index("ix_leases_expires_at", "leases", ["expires_at"])


def downgrade() -> None:
    """Forget every lease."""
    op.drop_table("leases")


def _key(length: int) -> sa.String:
    """Sorted by its bytes on every database."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")
