"""The partitions that this copy has, each in one object from its assignment until it is revoked.

Loop, ingest, committer, restorer, monitor and metrics all look here; nobody else keeps an answer of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from enum import Enum
from typing import Generic, TypeVar

from hypervisor_consumers.runtime.partitions.partition_accounting import PartitionAccounting
from hypervisor_consumers.runtime.records import TopicPartition
from hypervisor_consumers.runtime.state_table import StateTable, next_state
from hypervisor_schemas.backoff import Backoff

__all__ = ["PHASES", "AssignedPartition", "Assignment", "Phase", "PhaseEvent"]

C = TypeVar("C")


class Phase(Enum):
    """The phase of an assigned partition."""

    RESTORING = "restoring"
    """It is not read."""
    CATCHING_UP = "catching up"
    """It is read; its numbers are not shown yet, as they may be below some that were shown before."""
    SHOWN = "shown"
    REVOKED = "revoked"


class PhaseEvent(Enum):
    """An event that moves an assigned partition to another phase."""

    RESTORED = "restored"
    CAUGHT_UP = "caught up"
    RESTORE_AGAIN = "restore again"
    """This copy may have other numbers than are kept: a commit has no known outcome, or a database went back."""
    REVOKED = "revoked"


PHASES: StateTable[Phase, PhaseEvent] = {
    Phase.RESTORING: {PhaseEvent.RESTORED: Phase.CATCHING_UP, PhaseEvent.REVOKED: Phase.REVOKED},
    Phase.CATCHING_UP: {
        PhaseEvent.CAUGHT_UP: Phase.SHOWN,
        PhaseEvent.RESTORE_AGAIN: Phase.RESTORING,
        PhaseEvent.REVOKED: Phase.REVOKED,
    },
    Phase.SHOWN: {PhaseEvent.RESTORE_AGAIN: Phase.RESTORING, PhaseEvent.REVOKED: Phase.REVOKED},
    Phase.REVOKED: {},
}


class AssignedPartition(Generic[C]):
    """A partition that this copy has: its phase, its position, and what the service keeps of it.

    Args:
        topic_partition: Its name.
        is_table: Whether it holds rows of a public table, not events; such a one has no account.
    """

    def __init__(self, topic_partition: TopicPartition, *, is_table: bool = False) -> None:
        self.topic_partition = topic_partition
        self.is_table = is_table
        self.phase = Phase.RESTORING
        self.accounting = PartitionAccounting()
        self.log_start = 0
        """The first offset of the log when Kafka was asked last; it grows by itself, as retention goes on."""
        self.position = 0
        """The offset that has to come next, while it is read."""
        self._doubted: int | None = None
        """The position before a gap in the offsets that was met once."""
        self._is_continuous = False
        """Whether the record before the position came from this very read."""
        self.schema_wait: Backoff | None = None
        """The wait for a registry that a record needs."""
        self._content: C | None = None

    @property
    def is_read(self) -> bool:
        """Whether its records are read."""
        return self.phase in _READ

    @property
    def is_revoked(self) -> bool:
        """Whether it belongs to another copy by now."""
        return self.phase is Phase.REVOKED

    @property
    def content(self) -> C:
        """The service's own part of it, once it is restored."""
        if self._content is None:
            raise AssertionError(f"{self.topic_partition} is not restored")
        return self._content

    @property
    def committed_to(self) -> int:
        """The offset up to which it is committed, as far as this copy knows."""
        account = self.accounting.account
        return 0 if account is None else account.next_offset

    def read_up_to(self, position: int) -> None:
        """Note that a record was read, and that `position` comes next."""
        self.position = position
        self._is_continuous = True

    def read_is_interrupted(self) -> None:
        """Doubt the next gap: the client was assigned, sought or resumed, and may begin at a wrong offset."""
        self._is_continuous = False

    def is_gap_believed(self) -> bool:
        """Whether a gap behind the position is no fault of the client.

        Within a continuous read it is believed: transactions leave markers and aborted records behind. The first
        record after an interruption is believed when it comes the second time.
        """
        doubted, self._doubted = self._doubted, None
        if self._is_continuous or doubted == self.position:
            return True
        self._doubted = self.position
        return False

    def restored(self, content: C, position: int) -> None:
        """Read it from `position` on; its numbers are not shown yet."""
        self._move(PhaseEvent.RESTORED)
        self._content = content
        self.position = position
        self.read_is_interrupted()

    def caught_up(self) -> None:
        """Show its numbers from now on."""
        self._move(PhaseEvent.CAUGHT_UP)

    def restore_again(self) -> None:
        """Forget what is kept of it; it is restored once more."""
        self._move(PhaseEvent.RESTORE_AGAIN)
        self._content = None
        self._doubted = self.schema_wait = None
        self.accounting.restore_again()

    def revoke(self) -> None:
        """Another copy has it by now; whoever looks at this one last still finds its content."""
        self._move(PhaseEvent.REVOKED)

    def _move(self, event: PhaseEvent) -> None:
        self.phase = next_state(PHASES, self.phase, event)


_READ = frozenset({Phase.CATCHING_UP, Phase.SHOWN})


class Assignment(Generic[C]):
    """The partitions that this copy has. Changed by the loop's thread; any thread may look at it."""

    def __init__(self) -> None:
        # Replaced, never changed in place: whoever goes through it sees it as it was at one moment.
        self._partitions: dict[TopicPartition, AssignedPartition[C]] = {}

    def assign(self, topic_partitions: Collection[TopicPartition], *, tables: Collection[str] = ()) -> None:
        """Add partitions, to be restored; `tables`: the topics that hold rows of public tables."""
        added = {one: AssignedPartition[C](one, is_table=one.topic in tables) for one in topic_partitions}
        self._partitions = {**self._partitions, **added}

    def revoke(self, topic_partitions: Collection[TopicPartition]) -> list[AssignedPartition[C]]:
        """Remove partitions. Returns those that this copy had."""
        gone = [self._partitions[one] for one in topic_partitions if one in self._partitions]
        left = set(topic_partitions)
        self._partitions = {name: one for name, one in self._partitions.items() if name not in left}
        for one in gone:
            one.revoke()
        return gone

    def get(self, topic_partition: TopicPartition) -> AssignedPartition[C] | None:
        """The partition, if this copy has it."""
        return self._partitions.get(topic_partition)

    def __getitem__(self, topic_partition: TopicPartition) -> AssignedPartition[C]:
        return self._partitions[topic_partition]

    def __iter__(self) -> Iterator[AssignedPartition[C]]:
        return iter(self._partitions.values())

    def __len__(self) -> int:
        return len(self._partitions)

    def read(self) -> list[AssignedPartition[C]]:
        """The partitions that are read."""
        return [one for one in self if one.is_read]

    def events_read(self) -> list[AssignedPartition[C]]:
        """The partitions of events that are read."""
        return [one for one in self if one.is_read and not one.is_table]

    @property
    def is_restored(self) -> bool:
        """Whether every partition is read."""
        return all(one.is_read for one in self)

    @property
    def is_shown(self) -> bool:
        """Whether every partition is shown."""
        return all(one.phase is Phase.SHOWN for one in self)
