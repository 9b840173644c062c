"""The metrics of a process and its partitions: the exact exposition text."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric

from hypervisor_consumers.runtime.ops.runtime_metric_defs import RESULTS, SELF_METRICS
from hypervisor_consumers.runtime.ops.runtime_metrics import RuntimeMetrics
from hypervisor_consumers.runtime.partitions.offset_accounting import AGED_OUT, WITHOUT_RECORD, Account
from hypervisor_consumers.runtime.records import Result, TopicPartition
from hypervisor_schemas.errors import InvalidPayload, UndecodableRecord, UnknownSchema

A, B = TopicPartition("hypervisor.events.ring", 0), TopicPartition("hypervisor.events.ring", 11)


def text_of(
    runtime_metrics: RuntimeMetrics, *, now: float = 0, dead_letter_rate: bool = False, degraded: bool = False
) -> str:
    class Service:
        def collect(self) -> Iterable[Metric]:
            return runtime_metrics.families(now=now, dead_letter_rate=dead_letter_rate, degraded=degraded)

    registry = CollectorRegistry()
    registry.register(Service())
    return generate_latest(registry).decode()


def series(runtime_metrics: RuntimeMetrics, name: str, now: float = 0) -> dict[str, float]:
    """Label part and value of each series of one name, the topic left out."""
    name = f"hypervisor_telemetry_{name}"
    lines = [line for line in text_of(runtime_metrics, now=now).splitlines() if not line.startswith("#")]
    pairs = [
        line.removeprefix(name).rpartition(" ") for line in lines if line.startswith((f"{name}{{", f"{name} "))
    ]
    return {labels.replace(f',topic="{A.topic}"', ""): float(value) for labels, _, value in pairs}


def test_the_whole_text_of_two_partitions():
    runtime_metrics = RuntimeMetrics()
    runtime_metrics.assignment.assign([B, A])
    runtime_metrics.rebalanced()
    runtime_metrics.restored(A, Account(5, 9, {"undecodable": 1, "applied": 3}, 1_000_000), 0.7)
    runtime_metrics.assignment[A].accounting.committed(Account(5, 11, {"undecodable": 1, "applied": 5}, 1_500_000))
    runtime_metrics.assignment[A].accounting.log_end = 12
    runtime_metrics.assignment[A].accounting.compare(11)
    runtime_metrics.concluded("committed", 0.03, {999_500: 2, 400_000: 1}, 1_000_000)
    runtime_metrics.concluded("aborted", 5.5)
    runtime_metrics.wrote(3, 120)

    assert (
        text_of(runtime_metrics, now=1600.25, degraded=True)
        == """\
