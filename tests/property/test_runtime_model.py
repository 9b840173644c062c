"""Copies of ring-metrics on a Kafka in memory, through anything that can happen to them, against the log itself."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hypervisor_consumers.ring_metrics.fold.agent_rings import agent_rings
from hypervisor_consumers.runtime import ingest as taking
from hypervisor_schemas.events import EventType, HypervisorEvent
from hypervisor_schemas.wire.codec import encode_event
from hypervisor_telemetry.testing.memory.log import Kind
from tests.support.faulty_kafka import FaultyKafka
from tests.support.service_copies import DEAD_LETTERS, RINGS, SOURCE, STATE, Clock, Copy

if TYPE_CHECKING:
    from hypervisor_schemas.agent_rings import AgentRing
    from hypervisor_telemetry.testing.memory.log import Record

PARTITIONS = 2
FAULTS = (
    "init_transactions",
    "flush",
    "deliver",
    "send_offsets_to_transaction",
    "commit_transaction",
    "abort_transaction",
    "committed",
    "get_watermark_offsets",
    "list_topics",
)


class Fleet(RuleBasedStateMachine):
    """Nothing that is shown is ever too high or below what was shown before; at rest it is what the log says."""

    def __init__(self) -> None:
        super().__init__()
        self.worth_it = taking.WORTH_IT
        self.clock = Clock()
        self.kafka = FaultyKafka(self.clock)
        for topic in (SOURCE, STATE, RINGS, DEAD_LETTERS):
            self.kafka.create_topic(topic, PARTITIONS)
        self.copies: list[Copy] = []
        self.dead: list[Copy] = []
        self.junk: list[bytes] = []
        self.events = 0
        self.is_away = False
        self.truth: Counter[str] = Counter()
        self.known: defaultdict[int, list[bytes]] = defaultdict(list)
        self.highest: Counter[str] = Counter()

    @initialize(worth_it=st.sampled_from([1, 2, 1000]))
    def begin(self, worth_it: int) -> None:
        taking.WORTH_IT = worth_it  # decoded and folded at once, or one by one
        self.start_copy()
        self.move([0] * 2 * PARTITIONS)

    # What agents do

    @rule(partition=st.integers(0, PARTITIONS - 1), agent=st.sampled_from("ab"), count=st.integers(1, 4))
    def publish(self, partition: int, agent: str, count: int) -> None:
        for _ in range(count):
            self.events += 1
            session = f"s{partition}"
            kind = EventType.RING_ASSIGNED
            event = HypervisorEvent(
                event_id=f"{self.events:016x}",
                event_type=kind,
                agent_did=agent,
                session_id=session,
                payload={"ring": 1},
            )
            value = encode_event(event)
            self.kafka.append(SOURCE, partition, value)
            self.known[partition].append(value)
            self.truth[session] += 1

    @rule(partition=st.integers(0, PARTITIONS - 1), which=st.randoms(use_true_random=False))
    def publish_again(self, partition: int, which: object) -> None:
        if self.known[partition]:
            self.kafka.append(SOURCE, partition, which.choice(self.known[partition]))  # type: ignore[attr-defined]

    @rule(partition=st.integers(0, PARTITIONS - 1))
    def publish_junk(self, partition: int) -> None:
        self.junk.append(b"junk %d" % len(self.junk))
        self.kafka.append(SOURCE, partition, self.junk[-1])

    # What happens to copies

    @precondition(lambda self: len(self.copies) < 3)
    @rule()
    def start_copy(self) -> None:
        self.copies.append(Copy(self.kafka, clock=self.clock))

    @rule(which=st.integers(0, 2), steps=st.integers(1, 4))
    def step(self, which: int, steps: int) -> None:
        if which < len(self.copies):
            for _ in range(steps):
                self.copies[which].step()
                self.clock.advance(0.05)
                self.look()

    @rule(owners=st.lists(st.integers(0, 2), min_size=2 * PARTITIONS, max_size=2 * PARTITIONS))
    def move(self, owners: list[int]) -> None:
        target: dict[object, list[tuple[str, int]]] = {copy.consumer: [] for copy in self.copies}
        topic_partitions = [(topic, partition) for topic in (SOURCE, RINGS) for partition in range(PARTITIONS)]
        for topic_partition, owner in zip(topic_partitions, owners, strict=True):
            target[self.copies[owner % len(self.copies)].consumer].append(topic_partition)
        self.kafka.rebalance(target)  # type: ignore[arg-type]

    @rule(which=st.integers(0, 2))
    def expel(self, which: int) -> None:
        """Its session ends; it doesn't know before its next step."""
        if which < len(self.copies):
            self.end_session(self.copies[which])

    @precondition(lambda self: len(self.copies) > 1)
    @rule(which=st.integers(0, 2))
    def kill(self, which: int) -> None:
        copy = self.copies.pop(which % len(self.copies))
        self.end_session(copy)
        # Kept, so that an open transaction of it stays open.
        self.dead.append(copy)

    def end_session(self, copy: Copy) -> None:
        # A session ends when its member was not heard of for so long: longer than a lease.
        self.clock.advance(6)
        self.kafka.fence(copy.consumer)

    @precondition(lambda self: len(self.copies) > 1 and not self.is_away)
    @rule(which=st.integers(0, 2))
    def stop(self, which: int) -> None:
        copy = self.copies.pop(which % len(self.copies))
        copy.loop._commit(is_last=True)
        copy.consumer.close()

    # What happens to Kafka

    @rule(operation=st.sampled_from(FAULTS), before=st.booleans())
    def fail_next(self, operation: str, before: bool) -> None:
        self.kafka.fail_next(operation, before=before)

    @rule()
    def broker_away(self) -> None:
        self.kafka.away()
        self.is_away = True

    @rule()
    def broker_back(self) -> None:
        self.kafka.back()
        self.is_away = False

    @rule(seconds=st.sampled_from([0.1, 1.0, 6.0, 15.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    # What must hold

    @invariant()
    def look(self) -> None:
        shown_by: Counter[str] = Counter()
        for copy in self.copies:
            for session, count in copy.counts().items():
                assert self.highest[session] <= count <= self.truth[session]
                self.highest[session] = count
                shown_by[session] += 1
        assert all(copies == 1 for copies in shown_by.values())

    def teardown(self) -> None:
        try:
            if self.copies:
                self.come_to_rest()
        finally:
            taking.WORTH_IT = self.worth_it

    def come_to_rest(self) -> None:
        self.kafka.back()
        for copy in self.copies:
            copy.step()
        last = self.copies[0]
        for copy in self.copies[1:]:
            copy.consumer.close()
        self.copies = [last]
        at_rest = 0
        for turn in range(400):
            if turn % 50 == 0:
                self.move([0] * 2 * PARTITIONS)
            last.step()
            self.look()
            self.clock.advance(0.25)
            at_rest = at_rest + 1 if self.is_at_rest(last) else 0
            if at_rest == 5:
                break
        assert last.counts() == +self.truth
        assert last.results().total() == sum(len(self.kafka.log(SOURCE, one)) for one in range(PARTITIONS))
        assert sorted(self.dead_letters()) == sorted(self.junk)
        rings = [row for rows in last.processor.shown().rows.values() for row in rows.values()]
        assert sorted(rings, key=str) == sorted(rows_of(last), key=str)

    def is_at_rest(self, copy: Copy) -> bool:
        ends = sum(len(self.kafka.log(SOURCE, one)) for one in range(PARTITIONS))
        return copy.processor.is_serving and copy.results().total() == ends and len(copy.live) == 2 * PARTITIONS

    def dead_letters(self) -> list[bytes | None]:
        return [
            record.value
            for partition in range(PARTITIONS)
            for record in committed(self.kafka.log(DEAD_LETTERS, partition))
        ]


def rows_of(copy: Copy) -> list[AgentRing]:
    """The rows that the states of a copy would publish."""
    return [row for state in copy.processor.shown().states.values() for row in agent_rings(state.series.present())]


def committed(log: list[Record]) -> list[Record]:
    return [record for record in log if record.kind in {Kind.PLAIN, Kind.COMMITTED}]


TestFleet = Fleet.TestCase
TestFleet.settings = settings(
    max_examples=200, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
