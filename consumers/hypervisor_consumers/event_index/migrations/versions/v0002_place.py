"""Creates the index of topic, partition and offset, for streams."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the index unless it exists: a version without migrations created it, too."""
    op.create_index("ix_events_place", "events", ["topic", "partition", "offset"], if_not_exists=True)
