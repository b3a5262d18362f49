"""Runs migrations on the connection, and inside the transaction, of the library that asked for them."""

from __future__ import annotations

from alembic import context

from esper.urza.models import Base

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
