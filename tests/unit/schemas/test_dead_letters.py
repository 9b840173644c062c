"""The format of dead letters and replay marks, and dead letters as text."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from hypervisor_schemas import dead_letters
from hypervisor_schemas.dead_letters import (
    ERROR_CHARACTERS,
    DeadLetter,
    DeadLetterId,
    read_dead_letter,
    read_replay_mark,
    replay_for,
)
from hypervisor_schemas.events import EventType, HypervisorEvent
from hypervisor_schemas.topics import TOPICS
from hypervisor_schemas.wire.codec import EventDecoder, confluent_framing, encode_event
from hypervisor_telemetry.cli.app import app
from hypervisor_telemetry.cli.terminal_text import printable
from hypervisor_telemetry.dead_letter_tools.dead_letters import Kept, Place, Selection
from hypervisor_telemetry.dead_letter_tools.text import as_json, described, hexdump, key_text, moment

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

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
our_names = st.sampled_from(
    [
        *(name for key, name in vars(dead_letters).items() if key.isupper() and isinstance(name, str)),
        "hypervisor-dead-letter-of-a-later-version",
    ]
)
headers = st.lists(st.tuples(words | our_names, st.none() | st.binary(max_size=20)), max_size=12)
blobs = st.none() | st.binary(max_size=30)
letters = st.builds(
    DeadLetter,
    key=blobs,
    value=blobs,
    original_headers=headers.map(tuple),
    service=words,
    reason=words,
    error=words,
    topic=words,
    partition=st.integers(0, 2**31 - 1),
    offset=st.integers(0, 2**63 - 1),
    timestamp=st.integers(-1, 2**63 - 1),
)


@given(letters)
def test_what_is_written_is_read_back_whatever_headers_the_original_has(letter: DeadLetter):
    assert read_dead_letter(letter.key, letter.value, letter.headers()) == letter


@given(letters, letters)
def test_a_dead_letter_that_was_itself_a_dead_letters_record_reads_as_the_outer_one(
    inner: DeadLetter, outer: DeadLetter
):
    outer = replace(outer, key=inner.key, value=inner.value, original_headers=tuple(inner.headers()))

    assert read_dead_letter(outer.key, outer.value, outer.headers()) == outer


@given(letters)
def test_a_dead_letter_is_never_a_mark_and_a_mark_never_a_dead_letter(letter: DeadLetter):
    assert read_replay_mark(letter.headers()) is None
    assert read_dead_letter(None, None, letter.id.mark_headers()) is None


@given(letters)
def test_a_mark_says_which_dead_letter_was_replayed(letter: DeadLetter):
    assert read_replay_mark(letter.id.mark_headers()) == letter.id


@given(letters)
def test_a_replayed_record_has_the_originals_headers_without_ours_and_then_whom_it_is_for_and_of_what(
    letter: DeadLetter,
):
    replayed = letter.replay_headers()

    assert replayed[-2:] == [
        ("hypervisor-replay-for", letter.service.encode()),
        ("hypervisor-replay-of", letter.id.place.encode()),
    ]
    foreign = [
        (name, content)
        for name, content in letter.original_headers
        if not name.startswith("hypervisor-dead-letter-") and not name.startswith("hypervisor-replay-")
    ]
    assert replayed[:-2] == foreign
    assert replay_for(replayed) == letter.service


def test_the_headers_of_a_dead_letter_are_the_originals_then_ours_in_a_fixed_order():
    assert LETTER.headers() == [
        ("traceparent", b"00-1"),
        ("traceparent", b"00-2"),
        ("empty", None),
        ("hypervisor-dead-letter-service", b"ring-metrics"),
        ("hypervisor-dead-letter-reason", b"undecodable"),
        ("hypervisor-dead-letter-error", b"The bytes are nothing."),
        ("hypervisor-dead-letter-topic", b"hypervisor.events.ring"),
        ("hypervisor-dead-letter-partition", b"3"),
        ("hypervisor-dead-letter-offset", b"17"),
        ("hypervisor-dead-letter-timestamp", b"1700000000123"),
    ]


@pytest.mark.parametrize(
    ("value", "schema_id"),
    [
        (confluent_framing(7) + b"body", 7),
        (confluent_framing(2**32 - 1), 2**32 - 1),
        (b"\x00\x00\x00\x00", None),
        (b"\xc3\x01" + b"12345678", None),
        (b"", None),
        (None, None),
    ],
)
def test_the_schema_id_is_told_where_the_value_has_the_confluent_framing(
    value: bytes | None, schema_id: int | None
):
    letter = replace(LETTER, value=value)

    told = dict(letter.headers()).get("hypervisor-dead-letter-schema-id")

    assert letter.schema_id == schema_id
    assert told == (None if schema_id is None else str(schema_id).encode())


def test_our_headers_stay_far_below_what_the_topic_allows_for_them():
    letter = replace(
        LETTER,
        value=confluent_framing(2**32 - 1),
        original_headers=(),
        service="x" * 249,
        reason="x" * 249,
        error="\N{PILE OF POO}" * 1_000_000,
        topic="x" * 249,
        partition=2**31 - 1,
        offset=2**63 - 1,
        timestamp=2**63 - 1,
    )
    sizes = {topic.name: int(topic.config.get("max.message.bytes", 0)) for topic in TOPICS}

    # Kafka adds a length of at most 5 bytes to each name and value.
    ours = sum(len(name) + len(content or b"") + 10 for name, content in letter.headers())

    assert ours < (sizes["dead-letters"] - sizes["events.ring"]) / 8
    read = read_dead_letter(letter.key, letter.value, letter.headers())
    assert read == replace(letter, error="\N{PILE OF POO}" * ERROR_CHARACTERS)


def test_an_error_with_what_utf8_cannot_hold_is_written_all_the_same():
    letter = replace(LETTER, error="a\ud800b")

    read = read_dead_letter(letter.key, letter.value, letter.headers())

    assert read == replace(LETTER, error="a?b")


def test_the_partition_is_the_sources_modulo_the_topics_partitions():
    assert [replace(LETTER, partition=number).partition_among(4) for number in (0, 3, 4, 11)] == [0, 3, 0, 3]


@pytest.mark.parametrize("name", [name for name, _ in LETTER.headers() if name.startswith("hypervisor-")])
@pytest.mark.parametrize("broken", ["missing", "null", "not UTF-8"])
def test_a_record_without_all_of_our_headers_is_no_dead_letter(name: str, broken: str):
    content = {"missing": [], "null": [(name, None)], "not UTF-8": [(name, b"\xff")]}[broken]
    changed = [each for header in LETTER.headers() for each in (content if header[0] == name else [header])]

    assert read_dead_letter(LETTER.key, LETTER.value, changed) is None


@pytest.mark.parametrize("name", ["partition", "offset"])
@pytest.mark.parametrize("content", [b"-1", b"x", b""])
def test_a_place_that_is_no_number_is_no_dead_letter(name: str, content: bytes):
    changed = [*LETTER.headers(), (f"hypervisor-dead-letter-{name}", content)]

    assert read_dead_letter(LETTER.key, LETTER.value, changed) is None


@pytest.mark.parametrize("headers", [None, [], [("a", b"b")], [("a", None)]])
def test_somebody_elses_record_is_neither_dead_letter_nor_mark_nor_replayed(headers):
    assert read_dead_letter(b"k", b"v", headers) is None
    assert read_replay_mark(headers) is None
    assert replay_for(headers) is None


def test_a_record_that_is_replayed_again_is_for_the_last_service_only():
    once = LETTER.replay_headers()
    again = replace(LETTER, service="event-index", offset=99, original_headers=tuple(once))

    assert again.replay_headers() == [
        *LETTER.original_headers,
        ("hypervisor-replay-for", b"event-index"),
        ("hypervisor-replay-of", b"hypervisor.events.ring/3/99"),
    ]
    assert replay_for([*once, *again.replay_headers()]) == "event-index"
    assert replay_for([("hypervisor-replay-for", None)]) is None


@pytest.mark.parametrize(
    "headers",
    [
        LETTER.id.mark_headers()[:3],
        [*LETTER.id.mark_headers(), ("x", b"y")],
        [*LETTER.id.mark_headers()[:3], ("hypervisor-replayed-offset", b"x")],
        [*LETTER.id.mark_headers()[:3], ("hypervisor-replayed-offset", None)],
    ],
)
def test_a_mark_has_exactly_its_four_headers(headers):
    assert read_replay_mark(headers) is None


# ---- choosing ----

KEPT = Kept(
    id=LETTER.id,
    reason="undecodable",
    error="The bytes are nothing.",
    key=b"session-1",
    size=16,
    schema_id=None,
    published_at=1_700_000_000_123,
    kept_at=1_700_000_001_000,
    partition=3,
    offset=5,
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
        (Selection(since=1_700_000_001_000), True),
        (Selection(since=1_700_000_001_001), False),
        (Selection(until=1_700_000_001_001), True),
        (Selection(until=1_700_000_001_000), False),
        (Selection(service="ring-metrics", partition=0), False),
    ],
)
def test_a_selection_lets_through_what_all_its_parts_let_through(selection: Selection, is_meant: bool):
    assert selection.takes(KEPT, "hypervisor.") is is_meant


def test_a_record_without_a_key_is_of_no_session():
    assert not Selection(session="").takes(replace(KEPT, key=None), "hypervisor.")


def test_a_place_is_written_as_it_is_shown():
    assert Place.parse(LETTER.id.place) == ("hypervisor.events.ring", 3, 17)
    assert Place.parse("events.ring/0/0") == ("events.ring", 0, 0)


@pytest.mark.parametrize("text", ["", "events.ring", "events.ring/1", "/1/2", "events.ring/1/-2", "a/b/1", "a/1/²"])
def test_what_is_no_place_is_refused(text: str):
    with pytest.raises(ValueError, match="topic/partition/offset"):
        Place.parse(text)


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

    text = described(KEPT, letter, EventDecoder(), "hypervisor.dead-letters")

    assert all(line.isprintable() for line in text.split("\n"))
    assert '"ü": 1' in text
    assert "1970-01-01T00:00:00Z" in text


def test_the_event_is_shown_as_json_where_it_can_be_decoded_and_else_why_not_and_its_bytes():
    event = HypervisorEvent(event_type=EventType.RING_ASSIGNED, session_id="s", payload={"ring": "none"})
    decodable = replace(LETTER, value=encode_event(event))

    text = described(KEPT, decodable, EventDecoder(), "t")
    shown = json.loads(text.partition("decodes it:\n")[2])
    assert shown == event.to_dict()

    unreadable = described(KEPT, replace(LETTER, value=confluent_framing(7) + b"?"), EventDecoder(), "t")
    assert "can't be decoded now: Schema id 7 needs a registry" in unreadable
    assert "schema id  7" in unreadable
    assert "00 00 00 00 07 3f" in unreadable

    assert "none (a tombstone)" in described(KEPT, replace(LETTER, value=None), EventDecoder(), "t")


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
        moment(int(datetime(2026, 2, 3, 4, 5, 6, 999_000, tzinfo=UTC).timestamp() * 1000)) == "2026-02-03T04:05:06Z"
    )
    assert moment(-1) == moment(2**62) == "-"


def test_a_key_is_shown_as_text_and_cut():
    assert key_text(None) == "-"
    assert key_text(b"\xff-s") == "\\xff-s"
    assert key_text(b"x" * 50, 40) == "x" * 39 + "…"


def test_a_line_of_json_has_everything_and_a_key_that_is_not_utf8_in_base64():
    line = json.loads(as_json(replace(KEPT, replayed_at=1_700_000_002_000)))

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
    other = json.loads(as_json(replace(KEPT, id=DeadLetterId("s", "t", 0, 0), key=b"\xff", published_at=-1)))
    assert other["key_base64"] == "/w=="
    assert "key" not in other
    assert other["published_at"] is other["replayed_at"] is None
