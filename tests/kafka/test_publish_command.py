"""`publish FILE|-`: events as JSON lines, into a real Kafka."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from hypervisor_schemas.events import EventType, HypervisorEvent, event_type_of
from hypervisor_schemas.wire.codec import EventDecoder
from tests.support.service_processes import Fleet, run_command

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.kafka


@pytest.fixture(scope="module")
def fleet(new_fleet: Callable[[int], Fleet]) -> Fleet:
    return new_fleet(1)


def in_kafka(fleet: Fleet, category: str, count: int) -> list[HypervisorEvent]:
    """The last `count` events of a category."""
    consumer = Consumer({"bootstrap.servers": fleet.bootstrap_servers, "group.id": "unused", "log_level": 0})
    place = TopicPartition(fleet.topic(category), 0)
    end = consumer.get_watermark_offsets(place, timeout=30)[1]
    place.offset = end - count
    consumer.assign([place])
    decode = EventDecoder().decode
    events: list[HypervisorEvent] = []
    deadline = time.monotonic() + 30
    while len(events) < count and time.monotonic() < deadline:
        events += [decode(message.value()) for message in consumer.consume(count, 0.1) if not message.error()]
    consumer.close()
    return events


def lines(*events: HypervisorEvent | dict[str, Any]) -> bytes:
    dicts = [event.to_dict() if isinstance(event, HypervisorEvent) else event for event in events]
    return b"".join(json.dumps(each).encode() + b"\n" for each in dicts)


EVENTS = [
    HypervisorEvent(event_type=EventType.VFS_WRITE, session_id="s", agent_did="a", payload={"n": n, "ä": [None]})
    for n in range(50)
]


def test_a_file_is_published_event_by_event_as_it_is(fleet: Fleet, tmp_path: Path):
    file = tmp_path / "events.jsonl"
    file.write_bytes(lines(*EVENTS))

    done = run_command("publish", str(file), **fleet.environ)

    assert (done.returncode, done.stdout, done.stderr) == (0, "published 50, bad lines 0, not delivered 0\n", "")
    assert in_kafka(fleet, "vfs", 50) == EVENTS


def test_standard_input_is_published_and_unknown_types_go_to_their_topic(fleet: Fleet):
    event = HypervisorEvent(event_type=event_type_of("weather.changed"), session_id="s")

    done = run_command("publish", "-", stdin=lines(event), **fleet.environ)

    assert (done.returncode, done.stdout) == (0, "published 1, bad lines 0, not delivered 0\n")
    assert in_kafka(fleet, "other", 1) == [event]


def test_bad_lines_are_reported_by_number_and_the_rest_still_goes(fleet: Fleet):
    first, last = (HypervisorEvent(event_type=EventType.AUDIT_COMMITTED, session_id="s") for _ in range(2))
    bad = [b"not JSON\n", b"[1]\n", b'{"event_type": "audit.committed", "colour": "red"}\n', b"\xff\n", b"{}\n"]
    stdin = lines(first) + b"\n" + b"".join(bad) + lines(last).rstrip(b"\n")

    done = run_command("publish", "-", stdin=stdin, **fleet.environ)

    assert done.returncode == 1
    assert done.stdout == "published 2, bad lines 5, not delivered 0\n"
    reported = done.stderr.splitlines()
    assert [line.partition(":")[0] for line in reported] == [f"line {number}" for number in range(3, 8)]
    assert "has no field 'colour'" in reported[2]
    assert "event_type is missing" in reported[4]
    assert in_kafka(fleet, "audit", 2) == [first, last]


def test_an_event_that_nobody_could_use_is_a_bad_line_that_says_why(fleet: Fleet):
    kind = EventType.SESSION_CREATED.value
    good = HypervisorEvent(event_type=EventType.SESSION_CREATED, session_id="s")
    without_id = {"event_type": kind, "event_id": ""}
    too_long = {"event_type": kind, "session_id": "s" * 1025}
    too_large = {"event_type": kind, "session_id": "s", "payload": {"text": "x" * 2000}}

    done = run_command(
        "publish",
        "-",
        stdin=lines(without_id, too_long, too_large, good),
        **fleet.environ,
        TELEMETRY_MAX_EVENT_BYTES="2000",
    )

    assert done.returncode == 1
    assert done.stdout == "published 1, bad lines 3, not delivered 0\n"
    assert [line for line in done.stderr.splitlines() if line.startswith("line ")] == [
        "line 1: event_id is empty; every event needs an id of its own, as events of one id count once",
        "line 2: session_id has 1025 characters; an id has 1024 at most.",
        "line 3: its record is larger than TELEMETRY_MAX_EVENT_BYTES",
    ]
    assert in_kafka(fleet, "session", 1) == [good]
