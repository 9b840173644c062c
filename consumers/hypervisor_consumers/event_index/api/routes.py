"""The HTTP API of the event index: `/v1/events`, `/v1/stats`, and whole subjects (`subjects`). Read-only."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Response

from hypervisor_consumers.event_index.api.entity_routes import add_subjects
from hypervisor_consumers.event_index.api.parameters import (
    MAX_ID_CHARACTERS,
    Asked,
    EventPage,
    EventStats,
    only,
    read_or_refuse,
    refused,
)
from hypervisor_consumers.event_index.api.response_models import Counts, Events, OneEvent, answers
from hypervisor_consumers.event_index.api.responses import Answers
from hypervisor_consumers.event_index.api.serializers import document_of
from hypervisor_consumers.event_index.api.stream import add_stream
from hypervisor_consumers.event_index.backends.store import EventStore
from hypervisor_consumers.event_index.query.cursors import read_cursor, write_cursor
from hypervisor_consumers.event_index.query.reader import Snapshot
from hypervisor_consumers.event_index.query.time_buckets import TooManyBuckets, counted_in
from hypervisor_consumers.runtime.ops.auth import bearer_access
from hypervisor_consumers.runtime.ops.freshness import IndexFreshness

__all__ = ["create_router"]


def create_router(store: EventStore, freshness: IndexFreshness, token: str | None) -> APIRouter:
    """The routes under `/v1`, answered from `store`; with a token, only to who carries it.

    Every answer says how old it is, and may be asked to include what a read token tells (`after`). Answers: 200;
    401 without the token; 404 for an event that isn't there; 422 for a parameter that is wrong, unknown or given
    twice; 503 while the database can't be used; 504 for a token that isn't included in time.
    """
    router = APIRouter(prefix="/v1", tags=["events"], dependencies=[Depends(bearer_access(token))])
    answer = Answers(store, freshness)

    @router.get("/events", responses=answers(Events), dependencies=[Depends(only(EventPage))])
    async def events(asked: Annotated[EventPage, Query()]) -> Response:
        """The last `limit` events that fit every filter, oldest first; `next` is the cursor to those before them.

        Order: (timestamp, topic, partition, offset). Fewer than `limit`, and `next`, where they have
        16 MB together.
        """
        wanted = asked.wanted()
        before = None if asked.cursor is None else read_or_refuse(read_cursor, asked.cursor, wanted)

        def look(now: Snapshot) -> dict[str, Any]:
            page = now.page(now.named(wanted), asked.limit, before)
            found = page.rows if asked.order == "desc" else page.rows[::-1]
            return {
                "events": [document_of(row) for row in found],
                "next": None if page.last is None else write_cursor(page.last, wanted),
            }

        return await answer.to(asked, look)

    add_stream(router, store)

    @router.get(
        "/events/{event_id:path}", responses=answers(OneEvent, may_miss=True), dependencies=[Depends(only(Asked))]
    )
    async def event(
        event_id: Annotated[str, Path(max_length=MAX_ID_CHARACTERS)], asked: Annotated[Asked, Query()]
    ) -> Response:
        """The event with this id."""

        def look(now: Snapshot) -> dict[str, Any]:
            found = now.event(event_id)
            if found is None:
                raise HTTPException(404, f"No event {event_id!r} is in the index; it may not have come yet.")
            return {"event": found.to_dict()}

        return await answer.to(asked, look)

    @router.get("/stats", responses=answers(Counts), dependencies=[Depends(only(EventStats))])
    async def stats(asked: Annotated[EventStats, Query()]) -> Response:
        """How many events fit every filter, in all and of each type; with `bucket` also of each span of time.

        Buckets begin at whole multiples of their size since 1970, in UTC, the first with that of `start` or of the
        first event, the last with that of `end` or of the last event. Those without events are there, too.
        """
        wanted = asked.wanted()

        def look(now: Snapshot) -> dict[str, Any]:
            named = now.named(wanted)
            if asked.bucket is None:
                counts = now.type_counts(named)
                return {"event_count": sum(counts.values()), "type_counts": counts}
            try:
                buckets = counted_in(now, named, asked.bucket)
            except TooManyBuckets as error:
                raise refused("bucket", str(error)) from None
            total = Counter[str]()
            for bucket in buckets:
                total.update(bucket["type_counts"])
            return {
                "event_count": total.total(),
                "type_counts": dict(sorted(total.items())),
                "bucket_seconds": asked.bucket,
                "buckets": buckets,
            }

        return await answer.to(asked, look)

    add_subjects(router, answer)
    return router
