"""The restoration of one partition: what is read, and what it is put into.

There are two kinds. A partition of the source is restored from its changelog; then the source is read once more
over the dedup window. A partition of a public table is its own changelog.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from enum import Enum
from typing import Any, cast

from hypervisor_consumers.runtime.decode.batch_decoder import id_numbers_of
from hypervisor_consumers.runtime.kafka.client_factory import any_headers, headers_of
from hypervisor_consumers.runtime.kafka.client_types import Message
from hypervisor_consumers.runtime.partitions.assignment import AssignedPartition, Phase
from hypervisor_consumers.runtime.partitions.partition import Partition
from hypervisor_consumers.runtime.protocols import View
from hypervisor_consumers.runtime.records import TopicPartition
from hypervisor_schemas.dead_letters import replay_for
from hypervisor_schemas.errors import RecordError, StateError
from hypervisor_schemas.rate_limited_log import RateLimitedLog
from hypervisor_schemas.wire.codec import EventDecoder

__all__ = ["Restoration", "Stage", "TableRows", "WindowReader"]


class Stage(Enum):
    """The stage of a restoration."""

    END = 1
    """It has to be asked where the changelog ends."""
    CHANGELOG = 2
    """The changelog is read."""
    SOURCE = 3
    """It has to be asked where the source begins and ends, and where the group stands."""
    WINDOW = 4
    """The source is read over the dedup window."""
    DONE = 5


class TableRows:
    """The rows of one partition of a public table.

    Args:
        view: The service's way of reading them.
    """

    def __init__(self, view: View) -> None:
        self.view = view
        self.rows: dict[Any, Any] = view.new_rows()
        self.next_offset = 0


class Restoration:
    """One partition that is being restored.

    Args:
        assigned: The partition; once it is revoked, nobody wants it back.
        into: What its records are put into: the state of a partition of the source, or the rows of a public table.
        began: When it was asked for, in seconds.
        counted_to: The offset up to which its numbers were shown by this copy, where they were.
    """

    # size: a restoration is a row of facts that the restorer's steps fill in one after another

    def __init__(
        self,
        assigned: AssignedPartition[Any],
        into: Partition[Any, Any] | TableRows,
        began: float,
        counted_to: int = 0,
    ) -> None:
        self.assigned = assigned
        self.into = into
        self.began = began
        self.counted_to = counted_to
        """Up to where was counted before, as far as it is known; more than what is kept, if that was undone."""
        self.stage = Stage.END
        self.not_before = 0.0
        self.offset: int | None = None
        """The offset to read from, when it is done."""
        self.reading: TopicPartition | None = None
        self.position = 0
        self.until = 0
        self.has_more = False
        """Whether the source has more than the state includes."""
        self.asked_at = 0.0
        """The time when Kafka was asked for the changelog's end, or for what holds it up."""
        self.is_one_by_one = False
        """Whether each record has to be put in as it comes, not only the last of each key."""
        self.why_late = ""
        """More that is known about why it takes long."""
        self.error: StateError | None = None
        self._last: dict[bytes | None, bytes | None] = {}

    @property
    def topic_partition(self) -> TopicPartition:
        """The name of the partition."""
        return self.assigned.topic_partition

    @property
    def is_wanted(self) -> bool:
        """Whether this copy still has the partition."""
        return self.assigned.phase is Phase.RESTORING

    def begin_changelog(self, now: float) -> None:
        """Read the changelog from now on."""
        self.stage, self.asked_at, self._last = Stage.CHANGELOG, now, {}

    def take_changelog(self, records: Sequence[Message], log: RateLimitedLog) -> None:
        """Take records of the changelog."""
        if self.is_one_by_one:
            for record in records:
                self._put(record.key(), record.value(), log)
        else:
            # Only the last record of a key counts; in a log that is not compacted yet few are the last.
            keys, values = [record.key() for record in records], [record.value() for record in records]
            self._last.update(zip(keys, values, strict=True))

    def finish_changelog(self, log: RateLimitedLog) -> bool:
        """Put in the last record of each key.

        False: that is not the same as putting in all of them, which has to be done once more, one by one. A row
        that can't be used doesn't replace the one before, and a stranger may have written the same key in two ways.
        """
        last, self._last = self._last, {}
        are_used = [self._put(key, value, log) for key, value in last.items()]
        if isinstance(self.into, Partition) or not last:
            return True
        rows = self.into.rows
        if all(are_used) and len(rows) == len(last) - list(last.values()).count(None):
            return True
        rows.clear()
        self.is_one_by_one = True
        return False

    def _put(self, key: bytes | None, value: bytes | None, log: RateLimitedLog) -> bool:
        """Put a record in. False: it can't be used."""
        if isinstance(self.into, Partition):
            self.into.load(key, value)
            return True
        try:
            self.into.view.apply(self.into.rows, key, value)
        except RecordError as error:
            log.log(logging.WARNING, "row", "%s: %s", self.topic_partition.topic, error)
            return False
        return True


class WindowReader:
    """Reads event ids of the source into a partition's dedup window.

    Args:
        service: The service's name, as replayed dead letters know it.
        decoder: Knows the framings and schemas of records.
    """

    def __init__(self, service: str, decoder: EventDecoder) -> None:
        self._service = service
        self._decoder = decoder

    def read(self, partition: Partition[Any, Any], records: Sequence[Message]) -> None:
        """Know the ids of these records.

        Raises:
            RegistryUnavailable: A record needs a schema that can't be had now.
        """
        is_plain = not any_headers(records)
        if is_plain and self._read_together(partition, records):
            return
        for record in records:
            receiver = None if is_plain else replay_for(headers_of(record))
            if receiver is not None and receiver != self._service:
                continue
            try:
                event_id = self._decoder.event_id(record.value())
            except RecordError:
                continue  # it is a dead letter, or was one
            partition.know(record.offset(), event_id)

    def _read_together(self, partition: Partition[Any, Any], records: Sequence[Message]) -> bool:
        """Take the ids of a batch at once, if it can be done; many times as fast."""
        first = records[0].offset()
        if records[-1].offset() != first + len(records) - 1:
            return False
        values = cast("list[bytes]", [record.value() for record in records])
        try:
            framing = self._decoder.framing_of(values[0])
        except RecordError:
            return False
        numbers = None if framing is None else id_numbers_of(values, framing)
        return numbers is not None and partition.know_all(first, numbers)
