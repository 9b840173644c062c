"""What every answer of the event index has in common: it waits where it has to, is from one moment, has an age."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec
from fastapi import HTTPException, Response
from starlette.concurrency import run_in_threadpool

from hypervisor_consumers.event_index.api.parameters import Asked, refused
from hypervisor_consumers.event_index.api.read_your_writes import Inclusion
from hypervisor_consumers.event_index.backends.store import EventStore, StoreUnavailable
from hypervisor_consumers.event_index.query.reader import Snapshot
from hypervisor_consumers.event_index.query.subtrees import TooManySpans
from hypervisor_consumers.runtime.ops.freshness import IndexFreshness
from hypervisor_consumers.runtime.records import TopicPartition

__all__ = ["Answers", "told_to_the_client"]


class Answers:
    """Answers from `store`."""

    def __init__(self, store: EventStore, freshness: IndexFreshness) -> None:
        self._store = store
        self._freshness = freshness
        self._inclusion = Inclusion(self._offsets)

    async def to(self, asked: Asked, look: Callable[[Snapshot], Mapping[str, Any]]) -> Response:
        """What `look` finds, and how old that is; `look` runs in the server's thread pool.

        Raises:
            HTTPException: 503 while the database can't be used; 504 for a token that isn't included in time.
            RequestValidationError: The token is none; a subtree is of too many spans.
        """
        if awaited := asked.awaited():
            with told_to_the_client():
                missing = await self._inclusion.missing(awaited, asked.wait)
            if missing:
                raise _not_included(missing, awaited, asked.wait)
        return await run_in_threadpool(self._now, look)

    def _now(self, look: Callable[[Snapshot], Mapping[str, Any]]) -> Response:
        with told_to_the_client(), self._store.snapshot() as now:
            # First: whatever the database makes of "one moment", the answer includes at least these.
            includes = now.offsets()
            found = look(now)
        # As it is: FastAPI's own encoder would walk through every payload once more.
        answer = msgspec.json.encode({**found, **self._freshness.of(includes)})
        return Response(answer, media_type="application/json")

    def _offsets(self) -> Mapping[TopicPartition, int]:
        with self._store.snapshot() as now:
            return now.offsets()


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
def told_to_the_client() -> Iterator[None]:
    """The database's trouble becomes a 503, and what is too much of a question a 422."""
    try:
        yield
    except StoreUnavailable as error:
        raise HTTPException(status_code=503, detail=str(error)) from error
    except TooManySpans as error:
        raise refused("subtree", str(error)) from None
