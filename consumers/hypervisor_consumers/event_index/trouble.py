"""What is raised while the event index's database can't be used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import OperationalError

from hypervisor_schemas.errors import OutputUnavailable

__all__ = ["StoreUnavailable", "translated_errors"]


class StoreUnavailable(OutputUnavailable):
    """The database is locked, full or can't be reached; the same call may succeed later.

    A write left nothing behind, unless only the answer to its commit was lost: then it raises `LostPartition` when
    it is tried again.
    """


@contextmanager
def translated_errors() -> Iterator[None]:
    """The database's own trouble inside becomes `StoreUnavailable`."""
    try:
        yield
    except OperationalError as error:
        raise StoreUnavailable(f"The event index's database can't be used now: {error.orig}.") from error
