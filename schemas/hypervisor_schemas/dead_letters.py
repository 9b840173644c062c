"""Records of `<prefix>dead-letters`: dead letters, and marks that say which of them were replayed. Pure.

A dead letter is the record that a service could not use, untouched: its key, its value, its headers in order.
Behind those come the headers below, in this order, as UTF-8 text. What stands before the last
`hypervisor-dead-letter-service` is the original's, also where it has such a name. A dead letter goes to the
source's partition modulo the topic's partitions, so those of one source partition stay in order. The same one can
be there twice: it is known by its `DeadLetterId`.

Where it was not the record that could not be used, but what came of it that nobody took (a span), the value is that
output as the service writes it, without a key, and a header more names it; the place is that of the record.

A replayed record goes back to the place it came from, with two headers more: the service that it is for (every
other one ignores it) and the place of the original. A replay mark stands in the dead letter's partition, written in
the same transaction as the replayed record: no key, no value, four headers.
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
"""As Kafka has it: names may repeat, a value may be missing."""

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
"""An error's text is cut to this. At most four bytes each: all our headers stay far below the 64 KiB that the topic
allows on top of the source's size."""


class DeadLetterId(NamedTuple):
    """What a dead letter is known by: the service, and the original's full topic name, partition and offset.

    `output` tells the outputs of one record apart; it is "" where the record itself is the dead letter.
    """

    service: str
    topic: str
    partition: int
    offset: int
    output: str = ""

    @property
    def place(self) -> str:
        """The original's place as people write it: `topic/partition/offset`."""
        return f"{self.topic}/{self.partition}/{self.offset}"

    def mark_headers(self) -> list[Header]:
        """The headers of the replay mark of this dead letter; it has neither key nor value."""
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
        service: The service that could not use it, as its command is called.
        reason: The short, fixed word that metrics count it by (`RecordError.reason`).
        error: The error's sentence; cut to `ERROR_CHARACTERS` when written.
        topic: The original's topic, with its prefix.
        partition: The original's partition.
        offset: The original's offset.
        timestamp: The original's Kafka timestamp, milliseconds since 1970; negative if it has none.
        output: What names the output that was refused; then key, value and timestamp are its own.
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
        """What it is known by, also where it is in the topic twice."""
        return DeadLetterId(self.service, self.topic, self.partition, self.offset, self.output)

    @property
    def schema_id(self) -> int | None:
        """The registry's id, where the value begins as the Confluent wire format does: 0x00, four bytes."""
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
        """Its partition in a dead-letters topic of so many partitions."""
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
    """A record of the dead-letters topic as a dead letter; None: it is a replay mark, or not of this format."""
    headers = headers or ()
    at = next((at for at in range(len(headers) - 1, -1, -1) if headers[at][0] == SERVICE), None)
    if at is None:
        return None
    ours = dict(headers[at:])
    try:
        return DeadLetter(
            key=key,
            value=value,
            original_headers=tuple(headers[:at]),
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
    """Which dead letter this record of the dead-letters topic marks as replayed; None: it is no mark."""
    names = tuple(name for name, _ in headers or ())
    if names not in {_MARK, (*_MARK, MARK_OUTPUT)}:
        return None
    service, topic, partition, offset, *output = (content for _, content in headers or ())
    try:
        which = _text(output[0]) if output else ""
        return DeadLetterId(_text(service), _text(topic), _count(partition), _count(offset), which)
    except ValueError:
        return None


def replay_for(headers: Sequence[Header] | None) -> str | None:
    """The one service that a replayed record is for; None: it is no replayed record, and for everybody."""
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
    number = int(_text(content))
    if number < 0:
        raise ValueError("negative")
    return number
