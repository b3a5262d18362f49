"""Blueprints, artifacts, reports and field reports."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _key(length: int) -> sa.String:
    """Sorted by its bytes on every database."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


ROW_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
# What makes two rows the same row: REPLACE would otherwise get around the triggers on UPDATE and DELETE.
APPEND_ONLY = {"reports": ("id",), "changes": ("id",), "field_reports": ("id", "message_id")}
TABLES = (
    "field_reports",
    "changes",
    "reports",
    "artifact_tags",
    "artifact_files",
    "artifacts",
    "blueprint_parents",
    "blueprint_names",
    "blueprints",
)


def upgrade() -> None:
    """Make the library."""
    _blueprints()
    _artifacts()
    _records()
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION urza_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$"
        )
    for table, identity in APPEND_ONLY.items():
        _append_only(table, identity)


def downgrade() -> None:
    """Drop the library; indices and triggers go with their tables."""
    for table in TABLES:
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION urza_append_only()")


def _blueprints() -> None:
    op.create_table(
        "blueprints",
        sa.Column("digest", _key(64), nullable=False),
        sa.Column("ir", sa.LargeBinary(), nullable=False),
        sa.Column("risk", sa.Float(), nullable=False),
        sa.Column("approved", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("risk >= 0 AND risk <= 1", name="ck_blueprints_risk"),
        sa.PrimaryKeyConstraint("digest", name="pk_blueprints"),
    )
    op.create_table(
        "blueprint_names",
        sa.Column("name", _key(128), nullable=False),
        sa.Column("blueprint", _key(64), nullable=False),
        sa.ForeignKeyConstraint(["blueprint"], ["blueprints.digest"], name="fk_blueprint_names_blueprint"),
        sa.PrimaryKeyConstraint("name", name="pk_blueprint_names"),
    )
    op.create_index("ix_blueprint_names_blueprint", "blueprint_names", ["blueprint"])
    op.create_table(
        "blueprint_parents",
        sa.Column("child", _key(64), nullable=False),
        sa.Column("parent", _key(64), nullable=False),
        sa.CheckConstraint("child <> parent", name="ck_blueprint_parents_not_its_own"),
        sa.ForeignKeyConstraint(["child"], ["blueprints.digest"], name="fk_blueprint_parents_child"),
        sa.ForeignKeyConstraint(["parent"], ["blueprints.digest"], name="fk_blueprint_parents_parent"),
        sa.PrimaryKeyConstraint("child", "parent", name="pk_blueprint_parents"),
    )
    op.create_index("ix_blueprint_parents_parent", "blueprint_parents", ["parent"])


def _artifacts() -> None:
    op.create_table(
        "artifacts",
        sa.Column("artifact_id", _key(96), nullable=False),
        sa.Column("number", _key(16), nullable=False),
        sa.Column("blueprint", _key(64), nullable=False),
        sa.Column("interface_digest", _key(64), nullable=False),
        sa.Column("interface", sa.Text(), nullable=False),
        sa.Column("strategy", _key(16), nullable=False),
        sa.Column("hardware", _key(48), nullable=False),
        sa.Column("toolchain", _key(8), nullable=False),
        sa.Column("state", _key(16), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("flops", sa.BigInteger(), nullable=False),
        sa.Column("parameters", sa.BigInteger(), nullable=False),
        sa.Column("ratio", sa.Float(), nullable=True),
        sa.Column("latency_ms", sa.Float(), nullable=True),
        sa.Column("memory_mb", sa.Float(), nullable=True),
        sa.Column("risk", sa.Float(), nullable=False),
        sa.Column("report", ROW_NUMBER, nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("risk >= 0 AND risk <= 1", name="ck_artifacts_risk"),
        sa.ForeignKeyConstraint(["blueprint"], ["blueprints.digest"], name="fk_artifacts_blueprint"),
        sa.PrimaryKeyConstraint("artifact_id", name="pk_artifacts"),
        sa.UniqueConstraint("number", name="uq_artifacts_number"),
    )
    op.create_index("ix_artifacts_blueprint", "artifacts", ["blueprint"])
    op.create_index(
        "ix_artifacts_offer",
        "artifacts",
        ["interface_digest", "hardware", "toolchain", "state", "strategy", "risk"],
    )
    op.create_index("ix_artifacts_state", "artifacts", ["state", "artifact_id"])
    op.create_table(
        "artifact_files",
        sa.Column("artifact_id", _key(96), nullable=False),
        sa.Column("name", _key(256), nullable=False),
        sa.Column("digest", _key(64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["artifact_id"], ["artifacts.artifact_id"], name="fk_artifact_files_artifact_id"),
        sa.PrimaryKeyConstraint("artifact_id", "name", name="pk_artifact_files"),
    )
    op.create_index("ix_artifact_files_digest", "artifact_files", ["digest"])
    op.create_table(
        "artifact_tags",
        sa.Column("artifact_id", _key(96), nullable=False),
        sa.Column("tag", _key(64), nullable=False),
        sa.ForeignKeyConstraint(["artifact_id"], ["artifacts.artifact_id"], name="fk_artifact_tags_artifact_id"),
        sa.PrimaryKeyConstraint("artifact_id", "tag", name="pk_artifact_tags"),
    )
    op.create_index("ix_artifact_tags_tag", "artifact_tags", ["tag", "artifact_id"])


def _records() -> None:
    op.create_table(
        "reports",
        sa.Column("id", ROW_NUMBER, nullable=False),
        sa.Column("artifact_id", _key(96), nullable=False),
        sa.Column("verdict", _key(16), nullable=False),
        sa.Column("digest", _key(64), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["artifact_id"], ["artifacts.artifact_id"], name="fk_reports_artifact_id"),
        sa.PrimaryKeyConstraint("id", name="pk_reports"),
    )
    op.create_index("ix_reports_artifact_id", "reports", ["artifact_id"])
    op.create_table(
        "changes",
        sa.Column("id", ROW_NUMBER, nullable=False),
        sa.Column("artifact_id", _key(96), nullable=False),
        sa.Column("source", _key(16), nullable=True),
        sa.Column("target", _key(16), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["artifact_id"], ["artifacts.artifact_id"], name="fk_changes_artifact_id"),
        sa.PrimaryKeyConstraint("id", name="pk_changes"),
    )
    op.create_index("ix_changes_artifact_id", "changes", ["artifact_id"])
    op.create_table(
        "field_reports",
        sa.Column("id", ROW_NUMBER, nullable=False),
        sa.Column("message_id", _key(128), nullable=False),
        sa.Column("run", _key(128), nullable=False),
        sa.Column("seed", _key(256), nullable=False),
        sa.Column("blueprint", _key(128), nullable=False),
        sa.Column("artifact_id", _key(96), nullable=False),
        sa.Column("outcome", _key(32), nullable=False),
        sa.Column("pre_metric", sa.Float(), nullable=True),
        sa.Column("post_metric", sa.Float(), nullable=True),
        sa.Column("measurements", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_field_reports"),
        sa.UniqueConstraint("message_id", name="uq_field_reports_message_id"),
    )
    op.create_index("ix_field_reports_run", "field_reports", ["run"])
    op.create_index("ix_field_reports_blueprint", "field_reports", ["blueprint"])
    op.create_index("ix_field_reports_artifact_id", "field_reports", ["artifact_id"])


def _append_only(table: str, identity: tuple[str, ...]) -> None:
    if op.get_bind().dialect.name == "postgresql":
        # INSERT ... ON CONFLICT DO UPDATE fires the trigger on UPDATE: there is no REPLACE to get around it with.
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION urza_append_only()"
        )
        return
    refuse = f"SELECT RAISE(ABORT, '{table} is append-only')"
    for action in ("UPDATE", "DELETE"):
        op.execute(f"CREATE TRIGGER {table}_no_{action.lower()} BEFORE {action} ON {table} BEGIN {refuse}; END")
    same = " OR ".join(f"{column} = NEW.{column}" for column in identity)
    op.execute(
        f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} "
        f"WHEN EXISTS (SELECT 1 FROM {table} WHERE {same}) BEGIN {refuse}; END"
    )
