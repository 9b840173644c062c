"""A restored state held against its source and its group, before anything is counted on."""

from __future__ import annotations

import logging

from hypervisor_consumers.runtime.partitions.offset_accounting import Account
from hypervisor_consumers.runtime.records import TopicPartition
from hypervisor_schemas.errors import StateError

__all__ = ["StateAgainstLog"]

log = logging.getLogger(__name__)


class StateAgainstLog:
    """Compares the account of a restored state with the group's offset and the log's end."""

    def __init__(self, group: str, state_topic: str) -> None:
        self._group = group
        self._state_topic = state_topic

    def compare(
        self, topic_partition: TopicPartition, account: Account | None, offset: int | None, end: int
    ) -> None:
        """Check that there is a state where the group has an offset, and a source where there is a state.

        Args:
            topic_partition: The partition of the source.
            account: The account in the state, None where there is no state.
            offset: The group's offset in Kafka, None where it has none.
            end: The end of the source's log.

        Raises:
            StateError: There isn't.
        """
        where = f"{topic_partition.topic} partition {topic_partition.partition}"
        again = (
            f"To count anew from what the log still holds: stop all copies, delete the group {self._group} and the "
            f"topic {self._state_topic}, then run `hypervisor-telemetry topics apply`."
        )
        if account is None:
            if offset is not None:
                raise StateError(
                    f"The group {self._group} stands at offset {offset} of {where}, but {self._state_topic} holds "
                    f"no state for it. {again}"
                )
        elif account.next_offset > end:
            raise StateError(
                f"{where} ends at offset {end}, but the state in {self._state_topic} includes all up to "
                f"{account.next_offset}: the topic was made anew. {again}"
            )
        elif offset is not None and offset != account.next_offset:
            # Behind, it may be that of a commit whose end has reached the changelog first.
            log.log(
                logging.WARNING if offset > account.next_offset else logging.INFO,
                "The group %s stands at offset %d of %s, what is kept in %s includes all up to %d. Reading goes on "
                "there, nothing is lost: Kafka was away in the middle of a commit, or somebody set the offset. %s",
                self._group,
                offset,
                where,
                self._state_topic,
                account.next_offset,
                again,
            )
