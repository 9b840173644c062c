"""What a process tells about its partitions: the exact exposition text."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric

from hypervisor_consumers.runtime.metrics import SELF_METRICS, Ledger
from hypervisor_consumers.runtime.processor import Place

A, B = Place("hypervisor.events.ring", 0), Place("hypervisor.events.ring", 11)


def text_of(ledger: Ledger, *, degraded: bool = False) -> str:
    class Service:
        def collect(self) -> Iterable[Metric]:
            return ledger.families(degraded)

    registry = CollectorRegistry()
    registry.register(Service())
    return generate_latest(registry).decode()


def samples_of(ledger: Ledger) -> list[str]:
    return [line for line in text_of(ledger).splitlines() if not line.startswith("#")]


def test_the_whole_text_of_two_partitions():
    ledger = Ledger()
    ledger.opened(B, 5, 9)
    ledger.opened(A, 0, 4)
    ledger.add(A, {"applied": 2, "undecodable": 1}, 3)
    ledger.add(A, {"applied": 1}, 4)
    ledger.seen(A, 6, is_restored=True)

    assert (
        text_of(ledger, degraded=True)
        == """\
# HELP hypervisor_telemetry_records_total Records read by this process from the partitions it has, by result: \
applied, ignored, duplicate, undecodable, unknown_schema, invalid_payload.
# TYPE hypervisor_telemetry_records_total counter
hypervisor_telemetry_records_total{partition="0",result="applied",topic="hypervisor.events.ring"} 3.0
hypervisor_telemetry_records_total{partition="0",result="undecodable",topic="hypervisor.events.ring"} 1.0
# HELP hypervisor_telemetry_position Offset of the next record that this process will read.
# TYPE hypervisor_telemetry_position gauge
hypervisor_telemetry_position{partition="0",topic="hypervisor.events.ring"} 4.0
hypervisor_telemetry_position{partition="11",topic="hypervisor.events.ring"} 5.0
# HELP hypervisor_telemetry_lag_records Records in the log that this process has not read yet; never negative.
# TYPE hypervisor_telemetry_lag_records gauge
hypervisor_telemetry_lag_records{partition="0",topic="hypervisor.events.ring"} 2.0
hypervisor_telemetry_lag_records{partition="11",topic="hypervisor.events.ring"} 4.0
# HELP hypervisor_telemetry_partition_restored 1 once the partition's state includes all that was in its log when \
this process got it, else 0.
# TYPE hypervisor_telemetry_partition_restored gauge
hypervisor_telemetry_partition_restored{partition="0",topic="hypervisor.events.ring"} 1.0
hypervisor_telemetry_partition_restored{partition="11",topic="hypervisor.events.ring"} 0.0
# HELP hypervisor_telemetry_rebalances_total Times that partitions came to this process or went.
# TYPE hypervisor_telemetry_rebalances_total counter
hypervisor_telemetry_rebalances_total 2.0
# HELP hypervisor_telemetry_degraded 1 while the service runs but something it needs is in trouble; \
/readyz says what.
# TYPE hypervisor_telemetry_degraded gauge
hypervisor_telemetry_degraded 1.0
"""
    )


def test_every_metric_that_is_declared_is_shown_under_its_name_type_and_labels():
    ledger = Ledger()
    ledger.opened(A, 0, 0)
    ledger.add(A, {"applied": 1}, 1)
    families = {family.name: family for family in ledger.families(degraded=False)}

    for declared in SELF_METRICS:
        family = families.pop(declared.name.removesuffix("_total"))
        assert family.type == declared.kind
        assert family.documentation == declared.help_text
        assert {tuple(sample.labels) for sample in family.samples} == {declared.labels}
    assert families == {}


def test_a_partition_that_went_leaves_no_series_and_starts_over_when_it_comes_back():
    ledger = Ledger()
    ledger.opened(A, 0, 4)
    ledger.add(A, {"applied": 4}, 4)
    ledger.closed(A)
    assert samples_of(ledger) == ["hypervisor_telemetry_rebalances_total 2.0", "hypervisor_telemetry_degraded 0.0"]

    ledger.opened(A, 0, 4)
    assert not any("result=" in line for line in samples_of(ledger))


def test_a_lag_is_never_negative():
    ledger = Ledger()
    ledger.opened(A, 0, 4)
    ledger.add(A, {"applied": 6}, 6)
    ledger.seen(A, 5, is_restored=True)

    assert f'hypervisor_telemetry_lag_records{{partition="0",topic="{A.topic}"}} 0.0' in samples_of(ledger)
