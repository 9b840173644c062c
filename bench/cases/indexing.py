"""Writing into the event index's store, beside the same rows written by the driver alone; and from Kafka.

Ours makes each row of an event, moves offsets, counts types and leaves out what is there already; the driver gets
ready tuples and does none of that. Both write into the same tables with the same indexes, in batches of the same
size, each in a transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import psycopg

from bench.index_load import BATCH, batches, fill, index_records
from bench.load import Record, working_off, write_plainly
from bench.row import Row
from bench.setting import Setting, in_turn, seconds_of
from hypervisor_consumers.event_index.backends.store import IndexRow, open_database, open_store
from hypervisor_consumers.event_index.tables import events, values_of
from tests.support.postgres import Postgres, opened

Batches: TypeAlias = Sequence[Sequence[IndexRow]]
Tuples: TypeAlias = Sequence[Sequence[tuple[Any, ...]]]
Fresh: TypeAlias = Callable[[], AbstractContextManager[str]]
"""A context manager that gives the URL of an empty database."""

SERVICE, PARTITIONS = "event-index", 8
NAMES = ", ".join(f'"{column.name}"' for column in events.columns)


def measure(setting: Setting) -> Iterable[Row]:
    count = 400_000 if setting.full else 100_000
    rows = list(batches(count))
    note = f"{count:,} events, {BATCH:,} in a transaction."
    stores: dict[str, Fresh] = {"SQLite": partial(_fresh_file, setting.folder)}
    ours, theirs = _beside(setting, rows, stores["SQLite"], _executemany)
    bare, here = "sqlite3.executemany of ready tuples", f"{note} SQLite {sqlite3.sqlite_version}."
    yield Row("event-index, into SQLite", "events/s", ours, bare, theirs, floor=0.7, goal=0.9, note=here)
    if (server := setting.postgres) is not None:
        stores["PostgreSQL"] = partial(_fresh_database, server)
        ours, theirs = _beside(setting, rows, stores["PostgreSQL"], _copy_and_insert)
        bare, here = "COPY + INSERT of ready tuples", f"{note} PostgreSQL {_version(server)} with its own defaults."
        yield Row("event-index, into PostgreSQL", "events/s", ours, bare, theirs, floor=0.6, goal=0.8, note=here)
    yield from _from_kafka(setting, stores, 2 * count)


def _version(server: Postgres) -> int:
    with server.connect() as connection:
        return connection.info.server_version // 10_000


def _beside(
    setting: Setting, rows: Batches, fresh: Fresh, bare: Callable[[str, Tuples], float]
) -> tuple[Sequence[float], Sequence[float]]:
    """Return events per second: ours, and by the driver alone."""
    count = sum(map(len, rows))
    tuples = [[values_of(row) for row in batch] for batch in rows]

    def ours() -> float:
        with fresh() as url, closing(open_store(url)) as store:
            return count / seconds_of(lambda: fill(store, iter(rows)))

    def theirs() -> float:
        with fresh() as url:
            open_store(url).close()  # makes the tables
            return count / bare(url, tuples)

    figures = in_turn(setting.rounds, {"ours": ours, bare.__name__.lstrip("_"): theirs}, setting.say)
    return tuple(figures.values())  # type: ignore[return-value]


def _executemany(url: str, batches: Tuples) -> float:
    """Return the seconds of the driver alone."""
    insert = f"INSERT INTO events ({NAMES}) VALUES ({', '.join('?' * len(events.columns))})"  # noqa: S608 - names

    def write() -> None:
        for batch in batches:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(insert, batch)
            connection.execute("COMMIT")

    with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as connection:
        for pragma in ("synchronous = NORMAL", "wal_autocheckpoint = 10000", "cache_size = -65536"):
            connection.execute(f"PRAGMA {pragma}")  # as ours has them
        return seconds_of(write)


def _copy_and_insert(url: str, batches: Tuples) -> float:
    """Return the seconds of the driver alone; the partitions exist already."""
    with closing(open_database(url)) as database:
        database.prepare_partitions([row for batch in batches for row in batch])
    stage = "CREATE TEMPORARY TABLE staged (LIKE events) ON COMMIT DELETE ROWS"
    insert = f"INSERT INTO events ({NAMES}) SELECT {NAMES} FROM staged"  # noqa: S608 - names

    def write(connection: psycopg.Connection) -> None:
        for batch in batches:
            with connection.transaction(), connection.cursor() as cursor:
                with cursor.copy(f"COPY staged ({NAMES}) FROM STDIN") as copy:
                    for row in batch:
                        copy.write_row(row)
                cursor.execute(insert)

    with opened(url) as connection:
        connection.execute(stage)
        return seconds_of(lambda: write(connection))


def _from_kafka(setting: Setting, stores: dict[str, Fresh], count: int) -> Iterator[Row]:
    """Return the rate of one copy of the service, after its start."""
    records = list(index_records(count))
    note = f"{count:,} events, {PARTITIONS} partitions, Kafka and the database on the same machine."
    works = {
        f"from Kafka into {name}": partial(_one_copy, setting, fresh, records) for name, fresh in stores.items()
    }
    for what, rates in in_turn(setting.rounds, works, setting.say).items():
        yield Row(f"event-index, one copy, {what}", "events/s", rates, note=note)


def _one_copy(setting: Setting, fresh: Fresh, records: Sequence[Record]) -> float:
    with fresh() as url, setting.fleet(PARTITIONS) as fleet:
        topic = fleet.topic("ring")
        write_plainly(fleet, topic, records)
        service = fleet.start(SERVICE, "--database", url)
        try:
            return working_off(fleet, fleet.prefix + SERVICE, topic, len(records), len(records) // 10)
        finally:
            service.close()


@contextmanager
def _fresh_file(folder: Path) -> Iterator[str]:
    path = folder / "index.db"
    try:
        yield f"sqlite:///{path}"
    finally:
        for each in folder.glob("index.db*"):
            each.unlink()


@contextmanager
def _fresh_database(server: Postgres) -> Iterator[str]:
    url = server.new_database()
    with server.connect() as connection:
        connection.execute("CHECKPOINT")  # what was written before is on the disk
    try:
        yield url
    finally:
        with server.connect() as connection:
            connection.execute(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")
