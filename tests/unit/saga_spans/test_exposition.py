"""The metrics of saga-spans, as Prometheus reads them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from hypervisor_consumers.runtime.ops.exposition import Exposition
from hypervisor_consumers.saga_spans.exposition import saga_families
from hypervisor_consumers.saga_spans.fold.event_fold import SagaFold
from hypervisor_consumers.saga_spans.fold.state import SagaState
from hypervisor_consumers.saga_spans.metric_defs import SAGA_METRICS
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord
from hypervisor_schemas.events import EventType, HypervisorEvent

T0 = datetime(2026, 1, 1, tzinfo=UTC)
FOLD = SagaFold(timeout_ms=10**9, grace_ms=1000)
OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


def told(state: SagaState, kind: str, at: float, saga: str, **payload: Any) -> list[SagaSpanRecord]:
    event = HypervisorEvent(
        event_type=EventType(f"saga.{kind}"),
        timestamp=T0 + timedelta(seconds=at),
        session_id="s",
        payload={"saga_id": saga, **payload},
    )
    return list(FOLD.apply(state, event, int((T0.timestamp() + at) * 1000)) or ())


def text_of(states: dict[int, SagaState], at: float, accept: str = "") -> str:
    return Exposition().write(saga_families(states, T0.timestamp() + at), accept)[0].decode()


def values(text: str) -> dict[str, float]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_open_sagas_are_counted_by_age_and_the_oldest_is_told() -> None:
    states = {0: FOLD.new_state(), 3: FOLD.new_state()}
    for at, saga in ((0, "a"), (5000, "b"), (89_000, "c"), (89_970, "d")):
        told(states[3], "created", at, saga)
    found = values(text_of(states, 90_000))
    ages = {
        age: found[f'agent_hypervisor_sagas_open{{age="{age}",partition="3"}}']
        for age in ("1m", "10m", "1h", "1d", "older")
    }
    assert ages == {"1m": 1, "10m": 0, "1h": 1, "1d": 1, "older": 1}
    assert found['agent_hypervisor_saga_oldest_open_seconds{partition="3"}'] == 90_000
    assert found['agent_hypervisor_saga_oldest_open_seconds{partition="0"}'] == 0
    assert found['agent_hypervisor_sagas_open{age="1m",partition="0"}'] == 0


def test_what_ended_is_counted_by_kind_and_result_for_each_partition() -> None:
    states = {0: FOLD.new_state(), 1: FOLD.new_state()}
    told(states[0], "step_started", 0, "a", step_id="1")
    told(states[0], "step_committed", 2, "a", step_id="1")
    told(states[0], "compensating", 3, "a")
    told(states[0], "fanout_resolved", 3, "a")
    told(states[0], "completed", 4, "a")
    told(states[0], "completed", 5, "a")
    told(states[1], "step_failed", 0, "b", step_id="1")
    told(states[1], "escalated", 0.02, "b")
    found = values(text_of(states, 10))
    counted = {series: value for series, value in found.items() if "_total{" in series}
    assert counted == {
        'agent_hypervisor_sagas_total{partition="0",result="ok"}': 1,
        'agent_hypervisor_sagas_total{partition="1",result="error"}': 1,
        'agent_hypervisor_saga_steps_total{partition="0",result="ok"}': 1,
        'agent_hypervisor_saga_steps_total{partition="1",result="error"}': 1,
        'agent_hypervisor_saga_compensations_total{partition="0"}': 1,
        'agent_hypervisor_saga_fan_outs_total{partition="0",result="ok"}': 1,
        'agent_hypervisor_saga_late_events_total{event_type="saga.completed",partition="0"}': 1,
    }
    assert found['agent_hypervisor_saga_step_duration_seconds_sum{partition="0",result="ok"}'] == 2
    buckets = {
        bound: found[
            f'agent_hypervisor_saga_step_duration_seconds_bucket{{le="{bound}",partition="0",result="ok"}}'
        ]
        for bound in ("1.0", "5.0", "+Inf")
    }
    assert buckets == {"1.0": 0, "5.0": 1, "+Inf": 1}


def test_as_open_metrics_a_bucket_leads_to_its_last_span() -> None:
    state = FOLD.new_state()
    for number in range(2):
        told(state, "step_started", number * 10, "a", step_id="1")
        [span] = told(state, "step_committed", number * 10 + 2, "a", step_id="1")
    text = text_of({0: state}, 30, OPEN_METRICS)
    families = {family.name: family for family in text_string_to_metric_families(text)}
    samples = families["agent_hypervisor_saga_step_duration_seconds"].samples
    exemplars = [sample.exemplar for sample in samples if sample.exemplar is not None]
    assert [(one.labels, one.value, float(one.timestamp)) for one in exemplars] == [
        ({"trace_id": span.trace_id, "span_id": span.span_id}, 2.0, T0.timestamp() + 12)
    ]
    assert "trace_id" not in text_of({0: state}, 30)


def test_every_metric_is_one_that_is_declared() -> None:
    declared = {(metric.name.removesuffix("_total"), metric.type, metric.help) for metric in SAGA_METRICS}
    shown = {(family.name, family.type, family.documentation) for family in saga_families({0: SagaState()}, 0)}
    assert shown == declared
