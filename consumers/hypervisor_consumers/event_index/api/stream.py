"""`GET /v1/events/stream`: events as the index takes them in, by server-sent events.

The id of a message is the vector of offsets up to which everything was sent. A number that the index counts up
would not do: of two copies that write side by side the later number can be committed first.

Nobody is read ahead for: a client that is slow keeps one piece of events in memory and asks the database nothing
until it has taken them. It can't hold up the ingest, which has a connection of its own, nor the other clients.
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

from hypervisor_consumers.event_index.api.parameters import EventStream, only, refused
from hypervisor_consumers.event_index.api.read_your_writes import Inclusion
from hypervisor_consumers.event_index.api.responses import told_to_the_client
from hypervisor_consumers.event_index.backends.store import EventStore, StoreUnavailable
from hypervisor_consumers.event_index.query.offset_vector import Vector
from hypervisor_consumers.event_index.query.queries import Wanted
from hypervisor_consumers.event_index.query.subtrees import TooManySpans
from hypervisor_consumers.runtime.ops.http import is_closing
from hypervisor_consumers.runtime.records import TopicPartition
from hypervisor_schemas.events import HypervisorEvent
from hypervisor_schemas.read_token import read_token

__all__ = ["add_stream"]

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_STREAMS = 100
_READERS = 4
"""Threads that read for all streams; the server's own are left to everybody else."""

_LOOK_EVERY = 0.1
"""Seconds between two looks for something new, one look for all streams."""

_ALIVE_EVERY = 15.0
"""Seconds after which a stream that has nothing to tell says that it is alive, and how far it is."""

_TAKEN_WITHIN = 60.0
"""Seconds that a client may leave what was sent where it is."""

_PIECE_EVENTS, _PIECE_BYTES = 200, 1 << 20
_WALKED_OFFSETS = 10_000
"""What one statement goes through at most, whatever fits."""


