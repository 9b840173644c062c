"""The pipeline of a test: it shows what the fleet would see of an agent."""

from __future__ import annotations

import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from hypervisor_telemetry import EventType, GovernanceMetrics, HypervisorEvent, SettingError
from hypervisor_telemetry.testing import Clock, MetricSample, Pipeline, stepper

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SERVICES = {"ring-metrics", "saga-spans", "governance-metrics", "event-index"}


@pytest.fixture
def pipeline() -> Iterator[Pipeline]:
    with Pipeline() as pipeline:
        yield pipeline


def event(kind: EventType = EventType.RING_BREACH_DETECTED, **fields: Any) -> HypervisorEvent:
    return HypervisorEvent(**{"event_type": kind, "session_id": "s", "agent_did": "did:a", **fields})


def saga(pipeline: Pipeline, kind: EventType, **payload: str) -> None:
    pipeline.bus.emit(event(kind, timestamp=pipeline.clock.now(), payload={"saga_id": "deploy", **payload}))


def test_nothing_was_published(pipeline: Pipeline) -> None:
    assert pipeline.metric("agent_hypervisor_ring_breaches_total") is None
    assert pipeline.spans == []
    assert pipeline.running_sagas == []
    assert pipeline.dead_letters == []
    assert pipeline.events.query() == []
    assert pipeline.accounts() == {service: Counter() for service in SERVICES}


class TestMetrics:
    def test_a_breach_is_counted_by_agent_and_session(self, pipeline: Pipeline) -> None:
        for session in ("s1", "s1", "s2"):
            pipeline.bus.emit(event(session_id=session))

        name = "agent_hypervisor_ring_breaches_total"
        assert pipeline.metric(name, agent_did="did:a") == 3
        assert pipeline.metric(name, agent_did="did:a", session_id="s1") == 2
        assert pipeline.metric(name, agent_did="did:b") is None
        assert pipeline.metric("agent_hypervisor_ring_breaches") is None

    def test_the_samples_are_those_of_the_page(self, pipeline: Pipeline) -> None:
        pipeline.bus.emit(event(agent_did='did:"quoted"\\\n'))

        labels = {"agent_did": 'did:"quoted"\\\n', "session_id": "s"}
        assert MetricSample("agent_hypervisor_ring_breaches_total", labels, 1.0) in pipeline.metrics()

    def test_those_of_all_services_are_there(self, pipeline: Pipeline) -> None:
        names = {sample.name for sample in pipeline.metrics()}

        assert {
            "hypervisor_telemetry_series_limit",
            "agent_hypervisor_sagas_open",
            "agent_governance_active_agents",
            "hypervisor_telemetry_index_expired_total",
        } <= names

    def test_decisions_come_from_the_publisher(self, pipeline: Pipeline) -> None:
        metrics = GovernanceMetrics(pipeline.publisher)
        for allowed in (True, True, False):
            metrics.record_decision(allowed, "did:a", "shell", 0.1)

        assert pipeline.metric("agent_governance_policy_decisions_total") == 3
        assert pipeline.metric("agent_governance_tool_calls_blocked_total", decision="deny") == 1

    def test_an_elevation_lasts_by_the_clock(self, pipeline: Pipeline) -> None:
        elevated = event(
            EventType.RING_ELEVATED, timestamp=pipeline.clock.now(), payload={"from_ring": 3, "to_ring": 1}
        )
        pipeline.bus.emit(elevated)
        pipeline.clock.advance(300)

        assert pipeline.metric("agent_hypervisor_ring_current", agent_did="did:a") == 1
        assert pipeline.metric("agent_hypervisor_ring_elevation_duration_seconds", agent_did="did:a") == 300

    def test_series_that_are_idle_go(self) -> None:
        with Pipeline({"TELEMETRY_SERIES_TTL": "3600"}) as pipeline:
            for session in range(50):
                pipeline.bus.emit(event(session_id=f"s{session}"))
            assert pipeline.metric("agent_hypervisor_ring_breaches_total") == 50

            pipeline.clock.advance(3700)
            assert pipeline.metric("agent_hypervisor_ring_breaches_total") is None


