"""The bus and the causal traces beside those of the real `agent-hypervisor` package, on the same sequences.

Where ours differ, they do so on purpose: each difference has a test whose name says what it is.
"""

from datetime import UTC, datetime, timedelta

import hypervisor.observability as package
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hypervisor_producers.bus import HypervisorEventBus
from hypervisor_schemas.causal_trace import CausalTraceId
from hypervisor_schemas.events import EventType, HypervisorEvent

LAW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure
NOON = datetime(2025, 1, 15, 12, tzinfo=UTC)
SESSIONS, AGENTS = [None, "s1", "s2", "s3"], [None, "a1", "a2"]

type_names = st.sampled_from([member.name for member in EventType])
few_type_names = st.sampled_from(["RING_ASSIGNED", "RING_ELEVATED", "SAGA_CREATED"])
descriptions = st.lists(
    st.tuples(
        few_type_names | type_names,
        st.sampled_from(SESSIONS),
        st.sampled_from(AGENTS),
        st.integers(0, 10).map(lambda minutes: NOON + timedelta(minutes=minutes)),
    ),
    max_size=40,
)


def pairs(described):
    """Every described event twice: as ours and as the package's, with the same id."""
    for number, (name, session, agent, moment) in enumerate(described):
        fields = {
            "event_id": f"{number:016x}",
            "timestamp": moment,
            "session_id": session,
            "agent_did": agent,
            "payload": {"n": number},
        }
        yield (
            HypervisorEvent(event_type=EventType[name], **fields),
            package.HypervisorEvent(event_type=package.EventType[name], **fields),
        )


def buses(described, max_events=None):
    """Our bus with our events, our bus with the package's, and the package's bus with its own."""
    ours, fed_by_theirs, theirs = (
        HypervisorEventBus(max_events),
        HypervisorEventBus(max_events),
        package.HypervisorEventBus(max_events),
    )
    for our_event, their_event in pairs(described):
        ours.emit(our_event)
        fed_by_theirs.emit(their_event)
        theirs.emit(their_event)
    return ours, fed_by_theirs, theirs


def ids(events):
    return [event.event_id for event in events]


class TestSameAnswers:
    @LAW
    @given(descriptions)
    def test_every_index_and_every_count(self, described):
        *both_of_ours, theirs = buses(described)
        for ours in both_of_ours:
            assert ids(ours.all_events) == ids(theirs.all_events)
            assert ours.event_count == theirs.event_count
            assert ours.type_counts() == theirs.type_counts()
            for kind in EventType:
                assert ids(ours.query_by_type(kind)) == ids(theirs.query_by_type(package.EventType[kind.name]))
            for session in SESSIONS:
                assert ids(ours.query_by_session(session)) == ids(theirs.query_by_session(session))
            for agent in AGENTS:
                assert ids(ours.query_by_agent(agent)) == ids(theirs.query_by_agent(agent))

    @LAW
    @given(
        descriptions,
        st.sampled_from([None, 1, 3, 10]),
        st.none() | few_type_names,
        st.sampled_from(SESSIONS),
        st.sampled_from(AGENTS),
        st.none() | st.integers(1, 50),
    )
    def test_every_combined_query_also_after_eviction(self, described, bound, name, session, agent, limit):
        *both_of_ours, theirs = buses(described, bound)
        kind = name and package.EventType[name]
        for ours in both_of_ours:
            assert ids(ours.query(kind, session, agent, limit)) == ids(theirs.query(kind, session, agent, limit))

    @LAW
    @given(descriptions, st.sampled_from([None, 3]), st.integers(0, 10), st.none() | st.integers(0, 10))
    def test_every_time_range(self, described, bound, start, end):
        *both_of_ours, theirs = buses(described, bound)
        first = NOON + timedelta(minutes=start)
        last = end if end is None else NOON + timedelta(minutes=end)
        for ours in both_of_ours:
            assert ids(ours.query_by_time_range(first, last)) == ids(theirs.query_by_time_range(first, last))

    @LAW
    @given(descriptions, st.lists(st.none() | few_type_names, max_size=6))
    def test_handlers_are_called_in_the_same_order(self, described, subscriptions):
        def calls(bus, types, events):
            called = []
            for number, name in enumerate(subscriptions):
                kind = None if name is None else types[name]
                bus.subscribe(kind, lambda event, number=number: called.append((number, event.event_id)))
            for event in events:
                bus.emit(event)
            return called

        both = list(pairs(described))
        ours = calls(HypervisorEventBus(), EventType, [pair[0] for pair in both])
        mixed = calls(HypervisorEventBus(), package.EventType, [pair[1] for pair in both])
        theirs = calls(package.HypervisorEventBus(), package.EventType, [pair[1] for pair in both])
        assert ours == mixed == theirs

    def test_events_that_handlers_emit_come_in_the_same_order(self):
        def log(bus, types, event):
            order = []
            bus.subscribe(types.RING_ASSIGNED, lambda _: bus.emit(event(event_type=types.RING_ELEVATED)))
            bus.subscribe(None, lambda it: order.append(it.event_type.value))
            bus.emit(event(event_type=types.RING_ASSIGNED))
            return order, [it.event_type.value for it in bus.all_events]

        ours = log(HypervisorEventBus(), EventType, HypervisorEvent)
        theirs = log(package.HypervisorEventBus(), package.EventType, package.HypervisorEvent)
        assert ours == theirs == (["ring.elevated", "ring.assigned"], ["ring.assigned", "ring.elevated"])


