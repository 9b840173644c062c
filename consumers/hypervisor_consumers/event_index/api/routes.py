"""The HTTP API of the event index: `/v1/events`, `/v1/stats`, and the routes of the other modules. Read-only."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Response

from hypervisor_consumers.event_index.api.entity_routes import add_entity_routes
from hypervisor_consumers.event_index.api.parameters import (
    MAX_ID_CHARACTERS,
    PageParameters,
    StatsParameters,
    WaitParameters,
    read_or_refuse,
)
from hypervisor_consumers.event_index.api.response_models import Counts, Events, OneEvent
from hypervisor_consumers.event_index.api.responses import Responder, route_options
from hypervisor_consumers.event_index.api.serializers import event_document
from hypervisor_consumers.event_index.api.stream import add_stream_route
from hypervisor_consumers.event_index.backends.store import EventStore
from hypervisor_consumers.event_index.query.cursors import read_cursor, write_cursor
from hypervisor_consumers.event_index.query.reader import Snapshot
from hypervisor_consumers.event_index.query.time_buckets import count_by_bucket
from hypervisor_consumers.runtime.ops.auth import bearer_access
from hypervisor_consumers.runtime.ops.freshness import IndexFreshness

__all__ = ["create_router"]


def create_router(store: EventStore, freshness: IndexFreshness, token: str | None) -> APIRouter:
    """The routes under `/v1`, which respond with data from `store`; if `token` is given, requests must carry it.

    Every response tells its freshness, and waits until it includes the offsets of a read token (`after`). Status:
    200; 401 without the token; 404 for an event that isn't there; 422 for a parameter that is wrong, unknown or
    given twice; 503 while the database can't be used; 504 for a read token that isn't included in time.
    """
    router = APIRouter(prefix="/v1", tags=["events"], dependencies=[Depends(bearer_access(token))])
    responder = Responder(store, freshness)

    @router.get("/events", **route_options(Events, PageParameters))
    async def events(parameters: Annotated[PageParameters, Query()]) -> Response:
        """The last `limit` events that match every filter, oldest first; `next` is the cursor to earlier ones.

        Order: (timestamp, topic, partition, offset). A page ends when its events reach 16 MB together: then it has
        fewer than `limit` events, and a `next` if there are more.
        """
        event_filter = parameters.event_filter()
        before = read_or_refuse(read_cursor, parameters.cursor, event_filter)

        def read(snapshot: Snapshot) -> dict[str, Any]:
            page = snapshot.page(snapshot.resolve(event_filter), parameters.limit, before)
            rows = page.rows if parameters.order == "desc" else page.rows[::-1]
            return {
                "events": [event_document(row) for row in rows],
                "next": None if page.resume_at is None else write_cursor(page.resume_at, event_filter),
            }

        return await responder.respond(parameters, read)

    add_stream_route(router, store)

    @router.get("/events/{event_id:path}", **route_options(OneEvent, WaitParameters, may_miss=True))
    async def event(
        event_id: Annotated[str, Path(max_length=MAX_ID_CHARACTERS)], parameters: Annotated[WaitParameters, Query()]
    ) -> Response:
        """The event with this id."""

        def read(snapshot: Snapshot) -> dict[str, Any]:
            found = snapshot.event(event_id)
            if found is None:
                raise HTTPException(404, f"No event {event_id!r} is in the index; it may not have come yet.")
            return {"event": found.to_dict()}

        return await responder.respond(parameters, read)

    @router.get("/stats", **route_options(Counts, StatsParameters))
    async def stats(parameters: Annotated[StatsParameters, Query()]) -> Response:
        """The number of events that match every filter, in all and by type; with `bucket` also by time bucket.

        Buckets begin at whole multiples of their size since 1970, in UTC. The first bucket is that of `start` or of
        the first event, the last one that of `end` or of the last event. Buckets without events are included.
        """
        event_filter = parameters.event_filter()

        def read(snapshot: Snapshot) -> dict[str, Any]:
            resolved = snapshot.resolve(event_filter)
            if parameters.bucket is None:
                counts = snapshot.type_counts(resolved)
                return {"event_count": sum(counts.values()), "type_counts": counts}
            buckets = count_by_bucket(snapshot, resolved, parameters.bucket)
            total = Counter[str]()
            for bucket in buckets:
                total.update(bucket["type_counts"])
            return {
                "event_count": total.total(),
                "type_counts": dict(sorted(total.items())),
                "bucket_seconds": parameters.bucket,
                "buckets": buckets,
            }

        return await responder.respond(parameters, read)

    add_entity_routes(router, responder)
    return router
