"""The one table of topics: their content, keys, partitions, writers and readers.

An event goes to `<prefix>events.<category>`; the category is its type up to the dot. Records of one session are in
one partition, in order. Every fold relies on that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType

from hypervisor_schemas.events import EventType, GovernanceEventType

__all__ = [
    "CATEGORIES",
    "DEAD_LETTERS",
    "DEAD_LETTER_BYTES",
    "EVENT_PARTITIONS",
    "TOPICS",
    "Topic",
    "category_of",
    "event_topic",
    "partition_of",
    "record_key",
    "topic_names",
]

DEAD_LETTERS = "dead-letters"
EVENT_PARTITIONS = 12
_DAY_MS = 24 * 3600 * 1000
_MAX_EVENT_MESSAGE_BYTES = 1024 * 1024
DEAD_LETTER_BYTES = _MAX_EVENT_MESSAGE_BYTES + 64 * 1024
"""The size of the largest dead letter: the largest event, plus the headers that give the reason."""

CATEGORIES: tuple[str, ...] = tuple(
    dict.fromkeys(member.value.partition(".")[0] for kind in (EventType, GovernanceEventType) for member in kind)
)
"""The categories that have a topic of their own; all others share `events.other`."""


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic: its name without the prefix, its settings on the broker, and its writers and readers."""

    name: str
    partitions: int
    config: Mapping[str, str]
    key: str
    written_by: str
    read_by: str
    follows: str | None = None
    """The topic whose number of partitions this one gets at its creation. That one may grow; this one must not."""


def _events(category: str, read_by: str) -> Topic:
    return Topic(
        name=f"events.{category}",
        partitions=EVENT_PARTITIONS,
        config=MappingProxyType(
            {
                "cleanup.policy": "delete",
                "retention.ms": str(7 * _DAY_MS),
                "max.message.bytes": str(_MAX_EVENT_MESSAGE_BYTES),
            }
        ),
        key=(
            "agent_did, else session_id, else event_id"
            if category == "governance"
            else "session_id, else agent_did, else event_id"
        ),
        written_by="agents",
        read_by=read_by,
    )


def _compacted(name: str, key: str, written_by: str, read_by: str) -> Topic:
    return Topic(
        name=name,
        partitions=EVENT_PARTITIONS,
        config=MappingProxyType({"cleanup.policy": "compact"}),
        key=key,
        written_by=written_by,
        read_by=read_by,
    )


def _state(category: str, service: str) -> Topic:
    topic = _compacted(f"state.{service}", "the service's own", service, f"{service} (on assignment)")
    return replace(topic, follows=f"events.{category}")


_READERS = {"ring": "ring-metrics", "saga": "saga-spans", "governance": "governance-metrics"}

TOPICS: tuple[Topic, ...] = (
    *(
        _events(category, ", ".join(filter(None, [_READERS.get(category), "event-index"])))
        for category in (*CATEGORIES, "other")
    ),
    _compacted("agent-rings", "agent and session; partition by the agent alone", "ring-metrics", "anyone"),
    *(_state(category, service) for category, service in _READERS.items()),
    Topic(
        name=DEAD_LETTERS,
        partitions=EVENT_PARTITIONS,
        config=MappingProxyType(
            {
                "cleanup.policy": "delete",
                "retention.ms": str(30 * _DAY_MS),
                "max.message.bytes": str(DEAD_LETTER_BYTES),
            }
        ),
        key="as it came",
        written_by="every service",
        read_by="hypervisor-telemetry dead-letters",
    ),
)


def topic_names(prefix: str, names: Iterable[str] | None = None) -> list[str]:
    """The full names of these topics; without `names`, of all event topics."""
    chosen = names or [topic.name for topic in TOPICS if topic.name.startswith("events.")]
    return [prefix + name for name in chosen]


def category_of(event_type: str) -> str:
    """The category in the topic name of an event of this type; `other` if its own category has no topic."""
    category = event_type.partition(".")[0]
    return category if category in _KNOWN else "other"


def event_topic(prefix: str, event_type: str) -> str:
    """The topic of an event type."""
    return f"{prefix}events.{category_of(event_type)}"


def record_key(category: str, session_id: str | None, agent_did: str | None, event_id: str) -> bytes | None:
    """The Kafka key of an event in UTF-8; None if all three ids are absent. An empty id counts as absent."""
    first, second = (agent_did, session_id) if category == "governance" else (session_id, agent_did)
    key = first or second or event_id
    if not key:
        return None
    try:
        return key.encode()
    except UnicodeEncodeError:
        return key.encode("utf-8", "replace")


def partition_of(key: bytes, partitions: int) -> int:
    """The partition that every client must choose: Kafka's default, murmur2 of the key with the sign bit cleared.

    See `org.apache.kafka.common.utils.Utils.murmur2`; `murmur2_random` in librdkafka.
    """
    return (_murmur2(key) & 0x7FFFFFFF) % partitions


_KNOWN = frozenset(CATEGORIES)
_PREFIX = re.compile(r"[A-Za-z0-9._-]*")


def is_legal_prefix(prefix: str) -> bool:
    """Whether topic names may begin with `prefix`: Kafka allows 249 letters, digits, `.`, `_` and `-`."""
    return bool(_PREFIX.fullmatch(prefix)) and len(prefix) <= 200


@lru_cache(maxsize=65_536)
def _murmur2(data: bytes) -> int:
    mask, multiplier = 0xFFFFFFFF, 0x5BD1E995
    value = 0x9747B28C ^ len(data)
    whole = len(data) & ~3
    for at in range(0, whole, 4):
        word = int.from_bytes(data[at : at + 4], "little") * multiplier & mask
        word = (word ^ word >> 24) * multiplier & mask
        value = value * multiplier & mask ^ word
    if tail := data[whole:]:
        value = (value ^ int.from_bytes(tail, "little")) * multiplier & mask
    value = (value ^ value >> 13) * multiplier & mask
    return value ^ value >> 15
