"""A producer to a Kafka in memory: `confluent_kafka.Producer`'s methods, transactional with a `transactional.id`.

Records stay in the producer until `flush()` or `commit_transaction()`: the worst case of librdkafka's behaviour.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple, NoReturn, TypeAlias

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import ClusterMetadata

from hypervisor_schemas.topics import partition_of
from hypervisor_telemetry.testing.memory.broker import Broker, MemoryMessage, failure
from hypervisor_telemetry.testing.memory.consumer import GroupMetadata
from hypervisor_telemetry.testing.memory.group import Committed, TopicPartition
from hypervisor_telemetry.testing.memory.log import Headers, Kind, ProducerId, Record

__all__ = ["HeadersArgument", "MemoryProducer", "as_bytes", "as_headers"]

DeliveryCallback: TypeAlias = Callable[[KafkaError | None, MemoryMessage], object]
HeadersArgument: TypeAlias = Mapping[str, str | bytes | None] | Sequence[tuple[str, str | bytes | None]]


class _State(Enum):
    """The state of a transactional producer. Each value is the name that librdkafka's errors use."""

    INIT = "Init"
    READY = "Ready"
    IN_TRANSACTION = "InTransaction"
    ABORTABLE = "AbortableError"
    FATAL = "FatalError"


class _Buffered(NamedTuple):
    topic_partition: TopicPartition
    record: Record
    on_delivery: DeliveryCallback | None


class _DeliveryReport(NamedTuple):
    on_delivery: DeliveryCallback | None
    error: KafkaError | None
    message: MemoryMessage


