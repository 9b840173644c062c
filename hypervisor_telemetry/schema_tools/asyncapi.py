"""Describes the topics as an AsyncAPI 3 document, from the tables that the code itself uses. Pure.

It is written from an agent's side, which sends events and may read the public table and the dead letters.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from hypervisor_schemas.agent_rings import TOPIC as AGENT_RINGS
from hypervisor_schemas.agent_rings import AgentRing
from hypervisor_schemas.events import EventType, GovernanceEventType
from hypervisor_schemas.topics import DEAD_LETTERS, TOPICS, Topic, category_of
from hypervisor_schemas.typed_payloads import TYPED_PAYLOADS, json_schema
from hypervisor_schemas.wire.codec import schema_text

__all__ = ["asyncapi_document"]

VERSION = "3.0.0"
BINDING = "0.5.0"
AVRO = "application/vnd.apache.avro+json;version=1.9.0"

EVENT = "HypervisorEvent"
_LISTS = {"cleanup.policy"}
_NUMBERS = {"retention.ms", "max.message.bytes"}


def asyncapi_document(version: str, prefix: str) -> dict[str, Any]:
    """The document of this version of the contract, with the topics' full names.

    Args:
        version: The version of the package.
        prefix: The prefix of every topic.
    """
    payload_of = {event_type: kind.__name__ for kind, types in TYPED_PAYLOADS.items() for event_type in types}
    types = [member.value for kind in (EventType, GovernanceEventType) for member in kind]
    messages = {event_type: _event(event_type, payload_of.get(event_type)) for event_type in types}
    messages["other"] = {
        **_event("other", None),
        "summary": "An event of a type that has no topic of its own; its `event_type` is any text.",
    }
    messages[AGENT_RINGS] = {
        "summary": "The ring of an agent in one of its sessions; without a value the row is gone.",
        "contentType": "application/json",
        "payload": {"$ref": f"#/components/schemas/{AgentRing.__name__}"},
        "bindings": _key({"type": "string", "description": 'JSON: ["<agent_did>","<session_id>"].'}),
    }
    messages[DEAD_LETTERS] = {
        "summary": "A record that a service couldn't use, its bytes untouched; headers say why and where from.",
        "contentType": "application/octet-stream",
    }
    messages["state"] = {
        "summary": "A service's own state; nobody else writes or relies on it.",
        "contentType": "application/octet-stream",
    }
    kinds: list[type[msgspec.Struct]] = [*TYPED_PAYLOADS, AgentRing]
    return {
        "asyncapi": VERSION,
        "info": {
            "title": "hypervisor-telemetry",
            "version": version,
            "description": "Events of fleets of AI agents, on Kafka. Keys are UTF-8; every client chooses "
            "partitions by murmur2 of the key (librdkafka: partitioner=murmur2_random).",
        },
        "defaultContentType": "application/vnd.apache.avro+binary",
        "channels": {topic.name: _channel(topic, prefix, types) for topic in TOPICS},
        "operations": {
            f"{'send' if topic.written_by == 'agents' else 'receive'}.{topic.name}": _operation(topic)
            for topic in TOPICS
            if topic.written_by == "agents" or topic.name in {AGENT_RINGS, DEAD_LETTERS}
        },
        "components": {
            "messages": messages,
            "schemas": {
                EVENT: {"schemaFormat": AVRO, "schema": json.loads(schema_text())},
                **{kind.__name__: json_schema(kind) for kind in kinds},
            },
        },
    }


def _channel(topic: Topic, prefix: str, types: list[str]) -> dict[str, Any]:
    category = topic.name.partition("events.")[2]
    if topic.name in {AGENT_RINGS, DEAD_LETTERS}:
        names = [topic.name]
    elif category:
        names = [event_type for event_type in types if category_of(event_type) == category] or [category]
    else:
        names = ["state"]
    return {
        "address": prefix + topic.name,
        "description": f"Key: {topic.key}. Written by {topic.written_by}, read by {topic.read_by}.",
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
        "bindings": {
            "kafka": {
                "topic": prefix + topic.name,
                "partitions": topic.partitions,
                "topicConfiguration": {key: _setting(key, value) for key, value in topic.config.items()},
                "bindingVersion": BINDING,
            }
        },
    }


def _setting(key: str, value: str) -> Any:
    if key in _LISTS:
        return value.split(",")
    return int(value) if key in _NUMBERS else value


def _operation(topic: Topic) -> dict[str, Any]:
    return {
        "action": "send" if topic.written_by == "agents" else "receive",
        "channel": {"$ref": f"#/channels/{topic.name}"},
    }


def _event(event_type: str, payload: str | None) -> dict[str, Any]:
    message: dict[str, Any] = {
        "name": event_type,
        "payload": {"$ref": f"#/components/schemas/{EVENT}"},
        "bindings": _key({"type": "string"}),
    }
    if payload:
        # AsyncAPI can't describe JSON inside a field of Avro.
        message["x-payload-field"] = {"$ref": f"#/components/schemas/{payload}"}
    return message


def _key(schema: dict[str, Any]) -> dict[str, Any]:
    return {"kafka": {"key": schema, "bindingVersion": BINDING}}
