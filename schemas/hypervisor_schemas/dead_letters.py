"""Records of `<prefix>dead-letters`: dead letters, and marks that say which of them were replayed. Pure.

A dead letter is the untouched record that a service could not use: its key, its value, and its headers in order.
After those come the headers below, in this order, as UTF-8 text. All headers before the last
`hypervisor-dead-letter-service` are the original's, even if they have such names. A dead letter goes to the
source's partition modulo the topic's partitions, so those of one source partition stay in order. The same dead
letter can be in the topic twice; its `DeadLetterId` tells.

A dead letter can also be an output of a record (a span) that was refused. Then its value is that output as the
service writes it, without a key, and one more header names it; topic, partition and offset are those of the record.

A replayed record goes back to its topic and partition with two more headers: the service that it is for (all others
ignore it), and the topic, partition and offset of the original. A replay mark is in the dead letter's partition,
written in the same transaction as the replayed record. It has no key, no value, and four headers (an output: five).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

__all__ = [
    "ERROR_CHARACTERS",
    "REPLAY_FOR",
    "REPLAY_OF",
    "DeadLetter",
    "DeadLetterId",
    "Header",
    "read_dead_letter",
    "read_replay_mark",
    "replay_for",
    "replays_output",
]

Header: TypeAlias = tuple[str, bytes | None]
"""A header of a Kafka record: names may repeat, and a value may be missing."""

_PREFIX = "hypervisor-dead-letter-"
SERVICE = _PREFIX + "service"
REASON = _PREFIX + "reason"
ERROR = _PREFIX + "error"
TOPIC = _PREFIX + "topic"
PARTITION = _PREFIX + "partition"
OFFSET = _PREFIX + "offset"
TIMESTAMP = _PREFIX + "timestamp"
SCHEMA_ID = _PREFIX + "schema-id"
OUTPUT = _PREFIX + "output"

REPLAY_FOR = "hypervisor-replay-for"
REPLAY_OF = "hypervisor-replay-of"
REPLAY_OUTPUT = "hypervisor-replay-output"

MARK_SERVICE = "hypervisor-replayed-service"
MARK_TOPIC = "hypervisor-replayed-topic"
MARK_PARTITION = "hypervisor-replayed-partition"
MARK_OFFSET = "hypervisor-replayed-offset"
MARK_OUTPUT = "hypervisor-replayed-output"
_MARK = (MARK_SERVICE, MARK_TOPIC, MARK_PARTITION, MARK_OFFSET)

ERROR_CHARACTERS = 1000
"""The length to which an error's text is cut. A character has at most four bytes, so that all our headers stay far
below the 64 KiB that the topic allows on top of the source's size."""


