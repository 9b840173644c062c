"""Writing into the event index's store, beside the same rows written by the driver alone.

Ours makes each row of an event, moves offsets, counts types and leaves out what is there already; the driver gets
ready tuples and does none of that. Both write into the same tables with the same indexes, in batches of the same
size, each in a transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from bench.index_load import BATCH, batches, fill
from bench.row import Row
from bench.setting import Setting, in_turn, seconds_of
from hypervisor_consumers.event_index.store import IndexRow, open_store
from hypervisor_consumers.event_index.tables import events, values_of

Batches = Sequence[Sequence[IndexRow]]


def measure(setting: Setting) -> Iterable[Row]:
    count = 400_000 if setting.full else 100_000
    rows = list(batches(count))
    works = {"ours": lambda: _ours(setting.folder, rows), "theirs": lambda: _bare(setting.folder, rows)}
    figures = in_turn(setting.rounds, works, setting.say)
    yield Row(
        "event-index, into SQLite",
        "events/s",
        figures["ours"],
        "sqlite3.executemany of ready tuples",
        figures["theirs"],
        floor=0.7,
        goal=0.9,
        note=f"{count:,} events, {BATCH:,} in a transaction.",
    )


def _ours(folder: Path, rows: Batches) -> float:
    with closing(open_store(f"sqlite:///{_fresh(folder)}")) as store:
        return _rate(rows, lambda: fill(store, iter(rows)))


def _bare(folder: Path, rows: Batches) -> float:
    path = _fresh(folder)
    open_store(f"sqlite:///{path}").close()
    tuples = [[values_of(row) for row in batch] for batch in rows]
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for pragma in ("synchronous = NORMAL", "wal_autocheckpoint = 10000", "cache_size = -65536"):
            connection.execute(f"PRAGMA {pragma}")  # as ours has them
        return _rate(rows, lambda: _execute(connection, tuples))


def _execute(connection: sqlite3.Connection, batches: Sequence[Sequence[tuple[Any, ...]]]) -> None:
    insert = f"INSERT INTO events VALUES ({', '.join('?' * len(events.columns))})"  # noqa: S608 - marks alone
    for batch in batches:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(insert, batch)
        connection.execute("COMMIT")


def _rate(rows: Batches, work: Any) -> float:
    return sum(map(len, rows)) / seconds_of(work)


def _fresh(folder: Path) -> Path:
    path = folder / "index.db"
    for each in folder.glob("index.db*"):
        each.unlink()
    return path
