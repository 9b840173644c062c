import copy
import dataclasses
import pickle
import re
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone

import hypervisor.observability as package
import pytest

from hypervisor_schemas.events import (
    EventType,
    GovernanceEventType,
    HypervisorEvent,
    UnknownEventType,
    event_type_of,
    type_value,
)


def test_the_event_types_are_those_of_the_package_by_name_value_and_order():
    ours = [(member.name, member.value) for member in EventType]
    theirs = [(member.name, member.value) for member in package.EventType]
    assert ours == theirs


def test_there_are_forty_types_in_the_categories_of_the_seed():
    assert Counter(member.value.partition(".")[0] for member in EventType) == {
        "session": 5,
        "ring": 5,
        "liability": 6,
        "saga": 10,
        "vfs": 5,
        "security": 4,
        "audit": 3,
        "verification": 2,
    }
    assert len(EventType) == 40


def test_governance_adds_five_types_of_its_own_category():
    assert {member.value for member in GovernanceEventType} == {
        "governance.policy_decision",
        "governance.trust_score",
        "governance.audit_event",
        "governance.agent_registered",
        "governance.agent_deregistered",
    }


@pytest.mark.parametrize("member", [*EventType, *GovernanceEventType])
def test_every_value_finds_its_member(member):
    assert event_type_of(member.value) is member


@pytest.mark.parametrize("value", ["ring.teleported", "brand.new", "nodot", "", "ring.Assigned", "ünïcode.☃"])
def test_an_unknown_type_carries_its_value_and_equals_the_plain_string(value):
    unknown = event_type_of(value)
    assert isinstance(unknown, UnknownEventType)
    assert unknown.value == value
    assert type(unknown.value) is str
    assert unknown == value
    assert hash(unknown) == hash(value)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])  # noqa: S301 - our own bytes
@pytest.mark.parametrize("kind", [EventType.RING_ASSIGNED, event_type_of("brand.new")])
def test_an_event_survives_copying_and_pickling(again, kind):
    event = HypervisorEvent(event_type=kind, session_id="s", payload={"a": [1]})
    assert again(event) == event
    assert type(again(event).event_type) is type(kind)


def test_type_value_reads_our_enum_the_packages_and_plain_strings_alike():
    assert type_value(EventType.RING_ASSIGNED) == "ring.assigned"
    assert type_value(package.EventType.RING_ASSIGNED) == "ring.assigned"
    assert type_value("ring.assigned") == "ring.assigned"
    assert type_value(UnknownEventType("brand.new")) == "brand.new"


def test_the_fields_stand_in_the_packages_order_with_the_packages_defaults():
    def shape(cls):
        return [
            (field.name, None if field.default is dataclasses.MISSING else field.default)
            for field in dataclasses.fields(cls)
        ]

    assert shape(HypervisorEvent) == shape(package.HypervisorEvent)


def test_an_event_gets_an_id_of_16_hex_and_the_time_of_now_in_utc():
    before = datetime.now(UTC)
    event = HypervisorEvent(event_type=EventType.SLASH_EXECUTED)
    assert re.fullmatch("[0-9a-f]{16}", event.event_id)
    assert before <= event.timestamp <= datetime.now(UTC)
    assert event.timestamp.utcoffset() == timedelta(0)
    assert event.event_id != HypervisorEvent().event_id


def test_each_event_has_a_payload_of_its_own():
    HypervisorEvent().payload["a"] = 1
    assert HypervisorEvent().payload == {}


def test_an_event_cannot_be_changed():
    event = HypervisorEvent()
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.session_id = "other"  # type: ignore[misc]


def test_to_dict_says_what_the_packages_own_says():
    fields = {
        "event_id": "0123456789abcdef",
        "timestamp": datetime(2025, 1, 15, 10, 30, tzinfo=UTC),
        "session_id": "session-042",
        "agent_did": "did:mesh:rogue-agent",
        "causal_trace_id": "abc123/def456",
        "parent_event_id": "fedcba9876543210",
        "payload": {"severity": "critical", "stake_slashed": 150},
    }
    ours = HypervisorEvent(event_type=EventType.SLASH_EXECUTED, **fields).to_dict()
    theirs = package.HypervisorEvent(event_type=package.EventType.SLASH_EXECUTED, **fields).to_dict()
    assert ours == theirs
    assert list(ours) == list(theirs)
    assert ours["event_type"] == "liability.slash_executed"
    assert ours["timestamp"] == "2025-01-15T10:30:00+00:00"
    assert type(ours["event_type"]) is str


