"""What is raised while the event index's database can't be used."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from hypervisor_schemas.errors import OutputUnavailable, TelemetryError

__all__ = ["LostPartition", "QueryTooSlow", "StoreUnavailable", "cause_of", "translated_errors"]


class StoreUnavailable(OutputUnavailable):
    """The database is locked, full or can't be reached; the same call may succeed later.

    A write left nothing behind, unless only the answer to its commit was lost: then it raises `LostPartition` when
    it is tried again.
    """


class QueryTooSlow(StoreUnavailable):
    """A question took longer than TELEMETRY_QUERY_TIMEOUT and was ended; a narrower one may be answered."""

    def __init__(self) -> None:
        super().__init__(
            "The question took longer than TELEMETRY_QUERY_TIMEOUT allows and was ended; narrow the filter: give "
            "start and end, a session, an agent or a trace."
        )


class LostPartition(TelemetryError):
    """The partition's offset isn't where this process left it: another one owns it now. Nothing was written."""

    def __init__(self, topic: str, partition: int, expected: int | None) -> None:
        where = "has an offset already" if expected is None else f"is not at offset {expected} any more"
        super().__init__(
            f"Partition {partition} of {topic} {where}: another process writes it. Nothing was written."
        )
        self.topic = topic
        self.partition = partition


@contextmanager
def translated_errors(*, asking: bool = False) -> Iterator[None]:
    """The database's own trouble inside becomes `StoreUnavailable`.

    Where a question is asked, one that was ended for taking too long becomes `QueryTooSlow`. The driver's error is
    not chained to it: it may name the server and the user.
    """
    try:
        yield
    except (DBAPIError, psycopg.Error) as error:
        cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
        if asking and _was_ended(cause):
            raise QueryTooSlow from None
        raise StoreUnavailable(f"The event index's database can't be used now: {cause_of(cause)}.") from None
    except PoolTimeout:
        raise StoreUnavailable(
            "The event index's database answers as many questions as it may at a time; ask again."
        ) from None


def cause_of(error: BaseException) -> str:
    """What a driver's error says, in one line without its full stop and without what may be a secret.

    Of a failed connection everything in quotes is left out: with a mistyped URL a part of the password can stand
    where the host's name should.
    """
    if not isinstance(error, psycopg.Error):
        return str(error).removesuffix(".")
    said = error.diag.message_primary
    if said is None:
        [line, *_] = str(error).splitlines() or [type(error).__name__]
        said = _QUOTED.sub("…", line.rpartition(" failed: ")[2] or line).removeprefix("FATAL:").strip()
    return said.removesuffix(".")


_QUOTED = re.compile(r""""[^"]*"|'[^']*'""")


def _was_ended(cause: BaseException) -> bool:
    return isinstance(cause, psycopg.errors.QueryCanceled) or (
        getattr(cause, "sqlite_errorname", None) == "SQLITE_INTERRUPT"
    )