class TestSagas:
    def test_a_step_and_its_saga_are_spans(self, pipeline: Pipeline) -> None:
        saga(pipeline, EventType.SAGA_CREATED)
        saga(pipeline, EventType.SAGA_STEP_STARTED, step_id="1", step_action="build")
        pipeline.clock.advance(2)
        saga(pipeline, EventType.SAGA_STEP_COMMITTED, step_id="1", step_action="build")
        saga(pipeline, EventType.SAGA_COMPLETED)

        step, whole = pipeline.spans
        assert (step.name, step.duration_seconds, step.parent_span_id) == ("saga.step.build", 2, whole.span_id)
        assert (whole.name, whole.status) == ("saga.completed.deploy", "ok")

    def test_an_open_saga_is_running(self, pipeline: Pipeline) -> None:
        saga(pipeline, EventType.SAGA_CREATED)
        pipeline.clock.advance(90)

        [running] = pipeline.running_sagas
        assert (running["saga_id"], running["age_seconds"]) == ("deploy", 90)
        assert pipeline.metric("agent_hypervisor_saga_oldest_open_seconds") == 90

    def test_one_without_an_end_times_out(self) -> None:
        with Pipeline({"TELEMETRY_SAGA_TIMEOUT": "60"}) as pipeline:
            saga(pipeline, EventType.SAGA_CREATED)
            pipeline.clock.advance(59)
            assert (pipeline.spans, len(pipeline.running_sagas)) == ([], 1)

            pipeline.clock.advance(7)
            assert [span.error_type for span in pipeline.spans] == ["saga_timeout"]
            assert pipeline.running_sagas == []


class TestBadRecords:
    def test_bytes_that_are_no_event_are_a_dead_letter_of_every_reader(self, pipeline: Pipeline) -> None:
        pipeline.produce("events.ring", b"nonsense", b"s", headers=[("from", b"elsewhere")])

        letters = pipeline.dead_letters
        assert [(letter.service, letter.reason) for letter in letters] == [
            ("ring-metrics", "undecodable"),
            ("event-index", "undecodable"),
        ]
        assert {(letter.key, letter.value, letter.original_headers) for letter in letters} == {
            (b"s", b"nonsense", (("from", b"elsewhere"),))
        }

    def test_they_stop_nothing(self, pipeline: Pipeline) -> None:
        pipeline.produce("events.ring", None)
        pipeline.bus.emit(event())

        assert pipeline.metric("agent_hypervisor_ring_breaches_total") == 1

    def test_a_payload_that_does_not_fit_is_indexed_all_the_same(self, pipeline: Pipeline) -> None:
        odd = event(EventType.RING_ASSIGNED, payload={"ring": "top"})
        pipeline.bus.emit(odd)

        assert [letter.reason for letter in pipeline.dead_letters] == ["invalid_payload"]
        assert pipeline.events.query() == [odd]

    def test_a_topic_has_to_exist(self, pipeline: Pipeline) -> None:
        with pytest.raises(ValueError, match=r"There is no topic .*events\.nothing"):
            pipeline.produce("events.nothing", b"", b"key")


class TestThePublisher:
    def test_what_it_drops_is_counted_and_nobody_sees_it(self) -> None:
        with Pipeline({"TELEMETRY_MAX_EVENT_BYTES": "2000"}) as pipeline:
            assert not pipeline.publisher.publish(event(payload={"text": "x" * 3000}))

            assert pipeline.publisher.stats().dropped == {"too_large": 1}
            assert pipeline.events.event_count == 0

    def test_what_it_delivers_is_counted(self, pipeline: Pipeline) -> None:
        for _ in range(5000):
            pipeline.bus.emit(event())
        pipeline.settle()

        stats = pipeline.publisher.stats()
        assert (stats.enqueued, stats.delivered, stats.failed) == (5000, 5000, 0)
        assert pipeline.metric("agent_hypervisor_ring_breaches_total") == 5000
        assert pipeline.events.event_count == 5000

    def test_any_thread_may_publish(self, pipeline: Pipeline) -> None:
        threads = [
            threading.Thread(target=lambda: [pipeline.bus.emit(event()) for _ in range(200)]) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            pipeline.settle()
        for thread in threads:
            thread.join()

        assert pipeline.metric("agent_hypervisor_ring_breaches_total") == 800

    def test_the_code_under_test_may_close_it(self, pipeline: Pipeline) -> None:
        pipeline.bus.emit(event())
        pipeline.publisher.close()
        pipeline.bus.emit(event())

        assert pipeline.publisher.stats().dropped == {"closed": 1}
        assert pipeline.events.event_count == 1

    def test_it_does_not_keep_a_closed_pipeline_waiting(self) -> None:
        with Pipeline() as pipeline:
            pipeline.bus.emit(event())
            began_at = time.monotonic()
        assert time.monotonic() - began_at < 1


def test_every_record_has_one_result(pipeline: Pipeline) -> None:
    breach = event()
    for emitted in (breach, event(EventType.RING_ASSIGNED, payload={"ring": 1}), breach):
        pipeline.bus.emit(emitted)
    saga(pipeline, EventType.SAGA_CREATED)
    pipeline.bus.emit(event(EventType.SESSION_CREATED))
    pipeline.produce("events.ring", b"nonsense")

    assert pipeline.accounts() == {
        "ring-metrics": {"applied": 2, "duplicate": 1, "undecodable": 1},
        "saga-spans": {"applied": 1},
        "governance-metrics": {},
        "event-index": {"applied": 5, "undecodable": 1},
    }
    assert pipeline.events.event_count == 4


def test_pipelines_share_nothing() -> None:
    with Pipeline() as first, Pipeline({"TELEMETRY_TOPIC_PREFIX": "other."}) as second:
        first.bus.emit(event())
        second.produce("events.ring", b"nonsense")

        assert (first.events.event_count, second.events.event_count) == (1, 0)
        assert (len(first.dead_letters), len(second.dead_letters)) == (0, 2)
        assert {letter.topic for letter in second.dead_letters} == {"other.events.ring"}


def test_the_process_s_environment_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELEMETRY_MAX_EVENT_BYTES", "nonsense")
    monkeypatch.setenv("SCHEMA_REGISTRY_URL", "http://127.0.0.1:1")
    with Pipeline() as pipeline:
        pipeline.bus.emit(event())
        assert pipeline.events.event_count == 1


def test_a_setting_that_is_wrong_is_told() -> None:
    with pytest.raises(SettingError, match="TELEMETRY_SAGA_TIMEOUT"):
        Pipeline({"TELEMETRY_SAGA_TIMEOUT": "soon"})


def test_no_threads_are_left() -> None:
    before = set(threading.enumerate())
    with Pipeline() as pipeline:
        saga(pipeline, EventType.SAGA_CREATED)
        saga(pipeline, EventType.SAGA_COMPLETED)
        assert len(pipeline.spans) == 1
    deadline = time.monotonic() + 5
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)  # between two looks, up to the deadline
    assert set(threading.enumerate()) <= before


