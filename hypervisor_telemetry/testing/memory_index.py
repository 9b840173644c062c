"""The event index's database in memory."""

from __future__ import annotations

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.pool import StaticPool

from hypervisor_consumers.event_index.backends.sqlite import SqliteDatabase

__all__ = ["MemoryDatabase"]


class MemoryDatabase(SqliteDatabase):
    """The SQLite database of the event index on one connection to memory: for one thread at a time."""

    def __init__(self) -> None:  # the base class opens a file
        self._analysed_rows = 0
        self.writer = self.readers = self.offset_reader = create_engine(
            "sqlite+pysqlite://",
            poolclass=StaticPool,
            connect_args={"check_same_thread": False, "isolation_level": None},
        )
        event.listen(self.writer, "begin", _begin_transaction)


def _begin_transaction(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")
