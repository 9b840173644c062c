from collections import Counter
from datetime import UTC, datetime, timedelta

import hypervisor.observability as package
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from hypervisor_producers.bus import HypervisorEventBus
from hypervisor_schemas.events import EventType, GovernanceEventType, HypervisorEvent, event_type_of, type_value

NOON = datetime(2025, 1, 15, 12, tzinfo=UTC)

types = st.sampled_from(
    [
        EventType.RING_ASSIGNED,
        EventType.SAGA_CREATED,
        GovernanceEventType.TRUST_SCORE,
        event_type_of("brand.new"),
        package.EventType.RING_ASSIGNED,
        package.EventType.VFS_WRITE,
    ]
)
sessions = st.sampled_from([None, "", "s1", "s2", "s3"])
agents = st.sampled_from([None, "", "a1", "a2"])
moments = st.integers(0, 5).map(lambda minutes: NOON + timedelta(minutes=minutes))


class BusAgainstAPlainList(RuleBasedStateMachine):
    """The bus, and beside it a list trimmed to the bound that answers every question by looking at every event."""

    @initialize(bound=st.sampled_from([None, 0, 1, 2, 3, 8]))
    def start(self, bound):
        self.bound = bound
        self.bus = HypervisorEventBus(max_events=bound)
        self.model = []
        self.subscribed = []
        self.called = []
        self.expected_calls = []

    @rule(kind=types, session=sessions, agent=agents, moment=moments, naive=st.booleans())
    def emit(self, kind, session, agent, moment, naive):
        cls = package.HypervisorEvent if isinstance(kind, package.EventType) else HypervisorEvent
        event = cls(
            event_type=kind,
            session_id=session,
            agent_did=agent,
            timestamp=moment.replace(tzinfo=None) if naive else moment,
        )
        self.bus.emit(event)
        self.model.append(event)
        if self.bound is not None:
            self.model = self.model[len(self.model) - min(len(self.model), self.bound) :]
        of_type = [number for number, wanted in self.subscribed if wanted == type_value(kind)]
        of_all = [number for number, wanted in self.subscribed if wanted is None]
        self.expected_calls += [(number, event) for number in of_type + of_all]

    @rule(kind=st.none() | types)
    def subscribe(self, kind):
        number = len(self.subscribed)
        self.bus.subscribe(kind, lambda event: self.called.append((number, event)))
        self.subscribed.append((number, None if kind is None else type_value(kind)))

    @rule(kind=st.none() | types, session=sessions, agent=agents, limit=st.none() | st.integers(0, 10))
    def query(self, kind, session, agent, limit):
        matches = [
            event
            for event in self.model
            if (kind is None or type_value(event.event_type) == type_value(kind))
            and (session is None or event.session_id == session)
            and (agent is None or event.agent_did == agent)
        ]
        expected = matches if limit is None else matches[len(matches) - min(len(matches), limit) :]
        assert self.bus.query(kind, session, agent, limit) == expected

    @rule(start=moments, end=st.none() | moments)
    def query_by_time_range(self, start, end):
        last = datetime.now(UTC) if end is None else end
        expected = [event for event in self.model if start <= event.timestamp.replace(tzinfo=UTC) <= last]
        assert self.bus.query_by_time_range(start, end) == expected

    @invariant()
    def the_log_is_the_list(self):
        assert self.bus.all_events == self.model
        assert self.bus.event_count == len(self.model)
        assert self.bus.type_counts() == Counter(type_value(event.event_type) for event in self.model)

    @invariant()
    def every_index_agrees_with_the_list(self):
        for kind in {type_value(event.event_type) for event in self.model} | {"session.archived"}:
            assert self.bus.query_by_type(kind) == [
                event for event in self.model if type_value(event.event_type) == kind
            ]
        for session in ("", "s1", "s2", "s3", "never"):
            assert self.bus.query_by_session(session) == [
                event for event in self.model if event.session_id == session
            ]
        for agent in ("", "a1", "a2", "never"):
            assert self.bus.query_by_agent(agent) == [event for event in self.model if event.agent_did == agent]

    @invariant()
    def every_handler_was_called_in_order(self):
        assert self.called == self.expected_calls


TestBusAgainstAPlainList = BusAgainstAPlainList.TestCase
TestBusAgainstAPlainList.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    # A busy machine is no failure.
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
