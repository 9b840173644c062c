"""Quix Streams, exactly once, with its State API and a changelog; until SIGTERM."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from quixstreams import Application
from quixstreams.models import Deserializer
from quixstreams.state.memory import MemoryStore
from quixstreams.state.rocksdb import RocksDBStore

from bench.peers.shared import arguments, calm_garbage_collection, event_reader, read_payload

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from quixstreams.state import State

ROW = struct.Struct(">qi")
"""The count, and the last ring; -1: none."""


class EventDeserializer(Deserializer):
    """Decode with fastavro after the framing; Quix's own AvroDeserializer knows only Confluent's."""

    def __init__(self) -> None:
        super().__init__()
        self._read = event_reader()

    def __call__(self, value: bytes, ctx: object) -> dict[str, Any]:  # noqa: ARG002 - Quix's names
        return self._read(value)


def count(event: dict[str, Any], state: State[bytes, bytes]) -> None:
    """Count an event; the state is the session's, as that is the record's key."""
    key = f"{event['agent_did']}|{event['event_type']}".encode()
    row = state.get_bytes(key)
    number, ring = ROW.unpack(row) if row is not None else (0, -1)
    last = read_payload(event["payload"]).ring
    state.set_bytes(key, ROW.pack(number + 1, ring if last is None else last))


def run(
    given: argparse.Namespace, follow: Callable[[dict[str, Any], State[bytes, bytes]], None], store: type
) -> None:
    """Follow the events of a topic with a state, until SIGTERM."""
    app = Application(
        given.bootstrap,
        consumer_group=given.group,
        auto_offset_reset="earliest",
        commit_interval=given.commit_interval,
        processing_guarantee="exactly-once",
        state_dir=given.state_dir,
        consumer_extra_config={"fetch.queue.backoff.ms": 10},
        producer_extra_config={"compression.type": "lz4", "queue.buffering.max.messages": 1_000_000},
        broker_availability_timeout=0,  # else it looks at the clients after every event
        loglevel="WARNING",
    )
    events = app.topic(given.topic, key_deserializer="bytes", value_deserializer=EventDeserializer())
    frame = app.dataframe(events)
    frame.register_store(store)
    frame.update(follow, stateful=True)
    calm_garbage_collection()
    app.run()


def main() -> None:
    given = arguments(store="memory")
    run(given, count, RocksDBStore if given.store == "rocksdb" else MemoryStore)


if __name__ == "__main__":
    main()
