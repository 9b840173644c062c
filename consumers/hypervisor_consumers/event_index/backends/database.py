"""What the store asks of a database, whichever it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from sqlalchemy import Connection, Engine

from hypervisor_schemas.errors import SettingError
from hypervisor_schemas.settings import Settings

__all__ = ["GIVE", "Database", "Moves", "Values", "unusable"]

Values: TypeAlias = Sequence[tuple[Any, ...]]
"""Rows of `events`, in the order of its columns."""

Moves: TypeAlias = Mapping[tuple[str, int], tuple[int | None, int]]
"""Per topic and partition the old offset (None: there is none yet) and the new one."""

GIVE = (
    "give sqlite:///PATH, the path of a file on a local disk, or postgresql+psycopg://USER:PASSWORD@HOST:PORT/NAME."
)


class Database(Protocol):
    """SQLite or PostgreSQL. Errors are the driver's, to be translated by `trouble`."""

    @property
    def writer(self) -> Engine:
        """Its transactions may write; they never wait for a reader."""
        ...

    @property
    def readers(self) -> Engine:
        """Its transactions see one moment, can't write, and end a statement that takes too long."""
        ...

    @property
    def own(self) -> Engine:
        """For what the process itself has to know while all readers' connections may be taken."""
        ...

    @property
    def is_a_server(self) -> bool:
        """Whether it may be away for a while, and takes several transactions of writers side by side."""
        ...

    def hold_schema(self, connection: Connection) -> None:
        """Until this transaction ends nobody else changes tables.

        Raises:
            SettingError: This database can't be used.
        """
        ...

    def make_room(self, values: Values) -> None:
        """Called before the transaction that adds these."""
        ...

    def move_offsets(self, connection: Connection, moves: Moves) -> None:
        """Move offsets, all or none.

        Raises:
            LostPartition: One is not the old one.
        """
        ...

    def add_events(self, connection: Connection, values: Values) -> int:
        """Insert those that are new, and count exactly them. Returns their number."""
        ...

    def expire(self, before: int, at_most: int) -> int:
        """Remove events before this time (microseconds), `at_most` or a whole partition, and count them out.

        Returns:
            How many were removed; 0: there are none, or another process is at it.
        """
        ...

    def close(self) -> None:
        """Close every connection."""
        ...


def unusable(sentence: str) -> SettingError:
    """The error for a URL, or what it names, that can't be used."""
    return SettingError(Settings.DATABASE_URL.name, sentence)