class Delayed:
    """An output that takes nothing before its time."""

    def __init__(self, pipeline: Pipeline, until: float) -> None:
        self._sink = pipeline._sink
        self._until = until
        self.tries = 0
        self._deliver = self._sink.deliver
        self._sink.deliver = self.deliver  # type: ignore[method-assign]

    def deliver(self, outputs: Sequence[Any]) -> Any:
        self.tries += 1
        if time.monotonic() < self._until:
            raise OSError("not yet")
        return self._deliver(outputs)


class TestWhatCannotSettle:
    def test_a_commit_that_is_put_off_is_waited_for(self, pipeline: Pipeline) -> None:
        output = Delayed(pipeline, time.monotonic() + 0.5)
        saga(pipeline, EventType.SAGA_CREATED)
        saga(pipeline, EventType.SAGA_COMPLETED)

        assert len(pipeline.spans) == 1
        assert output.tries > 1

    def test_one_that_never_comes_is_an_error(self, monkeypatch: pytest.MonkeyPatch, pipeline: Pipeline) -> None:
        monkeypatch.setattr(stepper, "_SETTLE_SECONDS", 0.05)
        Delayed(pipeline, time.monotonic() + 3600)
        saga(pipeline, EventType.SAGA_CREATED)
        saga(pipeline, EventType.SAGA_COMPLETED)

        with pytest.raises(RuntimeError, match=r"^saga-spans can't take in what was published\. .*not yet"):
            pipeline.settle()


class TestTheClock:
    def test_it_stands_still_until_it_is_advanced(self) -> None:
        clock = Clock(datetime(2030, 1, 1, tzinfo=UTC))
        assert clock.now() == datetime(2030, 1, 1, tzinfo=UTC)
        clock.advance(1.5)
        assert clock.now() == datetime(2030, 1, 1, tzinfo=UTC) + timedelta(seconds=1.5)
        assert clock() == clock.now().timestamp()

    def test_it_starts_now(self) -> None:
        assert abs(Clock()() - time.time()) < 60

    def test_without_a_time_zone_it_is_utc(self) -> None:
        assert Clock(datetime(2030, 1, 1)).now() == datetime(2030, 1, 1, tzinfo=UTC)  # noqa: DTZ001 - that is it

    def test_it_does_not_go_back(self) -> None:
        with pytest.raises(ValueError, match="give 0 or more"):
            Clock().advance(-1)

    def test_kafka_has_its_time(self) -> None:
        with Pipeline(clock=Clock(datetime(2030, 1, 1, tzinfo=UTC))) as pipeline:
            pipeline.produce("events.ring", b"nonsense")
            assert {letter.timestamp for letter in pipeline.dead_letters} == {1_893_456_000_000}

    def test_days_may_pass(self, pipeline: Pipeline) -> None:
        pipeline.bus.emit(event())
        pipeline.settle()
        pipeline.clock.advance(5 * 24 * 3600)
        pipeline.bus.emit(event())
        assert pipeline.metric("agent_hypervisor_ring_breaches_total") == 2
