"""The interface of a database that holds the event index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from sqlalchemy import Connection, Engine

from hypervisor_schemas.errors import SettingError
from hypervisor_schemas.settings import Settings

__all__ = ["URL_HINT", "Database", "OffsetMoves", "Values", "unusable_database"]

Values: TypeAlias = Sequence[tuple[Any, ...]]
"""Rows of `events`, in the order of its columns."""

OffsetMoves: TypeAlias = Mapping[tuple[str, int], tuple[int | None, int]]
"""For each (topic, partition), the old offset (None: there is none yet) and the new one."""

URL_HINT = (
    "give sqlite:///PATH, the path of a file on a local disk, or postgresql+psycopg://USER:PASSWORD@HOST:PORT/NAME."
)


class Database(Protocol):
    """SQLite or PostgreSQL. Its methods raise the driver's errors, to be wrapped in `translated_errors`."""

    @property
    def writer(self) -> Engine:
        """The engine for transactions that may write; they never wait for a reader."""
        ...

    @property
    def readers(self) -> Engine:
        """The engine for queries: a transaction sees one moment, can't write, and ends slow statements."""
        ...

    @property
    def offset_reader(self) -> Engine:
        """The engine for the process's own offsets; it works while queries take all connections of `readers`."""
        ...

    @property
    def is_a_server(self) -> bool:
        """Whether the database may be away for a while, and runs several writing transactions concurrently."""
        ...

    def lock_schema(self, connection: Connection) -> None:
        """Keep all others from changing tables until this transaction ends.

        Raises:
            SettingError: This database can't be used.
        """
        ...

    def prepare_partitions(self, values: Values) -> None:
        """Create the time partitions for these rows; called before the transaction that adds them."""
        ...

    def move_offsets(self, connection: Connection, moves: OffsetMoves) -> None:
        """Move all offsets, or none.

        Raises:
            LostPartition: An offset in the database is not the old one.
        """
        ...

    def add_events(self, connection: Connection, values: Values) -> int:
        """Insert the new events and add exactly them to the kept counts. Returns how many they are."""
        ...

    def expire(self, before_us: int, limit: int) -> int:
        """Remove events before this time, and subtract them from the kept counts.

        Returns:
            How many were removed: at most `limit`, or a whole partition. 0: there are none, or another process is
            removing.
        """
        ...

    def close(self) -> None:
        """Close every connection."""
        ...


def unusable_database(sentence: str) -> SettingError:
    """The error for a URL, or for the database at the URL, that can't be used."""
    return SettingError(Settings.DATABASE_URL.name, sentence)
