"""Events as JSON for answers, their payloads as they are kept. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from hypervisor_schemas.timestamps import datetime_of

__all__ = ["document_of"]


def document_of(row: Any) -> dict[str, Any]:
    """What `HypervisorEvent.to_dict` gives, from a row of `events`; its payload is not read, only copied."""
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
