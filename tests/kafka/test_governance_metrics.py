"""GovernanceMetrics through a real Kafka: topic, key, partition and payload of what arrives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from hypervisor_producers.bus import HypervisorEventBus
from hypervisor_producers.governance import GovernanceMetrics
from hypervisor_producers.publisher import EventPublisher
from hypervisor_schemas.codec import EventDecoder
from hypervisor_schemas.events import GovernanceEventType, type_value
from hypervisor_schemas.governance import PolicyDecision, TrustScore
from hypervisor_schemas.payloads import read_payload
from hypervisor_schemas.topics import EVENT_PARTITIONS, partition_of
from hypervisor_telemetry.topic_admin import apply_topics

if TYPE_CHECKING:
    from hypervisor_telemetry.local.choose import Kafka

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
        consumer.assign([TopicPartition(*place, 0) for place in written])
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
        metrics.record_audit_event("did:mesh:agent-0", "policy.changed", details={"rule": "no-shell"})
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
