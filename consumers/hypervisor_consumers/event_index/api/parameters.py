"""The query parameters of the event index's API: each is bounded, and unknown ones are refused."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, Field

from hypervisor_consumers.event_index.query.containment import (
    MAX_OBJECT_CHARACTERS,
    MAX_OBJECT_DEPTH,
    MAX_OBJECT_VALUES,
    read_object,
)
from hypervisor_consumers.event_index.query.cursors import MAX_CURSOR_CHARACTERS, MAX_GROUP_CURSOR_CHARACTERS
from hypervisor_consumers.event_index.query.queries import EventFilter
from hypervisor_consumers.runtime.records import TopicPartition
from hypervisor_schemas.read_token import MAX_TOKEN_CHARACTERS, read_token
from hypervisor_schemas.timestamps import microseconds

__all__ = [
    "MAX_ID_CHARACTERS",
    "PageParameters",
    "QueryParameters",
    "SessionParameters",
    "StatsParameters",
    "StreamParameters",
    "WaitParameters",
    "allow_only",
    "read_or_refuse",
    "refused",
]

P = TypeVar("P")

MAX_ID_CHARACTERS = 1024
_MAX_TYPES = 50

# A client that doesn't write "+" as "%2B" sends "2025-01-15T10:30:00 00:00".
_LOST_PLUS = re.compile(r"(.+T.+) (\d\d:?\d\d)")


def _parse_time(text: Any) -> datetime:
    try:
        moment = datetime.fromisoformat(_LOST_PLUS.sub(r"\1+\2", text))
        microseconds(moment)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{text!r} is not a time in ISO 8601, such as 2025-01-15T10:30:00Z") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


_BUCKET_SIZE = re.compile(r"([1-9][0-9]{0,8})([smhd]?)")
_UNIT_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def _parse_bucket_seconds(text: Any) -> int:
    match = _BUCKET_SIZE.fullmatch(text) if isinstance(text, str) else None
    seconds = int(match[1]) * _UNIT_SECONDS[match[2]] if match else 0
    if not 0 < seconds <= _MAX_BUCKET_SECONDS:
        raise ValueError(f"{text!r} is not a size from a second to ten years, such as 60, 5m, 1h or 1d")
    return seconds


_MAX_BUCKET_SECONDS = 3660 * 86400
_Bucket = Annotated[int, BeforeValidator(_parse_bucket_seconds, json_schema_input_type=str)]
_Instant = Annotated[datetime, BeforeValidator(_parse_time)]
_Id = Annotated[str, Field(max_length=MAX_ID_CHARACTERS)]


class WaitParameters(BaseModel):
    """The parameters of every query: the writes that the response must include, and how long to wait for them."""

    after: str | None = Field(
        None,
        max_length=MAX_TOKEN_CHARACTERS,
        description="A read token from a publisher's flush(): the response comes once the index includes it.",
        examples=["hypervisor.events.ring:0.15:3.4"],
    )
    wait: float = Field(5, ge=0, le=30, description="The most seconds to wait for `after`.")

    def awaited_offsets(self) -> dict[TopicPartition, int]:
        """The offsets to wait for.

        Raises:
            RequestValidationError: `after` is no read token.
        """
        try:
            return {
                TopicPartition(*topic_partition): offset
                for topic_partition, offset in read_token(self.after or "").items()
            }
        except ValueError as error:
            raise refused("after", str(error)) from None


class FilterParameters(BaseModel):
    """The parameters of a filter over events: an event must match all that is given."""

    event_type: list[_Id] | None = Field(
        None,
        max_length=_MAX_TYPES,
        description="The type's value, such as ring.elevated, or a category, such as ring; of several any may "
        "match.",
        examples=[["ring.elevated"], ["ring", "saga.step_failed"]],
    )
    session_id: _Id | None = Field(None, examples=["session-001"])
    agent_did: _Id | None = Field(None, examples=["did:mesh:rogue-bot"])
    trace_id: _Id | None = Field(
        None, description="The first part of the causal trace id.", examples=["a1b2c3d4e5f6"]
    )
    start: _Instant | None = Field(
        None,
        description="Not before this time: ISO 8601, UTC if it names no zone.",
        examples=["2025-01-15T10:30:00Z"],
    )
    end: _Instant | None = Field(None, description="Not after this time.", examples=["2025-01-15T11:00:00Z"])
    payload: str | None = Field(
        None,
        max_length=MAX_OBJECT_CHARACTERS,
        description="A JSON object that the payload contains: objects by their keys, arrays whatever their order, "
        f"scalars equal. At most {MAX_OBJECT_VALUES} values, {MAX_OBJECT_DEPTH} deep. No database index supports "
        "it, so combine it with other filters.",
        examples=['{"to_ring":0}'],
    )
    subtree: _Id | None = Field(
        None,
        description="With trace_id: a span of that trace and all spans below it, by the causal trace ids and, if "
        "one names no parent, by parent_event_id.",
        examples=["89abcdef"],
    )

    def event_filter(self) -> EventFilter:
        """The filter, with categories and subtree not resolved yet.

        Raises:
            RequestValidationError: The payload is no object, or a subtree is given without its trace.
        """
        if self.subtree is not None and self.trace_id is None:
            raise refused("subtree", "A subtree is of a trace; give its trace_id, too.")
        try:
            payload = None if self.payload is None else read_object(self.payload)
        except ValueError as error:
            raise refused("payload", str(error)) from None
        return EventFilter(
            *(self.event_type, self.session_id, self.agent_did, self.trace_id, self.start, self.end),
            payload=payload,
            subtree=self.subtree,
        )


class QueryParameters(FilterParameters, WaitParameters):
    """The parameters of a query over events."""


class PageParameters(QueryParameters):
    """The parameters of a page of events."""

    limit: int = Field(100, ge=1, le=1000, description="At most this many events, the last ones.")
    order: Literal["asc", "desc"] = Field(
        "asc", description="The order of the response: oldest (asc) or latest (desc) event first."
    )
    cursor: str | None = Field(
        None,
        max_length=MAX_CURSOR_CHARACTERS,
        description="The `next` of a response to the same filter, for the events before its own.",
    )


class StatsParameters(QueryParameters):
    """The parameters of event counts."""

    bucket: _Bucket | None = Field(
        None,
        description="Count also in time buckets of this size: seconds, or a number with s, m, h or d. At most "
        "1,000 buckets.",
        examples=["60", "5m", "1h"],
    )


class StreamParameters(FilterParameters):
    """The parameters of a stream of events."""

    limit: int = Field(
        0, ge=0, le=1000, description="Begin with at most this many of the last events; new ones follow."
    )
    last_event_id: str | None = Field(
        None,
        max_length=MAX_TOKEN_CHARACTERS,
        description="The id of a message of this stream, to continue after it; so does the header Last-Event-ID.",
    )


class SessionParameters(WaitParameters):
    """The parameters of a page of sessions: the filter is over their events."""

    agent_did: _Id | None = Field(None, examples=["did:mesh:rogue-bot"])
    start: _Instant | None = Field(
        None, description="Only events not before this time.", examples=["2025-01-15T10:30:00Z"]
    )
    end: _Instant | None = Field(None, description="Not after this time.", examples=["2025-01-15T11:00:00Z"])
    limit: int = Field(100, ge=1, le=1000, description="At most this many sessions.")
    cursor: str | None = Field(
        None,
        max_length=MAX_GROUP_CURSOR_CHARACTERS,
        description="The `next` of a response to the same filter, for the sessions after its own.",
    )


def allow_only(*models: type[BaseModel]) -> Callable[[Request], Awaitable[None]]:
    """A dependency that refuses unknown parameters, and repeated ones except lists.

    A mistyped filter must not return everything.
    """
    fields = {name: field for model in models for name, field in model.model_fields.items()}
    lists = {name for name, field in fields.items() if field.annotation == list[_Id] | None}
    # Pydantic names the fields of the base class first; the sentence names them last, as they matter least.
    takes = f"This takes {', '.join(sorted(fields, key=lambda name: name in WaitParameters.model_fields))}"

    async def check(request: Request) -> None:
        given = Counter(name for name, _ in request.query_params.multi_items())
        errors = [
            {"type": "unknown_parameter", "loc": ("query", name), "msg": f"{takes}; {name!r} is not among them."}
            for name in given
            if name not in fields
        ]
        errors += [
            {"type": "repeated_parameter", "loc": ("query", name), "msg": f"Give {name!r} once, not {times} times."}
            for name, times in given.items()
            if name in fields.keys() - lists and times > 1
        ]
        if errors:
            raise RequestValidationError(errors)

    return check


def refused(parameter: str, sentence: str) -> RequestValidationError:
    """The error to raise for a parameter that turns out to be wrong after validation: 422 with the sentence."""
    return RequestValidationError([{"type": "value_error", "loc": ("query", parameter), "msg": sentence}])


def read_or_refuse(
    read: Callable[[str, EventFilter], P], cursor: str | None, event_filter: EventFilter
) -> P | None:
    """The position that `read` finds in the cursor; None without a cursor.

    Raises:
        RequestValidationError: The text is no cursor, or a cursor of another filter.
    """
    try:
        return None if cursor is None else read(cursor, event_filter)
    except ValueError as error:
        raise refused("cursor", str(error)) from None