class MemoryProducer:
    """A producer. Delivery reports are called in `poll()`, `flush()`, `commit_` and `abort_transaction()`.

    Timeouts are accepted and not used: nothing ever waits, an absent broker times out at once.
    """

    def __init__(self, broker: Broker, settings: Mapping[str, Any]) -> None:
        self._broker = broker
        self._transactional_id: str | None = settings.get("transactional.id")
        self._timeout = float(settings.get("transaction.timeout.ms", 60_000)) / 1000
        self._max_bytes = int(settings.get("message.max.bytes", 1_000_000))
        self._state = _State.INIT
        self._error: KafkaError | None = None
        self._resumable: str | None = None
        self._id: ProducerId | None = None
        self._is_known_to_broker = False
        self._buffer: deque[_Buffered] = deque()
        self._reports: deque[_DeliveryReport] = deque()
        self._failed = 0

    # Records

    def produce(  # noqa: PLR0917 - confluent_kafka's own
        self,
        topic: str,
        value: str | bytes | None = None,
        key: str | bytes | None = None,
        partition: int = -1,
        callback: DeliveryCallback | None = None,
        on_delivery: DeliveryCallback | None = None,
        timestamp: int = 0,
        headers: HeadersArgument | None = None,
    ) -> None:
        """Buffer a record.

        Raises:
            KafkaException: Outside a transaction, fenced, no such partition, or too large.
        """
        with self._broker.lock:
            if self._transactional_id is not None and self._state is not _State.IN_TRANSACTION:
                code = KafkaError._FATAL if self._state is _State.FATAL else KafkaError._STATE
                _refuse_record(code)
            logs = self._broker.cluster.topics.get(topic)
            data, key_data = as_bytes(value), as_bytes(key)
            if partition < 0:
                partition = partition_of(key_data or b"", len(logs)) if logs else 0
            elif logs is not None and partition >= len(logs):
                _refuse_record(KafkaError._UNKNOWN_PARTITION)
            if len(data or b"") + len(key_data or b"") > self._max_bytes:
                _refuse_record(KafkaError.MSG_SIZE_TOO_LARGE)
            timestamp_ms = timestamp or int(self._broker.now() * 1000)
            record = Record(-1, Kind.PLAIN, data, key_data, as_headers(headers), timestamp_ms)
            self._buffer.append(_Buffered((topic, partition), record, on_delivery or callback))

    def poll(self, timeout: float = -1) -> int:  # noqa: ARG002 - no waiting
        """Call the delivery reports that are due; returns their number."""
        count = 0
        while True:
            with self._broker.lock:
                if not self._reports:
                    return count
                report = self._reports.popleft()
            if report.on_delivery is not None:
                report.on_delivery(report.error, report.message)
                count += 1

    def flush(self, timeout: float = -1) -> int:  # noqa: ARG002 - no waiting
        """Append the buffered records to the log; returns the number of those that are left.

        Raises:
            KafkaException: This producer learned now that it is fenced.
        """
        with self._broker.lock:
            was_fatal = self._state is _State.FATAL
            self.deliver()
        self.poll(0)
        if self._state is _State.FATAL and not was_fatal:
            raise KafkaException(self._error)
        return len(self)

    def purge(self, in_queue: bool = True, in_flight: bool = True, blocking: bool = True) -> None:  # noqa: ARG002 - nothing is in flight
        """Drop the buffered records; each one gets its delivery report."""
        with self._broker.lock:
            while in_queue and self._buffer:
                self._fail(self._buffer.popleft(), KafkaError(KafkaError._PURGE_QUEUE))

    def list_topics(self, topic: str | None = None, timeout: float = -1) -> ClusterMetadata:  # noqa: ARG002 - no waiting
        """Describe all topics, or one."""
        with self._broker.lock:
            return self._broker.request("list_topics", lambda: self._broker.metadata(topic))

    def __len__(self) -> int:
        with self._broker.lock:
            return len(self._buffer) + len(self._reports)

    def __bool__(self) -> bool:
        return True

    # Transactions

    def init_transactions(self, timeout: float = -1) -> None:  # noqa: ARG002 - no waiting
        """Fence the producers that had this transactional id before."""
        with self._broker.lock:
            transactional_id = self._require("init_transactions", _State.INIT)
            now = self._broker.now()

            def begin() -> None:
                self._id = self._broker.cluster.new_epoch(transactional_id, self._timeout, now)

            self._request("init_transactions", begin)
            self._state = _State.READY

    def begin_transaction(self) -> None:
        """Begin a transaction. The broker learns of it by its first record or offset."""
        with self._broker.lock:
            self._require("begin_transaction", _State.READY)
            self._state = _State.IN_TRANSACTION
            self._is_known_to_broker = False
            self._failed = 0

    def send_offsets_to_transaction(
        self,
        positions: Sequence[confluent_kafka.TopicPartition],
        group_metadata: object,
        timeout: float = -1,  # noqa: ARG002 - no waiting
    ) -> None:
        """Make group offsets a part of the transaction. Buffered records stay buffered.

        Raises:
            KafkaException: UNKNOWN_MEMBER_ID or ILLEGAL_GENERATION: the member of the metadata is gone or its epoch
                is older; abort. Fenced, or timed out (abort, or send again).
        """
        with self._broker.lock:
            self._require("send_offsets_to_transaction", _State.IN_TRANSACTION)
            if not isinstance(group_metadata, GroupMetadata):
                raise TypeError(f"expected GroupMetadata, {type(group_metadata).__name__} found")
            offsets = {
                (position.topic, position.partition): Committed(position.offset, position.metadata)
                for position in positions
                if position.offset >= 0
            }
            if not offsets:
                return
            self._is_known_to_broker = True
            group, member = group_metadata
            self._request(
                "send_offsets_to_transaction",
                lambda: self._broker.cluster.add_offsets(
                    self._known_id(), group, member, offsets, self._broker.now()
                ),
                is_resumable=False,
            )

    def commit_transaction(self, timeout: float = -1) -> None:  # noqa: ARG002 - no waiting
        """Flush, then commit. After a retriable error only this call may be repeated."""
        self._end("commit_transaction", commit=True)

    def abort_transaction(self, timeout: float = -1) -> None:  # noqa: ARG002 - no waiting
        """Drop the buffered records, then abort. After a retriable error only this call may be repeated."""
        self._end("abort_transaction", commit=False)

    def _end(self, operation: str, *, commit: bool) -> None:
        abortable = () if commit else (_State.ABORTABLE,)
        with self._broker.lock:
            self._require(operation, _State.IN_TRANSACTION, *abortable)
            if commit:
                self.deliver()
            else:
                self.purge()
        self.poll(0)
        with self._broker.lock:
            if self._state is _State.FATAL:
                raise KafkaException(self._error)
            if self._buffer:
                self._resumable = operation
                reason = f"Failed to flush all outstanding messages: {len(self._buffer)} message(s) remaining"
                raise failure(KafkaError._TIMED_OUT, reason, retriable=True)
            if commit and self._failed:
                self._state, self._resumable = _State.ABORTABLE, None
                self._error = KafkaError(
                    KafkaError._INCONSISTENT,
                    f"{self._failed} message(s) failed delivery (see individual delivery reports)",
                    txn_requires_abort=True,
                )
                raise KafkaException(self._error)
            # The broker knows nothing of a transaction without a record or an offset.
            if self._is_known_to_broker:
                self._request(
                    operation,
                    lambda: self._broker.cluster.end(self._known_id(), commit=commit, now=self._broker.now()),
                )
            self._state = _State.READY

    def deliver(self) -> None:
        """Append the buffered records to the log; their reports are due then. The caller holds the lock."""
        while self._buffer and not self._broker.is_away and self._state is not _State.FATAL:
            buffered = self._buffer.popleft()
            producer = None if self._transactional_id is None else self._known_id()
            self._is_known_to_broker = True
            now = self._broker.now()
            try:
                self._broker.request(
                    "deliver",
                    lambda: self._broker.cluster.write(buffered.topic_partition, buffered.record, producer, now),  # noqa: B023 - called at once
                )
            except KafkaException as refused:
                error: KafkaError = refused.args[0]
                self._fail(buffered, error)
                self._remember(error)
            else:
                self._broker.activity += 1
                message = MemoryMessage.of(buffered.topic_partition, buffered.record)
                self._reports.append(_DeliveryReport(buffered.on_delivery, None, message))

    def _fail(self, buffered: _Buffered, error: KafkaError) -> None:
        self._failed += 1
        message = MemoryMessage.of(buffered.topic_partition, buffered.record, error)
        self._reports.append(_DeliveryReport(buffered.on_delivery, error, message))

    def _known_id(self) -> ProducerId:
        if self._id is None:
            raise AssertionError("init_transactions() comes first")
        return self._id

    def _require(self, operation: str, *states: _State) -> str:
        if self._transactional_id is None:
            raise failure(
                KafkaError._NOT_CONFIGURED, "The Transactional API requires transactional.id to be configured"
            )
        if self._state is _State.FATAL:
            raise KafkaException(self._error)
        if self._resumable is not None and self._resumable != operation:
            conflict = f"Conflicting {self._resumable} API call is already in progress"
            raise failure(KafkaError._CONFLICT, conflict, retriable=True)
        if self._state not in states:
            if self._state is _State.ABORTABLE:
                raise KafkaException(self._error)
            raise failure(KafkaError._STATE, f"Operation not valid in state {self._state.value}")
        return self._transactional_id

    def _request(self, operation: str, effect: Callable[[], None], *, is_resumable: bool = True) -> None:
        try:
            self._broker.request(operation, effect, retriable=True)
        except KafkaException as refused:
            error: KafkaError = refused.args[0]
            self._remember(error)
            self._resumable = operation if is_resumable and error.retriable() else None
            raise
        self._resumable = None

    def _remember(self, error: KafkaError) -> None:
        if error.fatal():
            self._state, self._error = _State.FATAL, error
        elif error.txn_requires_abort():
            self._state, self._error = _State.ABORTABLE, error


def _refuse_record(code: int) -> NoReturn:
    error = KafkaError(code)
    raise failure(code, f"Unable to produce message: {error.str()}")


def as_bytes(data: str | bytes | None) -> bytes | None:
    """Return the bytes of a key or a value."""
    return data.encode() if isinstance(data, str) else data


def as_headers(headers: HeadersArgument | None) -> Headers | None:
    """Return headers in the form that readers get."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers or ()
    return [(name, as_bytes(value)) for name, value in pairs] or None
