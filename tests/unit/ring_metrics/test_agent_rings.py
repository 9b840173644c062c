"""Ring states to the public table agent-rings and back: what is published, what is read, what comes of it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from hypervisor_consumers.ring_metrics.fold.agent_rings import AgentRingsView, agent_rings, publish_agent_rings
from hypervisor_consumers.ring_metrics.fold.event_fold import RingFold
from hypervisor_consumers.ring_metrics.fold.state import OVERFLOW, RingState
from hypervisor_consumers.runtime.protocols import Home
from hypervisor_schemas.agent_rings import AgentRing, decode_value, encode_key, encode_value
from hypervisor_schemas.errors import UndecodableRecord
from hypervisor_schemas.events import EventType, HypervisorEvent
from hypervisor_schemas.topics import partition_of

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ASSIGNED = EventType.RING_ASSIGNED
ELEVATED = EventType.RING_ELEVATED
DEMOTED = EventType.RING_DEMOTED
BREACH = EventType.RING_BREACH_DETECTED
HOME = Home(0, 1)


def event(
    kind: EventType, at: float = 0.0, agent: str = "a", session: str = "s", **payload: Any
) -> HypervisorEvent:
    return HypervisorEvent(
        event_id=f"{at:g}",
        event_type=kind,
        timestamp=EPOCH + timedelta(seconds=at),
        agent_did=agent,
        session_id=session,
        payload=payload,
    )


def committed_state() -> RingState:
    state = RingState()
    state.series.base, state.elevations.base = {}, {}
    return state


def publish(state: RingState, fold: RingFold, *events: HypervisorEvent) -> dict[bytes, AgentRing | None]:
    """The records that one transaction of these events publishes."""
    for each in events:
        fold.apply(state, each)
    return commit(state)


def commit(state: RingState) -> dict[bytes, AgentRing | None]:
    records = publish_agent_rings(state, HOME)
    state.series.merge_changes()
    state.elevations.merge_changes()
    assert {record.topic for record in records} <= {"agent-rings"}
    assert len({record.key for record in records}) == len(records)
    return {record.key: None if record.value is None else decode_value(record.value) for record in records}


class TestPublishing:
    def test_a_row_is_published_when_it_changes(self):
        state, fold, key = committed_state(), RingFold(), encode_key("a", "s")
        assert publish(state, fold, event(ASSIGNED, at=1, ring=3)) == {key: AgentRing("a", "s", 3, 1_000_000, "1")}
        assert publish(state, fold, event(ELEVATED, at=2, ring=1)) == {
            key: AgentRing("a", "s", 1, 2_000_000, "2", elevated_since=2_000_000)
        }
        assert publish(state, fold, event(DEMOTED, at=5, ring=2)) == {
            key: AgentRing("a", "s", 2, 5_000_000, "5", None, 5_000_000, "5", 3_000_000)
        }

    def test_what_changes_no_row_publishes_nothing(self):
        state, fold = committed_state(), RingFold()
        publish(state, fold, event(ASSIGNED, at=9, ring=3))
        assert publish(state, fold, event(BREACH), event(ASSIGNED, at=1, ring=0), event(ASSIGNED, at=10)) == {}
        assert publish(state, fold) == {}

    def test_a_transaction_publishes_each_row_once_as_it_is_in_the_end(self):
        state = committed_state()
        moves = [event(ASSIGNED, at=n, session=session, ring=n) for n in range(4) for session in "st"]
        assert publish(state, RingFold(), *moves) == {
            encode_key("a", session): AgentRing("a", session, 3, 3_000_000, "3") for session in "st"
        }

    def test_a_series_without_ring_and_elevation_has_no_row(self):
        assert publish(committed_state(), RingFold(), event(BREACH), event(ASSIGNED), event(DEMOTED)) == {}

    def test_an_elevation_without_a_ring_has_a_row(self):
        assert publish(committed_state(), RingFold(), event(ELEVATED, at=2)) == {
            encode_key("a", "s"): AgentRing("a", "s", elevated_since=2_000_000)
        }

    def test_the_partition_is_decided_by_the_agent(self):
        state = committed_state()
        for session in "st":
            RingFold().apply(state, event(ASSIGNED, agent="ü", session=session, ring=1))
        assert [record.partition_key for record in publish_agent_rings(state, HOME)] == ["ü".encode()] * 2

    def test_a_series_that_is_forgotten_takes_its_row_away(self):
        state, fold = committed_state(), RingFold(series_ttl_ms=100)
        publish(state, fold, event(ASSIGNED, ring=1), event(BREACH, session="never in a ring"))
        fold.expire(state, now_ms=1_000)
        assert commit(state) == {encode_key("a", "s"): None}
        assert commit(state) == {}

    def test_a_row_that_was_never_published_is_not_taken_away(self):
        state, fold = committed_state(), RingFold(series_ttl_ms=100)
        fold.apply(state, event(ASSIGNED, ring=1))
        fold.expire(state, now_ms=1_000)
        assert commit(state) == {}

    @pytest.mark.parametrize(("session", "key"), [("s", b"s"), ("", b"a")])
    def test_after_the_source_grew_a_row_is_taken_away_only_where_its_events_come_now(self, session, key):
        now, before = partition_of(key, 5), (partition_of(key, 5) + 1) % 5
        for partition in (now, before):
            state, fold = committed_state(), RingFold(series_ttl_ms=100)
            fold.apply(state, event(ASSIGNED, session=session, ring=1))
            [row] = publish_agent_rings(state, Home(partition, 5))
            assert row.value is not None
            state.series.merge_changes()
            fold.expire(state, now_ms=1_000)
            gone = publish_agent_rings(state, Home(partition, 5))
            assert [record.value for record in gone] == ([None] if partition == now else [])

    def test_changes_that_were_dropped_publish_nothing_and_come_again(self):
        state, fold = committed_state(), RingFold()
        fold.apply(state, event(ASSIGNED, ring=1))
        first = publish_agent_rings(state, HOME)
        state.series.discard_changes()
        assert publish_agent_rings(state, HOME) == []
        fold.apply(state, event(ASSIGNED, ring=1))
        assert publish_agent_rings(state, HOME) == first

    def test_sums_and_the_overflow_have_no_row(self):
        state, fold = committed_state(), RingFold(max_series=2, labels=("agent_did",))
        published = publish(
            state, fold, event(ASSIGNED, ring=1), event(ASSIGNED, agent="b", ring=1), event(ELEVATED, agent="b")
        )
        assert set(state.series.base) == {("a", ""), ("a", "s"), OVERFLOW}
        assert published.keys() == {encode_key("a", "s")}

    def test_an_agent_that_is_called_like_the_overflow_has_no_row(self):
        agent, session = OVERFLOW
        assert publish(committed_state(), RingFold(), event(ASSIGNED, agent=agent, session=session, ring=1)) == {}

    def test_nobody_in_no_session_has_no_row_for_there_would_be_one_in_every_partition(self):
        nobody = event(ASSIGNED, agent="", session="", ring=1)
        assert publish(committed_state(), RingFold(), nobody) == {}
        someone = event(ASSIGNED, session="", ring=1)
        assert publish(committed_state(), RingFold(), nobody, someone).keys() == {encode_key("a", "unknown")}


class TestView:
    ROW = AgentRing("a", "s", 1, 2, "e")

    def test_the_last_record_of_a_key_holds_and_none_takes_the_row_away(self):
        view = AgentRingsView()
        rows = view.new_rows()
        key, other = encode_key("a", "s"), encode_key("a", "t")
        view.apply(rows, key, encode_value(AgentRing("a", "s", 3)))
        view.apply(rows, key, encode_value(self.ROW))
        view.apply(rows, other, encode_value(AgentRing("a", "t", 2)))
        assert rows == {("a", "s"): self.ROW, ("a", "t"): AgentRing("a", "t", 2)}
        for _ in range(2):
            view.apply(rows, other, None)
        assert rows == {("a", "s"): self.ROW}

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            (None, None),
            (None, encode_value(ROW)),
            (b"a", None),
            (encode_key("a", "s"), b""),
            (encode_key("a", "s"), b'{"agent_did":"a","session_id":"s","ring":7}'),
            (encode_key("a", "t"), encode_value(ROW)),
            (encode_key("b", "s"), encode_value(ROW)),
        ],
    )
    def test_a_record_that_is_none_is_refused_and_changes_nothing(self, key, value):
        view, rows = AgentRingsView(), {("a", "s"): self.ROW}
        with pytest.raises(UndecodableRecord):
            view.apply(rows, key, value)
        assert rows == {("a", "s"): self.ROW}

    def test_rows_that_were_published_are_those_of_the_state(self):
        state, view = committed_state(), AgentRingsView()
        for each in (event(ASSIGNED, ring=1), event(ELEVATED, session="t"), event(DEMOTED, at=1, session="t")):
            RingFold().apply(state, each)
        rows = view.new_rows()
        for record in publish_agent_rings(state, HOME):
            view.apply(rows, record.key, record.value)
        assert list(rows.values()) == agent_rings(state.series.present())
