"""The format of dead letters and replay marks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervisor_schemas import dead_letters
from hypervisor_schemas.dead_letters import (
    ERROR_CHARACTERS,
    DeadLetter,
    read_dead_letter,
    read_replay_mark,
    replay_for,
)
from hypervisor_schemas.topics import TOPICS
from hypervisor_schemas.wire.codec import confluent_framing

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
