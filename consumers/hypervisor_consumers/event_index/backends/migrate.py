"""Brings the tables to this version's schema when the index is opened, one process at a time."""

from __future__ import annotations

import logging
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import inspect

from hypervisor_consumers.event_index.backends.database import Database, unusable_database

__all__ = ["migrate"]

_SCRIPTS = Path(__file__).parents[1] / "migrations"
_FIRST_REVISION = "0001"
"""The revision of a SQLite file that has tables but names no revision: it is older than the migrations."""

# Alembic logs every start at INFO, the level of the services' own messages.
logging.getLogger("alembic").setLevel(logging.WARNING)


def migrate(database: Database) -> None:
    """Create the tables, or bring them up to date, in one transaction.

    Raises:
        SettingError: A newer version has been here, or the database can't be used.
        DBAPIError: The database can't be used now.
    """
    with database.writer.begin() as connection:
        database.lock_schema(connection)
        config = Config()
        config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
        config.attributes["connection"] = connection
        revision = MigrationContext.configure(connection).get_current_revision()
        if revision is None and connection.dialect.name == "sqlite" and inspect(connection).has_table("events"):
            command.stamp(config, _FIRST_REVISION)
        elif revision is not None and not _is_known(config, revision):
            raise unusable_database(
                "names an event index that a newer version of hypervisor-telemetry has written; use that version, "
                "or name another database."
            )
        command.upgrade(config, "head")


def _is_known(config: Config, revision: str) -> bool:
    try:
        return ScriptDirectory.from_config(config).get_revision(revision) is not None
    except CommandError:
        return False
