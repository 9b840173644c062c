"""Serializes events for JSON responses; payloads stay as they are stored. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from hypervisor_schemas.timestamps import datetime_of

__all__ = ["event_document"]


def event_document(row: Any) -> dict[str, Any]:
    """A row of `events` as `HypervisorEvent.to_dict` gives it; the payload is copied, not decoded."""
    return {
        "event_id": row.event_id,
        "event_type": row.event_type,
        "timestamp": datetime_of(row.timestamp).isoformat(),
        "session_id": row.session_id,
        "agent_did": row.agent_did,
        "causal_trace_id": row.causal_trace_id,
        "parent_event_id": row.parent_event_id,
        "payload": msgspec.Raw(row.payload.encode()),
    }
