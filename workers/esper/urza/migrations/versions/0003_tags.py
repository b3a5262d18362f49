"""Tags beside an artifact's numbers, where a query reads them with the row."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Write the tags of every artifact into its row, sorted."""
    op.add_column("artifacts", sa.Column("tags", sa.Text(), nullable=False, server_default=""))
    connection = op.get_bind()
    tag = sa.table("artifact_tags", sa.column("artifact_id"), sa.column("tag"))
    artifact = sa.table("artifacts", sa.column("artifact_id"), sa.column("tags"))
    change = sa.update(artifact).where(artifact.c.artifact_id == sa.bindparam("of")).values(tags=sa.bindparam("joined"))
    found: dict[str, list[str]] = {}
    for artifact_id, name in connection.execute(sa.select(tag.c.artifact_id, tag.c.tag)):
        found.setdefault(artifact_id, []).append(name)
    if found:
        rows = [{"of": artifact_id, "joined": " ".join(sorted(names))} for artifact_id, names in found.items()]
        connection.execute(change, rows)


def downgrade() -> None:
    """Keep them in their own table only."""
    op.drop_column("artifacts", "tags")