ASSIGNED, ELEVATED = ("RING_ASSIGNED", "s1", "a1", NOON), ("RING_ELEVATED", "s1", "a1", NOON)


class TestOnPurpose:
    def test_a_limit_of_zero_gives_nothing_where_the_package_gives_everything(self):
        ours, _, theirs = buses([ASSIGNED] * 3)
        assert ours.query(limit=0) == []
        assert len(theirs.query(limit=0)) == 3

    def test_a_negative_limit_is_refused_where_the_package_drops_the_oldest(self):
        ours, _, theirs = buses([ASSIGNED] * 3)
        with pytest.raises(ValueError, match="limit"):
            ours.query(limit=-1)
        assert len(theirs.query(limit=-1)) == 2

    def test_an_event_out_of_the_log_is_out_of_the_indexes_where_the_package_bounds_each_by_itself(self):
        ours, _, theirs = buses([ASSIGNED, ELEVATED, ELEVATED], max_events=2)
        assert ours.query_by_type("ring.assigned") == []
        assert ours.type_counts() == {"ring.elevated": 2}
        # There the index still answers with an event that the log, and a query over it, no longer know.
        assert len(theirs.query_by_type(package.EventType.RING_ASSIGNED)) == 1
        assert theirs.query(event_type=package.EventType.RING_ASSIGNED) == []
        assert sum(theirs.type_counts().values()) == 3 > theirs.event_count

    def test_a_raising_handler_harms_nobody_where_in_the_package_it_stops_the_rest_and_the_emitter(self):
        def broken(_):
            raise ValueError("broken")

        our_event, their_event = next(pairs([ASSIGNED]))
        ours, theirs = HypervisorEventBus(), package.HypervisorEventBus()
        seen = {"ours": [], "theirs": []}
        for bus, name in ((ours, "ours"), (theirs, "theirs")):
            bus.subscribe(None, broken)
            bus.subscribe(None, seen[name].append)
        ours.emit(our_event)
        with pytest.raises(ValueError, match="broken"):
            theirs.emit(their_event)
        assert (len(seen["ours"]), len(seen["theirs"])) == (1, 0)
        assert ours.handler_errors == 1

    def test_an_empty_session_is_found_by_both_queries_where_the_package_finds_it_by_one(self):
        ours, _, theirs = buses([("RING_ASSIGNED", "", "", NOON)])
        assert len(ours.query_by_session("")) == len(ours.query(session_id="")) == 1
        assert (len(theirs.query_by_session("")), len(theirs.query(session_id=""))) == (0, 1)
        assert len(ours.query_by_agent("")) == len(ours.query(agent_did="")) == 1
        assert (len(theirs.query_by_agent("")), len(theirs.query(agent_did=""))) == (0, 1)

    def test_a_datetime_without_a_zone_counts_as_utc_where_the_package_raises(self):
        ours, _, theirs = buses([ASSIGNED])
        naive = NOON.replace(tzinfo=None)
        assert len(ours.query_by_time_range(naive, naive)) == 1
        with pytest.raises(TypeError):
            theirs.query_by_time_range(naive, naive)

    def test_a_type_given_as_text_is_counted_where_the_package_raises(self):
        ours, theirs = HypervisorEventBus(), package.HypervisorEventBus()
        event = package.HypervisorEvent(event_type="brand.new")
        ours.emit(event)
        theirs.emit(event)
        assert ours.type_counts() == {"brand.new": 1}
        with pytest.raises(AttributeError):
            theirs.type_counts()

    def test_a_handler_that_happens_to_be_falsy_is_called_where_the_package_forgets_it(self):
        class Collected(list):
            def __call__(self, event):
                self.append(event)

        our_event, their_event = next(pairs([ASSIGNED]))
        ours, theirs = HypervisorEventBus(), package.HypervisorEventBus()
        here, there = Collected(), Collected()
        ours.subscribe(None, here)
        theirs.subscribe(None, there)
        ours.emit(our_event)
        theirs.emit(their_event)
        assert (len(here), len(there)) == (1, 0)