def add_stream(router: APIRouter, store: EventStore) -> None:
    """Add the route; 503 while the database can't be used, or with too many streams."""
    streams = _Streams(store)

    @router.get(
        "/events/stream",
        dependencies=[Depends(only(EventStream))],
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {"example": _EXAMPLE}}}},
    )
    async def stream(
        request: Request,
        asked: Annotated[EventStream, Query()],
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> Response:
        """Events that fit, as the index takes them in, until either side ends it: server-sent events.

        `data` is an event as JSON. `id` is where to go on: whoever comes back with it as the header
        `Last-Event-ID`, as browsers do by themselves, misses nothing and gets nothing twice. In order of each
        partition. Without an id it begins with what is new, or with the last `limit` that are there; of those the
        last one has the first id.
        """
        wanted = asked.wanted()
        begin = _vector_of(last_event_id or asked.last_event_id)
        closing = partial(is_closing, request.app)
        streams.enter()
        try:
            # Also of one that goes on: what can't be answered is refused before the answer begins.
            now, first = await streams.now(wanted, asked.limit if begin is None else 0)
        except BaseException:
            streams.leave()
            raise
        return _Stream(streams.told(begin or now, first, wanted, closing), streams.leave)

    _ = stream


_EXAMPLE = (
    'id: hypervisor.events.ring:0.15:3.4\ndata: {"event_id":"9f86d081884c7d65","event_type":"ring.elevated",…}\n\n'
)


def _vector_of(token: str | None) -> Vector | None:
    if not token:
        return None
    try:
        return Vector(
            {}
            if token == _NOWHERE
            else {TopicPartition(*topic_partition): offset for topic_partition, offset in read_token(token).items()}
        )
    except ValueError:
        raise refused("last_event_id", "This is not the id of a message of this stream.") from None


class _Streams:
    """What all streams share."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._looks = Inclusion(self._offsets, _LOOK_EVERY)
        self._readers: CapacityLimiter | None = None
        self._open = 0

    async def now(self, wanted: Wanted, limit: int) -> tuple[Vector, Sequence[HypervisorEvent]]:
        """Where the index is, and the last `limit` events that fit, oldest first; both from one moment."""
        with told_to_the_client():
            return await self._read(partial(self._look_at_now, wanted, limit))

    async def told(
        self, at: Vector, first: Sequence[HypervisorEvent], wanted: Wanted, closing: Callable[[], bool]
    ) -> AsyncIterator[bytes]:
        """The messages, until the server closes or the database is in trouble: then the client comes back."""
        yield b"retry: 1000\n\n"
        for event in first[:-1]:
            yield _message(event)
        yield _message(first[-1], at) if first else _position(at)
        try:
            while not closing():
                told = str(at)
                offsets = await self._looks.until(lambda now: bool(at.behind(now)) or closing(), _ALIVE_EVERY)
                if not at.behind(offsets):
                    yield b": alive\n\n"
                    continue
                quiet_since = asyncio.get_running_loop().time()
                while not closing() and (behind := at.behind(offsets)):
                    for topic_partition, end, told_now in await self._read(
                        partial(self._piece, at, behind, wanted)
                    ):
                        at.move(topic_partition, end)
                        if told_now is not None:
                            told = str(at)
                            yield _message(told_now, at)
                    now = asyncio.get_running_loop().time()
                    if now - quiet_since > _ALIVE_EVERY:
                        quiet_since = now
                        yield _position(at)
                if told != str(at):
                    yield _position(at)
        except (StoreUnavailable, TooManySpans) as error:
            log.info("A stream of events ends: %s", error)

    def _look_at_now(self, wanted: Wanted, limit: int) -> tuple[Vector, Sequence[HypervisorEvent]]:
        with self._store.snapshot() as now:
            at, named = Vector(now.offsets()), now.named(wanted)
            return at, now.page(named, limit).events[::-1] if limit else ()

    def _piece(self, at: Vector, behind: Mapping[TopicPartition, int], wanted: Wanted) -> list[_Step]:
        """What comes next: of each partition in its order, of all about by time; and where that ends."""
        walks: list[list[_Step]] = []
        ends: list[_Step] = []
        share = max(1, _PIECE_EVENTS // len(behind))
        size = max(1, _PIECE_BYTES // len(behind))
        with self._store.snapshot() as now:
            named = now.named(wanted)
            for topic_partition, head in behind.items():
                first = at.of(topic_partition)
                end = min(head, first + _WALKED_OFFSETS)
                found, end = now.behind(topic_partition, (first, end), named, limit=share, max_bytes=size)
                walks.append([(topic_partition, offset + 1, event) for offset, event in found])
                ends.append((topic_partition, end, None))
        return [*heapq.merge(*walks, key=_time), *ends]

    def _offsets(self) -> Mapping[TopicPartition, int]:
        with self._store.snapshot() as now:
            return now.offsets()

    async def _read(self, look: Callable[[], T]) -> T:
        if self._readers is None:  # made where its event loop runs
            self._readers = CapacityLimiter(_READERS)
        return await run_sync(look, limiter=self._readers)

    def enter(self) -> None:
        """Take a place among the streams.

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
        """Give it back."""
        self._open -= 1


_Step = tuple[TopicPartition, int, HypervisorEvent | None]
"""A partition, the offset up to which it is sent then, and what is sent."""


def _time(step: _Step) -> float:
    return step[2].timestamp.timestamp() if step[2] is not None else 0.0


class _Stream(StreamingResponse):
    """Holds its place as long as it is sent; ends where the client leaves it where it is."""

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
        async def soon(message: Message) -> None:
            async with asyncio.timeout(_TAKEN_WITHIN):
                await send(message)

        try:
            await super().stream_response(soon)
        except TimeoutError:
            log.info("A stream of events ends: its client has taken nothing for %g s.", _TAKEN_WITHIN)


_encode = msgspec.json.encode


def _message(event: HypervisorEvent, at: Vector | None = None) -> bytes:
    data = _encode(event.to_dict())
    return b"data: %b\n\n" % data if at is None else b"id: %b\ndata: %b\n\n" % (_id(at), data)


def _position(at: Vector) -> bytes:
    """A message without an event: where to go on."""
    return b"id: %b\n\n" % _id(at)


def _id(at: Vector) -> bytes:
    return (str(at) or _NOWHERE).encode()


_NOWHERE = "none"
"""The id while the index holds nothing: to one that is empty a client wouldn't come back."""
