"""The tables are brought to this version's shape when the index is opened, by one process at a time."""

from __future__ import annotations

import logging
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, inspect

from hypervisor_consumers.event_index.backends.database import Database, unusable

__all__ = ["HERE", "migrate"]

HERE = Path(__file__).parents[1] / "migrations"
_BEFORE_THERE_WERE_MIGRATIONS = "0001"
"""What the tables of a SQLite file are that doesn't say."""

# It tells every start at the level of the services' own words.
logging.getLogger("alembic").setLevel(logging.WARNING)


def migrate(database: Database) -> None:
    """Make the tables, or bring them up to date, in one transaction.

    Raises:
        SettingError: A newer version has been here, or the database can't be used.
        DBAPIError: The database can't be used now.
    """
    with database.writer.begin() as connection:
        database.hold_schema(connection)
        config = Config()
        config.set_main_option("script_location", str(HERE).replace("%", "%%"))
        config.attributes["connection"] = connection
        there = _revision(connection)
        if there is None and connection.dialect.name == "sqlite" and inspect(connection).has_table("events"):
            command.stamp(config, _BEFORE_THERE_WERE_MIGRATIONS)
        elif there is not None and not _is_known(config, there):
            raise unusable(
                "names an event index that a newer version of hypervisor-telemetry has written; use that version, "
                "or name another database."
            )
        command.upgrade(config, "head")


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _is_known(config: Config, revision: str) -> bool:
    try:
        return ScriptDirectory.from_config(config).get_revision(revision) is not None
    except CommandError:
        return False
