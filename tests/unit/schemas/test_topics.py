import re
from collections import Counter

import pytest

from hypervisor_schemas.events import EventType, GovernanceEventType
from hypervisor_schemas.settings import Settings
from hypervisor_schemas.topics import (
    CATEGORIES,
    EVENT_PARTITIONS,
    TOPICS,
    category_of,
    event_topic,
    is_legal_prefix,
    partition_of,
    record_key,
    topic_names,
)

BY_NAME = {topic.name: topic for topic in TOPICS}


def test_the_categories_are_those_of_the_event_types():
    assert CATEGORIES == (
        "session",
        "ring",
        "liability",
        "saga",
        "vfs",
        "security",
        "audit",
        "verification",
        "governance",
    )


@pytest.mark.parametrize("kind", [*EventType, *GovernanceEventType])
def test_every_event_type_goes_to_the_topic_of_its_category_and_the_table_has_it(kind):
    name = event_topic("hypervisor.", kind.value)
    assert name == f"hypervisor.events.{kind.value.split('.')[0]}"
    assert name.removeprefix("hypervisor.") in BY_NAME


@pytest.mark.parametrize(
    "kind", ["", ".", "brand.new", "other.thing", "Ring.assigned", "ri ng.x", "../ring.x", "ring/x.y", "☃.x"]
)
def test_an_unknown_or_illegal_category_goes_to_other(kind):
    assert event_topic("p-", kind) == "p-events.other"


def test_an_unknown_type_of_a_known_category_stays_with_it():
    assert category_of("ring.teleported") == "ring"
    assert category_of("ring.a.b") == "ring"


def test_every_topic_has_one_row_and_a_name_that_kafka_takes_behind_the_longest_prefix():
    assert [name for name, count in Counter(topic.name for topic in TOPICS).items() if count > 1] == []
    for topic in TOPICS:
        assert re.fullmatch(r"[a-z.-]+", topic.name)
        assert len(topic.name) + 200 <= 249
        assert all((topic.key, topic.written_by, topic.read_by))


def test_event_topics_keep_seven_days_in_twelve_partitions():
    events = [topic for topic in TOPICS if topic.name.startswith("events.")]
    assert len(events) == len(CATEGORIES) + 1
    for topic in events:
        assert topic.partitions == EVENT_PARTITIONS == 12
        assert topic.config["cleanup.policy"] == "delete"
        assert topic.config["retention.ms"] == str(7 * 24 * 60 * 60 * 1000)


def test_the_largest_event_fits_and_dead_letters_have_64_kib_more_for_their_reasons():
    source = int(BY_NAME["events.ring"].config["max.message.bytes"])
    # What Kafka adds to a record and its batch is far below 64 KiB.
    assert Settings.MAX_EVENT_BYTES.default + 64 * 1024 <= source
    assert int(BY_NAME["dead-letters"].config["max.message.bytes"]) == source + 64 * 1024


def test_changelogs_are_compacted_and_cut_like_their_source():
    changelogs = [topic for topic in TOPICS if topic.name.startswith("state.")]
    assert {topic.name for topic in changelogs} == {
        "state.ring-metrics",
        "state.saga-spans",
        "state.governance-metrics",
    }
    for topic in (*changelogs, BY_NAME["agent-rings"]):
        assert topic.config["cleanup.policy"] == "compact"
        assert topic.partitions == EVENT_PARTITIONS


def test_topic_names_are_all_event_topics_or_the_ones_asked_for():
    assert topic_names("x.", ["events.ring"]) == ["x.events.ring"]
    assert topic_names("x.") == [f"x.events.{category}" for category in (*CATEGORIES, "other")]


@pytest.mark.parametrize("category", ["ring", "saga", "session", "other"])
def test_the_key_is_the_session_else_the_agent_else_the_event(category):
    assert record_key(category, "s", "a", "e") == b"s"
    assert record_key(category, None, "a", "e") == b"a"
    assert record_key(category, "", "a", "e") == b"a"
    assert record_key(category, None, None, "e") == b"e"
    assert record_key(category, "", "", "e") == b"e"


def test_governance_is_keyed_by_the_agent_first():
    assert record_key("governance", "s", "a", "e") == b"a"
    assert record_key("governance", "s", None, "e") == b"s"
    assert record_key("governance", "s", "", "e") == b"s"
    assert record_key("governance", None, None, "e") == b"e"


def test_an_event_without_any_id_has_no_key():
    assert record_key("ring", None, None, "") is None


def test_a_key_is_utf8_and_what_utf8_cannot_hold_is_replaced():
    assert record_key("ring", "sitzung-ü☃", None, "e") == "sitzung-ü☃".encode()
    assert record_key("ring", "a\ud800b", None, "e") == b"a?b"


def test_partitions_are_within_range_and_evenly_used():
    used = Counter(partition_of(f"session-{number}".encode(), 12) for number in range(12_000))
    assert used.keys() == set(range(12))
    assert all(800 < count < 1200 for count in used.values())


@pytest.mark.parametrize("prefix", ["", "hypervisor.", "a-B_9.", "x" * 200])
def test_legal_prefixes(prefix):
    assert is_legal_prefix(prefix)


@pytest.mark.parametrize("prefix", ["a b", "ü", "a/", "x" * 201, "a\n", "a,b"])
def test_illegal_prefixes(prefix):
    assert not is_legal_prefix(prefix)
