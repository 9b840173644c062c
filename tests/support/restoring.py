"""Restoring partitions of the small service that counts words, each step by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypervisor_consumers.runtime.kafka.hanging_transactions import HangingTransactions
from hypervisor_consumers.runtime.partitions.assignment import Assignment
from hypervisor_consumers.runtime.partitions.partition import Partition
from hypervisor_consumers.runtime.partitions.restoration import Restoration, TableRows
from hypervisor_consumers.runtime.partitions.restore import Restorer
from hypervisor_schemas.errors import StateError
from hypervisor_schemas.wire.codec import EventDecoder
from tests.support.word_count_service import HERE, SETTINGS, STATE, Words, WordState, World, started, times

if TYPE_CHECKING:
    from hypervisor_consumers.runtime.records import TopicPartition

P = Partition[WordState, str]


class Workshop:
    """A restorer whose steps are the test's."""

    def __init__(self, world: World, decoder: EventDecoder | None = None, window: int = 1000) -> None:
        self.world = world
        self.window = window
        self.restorer = Restorer(
            world.kafka,
            SETTINGS,
            service="words",
            state_topic=STATE,
            decoder=decoder or EventDecoder(),
            hanging=HangingTransactions(world.kafka, SETTINGS, {}),
            clock=world.clock,
        )
        self.assignment: Assignment[Any] = Assignment()
        self.done: dict[TopicPartition, Restoration] = {}

    def begin(self, *topic_partitions: TopicPartition) -> None:
        for topic_partition in topic_partitions:
            self.begin_into(topic_partition, Partition(topic_partition.partition, Words(), self.window))

    def begin_into(self, topic_partition: TopicPartition, into: P | TableRows) -> None:
        self.assignment.assign([topic_partition])
        self.restorer.begin(self.assignment[topic_partition], into)

    def cancel(self, *topic_partitions: TopicPartition) -> None:
        """The partitions went."""
        self.assignment.revoke(topic_partitions)
        self.restorer.wake()

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.restorer.step()
            self.done |= {job.topic_partition: job for job in self.restorer.finished()}

    def partition(self, topic_partition: TopicPartition = HERE) -> P:
        job = self.done[topic_partition]
        assert job.error is None
        assert isinstance(job.into, Partition)
        assert job.offset == job.into.next_offset
        return job.into

    def restored(self, *topic_partitions: TopicPartition) -> P:
        """The first of these, after at most ten steps."""
        self.begin(*(topic_partitions or (HERE,)))
        self.step(10)
        return self.partition(*topic_partitions[:1])

    def error(self, topic_partition: TopicPartition = HERE) -> str:
        self.begin(topic_partition)
        self.step(10)
        error = self.done[topic_partition].error
        assert isinstance(error, StateError)
        return str(error)


def counted(partition: P) -> dict[str, int]:
    return times(partition.snapshot())


def told(world: World, *words: object) -> None:
    """Words in partition 0 that a copy has counted and committed."""
    world.say(0, *words)
    copy = started(world, 0)
    copy.read()
    assert copy.commit() == {}
    copy.consumer.close()