# HELP hypervisor_telemetry_records_total Offsets of the log by what became of them: applied, ignored, duplicate; \
dead letters by reason: undecodable, unknown_schema, invalid_payload; without_record (transaction markers), \
aged_out (deleted unread).
# TYPE hypervisor_telemetry_records_total counter
hypervisor_telemetry_records_total{partition="0",result="aged_out",topic="hypervisor.events.ring"} 0.0
hypervisor_telemetry_records_total{partition="0",result="applied",topic="hypervisor.events.ring"} 5.0
hypervisor_telemetry_records_total{partition="0",result="duplicate",topic="hypervisor.events.ring"} 0.0
hypervisor_telemetry_records_total{partition="0",result="ignored",topic="hypervisor.events.ring"} 0.0
hypervisor_telemetry_records_total{partition="0",result="invalid_payload",topic="hypervisor.events.ring"} 0.0
hypervisor_telemetry_records_total{partition="0",result="undecodable",topic="hypervisor.events.ring"} 1.0
hypervisor_telemetry_records_total{partition="0",result="unknown_schema",topic="hypervisor.events.ring"} 0.0
hypervisor_telemetry_records_total{partition="0",result="without_record",topic="hypervisor.events.ring"} 0.0
# HELP hypervisor_telemetry_log_distance_offsets How far the group has come since its account began, in offsets as \
Kafka itself tells them.
# TYPE hypervisor_telemetry_log_distance_offsets gauge
hypervisor_telemetry_log_distance_offsets{partition="0",topic="hypervisor.events.ring"} 6.0
# HELP hypervisor_telemetry_accounting_difference The distance that Kafka tells less what is accounted for up to \
the same offset; not 0: something is wrong.
# TYPE hypervisor_telemetry_accounting_difference gauge
hypervisor_telemetry_accounting_difference{partition="0",topic="hypervisor.events.ring"} 0.0
# HELP hypervisor_telemetry_position Offset up to which everything is committed.
# TYPE hypervisor_telemetry_position gauge
hypervisor_telemetry_position{partition="0",topic="hypervisor.events.ring"} 11.0
# HELP hypervisor_telemetry_lag_records Offsets in the log behind the position; never negative.
# TYPE hypervisor_telemetry_lag_records gauge
hypervisor_telemetry_lag_records{partition="0",topic="hypervisor.events.ring"} 1.0
# HELP hypervisor_telemetry_lag_seconds Age of the last committed record while there are newer ones, else 0; by \
time of publishing, never negative. Where nothing is committed yet, the time since records were seen to wait.
# TYPE hypervisor_telemetry_lag_seconds gauge
hypervisor_telemetry_lag_seconds{partition="0",topic="hypervisor.events.ring"} 100.25
# HELP hypervisor_telemetry_partition_restored 1 once what is kept of the partition was brought back by this \
process, else 0.
# TYPE hypervisor_telemetry_partition_restored gauge
hypervisor_telemetry_partition_restored{partition="0",topic="hypervisor.events.ring"} 1.0
hypervisor_telemetry_partition_restored{partition="11",topic="hypervisor.events.ring"} 0.0
# HELP hypervisor_telemetry_restore_seconds Time from a partition's assignment to this process until it is read on.
# TYPE hypervisor_telemetry_restore_seconds histogram
hypervisor_telemetry_restore_seconds_bucket{le="0.1"} 0.0
hypervisor_telemetry_restore_seconds_bucket{le="0.25"} 0.0
hypervisor_telemetry_restore_seconds_bucket{le="0.5"} 0.0
hypervisor_telemetry_restore_seconds_bucket{le="1.0"} 1.0
hypervisor_telemetry_restore_seconds_bucket{le="2.0"} 1.0
hypervisor_telemetry_restore_seconds_bucket{le="5.0"} 1.0
hypervisor_telemetry_restore_seconds_bucket{le="10.0"} 1.0
hypervisor_telemetry_restore_seconds_bucket{le="20.0"} 1.0
hypervisor_telemetry_restore_seconds_bucket{le="30.0"} 1.0
hypervisor_telemetry_restore_seconds_bucket{le="60.0"} 1.0
hypervisor_telemetry_restore_seconds_bucket{le="120.0"} 1.0
hypervisor_telemetry_restore_seconds_bucket{le="300.0"} 1.0
hypervisor_telemetry_restore_seconds_bucket{le="+Inf"} 1.0
hypervisor_telemetry_restore_seconds_count 1.0
hypervisor_telemetry_restore_seconds_sum 0.7
# HELP hypervisor_telemetry_latency_seconds Time from a record's publishing until what it changed was committed by \
this process.
# TYPE hypervisor_telemetry_latency_seconds histogram
hypervisor_telemetry_latency_seconds_bucket{le="0.05"} 0.0
hypervisor_telemetry_latency_seconds_bucket{le="0.1"} 0.0
hypervisor_telemetry_latency_seconds_bucket{le="0.2"} 0.0
hypervisor_telemetry_latency_seconds_bucket{le="0.3"} 0.0
hypervisor_telemetry_latency_seconds_bucket{le="0.4"} 0.0
hypervisor_telemetry_latency_seconds_bucket{le="0.6"} 2.0
hypervisor_telemetry_latency_seconds_bucket{le="0.8"} 2.0
hypervisor_telemetry_latency_seconds_bucket{le="1.0"} 2.0
hypervisor_telemetry_latency_seconds_bucket{le="2.0"} 2.0
hypervisor_telemetry_latency_seconds_bucket{le="5.0"} 2.0
hypervisor_telemetry_latency_seconds_bucket{le="10.0"} 2.0
hypervisor_telemetry_latency_seconds_bucket{le="30.0"} 2.0
hypervisor_telemetry_latency_seconds_bucket{le="60.0"} 2.0
hypervisor_telemetry_latency_seconds_bucket{le="300.0"} 2.0
hypervisor_telemetry_latency_seconds_bucket{le="3600.0"} 3.0
hypervisor_telemetry_latency_seconds_bucket{le="+Inf"} 3.0
hypervisor_telemetry_latency_seconds_count 3.0
hypervisor_telemetry_latency_seconds_sum 601.0
# HELP hypervisor_telemetry_transactions_total Transactions of this process: committed, aborted, unknown (its \
partitions were restored).
# TYPE hypervisor_telemetry_transactions_total counter
hypervisor_telemetry_transactions_total{outcome="committed"} 1.0
hypervisor_telemetry_transactions_total{outcome="aborted"} 1.0
hypervisor_telemetry_transactions_total{outcome="unknown"} 0.0
# HELP hypervisor_telemetry_transaction_seconds Time that a transaction took, from building its records until its \
outcome was known; nothing is read then.
# TYPE hypervisor_telemetry_transaction_seconds histogram
hypervisor_telemetry_transaction_seconds_bucket{le="0.005"} 0.0
hypervisor_telemetry_transaction_seconds_bucket{le="0.01"} 0.0
hypervisor_telemetry_transaction_seconds_bucket{le="0.02"} 0.0
hypervisor_telemetry_transaction_seconds_bucket{le="0.05"} 1.0
hypervisor_telemetry_transaction_seconds_bucket{le="0.1"} 1.0
hypervisor_telemetry_transaction_seconds_bucket{le="0.2"} 1.0
hypervisor_telemetry_transaction_seconds_bucket{le="0.5"} 1.0
hypervisor_telemetry_transaction_seconds_bucket{le="1.0"} 1.0
hypervisor_telemetry_transaction_seconds_bucket{le="2.0"} 1.0
hypervisor_telemetry_transaction_seconds_bucket{le="5.0"} 1.0
hypervisor_telemetry_transaction_seconds_bucket{le="10.0"} 2.0
hypervisor_telemetry_transaction_seconds_bucket{le="+Inf"} 2.0
hypervisor_telemetry_transaction_seconds_count 2.0
hypervisor_telemetry_transaction_seconds_sum 5.53
# HELP hypervisor_telemetry_changelog_records_total Records that this process has written to the changelog of its \
state.
# TYPE hypervisor_telemetry_changelog_records_total counter
hypervisor_telemetry_changelog_records_total 3.0
# HELP hypervisor_telemetry_changelog_bytes_total Bytes of those records, keys and values, before compression.
# TYPE hypervisor_telemetry_changelog_bytes_total counter
hypervisor_telemetry_changelog_bytes_total 120.0
# HELP hypervisor_telemetry_rebalances_total Times that partitions came to this process or went.
# TYPE hypervisor_telemetry_rebalances_total counter
hypervisor_telemetry_rebalances_total 1.0
# HELP hypervisor_telemetry_outputs_refused_total Outputs (spans) of this process that were refused for good; \
each is in the dead letters (output_refused).
# TYPE hypervisor_telemetry_outputs_refused_total counter
hypervisor_telemetry_outputs_refused_total 0.0
# HELP hypervisor_telemetry_dead_letter_flood 1 while so many records can't be used that somebody has to look; \
/readyz says how many.
# TYPE hypervisor_telemetry_dead_letter_flood gauge
hypervisor_telemetry_dead_letter_flood 0.0
# HELP hypervisor_telemetry_degraded 1 while the service runs but something it needs is in trouble; \
/readyz says what.
# TYPE hypervisor_telemetry_degraded gauge
hypervisor_telemetry_degraded 1.0
# HELP hypervisor_telemetry_ready 1 from when the first assignment of this process was restored on, as /readyz \
says, else 0.
# TYPE hypervisor_telemetry_ready gauge
hypervisor_telemetry_ready 0.0
# HELP hypervisor_telemetry_reading_held 1 from when what was read can't be made safe until a commit covers it: a \
sink, the database or Kafka doesn't take it.
# TYPE hypervisor_telemetry_reading_held gauge
hypervisor_telemetry_reading_held 0.0
"""
    )


def test_every_metric_that_is_declared_is_shown_under_its_name_type_and_labels():
    runtime_metrics = RuntimeMetrics()
    runtime_metrics.assignment.assign([A])
    runtime_metrics.restored(A, Account(0, 1, {"applied": 1}), 1)
    runtime_metrics.assignment[A].accounting.compare(1)
    families = {
        family.name: family for family in runtime_metrics.families(now=0, dead_letter_rate=True, degraded=False)
    }

    for declared in SELF_METRICS:
        family = families.pop(declared.name.removesuffix("_total"))
        assert family.type == declared.type
        assert family.documentation == declared.help
        assert {tuple(name for name in sample.labels if name != "le") for sample in family.samples} == {
            declared.labels
        }
    assert families == {}


def test_every_result_that_an_offset_can_have_is_documented():
    text = SELF_METRICS[0].help
    reasons = [error.reason for error in (UndecodableRecord, UnknownSchema, InvalidPayload)]
    assert {*map(str, (one.value for one in Result)), *reasons, WITHOUT_RECORD, AGED_OUT} == set(RESULTS)

    for result in RESULTS:
        assert result in text


def test_trouble_is_a_number():
    assert "hypervisor_telemetry_dead_letter_flood 1.0\n" in text_of(RuntimeMetrics(), dead_letter_rate=True)
    assert "hypervisor_telemetry_degraded 0.0\n" in text_of(RuntimeMetrics(), dead_letter_rate=True)


def test_ready_and_held_are_numbers():
    families = {
        family.name: family
        for family in RuntimeMetrics().families(now=0, dead_letter_rate=False, degraded=False, ready=True)
    }
    assert families["hypervisor_telemetry_ready"].samples[0].value == 1
    assert families["hypervisor_telemetry_reading_held"].samples[0].value == 0
    families = {
        family.name: family
        for family in RuntimeMetrics().families(now=0, dead_letter_rate=False, degraded=True, held=True)
    }
    assert families["hypervisor_telemetry_ready"].samples[0].value == 0
    assert families["hypervisor_telemetry_reading_held"].samples[0].value == 1


class TestAPartition:
    def test_has_no_numbers_before_it_is_restored(self) -> None:
        runtime_metrics = RuntimeMetrics()
        runtime_metrics.assignment.assign([A])
        runtime_metrics.assignment[A].accounting.log_end = 10
        runtime_metrics.assignment[A].accounting.compare(0)
        assert list(series(runtime_metrics, "partition_restored").values()) == [0]
        for name in ("records_total", "position", "lag_records", "lag_seconds", "log_distance_offsets"):
            assert series(runtime_metrics, name) == {}

    def test_that_went_leaves_no_series_and_starts_over_when_it_comes_back(self) -> None:
        runtime_metrics = RuntimeMetrics()
        runtime_metrics.assignment.assign([A])
        runtime_metrics.rebalanced()
        runtime_metrics.restored(A, Account(0, 4, {"applied": 4}), 1)
        runtime_metrics.assignment[A].accounting.log_end = 4
        [gone] = runtime_metrics.assignment.revoke([A])
        runtime_metrics.rebalanced()
        assert A.topic not in text_of(runtime_metrics)
        gone.accounting.committed(Account(0, 5, {"applied": 5}))
        gone.accounting.log_end = 5
        gone.accounting.compare(5)
        assert A.topic not in text_of(runtime_metrics)
        runtime_metrics.assignment.assign([A])
        runtime_metrics.rebalanced()
        assert series(runtime_metrics, "records_total") == {}
        assert series(runtime_metrics, "rebalances_total") == {"": 3}

    def test_that_is_restored_once_more_has_no_numbers_meanwhile(self) -> None:
        runtime_metrics = RuntimeMetrics()
        runtime_metrics.assignment.assign([A])
        runtime_metrics.restored(A, Account(0, 4, {"applied": 4}), 1)
        runtime_metrics.assignment[A].accounting.restore_again()
        assert series(runtime_metrics, "records_total") == {}
        assert list(series(runtime_metrics, "partition_restored").values()) == [0]
        runtime_metrics.restored(A, Account(0, 5, {"applied": 5}), 1)
        assert sum(series(runtime_metrics, "records_total").values()) == 5
        assert series(runtime_metrics, "restore_seconds_count") == {"": 2}


class TestTheLag:
    def runtime_metrics(self, position: int, end: int, published: int = 0) -> RuntimeMetrics:
        runtime_metrics = RuntimeMetrics()
        runtime_metrics.assignment.assign([A])
        runtime_metrics.restored(A, Account(0, position, {"applied": position}, published), 1)
        runtime_metrics.assignment[A].accounting.log_end = end
        return runtime_metrics

    def test_is_never_negative(self) -> None:
        assert list(series(self.runtime_metrics(6, 5), "lag_records").values()) == [0]

    def test_is_nothing_before_the_end_of_the_log_is_known(self) -> None:
        runtime_metrics = RuntimeMetrics()
        runtime_metrics.assignment.assign([A])
        runtime_metrics.restored(A, Account(0, 6, {"applied": 6}), 1)
        assert list(series(runtime_metrics, "lag_records").values()) == [0]

    def test_in_seconds_is_the_age_of_the_last_record_while_there_are_newer_ones(self) -> None:
        assert list(series(self.runtime_metrics(5, 6, 1_000_000), "lag_seconds", 1030).values()) == [30]
        assert list(series(self.runtime_metrics(6, 6, 1_000_000), "lag_seconds", 1030).values()) == [0]

    def test_in_seconds_is_never_negative_and_unknown_without_a_time(self) -> None:
        assert list(series(self.runtime_metrics(5, 6, 2_000_000), "lag_seconds", 1030).values()) == [0]
        assert list(series(self.runtime_metrics(5, 6, 0), "lag_seconds", 1030).values()) == [0]

    def test_in_seconds_of_a_partition_without_a_commit_is_counted_from_when_records_were_seen(self) -> None:
        runtime_metrics = self.runtime_metrics(0, 0)
        accounting = runtime_metrics.assignment[A].accounting
        accounting.saw_end(4, 1000.0)
        accounting.saw_end(6, 1002.0)
        assert list(series(runtime_metrics, "lag_seconds", 1030).values()) == [30]
        accounting.committed(Account(0, 6, {"applied": 6}))
        accounting.saw_end(6, 1031.0)
        accounting.saw_end(7, 1033.0)
        assert list(series(runtime_metrics, "lag_seconds", 1034).values()) == [1]


class TestTheDifference:
    def runtime_metrics(self) -> RuntimeMetrics:
        runtime_metrics = RuntimeMetrics()
        runtime_metrics.assignment.assign([A])
        runtime_metrics.restored(A, Account(10, 14, {"applied": 4}), 1)
        runtime_metrics.assignment[A].accounting.committed(Account(10, 20, {"applied": 9, "undecodable": 1}))
        runtime_metrics.assignment[A].accounting.committed(Account(10, 30, {"applied": 18, "undecodable": 1}))
        return runtime_metrics

    def of(self, runtime_metrics: RuntimeMetrics) -> tuple[list[float], list[float]]:
        names = ("log_distance_offsets", "accounting_difference")
        distance, difference = (list(series(runtime_metrics, name).values()) for name in names)
        return distance, difference

    def test_is_taken_at_the_offset_that_kafka_tells(self) -> None:
        runtime_metrics = self.runtime_metrics()
        runtime_metrics.assignment[A].accounting.compare(20)
        assert self.of(runtime_metrics) == ([10], [0])
        runtime_metrics.assignment[A].accounting.compare(14)
        assert self.of(runtime_metrics) == ([4], [0])

    def test_is_what_the_loop_lost(self) -> None:
        runtime_metrics = self.runtime_metrics()
        runtime_metrics.assignment[A].accounting.compare(30)
        assert self.of(runtime_metrics) == ([20], [1])

    def test_is_not_taken_at_an_offset_that_this_process_did_not_commit(self) -> None:
        runtime_metrics = self.runtime_metrics()
        runtime_metrics.assignment[A].accounting.compare(25)
        assert self.of(runtime_metrics) == ([], [])
        runtime_metrics.assignment[A].accounting.compare(20)
        runtime_metrics.assignment[A].accounting.compare(25)
        assert self.of(runtime_metrics) == ([10], [0])

    def test_is_not_taken_over_a_restore(self) -> None:
        runtime_metrics = self.runtime_metrics()
        runtime_metrics.restored(A, Account(10, 30, {"applied": 20}), 1)
        runtime_metrics.assignment[A].accounting.compare(20)
        assert self.of(runtime_metrics) == ([], [])
        runtime_metrics.assignment[A].accounting.compare(30)
        assert self.of(runtime_metrics) == ([20], [0])


def test_a_latency_is_never_negative_and_counted_per_record():
    runtime_metrics = RuntimeMetrics()
    runtime_metrics.concluded("committed", 0.03, {2000: 3, 900: 2}, 1000)
    assert series(runtime_metrics, "latency_seconds_sum") == {"": 0.2}
    assert series(runtime_metrics, "latency_seconds_count") == {"": 5}
    buckets = series(runtime_metrics, "latency_seconds_bucket")
    assert buckets['{le="0.05"}'] == 3
    assert buckets['{le="0.1"}'] == 5  # a bound belongs to its bucket
