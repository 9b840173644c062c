"""`GET /v1/events/stream`: sends events as they enter the index, by server-sent events.

The id of a message is the vector of offsets up to which everything was sent. A counter of the index would not work:
when two copies write concurrently, the higher number can be committed first.

Nothing is read ahead. For a slow client one batch of events is in memory, and the database is read again only when
the client has received them. A slow client can't delay the ingest, which has its own connection, nor other clients.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, TypeVar

import msgspec
from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Header, HTTPException, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from hypervisor_consumers.event_index.api.parameters import StreamParameters, allow_only, refused
from hypervisor_consumers.event_index.api.read_your_writes import OffsetWaiter
from hypervisor_consumers.event_index.api.responses import http_errors
from hypervisor_consumers.event_index.backends.store import EventStore, StoreUnavailable
from hypervisor_consumers.event_index.query.offset_vector import OffsetVector
from hypervisor_consumers.event_index.query.queries import EventFilter
from hypervisor_consumers.event_index.query.subtrees import TooManySpans
from hypervisor_consumers.runtime.ops.http import is_closing
from hypervisor_consumers.runtime.records import TopicPartition
from hypervisor_schemas.events import HypervisorEvent
from hypervisor_schemas.read_token import read_token

__all__ = ["add_stream_route"]

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_STREAMS = 100
_READER_THREADS = 4
"""The threads that read for all streams; the server's own threads stay free for other requests."""

_POLL_SECONDS = 0.1
"""The time between two polls for new events; one poll serves all streams."""

_KEEPALIVE_SECONDS = 15.0
"""The time after which a stream without events sends that it is alive, and its position."""

_SEND_TIMEOUT_SECONDS = 60.0
"""The time within which a client must receive what was sent."""

_BATCH_EVENTS, _BATCH_BYTES = 200, 1 << 20
_SCAN_OFFSETS = 10_000
"""The most offsets that one statement scans, however few events match."""


