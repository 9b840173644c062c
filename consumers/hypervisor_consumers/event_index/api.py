"""The HTTP API of the event index: `/v1/events` and `/v1/stats`. Read-only."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, Field

from hypervisor_consumers.event_index.store import EventStore, StoreUnavailable
from hypervisor_consumers.runtime.access import bearer_access
from hypervisor_schemas.timestamps import microseconds

__all__ = ["EventFilter", "create_router"]


def create_router(store: EventStore, token: str | None) -> APIRouter:
    """The routes under `/v1`, answered from `store`; with a token, only to who carries it.

    Handlers run in the server's thread pool. Answers: 200; 401 without the token; 422 for a parameter that
    is wrong, unknown or given twice; 503 while the database can't be used.
    """
    router = APIRouter(prefix="/v1", tags=["events"], dependencies=[Depends(bearer_access(token))])

    @router.get("/events", dependencies=[Depends(_only(*EventFilter.model_fields))])
    def events(wanted: Annotated[EventFilter, Query()]) -> Response:
        """The last `limit` events that fit every filter, oldest first."""
        with _trouble_as_503():
            found = store.query(**dict(wanted))
        return _json({"events": [event.to_dict() for event in found]})

    @router.get("/stats", dependencies=[Depends(_only())])
    def stats() -> Response:
        """How many events there are, in all and of each type."""
        with _trouble_as_503():
            counts = store.type_counts()
        return _json({"event_count": sum(counts.values()), "type_counts": counts})

    return router


# A client that forgot to write "+" as "%2B" sends "2025-01-15T10:30:00 00:00".
_LOST_PLUS = re.compile(r"(.+T.+) (\d\d:?\d\d)")


def _instant(text: Any) -> datetime:
    try:
        moment = datetime.fromisoformat(_LOST_PLUS.sub(r"\1+\2", text))
        microseconds(moment)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{text!r} is not a time in ISO 8601, such as 2025-01-15T10:30:00Z") from None
    return moment


_Instant = Annotated[datetime, BeforeValidator(_instant)]


class EventFilter(BaseModel):
    """The query parameters of `/v1/events`: the arguments of `EventStore.query`."""

    event_type: str | None = Field(None, description="The type's value, such as ring.elevated.")
    session_id: str | None = None
    agent_did: str | None = None
    start: _Instant | None = Field(None, description="Not before this time: ISO 8601, UTC if it names no zone.")
    end: _Instant | None = Field(None, description="Not after this time.")
    limit: int = Field(100, ge=1, le=1000, description="The last so many.")


def _only(*known: str) -> Callable[[Request], Awaitable[None]]:
    """A dependency that refuses other parameters: a mistyped filter must not answer with everything."""
    takes = f"This takes {', '.join(known)}" if known else "This takes no parameters"

    async def check(request: Request) -> None:
        given = Counter(name for name, _ in request.query_params.multi_items())
        errors = [
            {"type": "unknown_parameter", "loc": ("query", name), "msg": f"{takes}; {name!r} is not among them."}
            for name in given
            if name not in known
        ]
        errors += [
            {"type": "repeated_parameter", "loc": ("query", name), "msg": f"Give {name!r} once, not {times} times."}
            for name, times in given.items()
            if name in known and times > 1
        ]
        if errors:
            raise RequestValidationError(errors)

    return check


@contextmanager
def _trouble_as_503() -> Iterator[None]:
    try:
        yield
    except StoreUnavailable as error:
        raise HTTPException(status_code=503, detail=str(error)) from error


def _json(answer: Any) -> Response:
    # As it is: FastAPI's own encoder would walk through every payload once more.
    return Response(msgspec.json.encode(answer), media_type="application/json")