class DeadLetterId(NamedTuple):
    """The identity of a dead letter: the service, and the original's full topic name, partition and offset.

    `output` distinguishes the outputs of one record; it is "" if the record itself is the dead letter.
    """

    service: str
    topic: str
    partition: int
    offset: int
    output: str = ""

    @property
    def place(self) -> str:
        """The original's topic, partition and offset as people write them: `topic/partition/offset`."""
        return f"{self.topic}/{self.partition}/{self.offset}"

    def mark_headers(self) -> list[Header]:
        """The headers of this dead letter's replay mark, which has neither key nor value."""
        parts: tuple[str | int, ...] = self[:4]
        headers: list[Header] = [(name, _bytes(part)) for name, part in zip(_MARK, parts, strict=True)]
        return [*headers, (MARK_OUTPUT, _bytes(self.output))] if self.output else headers


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that a service could not use, and why.

    Attributes:
        key: The original's key.
        value: The original's value.
        original_headers: The original's headers, in order.
        service: The service that could not use it, under the name of its command.
        reason: The short, fixed word by which metrics count it (`RecordError.reason`).
        error: The error's sentence, cut to `ERROR_CHARACTERS` when written.
        topic: The original's topic, with its prefix.
        partition: The original's partition.
        offset: The original's offset.
        timestamp: The original's Kafka timestamp in milliseconds since 1970; negative if it has none.
        output: The name of the output that was refused, else "". Key, value and timestamp are then the output's.
    """

    key: bytes | None
    value: bytes | None
    original_headers: tuple[Header, ...]
    service: str
    reason: str
    error: str
    topic: str
    partition: int
    offset: int
    timestamp: int
    output: str = ""

    @property
    def id(self) -> DeadLetterId:
        """Its identity, which is the same for copies of it in the topic."""
        return DeadLetterId(self.service, self.topic, self.partition, self.offset, self.output)

    @property
    def schema_id(self) -> int | None:
        """The registry's schema id, if the value begins as in the Confluent wire format: 0x00, then four bytes."""
        value = self.value
        return int.from_bytes(value[1:5], "big") if value and len(value) >= 5 and value[0] == 0 else None

    def headers(self) -> list[Header]:
        """All headers of the record in the dead-letters topic; its key and value are the original's."""
        schema_id = self.schema_id
        ours: list[tuple[str, str | int]] = [
            (SERVICE, self.service),
            (REASON, self.reason),
            (ERROR, self.error[:ERROR_CHARACTERS]),
            (TOPIC, self.topic),
            (PARTITION, self.partition),
            (OFFSET, self.offset),
            (TIMESTAMP, self.timestamp),
            *([] if schema_id is None else [(SCHEMA_ID, schema_id)]),
            *([(OUTPUT, self.output)] if self.output else []),
        ]
        return [*self.original_headers, *((name, _bytes(content)) for name, content in ours)]

    def partition_among(self, partitions: int) -> int:
        """Its partition in a dead-letters topic that has `partitions` of them."""
        return self.partition % partitions

    def replay_headers(self) -> list[Header]:
        """The headers of the record when it goes back to its topic and partition, with the same key and value."""
        return [
            *(header for header in self.original_headers if not _is_ours(header[0])),
            (REPLAY_FOR, _bytes(self.service)),
            (REPLAY_OF, _bytes(self.id.place)),
            *([(REPLAY_OUTPUT, _bytes(self.output))] if self.output else []),
        ]


def read_dead_letter(key: bytes | None, value: bytes | None, headers: Sequence[Header] | None) -> DeadLetter | None:
    """A record of the dead-letters topic as a dead letter; None if it is a replay mark or of another format."""
    headers = headers or ()
    first = next((index for index in range(len(headers) - 1, -1, -1) if headers[index][0] == SERVICE), None)
    if first is None:
        return None
    ours = dict(headers[first:])
    try:
        return DeadLetter(
            key=key,
            value=value,
            original_headers=tuple(headers[:first]),
            service=_text(ours[SERVICE]),
            reason=_text(ours[REASON]),
            error=_text(ours[ERROR]),
            topic=_text(ours[TOPIC]),
            partition=_count(ours[PARTITION]),
            offset=_count(ours[OFFSET]),
            timestamp=int(_text(ours[TIMESTAMP])),
            output=_text(ours[OUTPUT]) if OUTPUT in ours else "",
        )
    except (KeyError, ValueError):
        return None


def read_replay_mark(headers: Sequence[Header] | None) -> DeadLetterId | None:
    """The dead letter that this record of the dead-letters topic marks as replayed; None if it is no mark."""
    names = tuple(name for name, _ in headers or ())
    if names not in {_MARK, (*_MARK, MARK_OUTPUT)}:
        return None
    service, topic, partition, offset, *output = (content for _, content in headers or ())
    try:
        output_name = _text(output[0]) if output else ""
        return DeadLetterId(_text(service), _text(topic), _count(partition), _count(offset), output_name)
    except ValueError:
        return None


def replay_for(headers: Sequence[Header] | None) -> str | None:
    """The one service that a replayed record is for; None for any other record, which is for all services."""
    if headers:
        for name, content in reversed(headers):
            if name == REPLAY_FOR and content is not None:
                return content.decode("utf-8", "replace")
    return None


def replays_output(headers: Sequence[Header] | None) -> bool:
    """Whether the value of a replayed record is an output of its service, not an event."""
    return any(name == REPLAY_OUTPUT for name, _ in headers or ())


def _is_ours(name: str) -> bool:
    return name in {REPLAY_FOR, REPLAY_OF, REPLAY_OUTPUT} or name.startswith(_PREFIX)


def _bytes(content: str | int) -> bytes:
    # Lone surrogates have no UTF-8.
    return str(content).encode("utf-8", "replace")


def _text(content: bytes | None) -> str:
    if content is None:
        raise ValueError("null")
    return content.decode()


def _count(content: bytes | None) -> int:
    count = int(_text(content))
    if count < 0:
        raise ValueError("negative")
    return count
