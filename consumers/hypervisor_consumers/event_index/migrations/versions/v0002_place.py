"""An index of places, for streams."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """It may be there: a version without migrations made it, too."""
    op.create_index("ix_events_place", "events", ["topic", "partition", "offset"], if_not_exists=True)
