"""Code that the Python peers share: their arguments, the event's format, the counts, the last line.

Runs in `.venv-peers`, and knows nothing of our packages but the schema's file.
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fastavro
import msgspec
from fastavro.schema import fingerprint, to_parsing_canonical_form

if TYPE_CHECKING:
    from collections.abc import Callable

SCHEMA = Path(__file__).parents[2] / "schemas" / "hypervisor_schemas" / "avro" / "hypervisor_event.avsc"


def arguments(**more: Any) -> argparse.Namespace:
    """Parse the arguments that every peer gets; `more` names options of this one with their defaults."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--events", type=int, required=True)
    parser.add_argument("--partitions", type=int, default=8)
    parser.add_argument("--commit-interval", type=float, default=0.2)
    parser.add_argument("--state-dir", type=Path, required=True)
    for name, default in more.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    return parser.parse_args()


def schema_text() -> str:
    return SCHEMA.read_text("utf-8")


def event_reader() -> Callable[[bytes], dict[str, Any]]:
    """Decode a record in Avro's single-object encoding with fastavro, all of its fields."""
    parsed = json.loads(schema_text())
    framing = b"\xc3\x01" + bytes.fromhex(fingerprint(to_parsing_canonical_form(parsed), "CRC-64-AVRO"))
    for one in parsed["fields"]:
        # The time as a number: making a datetime of it would double the time that a record takes.
        if isinstance(one["type"], dict):
            one["type"].pop("logicalType", None)
    schema = fastavro.parse_schema(parsed)
    read, stream = fastavro.schemaless_reader, io.BytesIO

    def event(value: bytes) -> dict[str, Any]:
        if value[:10] != framing:
            raise ValueError("not an event in Avro's single-object encoding of this schema")
        return read(stream(value[10:]), schema, None)  # type: ignore[return-value]

    return event


class Payload(msgspec.Struct, gc=False):
    """The one field that is used; msgspec skips the others."""

    ring: int | None = None


read_payload: Callable[[str], Payload] = msgspec.json.Decoder(Payload).decode


class Counts:
    """The counts: by series the number of events, and the ring of the last one."""

    def __init__(self) -> None:
        self._series: dict[tuple[str | None, str | None, str], list[int | None]] = {}

    def add(self, event: dict[str, Any]) -> None:
        key = event["agent_did"], event["session_id"], event["event_type"]
        row = self._series.get(key)
        if row is None:
            row = self._series[key] = [0, None]
        row[0] += 1  # type: ignore[operator]
        ring = read_payload(event["payload"]).ring
        if ring is not None:
            row[1] = ring

    @property
    def counted(self) -> int:
        return sum(row[0] or 0 for row in self._series.values())

    @property
    def series(self) -> int:
        return len(self._series)


class Run:
    """The time from the first records to the last."""

    def __init__(self, events: int) -> None:
        self._events = events
        self._seen = 0
        self._began = 0.0

    def saw(self, records: int) -> bool:
        """Note a batch before its work; return whether it is the last one."""
        if records and not self._seen:
            self._began = time.perf_counter()
        self._seen += records
        return self._seen >= self._events

    def end(self, counts: Counts) -> None:
        seconds = time.perf_counter() - self._began
        line = {"events": self._seen, "seconds": seconds, "counted": counts.counted, "series": counts.series}
        print(json.dumps(line), flush=True)


def calm_garbage_collection() -> None:
    """Collect garbage a hundred times more rarely than by default; our service defers it too."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
