"""Delivering a fold's outputs before their transaction begins, and keeping those that are refused."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from hypervisor_consumers.runtime.commit.output_thread import OutputThread
from hypervisor_consumers.runtime.ops.runtime_metrics import RuntimeMetrics
from hypervisor_consumers.runtime.partitions.fold_partition import FoldPartition
from hypervisor_consumers.runtime.protocols import OutputCodec
from hypervisor_consumers.runtime.records import Record, TopicPartition
from hypervisor_schemas.dead_letters import DeadLetter
from hypervisor_schemas.errors import OutputRefused, UndecodableRecord
from hypervisor_schemas.rate_limited_log import RateLimitedLog

__all__ = ["OutputDelivery"]

log = logging.getLogger(__name__)

S = TypeVar("S")
O = TypeVar("O")  # noqa: E741 - O for output, as in the protocols


class OutputDelivery(Generic[S, O]):
    """Hands outputs to their receiver.

    Args:
        service: The service's name, as dead letters have it.
        thread: Calls the receiver; None: the service has no outputs.
        codec: Keeps refused outputs as dead letters; without it they are only counted and logged.
        now: Seconds since 1970.
    """

    def __init__(
        self,
        service: str,
        thread: OutputThread[O] | None,
        codec: OutputCodec[O] | None,
        runtime_metrics: RuntimeMetrics,
        now: Callable[[], float],
    ) -> None:
        self._service = service
        self.thread = thread
        self._codec = codec
        self._runtime_metrics = runtime_metrics
        self._now = now
        self._limited = RateLimitedLog(log)

    def deliver(self, partitions: Sequence[tuple[TopicPartition, FoldPartition[S, O]]], seconds: float) -> None:
        """Hand over all outputs of these partitions.

        Raises:
            OSError, OutputUnavailable: Not now, or not yet.
        """
        if self.thread is None:
            return
        self.thread.hand_over([one.pending.outputs for _, one in partitions], seconds)
        for topic_partition, one in partitions:
            for offset, output, reason in one.pending.outputs.refused():
                self._refuse(topic_partition, one, offset, output, reason)

    def _refuse(
        self, topic_partition: TopicPartition, one: FoldPartition[S, O], offset: int, output: O, reason: str
    ) -> None:
        """Make a dead letter of an output that nobody takes; its event was used, and counts so."""
        self._limited.log(
            logging.WARNING, "refused", "An output was refused, it is in the dead letters: %s", reason
        )
        self._runtime_metrics.refused()
        if self._codec is None:
            return
        one.pending.dead_letters.append(
            DeadLetter(
                key=None,
                value=self._codec.write(output),
                original_headers=(),
                service=self._service,
                reason=OutputRefused.reason,
                error=reason,
                topic=topic_partition.topic,
                partition=topic_partition.partition,
                offset=offset,
                timestamp=int(self._now() * 1000),
                output=self._codec.name(output),
            )
        )

    def read(self, record: Record) -> O:
        """The output that a replayed dead letter holds.

        Raises:
            RecordError: It is no output of this service.
        """
        if self._codec is None:
            raise UndecodableRecord("This service has no outputs that could be delivered again.")
        return self._codec.read(record.value or b"")

    def abandon(self) -> None:
        """Forget what is being delivered."""
        if self.thread is not None:
            self.thread.abandon()

    def close(self) -> None:
        """Let go of the receiver."""
        if self.thread is not None:
            self.thread.close()
