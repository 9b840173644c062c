"""GovernanceMetrics through a real Kafka: topic, key, partition and payload of what arrives."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from hypervisor_producers.bus import HypervisorEventBus
from hypervisor_producers.governance.governance_metrics import GovernanceMetrics
from hypervisor_producers.publisher import EventPublisher
from hypervisor_schemas.events import GovernanceEventType, type_value
from hypervisor_schemas.governance import GOVERNANCE_INSTRUMENTS, PolicyDecision, TrustScore
from hypervisor_schemas.payloads import read_payload
from hypervisor_schemas.topics import EVENT_PARTITIONS, partition_of
from hypervisor_schemas.wire.codec import EventDecoder
from hypervisor_telemetry.topic_admin import apply_topics
from tests.support.service_processes import Fleet, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client.metrics_core import Metric

    from hypervisor_telemetry.local.kafka_choice import Kafka

pytestmark = pytest.mark.kafka


@pytest.fixture
def settings(kafka: Kafka, topic_prefix: str) -> dict[str, str]:
    environ = {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers, "TELEMETRY_TOPIC_PREFIX": topic_prefix}
    apply_topics(environ)
    return environ


def arrived(settings: dict[str, str], written: dict[tuple[str, int], int]) -> list[Any]:
    """Kafka's messages up to the offsets that were acknowledged, in the order of each partition."""
    consumer = Consumer(
        {
            "bootstrap.servers": settings["KAFKA_BOOTSTRAP_SERVERS"],
            "group.id": "reader",
            "enable.auto.commit": False,
            "enable.partition.eof": False,
        }
    )
    try:
        consumer.assign([TopicPartition(*topic_partition, 0) for topic_partition in written])
        found: list[Any] = []
        while len(found) < sum(written.values()):
            found += [message for message in consumer.consume(100, 1.0) if message.error() is None]
    finally:
        consumer.close()
    return found


@pytest.mark.timeout(120)
@pytest.mark.parametrize("through_a_bus", [False, True])
def test_decisions_arrive_on_the_governance_topic_keyed_by_agent(settings, topic_prefix, through_a_bus):
    with EventPublisher(environ=settings) as publisher:
        bus = HypervisorEventBus()
        publisher.attach(bus)
        metrics = GovernanceMetrics(bus if through_a_bus else publisher)
        for number in range(20):
            agent, session = f"did:mesh:agent-{number % 5}", f"session-{number % 3}"
            metrics.record_decision(
                number % 2 == 0, agent, "shell_exec", number / 8, number % 3 == 0, session, "a1b2c3d4e5f6/01234567"
            )
        metrics.record_audit_event("policy.changed", "did:mesh:agent-0", details={"rule": "no-shell"})
        metrics.set_trust_score("did:mesh:agent-0", 320)
        metrics.register_agent("did:mesh:agent-0")
        metrics.deregister_agent("did:mesh:agent-0")
        flushed = publisher.flush(30)
        assert (flushed.pending, publisher.stats().delivered) == (0, 24)
    assert {topic for topic, _ in flushed.offsets} == {f"{topic_prefix}events.governance"}
    assert bus.event_count == (24 if through_a_bus else 0)

    decoder, decisions, others = EventDecoder(), [], []
    for message in arrived(settings, dict(flushed.offsets)):
        event = decoder.decode(message.value())
        assert message.key().decode() == event.agent_did
        assert message.partition() == partition_of(message.key(), EVENT_PARTITIONS)
        if event.event_type == GovernanceEventType.POLICY_DECISION:
            assert event.causal_trace_id == "a1b2c3d4e5f6/01234567"
            decision = read_payload(event.payload, PolicyDecision)
            decisions.append((event.agent_did, event.session_id, decision))
        else:
            others.append((type_value(event.event_type), event.payload))

    def number_of(decision: PolicyDecision) -> float:
        assert decision.evaluation_ms is not None
        return decision.evaluation_ms * 8

    assert sorted(decisions, key=lambda one: number_of(one[2])) == [
        (
            f"did:mesh:agent-{number % 5}",
            f"session-{number % 3}",
            PolicyDecision(number % 2 == 0, "shell_exec", number / 8, number % 3 == 0),
        )
        for number in range(20)
    ]
    # One agent, one partition: in the order in which they were said.
    assert others == [
        ("governance.audit_event", {"action": "policy.changed", "details": {"rule": "no-shell"}}),
        ("governance.trust_score", {"score": 320.0}),
        ("governance.agent_registered", {}),
        ("governance.agent_deregistered", {}),
    ]
    [score] = [payload for kind, payload in others if kind == "governance.trust_score"]
    assert read_payload(score, TrustScore) == TrustScore(320.0)


def of_governance(families: Iterable[Metric]) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """The tutorial's eight, over all partitions."""
    eight = {one.prometheus_name.removesuffix("_total") for one in GOVERNANCE_INSTRUMENTS}
    found: Counter[tuple[str, frozenset[tuple[str, str]]]] = Counter()
    for family in families:
        for sample in family.samples if family.name in eight else []:
            labels = frozenset(label for label in sample.labels.items() if label[0] != "partition")
            found[sample.name, labels] += sample.value  # type: ignore[assignment]
    return {series: value for series, value in found.items() if value}


@pytest.mark.timeout(120)
def test_the_service_shows_for_the_fleet_what_its_one_agent_shows_for_itself(new_fleet: Callable[[int], Fleet]):
    fleet, registry = new_fleet(4), CollectorRegistry()
    with EventPublisher(environ=fleet.environ) as publisher:
        metrics = GovernanceMetrics(publisher, prometheus=registry)
        for number in range(40):
            agent = f"did:mesh:agent-{number % 7}"
            metrics.register_agent(agent)
            metrics.record_decision(number % 3 == 0, agent, f"tool-{number % 4}", number / 4, number % 5 == 1, "s")
            metrics.set_trust_score(agent, number * 25)
            metrics.record_audit_event("decided", agent)
        metrics.deregister_agent("did:mesh:leaving")
        assert publisher.flush(30).pending == 0
    service = fleet.start("governance-metrics")

    def shown() -> dict[Any, float]:
        return of_governance(text_string_to_metric_families(service.get("/metrics").text))

    mine = of_governance(registry.collect())
    # Float sums differ by the order in which the partitions were added up.
    eventually(shown, lambda fleets: fleets == pytest.approx(mine))
    assert {name for name, _ in mine} >= {"agent_governance_trust_score", "agent_governance_active_agents"}
