"""Creates the tables of events, offsets and counts by type."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables of the first version; on PostgreSQL `events` is partitioned by time."""
    is_postgres = op.get_context().dialect.name == "postgresql"
    text = sa.Text(collation="C") if is_postgres else sa.Text()
    # The primary key of a partitioned table must hold the partition key.
    key = ("event_id", "timestamp") if is_postgres else ("event_id",)
    op.create_table(
        "events",
        sa.Column("event_id", text, nullable=False),
        sa.Column("event_type", text, nullable=False),
        sa.Column("timestamp", sa.BigInteger, nullable=False, comment="microseconds since the epoch, UTC"),
        sa.Column("session_id", text),
        sa.Column("agent_did", text),
        sa.Column("causal_trace_id", text),
        sa.Column("trace_id", text, comment="the first part of causal_trace_id"),
        sa.Column("parent_event_id", text),
        sa.Column("payload", text, nullable=False, comment="a JSON object"),
        sa.Column("topic", text, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint(*key),
        postgresql_partition_by="RANGE (timestamp)",
    )
    if is_postgres:
        # Weekly partitions are created when their events come; this one takes all other events.
        op.execute("CREATE TABLE events_default PARTITION OF events DEFAULT")
    op.create_index("ix_events_time", "events", ["timestamp"])
    op.create_index("ix_events_type", "events", ["event_type", "timestamp"])
    for name, column in (
        ("ix_events_session", "session_id"),
        ("ix_events_agent", "agent_did"),
        ("ix_events_trace", "trace_id"),
    ):
        present = sa.text(f"{column} IS NOT NULL")
        op.create_index(name, "events", [column, "timestamp"], sqlite_where=present, postgresql_where=present)
    op.create_table(
        "offsets",
        sa.Column("topic", text, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("next_offset", sa.BigInteger, nullable=False, comment="the first offset that is not applied yet"),
        sa.PrimaryKeyConstraint("topic", "partition"),
    )
    op.create_table(
        "type_counts",
        sa.Column("topic", text, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("event_type", text, nullable=False),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("topic", "partition", "event_type"),
    )
