"""Alembic's entry point. Its connection comes from `event_index.backends.migrate`, which locks and commits."""

from __future__ import annotations

from alembic import context

from hypervisor_consumers.event_index.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