def add_stream_route(router: APIRouter, store: EventStore) -> None:
    """Add the route of the stream; 503 while the database can't be used, or with too many streams."""
    streams = _Streams(store)

    @router.get(
        "/events/stream",
        dependencies=[Depends(allow_only(StreamParameters))],
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {"example": _EXAMPLE}}}},
    )
    async def stream(
        request: Request,
        parameters: Annotated[StreamParameters, Query()],
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> Response:
        """Matching events as they enter the index, until either side ends the stream: server-sent events.

        `data` is an event as JSON. `id` is the position in the stream: a client that sends it as the header
        `Last-Event-ID`, as browsers do by themselves, misses nothing and gets nothing twice. The events of each
        partition come in order. Without an id the stream begins with new events, or with the last `limit` events of
        the index; the last of these has the first id.
        """
        event_filter = parameters.event_filter()
        position = _read_id(last_event_id or parameters.last_event_id)
        closing = partial(is_closing, request.app)
        streams.enter()
        try:
            # Also when a stream continues: a query that can't be answered is refused before the response begins.
            now, first = await streams.current(event_filter, parameters.limit if position is None else 0)
        except BaseException:
            streams.leave()
            raise
        return _StreamResponse(streams.messages(position or now, first, event_filter, closing), streams.leave)

    _ = stream


_EXAMPLE = (
    'id: hypervisor.events.ring:0.15:3.4\ndata: {"event_id":"9f86d081884c7d65","event_type":"ring.elevated",…}\n\n'
)


def _read_id(text: str | None) -> OffsetVector | None:
    if not text:
        return None
    try:
        offsets = {} if text == _EMPTY_ID else read_token(text)
    except ValueError:
        raise refused("last_event_id", "This is not the id of a message of this stream.") from None
    return OffsetVector({TopicPartition(*topic_partition): offset for topic_partition, offset in offsets.items()})


class _Streams:
    """The state that all streams share: the readers of the database, and the number of open streams."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._waiter = OffsetWaiter(store.offsets, _POLL_SECONDS)
        self._readers: CapacityLimiter | None = None
        self._open = 0

    async def current(
        self, event_filter: EventFilter, limit: int
    ) -> tuple[OffsetVector, Sequence[HypervisorEvent]]:
        """The index's offsets and the last `limit` matching events, oldest first; both from one moment."""

        def read() -> tuple[OffsetVector, Sequence[HypervisorEvent]]:
            with self._store.snapshot() as snapshot:
                position, resolved = OffsetVector(snapshot.offsets()), snapshot.resolve(event_filter)
                return position, snapshot.page(resolved, limit).events[::-1] if limit else ()

        with http_errors():
            return await self._read(read)

    async def messages(
        self,
        position: OffsetVector,
        first: Sequence[HypervisorEvent],
        event_filter: EventFilter,
        closing: Callable[[], bool],
    ) -> AsyncIterator[bytes]:
        """The messages, until the server closes or the database fails; then the client connects again."""
        yield b"retry: 1000\n\n"
        for event in first[:-1]:
            yield _message(event)
        yield _message(first[-1], position) if first else _position_message(position)
        clock = asyncio.get_running_loop().time
        try:
            while not closing():
                sent_id = str(position)
                offsets = await self._waiter.wait_until(
                    lambda offsets: bool(position.behind(offsets)) or closing(), _KEEPALIVE_SECONDS
                )
                if not position.behind(offsets):
                    yield b": alive\n\n"
                    continue
                quiet_since = clock()
                while not closing() and (behind := position.behind(offsets)):
                    for topic_partition, end, next_event in await self._read(
                        partial(self._next_batch, position, behind, event_filter)
                    ):
                        position.move(topic_partition, end)
                        if next_event is not None:
                            sent_id = str(position)
                            yield _message(next_event, position)
                    if clock() - quiet_since > _KEEPALIVE_SECONDS:
                        quiet_since = clock()
                        yield _position_message(position)
                if sent_id != str(position):
                    yield _position_message(position)
        except (StoreUnavailable, TooManySpans) as error:
            log.info("A stream of events ends: %s", error)

    def _next_batch(
        self, position: OffsetVector, behind: Mapping[TopicPartition, int], event_filter: EventFilter
    ) -> list[_Step]:
        """The next events, each partition's in its order and all roughly by time; then the offsets reached."""
        events: list[list[_Step]] = []
        ends: list[_Step] = []
        limit = max(1, _BATCH_EVENTS // len(behind))
        max_bytes = max(1, _BATCH_BYTES // len(behind))
        with self._store.snapshot() as snapshot:
            resolved = snapshot.resolve(event_filter)
            for topic_partition, head in behind.items():
                first = position.of(topic_partition)
                between = (first, min(head, first + _SCAN_OFFSETS))
                found, end = snapshot.partition_events(
                    topic_partition, between, resolved, limit=limit, max_bytes=max_bytes
                )
                events.append([(topic_partition, offset + 1, event) for offset, event in found])
                ends.append((topic_partition, end, None))
        return [*heapq.merge(*events, key=_time), *ends]

    async def _read(self, read: Callable[[], T]) -> T:
        if self._readers is None:  # created here, inside the event loop to which it belongs
            self._readers = CapacityLimiter(_READER_THREADS)
        return await run_sync(read, limiter=self._readers)

    def enter(self) -> None:
        """Count one more open stream.

        Raises:
            HTTPException: There are too many.
        """
        if self._open >= MAX_STREAMS:
            raise HTTPException(
                503,
                f"{MAX_STREAMS} streams are open, more are not served; try again later, or ask another copy.",
                {"Retry-After": "5"},
            )
        self._open += 1

    def leave(self) -> None:
        """Count one open stream less."""
        self._open -= 1


_Step = tuple[TopicPartition, int, HypervisorEvent | None]
"""A step of a stream: a partition, the offset up to which it is sent after this step, and the event to send."""


def _time(step: _Step) -> float:
    return step[2].timestamp.timestamp() if step[2] is not None else 0.0


class _StreamResponse(StreamingResponse):
    """A response that counts as an open stream while it is sent, and ends if the client receives nothing."""

    def __init__(self, content: AsyncIterator[bytes], leave: Callable[[], None]) -> None:
        super().__init__(
            content,
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )
        self._leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._leave()

    async def stream_response(self, send: Send) -> None:
        async def send_within(message: Message) -> None:
            async with asyncio.timeout(_SEND_TIMEOUT_SECONDS):
                await send(message)

        try:
            await super().stream_response(send_within)
        except TimeoutError:
            log.info("A stream of events ends: its client has taken nothing for %g s.", _SEND_TIMEOUT_SECONDS)


_encode = msgspec.json.encode


def _message(event: HypervisorEvent, position: OffsetVector | None = None) -> bytes:
    data = _encode(event.to_dict())
    return b"data: %b\n\n" % data if position is None else b"id: %b\ndata: %b\n\n" % (_id(position), data)


def _position_message(position: OffsetVector) -> bytes:
    """A message without an event, which tells the client where to continue."""
    return b"id: %b\n\n" % _id(position)


def _id(position: OffsetVector) -> bytes:
    return (str(position) or _EMPTY_ID).encode()


_EMPTY_ID = "none"
"""The id while the index holds nothing: a client doesn't send an empty id when it connects again."""
