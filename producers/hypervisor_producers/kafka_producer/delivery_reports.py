"""librdkafka's report of each event: it was delivered, it failed, or it has to be sent again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeAlias

from confluent_kafka import KafkaError, Message

from hypervisor_schemas.rate_limited_log import RateLimitedLog

__all__ = ["DeliveryReport", "DeliveryReports"]

DeliveryReport: TypeAlias = Callable[[KafkaError | None, Message], None]
"""Called with the error, or None, and the message."""

# Errors of the producer, not of the event: another producer can send it.
_WORTH_ANOTHER_PRODUCER = frozenset(
    {
        KafkaError._PURGE_QUEUE,
        KafkaError._PURGE_INFLIGHT,
        KafkaError._FATAL,
        KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
        KafkaError.UNKNOWN_PRODUCER_ID,
        KafkaError.INVALID_PRODUCER_EPOCH,
    }
)


class DeliveryReports(dict[str, DeliveryReport]):
    """The function that librdkafka calls for each event, by topic, and the counts that these functions keep.

    There is one function per topic, made on first use: asking a message for its topic would cost more. They are
    called by one thread alone.
    """

    def __init__(self, limited: RateLimitedLog) -> None:
        super().__init__()
        self.delivered = 0
        self.failed = 0
        self.unsent: list[Message] = []
        """Messages that another producer can send."""
        self.is_final = False
        """Whether there will be no other producer, so that such messages fail."""
        self._limited = limited
        self._last_offsets: dict[str, dict[int, int]] = {}

    def __missing__(self, topic: str) -> DeliveryReport:
        last_offsets: dict[Any, int] = self._last_offsets.setdefault(topic, {})

        def report(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                self._not_delivered(error, message)
                return
            self.delivered += 1
            # librdkafka doesn't know the offset if a broker has only said that it had the message already.
            if (offset := message.offset()) is not None:
                last_offsets[message.partition()] = offset

        return self.setdefault(topic, report)

    def next_offsets(self) -> dict[tuple[str, int], int]:
        """Per topic and partition, the offset after the last acknowledged event."""
        return {
            (topic, partition): offset + 1
            for topic, last in list(self._last_offsets.items())
            for partition, offset in last.copy().items()
        }

    def _not_delivered(self, error: KafkaError, message: Message) -> None:
        if error.code() in _WORTH_ANOTHER_PRODUCER and not self.is_final:
            self.unsent.append(message)
        else:
            self.failed += 1
            self._limited.log(
                logging.WARNING, error.name(), "An event for %s was not delivered: %s", message.topic(), error.str()
            )
