"""Alembic's entry: it is given a connection by `event_index.migrate`, which holds the lock and commits."""

from __future__ import annotations

from alembic import context

from hypervisor_consumers.event_index.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
