"""Tools for dead letters: selections, positions, and dead letters as text; on a real Kafka: tests/kafka."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from hypervisor_schemas.dead_letters import DeadLetter, DeadLetterId
from hypervisor_schemas.events import EventType, HypervisorEvent
from hypervisor_schemas.printable import printable
from hypervisor_schemas.wire.codec import EventDecoder, confluent_framing, encode_event
from hypervisor_telemetry.cli.app import app
from hypervisor_telemetry.dead_letter_tools.dead_letters import DeadLetterEntry, RecordPosition, Selection
from hypervisor_telemetry.dead_letter_tools.text import describe, hexdump, json_line, key_text, utc_time

LETTER = DeadLetter(
    key=b"session-1",
    value=b"rubbish",
    original_headers=(("traceparent", b"00-1"), ("traceparent", b"00-2"), ("empty", None)),
    service="ring-metrics",
    reason="undecodable",
    error="The bytes are nothing.",
    topic="hypervisor.events.ring",
    partition=3,
    offset=17,
    timestamp=1_700_000_000_123,
)


# ---- choosing ----

KEPT = DeadLetterEntry(
    id=LETTER.id,
    reason="undecodable",
    error="The bytes are nothing.",
    key=b"session-1",
    size_bytes=16,
    schema_id=None,
    published_at_ms=1_700_000_000_123,
    kept_at_ms=1_700_000_001_000,
    dead_letter_partition=3,
    dead_letter_offset=5,
)


@pytest.mark.parametrize(
    ("selection", "is_meant"),
    [
        (Selection(), True),
        (Selection(service="ring-metrics"), True),
        (Selection(service="ring"), False),
        (Selection(reason="undecodable"), True),
        (Selection(reason="unknown_schema"), False),
        (Selection(topic="hypervisor.events.ring"), True),
        (Selection(topic="events.ring"), True),
        (Selection(topic="ring"), False),
        (Selection(partition=3), True),
        (Selection(partition=0), False),
        (Selection(offset=17), True),
        (Selection(offset=5), False),
        (Selection(session="session-1"), True),
        (Selection(session="session"), False),
        (Selection(since_ms=1_700_000_001_000), True),
        (Selection(since_ms=1_700_000_001_001), False),
        (Selection(until_ms=1_700_000_001_001), True),
        (Selection(until_ms=1_700_000_001_000), False),
        (Selection(service="ring-metrics", partition=0), False),
    ],
)
def test_a_selection_lets_through_what_all_its_parts_let_through(selection: Selection, is_meant: bool):
    assert selection.takes(KEPT, "hypervisor.") is is_meant


def test_a_record_without_a_key_is_of_no_session():
    assert not Selection(session="").takes(replace(KEPT, key=None), "hypervisor.")


def test_a_place_is_written_as_it_is_shown():
    assert RecordPosition.parse(LETTER.id.place) == ("hypervisor.events.ring", 3, 17)
    assert RecordPosition.parse("events.ring/0/0") == ("events.ring", 0, 0)


@pytest.mark.parametrize("text", ["", "events.ring", "events.ring/1", "/1/2", "events.ring/1/-2", "a/b/1", "a/1/²"])
def test_what_is_no_place_is_refused(text: str):
    with pytest.raises(ValueError, match="topic/partition/offset"):
        RecordPosition.parse(text)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["list", "--since", "yesterday"], "--since can't be 'yesterday'"),
        (["show", "events.ring"], "PLACE can't be 'events.ring'"),
        (["replay", "events.ring/1/2", "--partition", "1"], "PLACE names a topic and a partition already"),
    ],
)
def test_an_argument_that_cannot_be_is_a_sentence_and_status_2(arguments: list[str], sentence: str):
    done = CliRunner().invoke(app, ["dead-letters", *arguments, "--bootstrap-servers", "127.0.0.1:1"])

    assert done.exit_code == 2
    assert done.stderr.startswith(f"error: {sentence}")


# ---- as text ----


def test_nothing_that_a_terminal_acts_on_is_printed_as_it_is():
    nasty = "red \x1b[31m\r\n\x9b \u202e ü \ud800"

    assert printable(nasty) == "red \\x1b[31m\\r\\n\\x9b \\u202e ü \\ud800"
    event = HypervisorEvent(
        event_type=EventType.RING_ASSIGNED, session_id="s", payload={"\x9b": "\u202e\x1b[31m", "ü": 1}
    )
    letter = DeadLetter(
        key=nasty.encode("utf-8", "surrogatepass"),
        value=encode_event(event),
        original_headers=((nasty[:-1], nasty[:-1].encode()),),
        service=nasty,
        reason=nasty,
        error=nasty,
        topic="hypervisor.events.ring",
        partition=3,
        offset=17,
        timestamp=0,
    )

    text = describe(KEPT, letter, EventDecoder(), "hypervisor.dead-letters")

    assert all(line.isprintable() for line in text.split("\n"))
    assert '"ü": 1' in text
    assert "1970-01-01T00:00:00Z" in text


def test_the_event_is_shown_as_json_where_it_can_be_decoded_and_else_why_not_and_its_bytes():
    event = HypervisorEvent(event_type=EventType.RING_ASSIGNED, session_id="s", payload={"ring": "none"})
    decodable = replace(LETTER, value=encode_event(event))

    text = describe(KEPT, decodable, EventDecoder(), "t")
    shown = json.loads(text.partition("decodes it:\n")[2])
    assert shown == event.to_dict()

    unreadable = describe(KEPT, replace(LETTER, value=confluent_framing(7) + b"?"), EventDecoder(), "t")
    assert "can't be decoded now: Schema id 7 needs a registry" in unreadable
    assert "schema id  7" in unreadable
    assert "00 00 00 00 07 3f" in unreadable

    assert "none (a tombstone)" in describe(KEPT, replace(LETTER, value=None), EventDecoder(), "t")


def test_a_hexdump_shows_the_beginning_and_how_much_more_there_is():
    assert list(hexdump(b"")) == []
    assert list(hexdump(b"abc\x00\xff", 4)) == [
        f"    00000000  {'61 62 63 00':<47}  abc.",
        "    … and 1 bytes more",
    ]
    lines = list(hexdump(bytes(1_000_000)))
    assert len(lines) == 65
    assert lines[-1] == "    … and 998,976 bytes more"


def test_a_moment_is_iso_8601_in_utc():
    assert (
        utc_time(int(datetime(2026, 2, 3, 4, 5, 6, 999_000, tzinfo=UTC).timestamp() * 1000))
        == "2026-02-03T04:05:06Z"
    )
    assert utc_time(-1) == utc_time(2**62) == "-"


def test_a_key_is_shown_as_text_and_cut():
    assert key_text(None) == "-"
    assert key_text(b"\xff-s") == "\\xff-s"
    assert key_text(b"x" * 50, 40) == "x" * 39 + "…"


def test_a_line_of_json_has_everything_and_a_key_that_is_not_utf8_in_base64():
    line = json.loads(json_line(replace(KEPT, replayed_at_ms=1_700_000_002_000)))

    assert line == {
        "place": "hypervisor.events.ring/3/17",
        "service": "ring-metrics",
        "topic": "hypervisor.events.ring",
        "partition": 3,
        "offset": 17,
        "output": None,
        "reason": "undecodable",
        "error": "The bytes are nothing.",
        "key": "session-1",
        "schema_id": None,
        "bytes": 16,
        "published_at": "2023-11-14T22:13:20Z",
        "kept_at": "2023-11-14T22:13:21Z",
        "replayed_at": "2023-11-14T22:13:22Z",
        "dead_letter_partition": 3,
        "dead_letter_offset": 5,
    }
    other = json.loads(json_line(replace(KEPT, id=DeadLetterId("s", "t", 0, 0), key=b"\xff", published_at_ms=-1)))
    assert other["key_base64"] == "/w=="
    assert "key" not in other
    assert other["published_at"] is other["replayed_at"] is None
