"""The index's tables are created, adopted and migrated when the index is opened."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, create_engine, inspect
from sqlalchemy.schema import CreateIndex, CreateTable

from hypervisor_consumers.event_index.backends.store import IndexRow, open_store
from hypervisor_consumers.event_index.tables import events, metadata
from hypervisor_schemas.errors import SettingError
from hypervisor_schemas.events import HypervisorEvent


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    made = create_engine(database_url)
    yield made
    made.dispose()


def test_the_migrations_make_what_the_tables_say(database_url: str, engine: Engine) -> None:
    open_store(database_url).close()

    def is_ours(_: object, name: str | None, kind: str, *_more: object) -> bool:
        return not (kind == "table" and str(name).startswith("events_"))  # the partitions

    def is_other(_context: object, _there: object, _wanted: object, there: Any, wanted: Any) -> bool:
        return bool(there.compile(engine.dialect) != wanted.compile(engine.dialect))

    with engine.connect() as connection:
        options = {"include_object": is_ours, "compare_type": is_other}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []
        key = inspect(connection).get_pk_constraint("events")["constrained_columns"]
        assert key == (["event_id", "timestamp"] if connection.dialect.name == "postgresql" else ["event_id"])
        for table in metadata.sorted_tables:
            if table is not events:
                found = inspect(connection).get_pk_constraint(table.name)["constrained_columns"]
                assert found == [column.name for column in table.primary_key]
        if connection.dialect.name == "postgresql":
            other = connection.exec_driver_sql(
                "SELECT a.attrelid::regclass, attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid"
                " JOIN pg_collation l ON l.oid = a.attcollation WHERE c.relkind IN ('r', 'p') AND attnum > 0"
                " AND relnamespace = 'public'::regnamespace AND collname <> 'C' AND relname <> 'alembic_version'"
            ).all()
            assert other == []


def test_opening_again_changes_nothing(database_url: str) -> None:
    row = IndexRow("t", 0, 0, HypervisorEvent())
    with closing(open_store(database_url)) as store:
        store.write([row], {("t", 0): (None, 1)})
    with closing(open_store(database_url)) as store:
        assert store.event_count() == 1


@pytest.mark.parametrize("missing", [set(), {"ix_events_place"}])
def test_a_file_from_before_there_were_migrations_is_adopted(tmp_path: Path, missing: set[str]) -> None:
    path = tmp_path / "index.db"
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        for table in metadata.sorted_tables:
            connection.execute(CreateTable(table))
            for index in table.indexes:
                if index.name not in missing:
                    connection.execute(CreateIndex(index))
    engine.dispose()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO offsets VALUES ('t', 0, 7)")
        connection.commit()
    with closing(open_store(f"sqlite:///{path}")) as store:
        assert store.next_offset("t", 0) == 7
        assert store.write([IndexRow("t", 0, 7, HypervisorEvent())], {("t", 0): (7, 8)}) == 1
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("0002",)]
        indexes = connection.execute("SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")
        assert {name for (name,) in indexes} == {index.name for index in events.indexes}


def test_a_database_of_a_newer_version_is_refused_with_a_sentence(database_url: str, engine: Engine) -> None:
    open_store(database_url).close()
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SettingError, match=r"TELEMETRY_DATABASE_URL names an event index that a newer version"):
        open_store(database_url)


OPEN = """
import sys
from hypervisor_consumers.event_index.backends.store import open_store
sys.stdin.read(1)
store = open_store(sys.argv[1])
print(store.event_count())
store.close()
"""


def test_processes_that_start_at_once_on_an_empty_database_all_come_up(database_url: str) -> None:
    command = [sys.executable, "-c", OPEN, database_url]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [subprocess.Popen(command, **pipes) for _ in range(6)]
    try:
        for process in processes:
            process.stdin.write(b"x")
            process.stdin.flush()
        outputs = [process.communicate(timeout=60) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait(10)
    assert outputs == [(b"0\n", b"")] * len(processes)