@pytest.mark.parametrize(
    "event",
    [
        HypervisorEvent(),
        HypervisorEvent(event_type=event_type_of("brand.new"), session_id="", payload={"deep": [{"er": None}]}),
        HypervisorEvent(
            event_type=GovernanceEventType.TRUST_SCORE,
            agent_did="did:mesh:a",
            causal_trace_id="abc/def",
            parent_event_id="1",
            timestamp=datetime(2025, 1, 15, 10, 30, 0, 123456, timezone(timedelta(hours=2))),
        ),
    ],
)
def test_from_dict_is_the_inverse_of_to_dict(event):
    assert HypervisorEvent.from_dict(event.to_dict()) == event


def test_from_dict_reads_what_the_package_wrote():
    theirs = package.HypervisorEvent(event_type=package.EventType.RING_DEMOTED, session_id="s")
    ours = HypervisorEvent.from_dict(theirs.to_dict())
    assert ours.event_type is EventType.RING_DEMOTED
    assert ours.to_dict() == theirs.to_dict()


def test_from_dict_gives_defaults_to_what_is_absent():
    event = HypervisorEvent.from_dict({"event_type": "saga.created"})
    assert event.event_type is EventType.SAGA_CREATED
    assert re.fullmatch("[0-9a-f]{16}", event.event_id)
    assert event.session_id is None
    assert event.payload == {}


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2025-01-15T10:30:00", datetime(2025, 1, 15, 10, 30, tzinfo=UTC)),
        ("2025-01-15T10:30:00Z", datetime(2025, 1, 15, 10, 30, tzinfo=UTC)),
        ("2025-01-15T12:30:00.5+02:00", datetime(2025, 1, 15, 10, 30, 0, 500000, UTC)),
    ],
)
def test_a_timestamp_without_a_zone_is_utc(text, moment):
    assert HypervisorEvent.from_dict({"event_type": "saga.created", "timestamp": text}).timestamp == moment


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"event_id": 7}, "event_id must be a string, not int"),
        ({"event_id": None}, "event_id must be a string, not NoneType"),
        ({"event_type": None}, "event_type must be a string, not NoneType"),
        ({"event_type": 3}, "event_type must be a string, not int"),
        ({"timestamp": 1736937000}, "timestamp must be an ISO 8601 string, not int"),
        ({"timestamp": "yesterday"}, "timestamp must be an ISO 8601 string, not 'yesterday'"),
        ({"session_id": 5}, "session_id must be a string or null, not int"),
        ({"agent_did": []}, "agent_did must be a string or null, not list"),
        ({"causal_trace_id": {}}, "causal_trace_id must be a string or null, not dict"),
        ({"parent_event_id": False}, "parent_event_id must be a string or null, not bool"),
        ({"payload": "{}"}, "payload must be an object, not str"),
        ({"payload": None}, "payload must be an object, not NoneType"),
        ({"colour": "red"}, "an event has no field 'colour'; it has event_id, event_type, timestamp"),
        ({1: "red", "zebra": 2}, "an event has no field 'zebra'"),
    ],
)
def test_from_dict_names_the_field_that_is_wrong(change, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        HypervisorEvent.from_dict({"event_type": "ring.assigned"} | change)


def test_from_dict_asks_for_a_type_that_is_missing():
    with pytest.raises(ValueError, match="event_type is missing"):
        HypervisorEvent.from_dict({"session_id": "s"})


def test_what_is_given_stays_even_if_it_is_none():
    event = HypervisorEvent(event_id=None, timestamp=None, payload=None)
    assert (event.event_id, event.timestamp, event.payload) == (None, None, None)


def test_a_field_is_replaced_in_a_copy_as_dataclasses_do_it():
    event = HypervisorEvent(event_type=EventType.VFS_WRITE, session_id="s", payload={"path": "/a"})
    other = dataclasses.replace(event, session_id="t")
    assert (event.session_id, other.session_id, dataclasses.replace(other, session_id="s")) == ("s", "t", event)


def test_an_event_of_a_subclass_is_made_alike():
    class Marked(HypervisorEvent):
        mark = "x"

    event = Marked(session_id="s")
    assert (event.session_id, event.mark, len(event.event_id)) == ("s", "x", 16)
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.session_id = "t"
