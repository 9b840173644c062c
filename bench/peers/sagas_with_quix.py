"""Quix Streams, exactly once, turning saga events to spans that go nowhere; until SIGTERM.

The state of a session: its open sagas with their open steps, and how many spans there were.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, Any

import msgspec
from quixstreams.state.memory import MemoryStore

from bench.peers.shared import arguments
from bench.peers.with_quix import run

if TYPE_CHECKING:
    from quixstreams.state import State

SPANS = b"spans"
COUNT = struct.Struct(">q")


class Payload(msgspec.Struct, gc=False):
    """The payload's fields that are used."""

    saga_id: str
    step_id: str = ""
    step_action: str = ""
    result: str = ""


class Saga(msgspec.Struct, array_like=True, gc=False):
    """An open saga, with the start times of its open steps and the ids of the events that began them."""

    trace_id: str
    span_id: str
    start: int
    steps: dict[str, tuple[int, str]]


read_payload = msgspec.json.Decoder(Payload).decode
write_saga = msgspec.msgpack.Encoder().encode
read_saga = msgspec.msgpack.Decoder(Saga).decode


def follow(event: dict[str, Any], state: State[bytes, bytes]) -> None:
    payload = read_payload(event["payload"])
    key = b"saga|" + payload.saga_id.encode()
    row = state.get_bytes(key)
    saga = opened(event, payload) if row is None else read_saga(row)
    kind, at = event["event_type"], event["timestamp"]
    if kind == "saga.step_started":
        saga.steps[payload.step_id] = at, event["event_id"]
    elif kind == "saga.step_committed":
        began, span_id = saga.steps.pop(payload.step_id, (at, event["event_id"]))
        spanned(event, payload, saga, f"saga.step.{payload.step_action}", (began, span_id))
        count(state)
    if kind == "saga.completed":
        spanned(event, payload, saga, f"saga.completed.{payload.saga_id}", (saga.start, saga.span_id))
        count(state)
        state.delete(key)
    else:
        state.set_bytes(key, write_saga(saga))


def opened(event: dict[str, Any], payload: Payload) -> Saga:
    trace = (event["causal_trace_id"] or "").partition("/")[0]
    trace_id = hashlib.sha256(trace.encode()).hexdigest()[:20] + trace
    name = f"{trace_id}|{event['session_id']}|{payload.saga_id}"
    return Saga(trace_id, hashlib.sha256(name.encode()).hexdigest()[:16], event["timestamp"], {})


def count(state: State[bytes, bytes]) -> None:
    row = state.get_bytes(SPANS)
    state.set_bytes(SPANS, COUNT.pack((0 if row is None else COUNT.unpack(row)[0]) + 1))


def spanned(
    event: dict[str, Any], payload: Payload, saga: Saga, name: str, began: tuple[int, str]
) -> dict[str, Any]:
    """Make the span, and drop it, as the null sink does."""
    start, span_id = began
    return {
        "name": name,
        "trace_id": saga.trace_id,
        "span_id": span_id,
        "parent_span_id": None if span_id == saga.span_id else saga.span_id,
        "start_time": start / 1e6,
        "end_time": event["timestamp"] / 1e6,
        "attributes": {
            "agent.saga.id": payload.saga_id,
            "agent.saga.step_id": payload.step_id,
            "agent.saga.step_action": payload.step_action,
            "agent.saga.state": "ok",
            "agent.saga.result": payload.result,
            "agent.did": event["agent_did"],
            "session.id": event["session_id"],
        },
    }


if __name__ == "__main__":
    run(arguments(), follow, MemoryStore)
