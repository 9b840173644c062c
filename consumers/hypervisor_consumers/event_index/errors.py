"""The errors of the event index's database, and how they are made from the drivers' errors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from hypervisor_schemas.errors import OutputUnavailable, TelemetryError

__all__ = [
    "LostPartition",
    "QueryTooSlow",
    "StoreUnavailable",
    "driver_error",
    "printable_cause",
    "translated_errors",
]


class StoreUnavailable(OutputUnavailable):
    """The database is locked, full or can't be reached; the same call may succeed later.

    The write that failed left nothing behind. There is one exception: the write was committed and only the answer
    was lost. Then the next try raises `LostPartition`.
    """


class QueryTooSlow(StoreUnavailable):
    """A query took longer than TELEMETRY_QUERY_TIMEOUT and was ended; a narrower one may be answered."""

    def __init__(self) -> None:
        super().__init__(
            "The question took longer than TELEMETRY_QUERY_TIMEOUT allows and was ended; narrow the filter: give "
            "start and end, a session, an agent or a trace."
        )


class LostPartition(TelemetryError):
    """The partition's offset isn't where this process left it: another one owns it now. Nothing was written."""

    def __init__(self, topic: str, partition: int, expected: int | None) -> None:
        state = "has an offset already" if expected is None else f"is not at offset {expected} any more"
        super().__init__(
            f"Partition {partition} of {topic} {state}: another process writes it. Nothing was written."
        )
        self.topic = topic
        self.partition = partition


@contextmanager
def translated_errors(*, in_query: bool = False) -> Iterator[None]:
    """Raise the database's own errors inside as `StoreUnavailable`.

    With `in_query`, a statement that was ended because it took too long raises `QueryTooSlow`. The driver's error
    is not chained: it may name the server and the user.
    """
    try:
        yield
    except (DBAPIError, psycopg.Error) as error:
        if in_query and _was_ended(driver_error(error)):
            raise QueryTooSlow from None
        raise StoreUnavailable(f"The event index's database can't be used now: {printable_cause(error)}.") from None
    except PoolTimeout:
        raise StoreUnavailable(
            "The event index's database answers as many questions as it may at a time; ask again."
        ) from None


def driver_error(error: BaseException) -> BaseException:
    """The driver's error that SQLAlchemy's error wraps, or the error itself."""
    return error.orig if isinstance(error, DBAPIError) and error.orig is not None else error


def printable_cause(error: BaseException) -> str:
    """The sentence of a driver's error in one line, without its full stop and without possible secrets.

    For a failed connection everything in quotes is left out: with a mistyped URL a part of the password can stand
    where the host's name should be.
    """
    error = driver_error(error)
    if not isinstance(error, psycopg.Error):
        return str(error).removesuffix(".")
    sentence = error.diag.message_primary
    if sentence is None:
        [line, *_] = str(error).splitlines() or [type(error).__name__]
        sentence = _QUOTED.sub("…", line.rpartition(" failed: ")[2] or line).removeprefix("FATAL:").strip()
    return sentence.removesuffix(".")


_QUOTED = re.compile(r""""[^"]*"|'[^']*'""")


def _was_ended(error: BaseException) -> bool:
    return isinstance(error, psycopg.errors.QueryCanceled) or (
        getattr(error, "sqlite_errorname", None) == "SQLITE_INTERRUPT"
    )
