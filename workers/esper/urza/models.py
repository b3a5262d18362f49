"""The library's tables. Times are whole microseconds since 1970, UTC; digests are sha256 in lower-case hexadecimal."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# Row numbers: SQLite only counts INTEGER columns up by itself.
RowNumber = BigInteger().with_variant(Integer(), "sqlite")


def key(length: int) -> String:
    """Text that is compared and sorted by its bytes on every database, whatever language a server was set up for."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")


APPEND_ONLY = ("reports", "changes", "field_reports")
"""Tables whose rows are never changed or removed; triggers hold this against anybody with access to the database."""


class Base(DeclarativeBase):
    """Names constraints by one rule, so that a migration can find them again."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class BlueprintRow(Base):
    """A design, under the digest of its IR."""

    __tablename__ = "blueprints"
    __table_args__ = (CheckConstraint("risk >= 0 AND risk <= 1", name="risk"),)

    digest: Mapped[str] = mapped_column(key(64), primary_key=True)
    ir: Mapped[bytes] = mapped_column(LargeBinary)
    risk: Mapped[float] = mapped_column(Float)
    approved: Mapped[bool]
    created_at: Mapped[int] = mapped_column(BigInteger)


class BlueprintNameRow(Base):
    """What people call a design. A name moves to the newest design registered under it; the older one stays."""

    __tablename__ = "blueprint_names"

    name: Mapped[str] = mapped_column(key(128), primary_key=True)
    blueprint: Mapped[str] = mapped_column(key(64), ForeignKey("blueprints.digest"), index=True)


class ParentRow(Base):
    """A design was derived from another one."""

    __tablename__ = "blueprint_parents"
    __table_args__ = (CheckConstraint("child <> parent", name="not_its_own"),)

    child: Mapped[str] = mapped_column(key(64), ForeignKey("blueprints.digest"), primary_key=True)
    parent: Mapped[str] = mapped_column(key(64), ForeignKey("blueprints.digest"), primary_key=True, index=True)


class ArtifactRow(Base):
    """A kernel: one design for one interface, hardware, strategy and toolchain, and how far it is.

    Numbers and tags (sorted, a space between them) of the report that decided are copied here, where queries look;
    ``report`` is its row (no foreign key: reports refer to artifacts already). ``number`` stands for the artifact in
    the seed state tensor.
    """

    __tablename__ = "artifacts"
    __table_args__ = (
        # The controller's question; the rest of its conditions are checked on the few rows this leaves.
        Index("ix_artifacts_offer", "interface_digest", "hardware", "toolchain", "state", "strategy", "risk"),
        Index("ix_artifacts_state", "state", "artifact_id"),
        CheckConstraint("risk >= 0 AND risk <= 1", name="risk"),
    )

    artifact_id: Mapped[str] = mapped_column(key(96), primary_key=True)
    number: Mapped[str] = mapped_column(key(16), unique=True)
    blueprint: Mapped[str] = mapped_column(key(64), ForeignKey("blueprints.digest"), index=True)
    interface_digest: Mapped[str] = mapped_column(key(64))
    interface: Mapped[str] = mapped_column(Text)
    strategy: Mapped[str] = mapped_column(key(16))
    hardware: Mapped[str] = mapped_column(key(48))
    toolchain: Mapped[str] = mapped_column(key(8))
    state: Mapped[str] = mapped_column(key(16))
    cause: Mapped[str] = mapped_column(Text)
    flops: Mapped[int] = mapped_column(BigInteger)
    parameters: Mapped[int] = mapped_column(BigInteger)
    ratio: Mapped[float | None] = mapped_column(Float)
    latency_ms: Mapped[float | None] = mapped_column(Float)
    memory_mb: Mapped[float | None] = mapped_column(Float)
    risk: Mapped[float] = mapped_column(Float)
    report: Mapped[int | None] = mapped_column(RowNumber)
    created_at: Mapped[int] = mapped_column(BigInteger)
    changed_at: Mapped[int] = mapped_column(BigInteger)
    tags: Mapped[str] = mapped_column(Text, default="", server_default="")


class FileRow(Base):
    """One file of an artifact, by its path inside the artifact's directory."""

    __tablename__ = "artifact_files"

    artifact_id: Mapped[str] = mapped_column(key(96), ForeignKey("artifacts.artifact_id"), primary_key=True)
    name: Mapped[str] = mapped_column(key(256), primary_key=True)
    digest: Mapped[str] = mapped_column(key(64), index=True)
    size: Mapped[int] = mapped_column(BigInteger)


class TagRow(Base):
    """A tag an artifact earned by measurement."""

    __tablename__ = "artifact_tags"
    __table_args__ = (Index("ix_artifact_tags_tag", "tag", "artifact_id"),)

    artifact_id: Mapped[str] = mapped_column(key(96), ForeignKey("artifacts.artifact_id"), primary_key=True)
    tag: Mapped[str] = mapped_column(key(64), primary_key=True)


class ReportRow(Base):
    """What the benchmarker found, word for word. Append-only."""

    __tablename__ = "reports"

    id: Mapped[int] = mapped_column(RowNumber, primary_key=True)
    artifact_id: Mapped[str] = mapped_column(key(96), ForeignKey("artifacts.artifact_id"), index=True)
    verdict: Mapped[str] = mapped_column(key(16))
    digest: Mapped[str] = mapped_column(key(64))
    body: Mapped[str] = mapped_column(Text)
    created_at: Mapped[int] = mapped_column(BigInteger)


class ChangeRow(Base):
    """One change of an artifact's state. Append-only."""

    __tablename__ = "changes"

    id: Mapped[int] = mapped_column(RowNumber, primary_key=True)
    artifact_id: Mapped[str] = mapped_column(key(96), ForeignKey("artifacts.artifact_id"), index=True)
    source: Mapped[str | None] = mapped_column(key(16))
    target: Mapped[str] = mapped_column(key(16))
    cause: Mapped[str] = mapped_column(Text)
    at: Mapped[int] = mapped_column(BigInteger)


class FieldReportRow(Base):
    """How one seed did in one run. Append-only; a redelivered report has the same message id."""

    __tablename__ = "field_reports"
    __table_args__ = (UniqueConstraint("message_id"),)

    id: Mapped[int] = mapped_column(RowNumber, primary_key=True)
    message_id: Mapped[str] = mapped_column(key(128))
    run: Mapped[str] = mapped_column(key(128), index=True)
    seed: Mapped[str] = mapped_column(key(256))
    blueprint: Mapped[str] = mapped_column(key(128), index=True)
    artifact_id: Mapped[str] = mapped_column(key(96), index=True)
    outcome: Mapped[str] = mapped_column(key(32))
    pre_metric: Mapped[float | None] = mapped_column(Float)
    post_metric: Mapped[float | None] = mapped_column(Float)
    measurements: Mapped[str] = mapped_column(Text)
    created_at: Mapped[int] = mapped_column(BigInteger)


class LeaseRow(Base):
    """A run uses an artifact until a time; what is leased is not collected."""

    __tablename__ = "leases"

    artifact_id: Mapped[str] = mapped_column(key(96), ForeignKey("artifacts.artifact_id"), primary_key=True)
    run: Mapped[str] = mapped_column(key(128), primary_key=True, index=True)
    expires_at: Mapped[int] = mapped_column(BigInteger, index=True)