parts = st.text(st.characters(exclude_characters="/"), min_size=1, max_size=8)
hex_parts = st.text("0123456789abcdef", min_size=1, max_size=12)
steps = st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(["child", "sibling"])), max_size=12)


def fields(trace):
    return trace.trace_id, trace.span_id, trace.parent_span_id, trace.depth


class TestCausalTraces:
    @LAW
    @given(parts, parts, st.none() | parts, st.integers(0, 50))
    def test_the_same_ids_have_the_same_text(self, trace, span, parent, depth):
        ours = CausalTraceId(trace, span, parent, depth)
        theirs = package.CausalTraceId(trace, span, parent, depth)
        assert (ours.full_id, str(ours), fields(ours)) == (theirs.full_id, str(theirs), fields(theirs))

    @LAW
    @given(steps)
    def test_the_same_tree_of_delegations_has_the_same_depths_parents_and_ancestors(self, grown):
        ours, theirs = [CausalTraceId()], [package.CausalTraceId()]
        for origin, kind in grown:
            at = origin % len(ours)
            ours.append(getattr(ours[at], kind)())
            theirs.append(getattr(theirs[at], kind)())

        def shape(tree):
            spans = [trace.span_id for trace in tree]
            return [
                (trace.depth, spans.index(trace.parent_span_id) if trace.parent_span_id else None) for trace in tree
            ]

        def ancestors(tree):
            return [[one.is_ancestor_of(other) for other in tree] for one in tree]

        assert shape(ours) == shape(theirs)
        assert ancestors(ours) == ancestors(theirs)
        assert len({trace.span_id for trace in ours}) == len(ours)

    @LAW
    @given(hex_parts | parts, hex_parts | parts, st.none() | parts)
    def test_the_same_text_is_read_to_the_same_ids(self, trace, span, parent):
        text = "/".join(filter(None, [trace, span, parent]))
        ours, theirs = CausalTraceId.from_string(text), package.CausalTraceId.from_string(text)
        assert fields(ours)[:3] == fields(theirs)[:3]
        assert ours.full_id == theirs.full_id == text

    @pytest.mark.parametrize("text", ["", "invalid"])
    def test_both_refuse_a_text_of_one_part(self, text):
        for cls in (CausalTraceId, package.CausalTraceId):
            with pytest.raises(ValueError):
                cls.from_string(text)


class TestCausalTracesOnPurpose:
    def test_a_text_with_a_parent_is_read_as_depth_one_where_the_package_forgets_the_depth(self):
        text = CausalTraceId().child().full_id
        assert CausalTraceId.from_string(text).depth == 1
        assert package.CausalTraceId.from_string(text).depth == 0

    def test_a_direct_parent_is_recognised_across_processes_where_the_package_loses_it(self):
        def parent_knows_child(cls):
            parent = cls().child().child()
            return cls.from_string(parent.full_id).is_ancestor_of(cls.from_string(parent.child().full_id))

        assert parent_knows_child(CausalTraceId)
        assert not parent_knows_child(package.CausalTraceId)

    def test_a_child_is_no_ancestor_of_its_parent_where_the_package_compares_depths_alone(self):
        def child_claims_parent(cls):
            parent = cls().child().child()
            return cls.from_string(parent.child().full_id).is_ancestor_of(parent)

        assert not child_claims_parent(CausalTraceId)
        assert child_claims_parent(package.CausalTraceId)

    def test_a_span_is_not_its_own_ancestor_where_the_package_compares_depths_alone(self):
        def claims_itself(cls):
            span = cls().child().child()
            return cls.from_string(span.full_id).is_ancestor_of(span)

        assert not claims_itself(CausalTraceId)
        assert claims_itself(package.CausalTraceId)

    @pytest.mark.parametrize("text", ["/b", "a/", "a//c", "a/b/", "a/b/c/d"])
    def test_an_empty_part_or_a_fourth_is_refused_where_the_package_takes_it(self, text):
        with pytest.raises(ValueError, match="trace/span"):
            CausalTraceId.from_string(text)
        assert package.CausalTraceId.from_string(text).full_id != text or text in {"/b", "a/", "a//c"}
