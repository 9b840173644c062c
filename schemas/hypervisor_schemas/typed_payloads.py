"""The events that have a typed payload, and its JSON Schema. Pure.

A writer may put more fields into a typed payload, and anything into the others.
"""

from __future__ import annotations

import inspect
from typing import Any

import msgspec

from hypervisor_schemas.events import EventType, GovernanceEventType
from hypervisor_schemas.governance import PolicyDecision, TrustScore
from hypervisor_schemas.payloads import RingPayload, SagaPayload

__all__ = ["DIALECT", "TYPED_PAYLOADS", "json_schema"]

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_TYPES = tuple(member.value for kind in (EventType, GovernanceEventType) for member in kind)


def _of(category: str) -> tuple[str, ...]:
    return tuple(value for value in _TYPES if value.startswith(f"{category}."))


TYPED_PAYLOADS: dict[type[msgspec.Struct], tuple[str, ...]] = {
    RingPayload: _of("ring"),
    SagaPayload: _of("saga"),
    PolicyDecision: (GovernanceEventType.POLICY_DECISION.value,),
    TrustScore: (GovernanceEventType.TRUST_SCORE.value,),
}
"""The event types of each typed payload. A service that reads them makes a dead letter of any other payload."""


def json_schema(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON Schema of a Struct, without references, so that it is a document of its own."""
    _, definitions = msgspec.json.schema_components([kind])
    (only,) = definitions.values()
    return {**only, "description": inspect.cleandoc(only["description"])}
