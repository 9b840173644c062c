"""A consumer group on the broker: members, their partitions (KIP-848), and offsets. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from confluent_kafka import KafkaError, KafkaException

__all__ = ["NOT_A_MEMBER", "Committed", "Group", "Member", "TopicPartition"]

TopicPartition: TypeAlias = tuple[str, int]
"""A topic and the number of a partition."""

NOT_A_MEMBER = ("", -1)
"""The id and epoch of a consumer that never subscribed."""


class Committed(NamedTuple):
    """A group's offset of a partition."""

    offset: int
    metadata: str | None = None


@dataclass(slots=True, eq=False)
class Member:
    """The broker's entry of one consumer. `owned` has the epoch at which it got each partition."""

    id: str
    topics: Sequence[str] = ()
    epoch: int = 0
    target: Set[TopicPartition] = frozenset()
    owned: dict[TopicPartition, int] = field(default_factory=dict)

    @property
    def revoking(self) -> set[TopicPartition]:
        """The partitions that it owns and has to give back."""
        return self.owned.keys() - self.target


class Group:
    """Members, their target assignment, and offsets. The offsets of open transactions are pending."""

    def __init__(self) -> None:
        self.members: dict[str, Member] = {}
        self.committed: dict[TopicPartition, Committed] = {}
        self._epoch = 0
        self._pending: dict[str, dict[TopicPartition, Committed]] = {}

    def join(self, member_id: str, topics: Sequence[str] = ()) -> Member:
        """Add a member of these topics; it owns nothing until the next `assign()`."""
        member = self.members[member_id] = Member(member_id, topics)
        self._next_epoch()
        return member

    def remove(self, member: Member) -> None:
        """Remove a member that left, or whose session is over. Others may get its partitions at once."""
        if self.members.get(member.id) is member:
            del self.members[member.id]
            self._next_epoch()

    def assign(self, target: Mapping[str, Set[TopicPartition]]) -> None:
        """Set the target assignment by member id; a member that isn't named gets nothing."""
        for member_id, member in self.members.items():
            member.target = frozenset(target.get(member_id, ()))
        self._next_epoch()

    def give_back(self, member: Member, topic_partitions: Iterable[TopicPartition]) -> None:
        """Take back these partitions from a member; others may have them now."""
        for topic_partition in topic_partitions:
            member.owned.pop(topic_partition, None)
        self._reconcile()

    def commit(self, member: tuple[str, int], offsets: Mapping[TopicPartition, Committed]) -> None:
        """Commit offsets at once.

        Raises:
            KafkaException: The group has members, and this isn't one.
        """
        member_id, _ = member
        if self.members and member_id not in self.members:
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_MEMBER_ID))
        self.committed.update(offsets)

    def add_pending(
        self, transaction: str, member: tuple[str, int], offsets: Mapping[TopicPartition, Committed]
    ) -> None:
        """Keep offsets until the transaction ends. Membership is checked, ownership isn't.

        One exception (KIP-1251): a member at an older epoch may commit for partitions that it owns since then.

        Raises:
            KafkaException: The member is gone, or its epoch has passed.
        """
        member_id, epoch = member
        if member != NOT_A_MEMBER:
            known = self.members.get(member_id)
            if known is None:
                raise KafkaException(KafkaError(KafkaError.UNKNOWN_MEMBER_ID, txn_requires_abort=True))
            owned_since = (known.owned.get(topic_partition) for topic_partition in offsets)
            if epoch != known.epoch and not all(since is not None and since <= epoch for since in owned_since):
                raise KafkaException(KafkaError(KafkaError.ILLEGAL_GENERATION, txn_requires_abort=True))
        self._pending.setdefault(transaction, {}).update(offsets)

    def end_pending(self, transaction: str, *, commit: bool) -> None:
        """Commit or drop the transaction's offsets."""
        offsets = self._pending.pop(transaction, {})
        if commit:
            self.committed.update(offsets)

    def is_unstable(self, topic_partition: TopicPartition) -> bool:
        """Whether an open transaction holds an offset of the partition."""
        return any(topic_partition in offsets for offsets in self._pending.values())

    def _next_epoch(self) -> None:
        self._epoch += 1
        self._reconcile()

    def _reconcile(self) -> None:
        for member in self.members.values():
            # A member that has to give something back keeps its epoch, and gets nothing, until it has.
            if member.revoking:
                continue
            member.epoch = self._epoch
            owned = {topic_partition for other in self.members.values() for topic_partition in other.owned}
            for topic_partition in member.target - owned:
                member.owned[topic_partition] = self._epoch
