"""Records that a service reads and writes: where they lie, and what can become of them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple, TypeAlias

__all__ = ["OutputBatch", "OutputRecord", "Record", "Result", "TopicPartition"]


class TopicPartition(NamedTuple):
    """A partition of a topic, by the topic's full name."""

    topic: str
    partition: int


class Result(str, Enum):  # noqa: UP042 - alike to the event types
    """The result of a good record. A bad one is counted by its `RecordError.reason`."""

    APPLIED = "applied"
    IGNORED = "ignored"
    DUPLICATE = "duplicate"


class Record(NamedTuple):
    """One record as it was read."""

    topic_partition: TopicPartition
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] | None
    published_ms: int
    """Kafka's time of the record, since 1970; 0 where it has none."""


OutputRecord: TypeAlias = "tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]] | None]"
"""Key, value and headers of one record to produce."""


class OutputBatch(NamedTuple):
    """Records to produce to one partition."""

    topic_partition: TopicPartition
    records: Sequence[OutputRecord]
