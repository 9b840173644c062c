"""Makes the responses of the event index: each waits for a read token, reads one moment, tells its freshness."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec
from fastapi import Depends, HTTPException, Response
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from hypervisor_consumers.event_index.api.parameters import WaitParameters, allow_only, refused
from hypervisor_consumers.event_index.api.read_your_writes import OffsetWaiter
from hypervisor_consumers.event_index.api.response_models import documented_responses
from hypervisor_consumers.event_index.backends.store import EventStore, StoreUnavailable
from hypervisor_consumers.event_index.query.reader import Snapshot
from hypervisor_consumers.event_index.query.subtrees import TooManySpans
from hypervisor_consumers.event_index.query.time_buckets import TooManyBuckets
from hypervisor_consumers.runtime.ops.freshness import IndexFreshness
from hypervisor_consumers.runtime.records import TopicPartition

__all__ = ["Responder", "http_errors", "route_options"]


class Responder:
    """Responds with data from `store`."""

    def __init__(self, store: EventStore, freshness: IndexFreshness) -> None:
        self._store = store
        self._freshness = freshness
        self._waiter = OffsetWaiter(store.offsets)

    async def respond(self, parameters: WaitParameters, read: Callable[[Snapshot], Mapping[str, Any]]) -> Response:
        """The response with the result of `read` and its freshness; `read` runs in the server's thread pool.

        Raises:
            HTTPException: 503 while the database can't be used; 504 for a token that isn't included in time.
            RequestValidationError: The read token is wrong, or the query is for too many spans or buckets.
        """
        if awaited := parameters.awaited_offsets():
            with http_errors():
                missing = await self._waiter.missing(awaited, parameters.wait)
            if missing:
                raise _not_included(missing, awaited, parameters.wait)
        return await run_in_threadpool(self._respond_now, read)

    def _respond_now(self, read: Callable[[Snapshot], Mapping[str, Any]]) -> Response:
        with http_errors(), self._store.snapshot() as snapshot:
            # Read the offsets first: however well the database isolates, the response includes at least these.
            offsets = snapshot.offsets()
            content = read(snapshot)
        # Encoded here: FastAPI's own encoder would walk through every payload once more.
        body = msgspec.json.encode({**content, **self._freshness.of(offsets)})
        return Response(body, media_type="application/json")


def _not_included(
    missing: Mapping[TopicPartition, int], awaited: Mapping[TopicPartition, int], seconds: float
) -> HTTPException:
    topic_partition, offset = min(missing.items())
    more = f", and of {len(missing) - 1} more partitions neither" if len(missing) > 1 else ""
    return HTTPException(
        504,
        f"The index doesn't include partition {topic_partition.partition} of {topic_partition.topic} up to offset "
        f"{awaited[topic_partition]} after {seconds:g} s; it is at {offset}{more}. "
        "Ask again with the same token, or without it for what there is.",
    )


@contextmanager
def http_errors() -> Iterator[None]:
    """Turn `StoreUnavailable` into a 503, and a query for too much into a 422."""
    try:
        yield
    except StoreUnavailable as error:
        raise HTTPException(status_code=503, detail=str(error)) from error
    except TooManySpans as error:
        raise refused("subtree", str(error)) from None
    except TooManyBuckets as error:
        raise refused("bucket", str(error)) from None


def route_options(model: type[BaseModel], parameters: type[BaseModel], *, may_miss: bool = False) -> dict[str, Any]:
    """The options of a route: its documented responses, and the dependency that refuses other `parameters`."""
    return {
        "responses": documented_responses(model, may_miss=may_miss),
        "dependencies": [Depends(allow_only(parameters))],
    }
