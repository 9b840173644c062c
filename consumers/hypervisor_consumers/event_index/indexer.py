"""The processor of event-index: events to rows, offsets in the same database transaction.

The database alone says where a partition goes on. The offsets in Kafka are for tools that show lag; they are
never read back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hypervisor_consumers.event_index.store import EventStore, LostPartition
from hypervisor_consumers.event_index.tables import IndexRow
from hypervisor_consumers.runtime.processor import Place, Result
from hypervisor_schemas.errors import OutputUnavailable
from hypervisor_schemas.events import HypervisorEvent

__all__ = ["Indexer"]


class Indexer:
    """Implements `runtime.processor.Processor` on an `EventStore`."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._rows: list[IndexRow] = []
        self._stored: dict[Place, int | None] = {}
        """Per partition, the offset in the database as this process left or found it."""
        self._next: dict[Place, int] = {}

    def assigned(self, place: Place, committed: int | None, begin: int, end: int) -> int:  # noqa: ARG002
        """Go on where the database says; from the beginning of the log where it says nothing.

        Raises:
            OutputUnavailable: The database doesn't answer.
        """
        stored = self._store.next_offset(*place)
        self._stored[place] = stored
        self._next[place] = begin if stored is None else stored
        return self._next[place]

    def revoked(self, place: Place) -> None:
        """Drop what was not written; the next owner reads it again."""
        self._drop_rows(place)
        self._stored.pop(place, None)
        self._next.pop(place, None)

    def apply(self, place: Place, offset: int, event: HypervisorEvent) -> Result:
        """Every event is a row, also of a type that this version doesn't know."""
        self._rows.append(IndexRow(*place, offset, event))
        self._next[place] = offset + 1
        return Result.APPLIED

    def advanced(self, place: Place, next_offset: int) -> None:
        """The offset moves over what could not be used."""
        self._next[place] = next_offset

    def deliver(self) -> Mapping[Place, int]:
        """Write rows and offsets in one transaction.

        Raises:
            OutputUnavailable: The database is in trouble, or another process writes one of the partitions: then it
                has it by now, and this one will be told so.
        """
        moved: dict[tuple[str, int], tuple[int | None, int]] = {
            place: (self._stored[place], offset)
            for place, offset in self._next.items()
            if offset != self._stored[place]
        }
        if moved:
            try:
                self._store.write(self._rows, moved)
            except LostPartition as error:
                self._forget_what_is_there([Place(*place) for place in moved])
                raise OutputUnavailable(str(error)) from error
            self._rows.clear()
            self._stored.update(self._next)
        return dict(self._next)

    def _forget_what_is_there(self, places: Iterable[Place]) -> None:
        """A write whose answer was lost looks like another process's, but has come just as far as this one."""
        for place in places:
            if self._store.next_offset(*place) == self._next[place]:
                self._stored[place] = self._next[place]
                self._drop_rows(place)

    def _drop_rows(self, place: Place) -> None:
        self._rows = [row for row in self._rows if (row.topic, row.partition) != place]

    def is_restored(self, place: Place) -> bool:
        """Always, once it came: what the database holds is all there at once."""
        return place in self._next

    def close(self) -> None:
        """Close the store."""
        self._store.close()
