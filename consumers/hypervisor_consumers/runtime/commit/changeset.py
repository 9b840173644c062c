"""A commit as a value: everything that one transaction carries, built before it begins."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from hypervisor_consumers.runtime.kafka.partition_counts import PartitionCounts
from hypervisor_consumers.runtime.partitions.fold_partition import FoldPartition
from hypervisor_consumers.runtime.protocols import Home, Publish
from hypervisor_consumers.runtime.records import OutputBatch, OutputRecord, TopicPartition
from hypervisor_schemas.dead_letters import DeadLetter
from hypervisor_schemas.topics import partition_of

__all__ = ["Changeset", "ChangesetBuilder", "ServiceTopics"]

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class ServiceTopics:
    """The full names of the topics of one service."""

    prefix: str
    source: str
    state: str
    dead_letters: str


@dataclass(frozen=True, slots=True)
class Changeset:
    """The records and the input offsets of one transaction."""

    batches: Sequence[OutputBatch]
    """Records for partitions that `offsets` names, in the order in which they are written."""
    offsets: Mapping[TopicPartition, int]
    """The offset of the next record of each input partition.

    Never empty: Kafka proves by them that the sender is still a member of its group, and a transaction without
    offsets would commit whoever sends it.
    """
    changelog_records: int = 0
    changelog_bytes: int = 0
    """Bytes of keys and values, before compression."""

    def __post_init__(self) -> None:
        if not self.offsets:
            raise ValueError("a transaction without offsets would commit whoever sends it")


class ChangesetBuilder(Generic[S]):
    """Builds the changesets of one service. Pure, but for counts of partitions that are not known yet.

    Args:
        topics: The service's topics.
        counts: The partition counts of topics.
        publish: Makes records of a public topic from the changes of a state, where the service has such.
    """

    def __init__(self, topics: ServiceTopics, counts: PartitionCounts, publish: Publish[S] | None) -> None:
        self.topics = topics
        self._counts = counts
        self._publish = publish

    def build(
        self,
        changed: Mapping[TopicPartition, FoldPartition[S, Any]],
        offsets: Mapping[TopicPartition, int],
        state_partitions: int,
    ) -> Changeset:
        """The changes of these partitions, and before them what an abort may have undone.

        Raises:
            KafkaException: Kafka doesn't tell now how many partitions a topic has.
        """
        batches: list[OutputBatch] = []
        changelog_records = changelog_bytes = 0
        for topic_partition, one in changed.items():
            changelog = self._changelog_of(topic_partition, one, state_partitions)
            changelog_records += len(changelog.records)
            changelog_bytes += sum(len(key or b"") + len(value or b"") for key, value, _ in changelog.records)
            own = [changelog, *self._dead_letters_of(one.pending.dead_letters)]
            own += self._public_records_of(topic_partition, one)
            batches += one.rewrite.with_earlier(own)
        return Changeset(batches, offsets, changelog_records, changelog_bytes)

    def dead_letter_partitions(self) -> set[TopicPartition]:
        """Every partition of the dead letters' topic.

        Raises:
            KafkaException: Kafka doesn't tell now how many there are.
        """
        topic = self.topics.dead_letters
        return {TopicPartition(topic, number) for number in range(self._counts.of(topic))}

    def _changelog_of(
        self, topic_partition: TopicPartition, one: FoldPartition[S, Any], state_partitions: int
    ) -> OutputBatch:
        rows: list[OutputRecord] = [(key, value, None) for key, value in one.partition.changes()]
        number = topic_partition.partition % state_partitions
        return OutputBatch(TopicPartition(self.topics.state, number), rows)

    def _dead_letters_of(self, letters: Sequence[DeadLetter]) -> Iterator[OutputBatch]:
        topic = self.topics.dead_letters
        by_partition: defaultdict[int, list[OutputRecord]] = defaultdict(list)
        for letter in letters:
            number = letter.partition_among(self._counts.of(topic))
            by_partition[number].append((letter.key, letter.value, letter.headers()))
        return (OutputBatch(TopicPartition(topic, number), records) for number, records in by_partition.items())

    def _public_records_of(
        self, topic_partition: TopicPartition, one: FoldPartition[S, Any]
    ) -> Iterator[OutputBatch]:
        if self._publish is None:
            return
        home = Home(topic_partition.partition, self._counts.of(self.topics.source))
        by_topic: dict[str, list[list[OutputRecord]]] = {}
        for name, partition_key, key, value in self._publish(one.partition.pending, home):
            partitions = by_topic.get(name)
            if partitions is None:
                count = self._counts.of(self.topics.prefix + name)
                partitions = by_topic[name] = [[] for _ in range(count)]
            partitions[partition_of(partition_key, len(partitions))].append((key, value, None))
        for name, partitions in by_topic.items():
            for number, records in enumerate(partitions):
                if records:
                    yield OutputBatch(TopicPartition(self.topics.prefix + name, number), records)
