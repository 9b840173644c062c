"""The public table `<prefix>agent-rings`: the ring of every agent in each of its sessions, for any reader.

It is a compacted topic. `ring-metrics` writes it, in the transaction of the events that its rows follow from, so
read it with `isolation.level=read_committed`. One record:

* key: the JSON array `["<agent_did>","<session_id>"]`, UTF-8;
* value: the JSON object of `AgentRing`, or none: the session has been idle for long and its row is gone;
* partition: Kafka's default, murmur2, but of the agent's UTF-8 alone, so that all rows of an agent are in one.

The last record of a key is valid. An agent's current ring is that of its row with the greatest `changed_at`; among
equal ones, of the row with the greatest `event_id`. Fields may be added at the end; a reader ignores those that it
doesn't know.
"""

from __future__ import annotations

import msgspec

from hypervisor_schemas.errors import UndecodableRecord
from hypervisor_schemas.payloads import Ring

__all__ = ["TOPIC", "AgentRing", "decode_key", "decode_value", "encode_key", "encode_value", "partition_key"]

TOPIC = "agent-rings"
"""The topic's name without the prefix."""


class AgentRing(msgspec.Struct, frozen=True):
    """The ring of one agent in one session.

    "unknown" stands for an absent agent or session; there is no row if both are absent. Times are event times in
    whole microseconds since 1970, as in the Avro field of events. The duration is in microseconds too.
    """

    agent_did: str
    session_id: str
    ring: Ring | None = None
    """0 (root) to 3 (sandbox). This and the next two fields are null if no event named a ring."""
    changed_at: int | None = None
    event_id: str | None = None
    """The event that decided the ring."""
    elevated_since: int | None = None
    """The beginning of the running elevation; null if none is running."""
    ended_at: int | None = None
    """The end of the last elevation that has ended. This and the next two fields are null if none has."""
    ended_event_id: str | None = None
    ended_duration: int | None = None


def partition_key(agent: str) -> bytes:
    """The bytes from which the partition of an agent's rows is computed."""
    return agent.encode("utf-8")


def encode_key(agent: str, session: str) -> bytes:
    """The record's key."""
    return _encode((agent, session))


def decode_key(key: bytes | None) -> tuple[str, str]:
    """Agent and session of a record's key.

    Raises:
        UndecodableRecord: The key is not a JSON array of two strings.
    """
    if key is None:
        raise UndecodableRecord('The record has no key; it must be a JSON array, ["agent","session"].')
    try:
        return _decode_key(key)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UndecodableRecord(f'The key is not a JSON array, ["agent","session"]: {error}.') from None


def encode_value(row: AgentRing) -> bytes:
    """The record's value; the same row gives the same bytes."""
    return _encode(row)


def decode_value(value: bytes) -> AgentRing:
    """The row of a record's value.

    Raises:
        UndecodableRecord: The value is not a JSON object with these fields.
    """
    try:
        return _decode_value(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UndecodableRecord(f"The value is not the JSON object of an agent's ring: {error}.") from None


_encode = msgspec.json.Encoder().encode
_decode_key = msgspec.json.Decoder(tuple[str, str]).decode
_decode_value = msgspec.json.Decoder(AgentRing).decode
