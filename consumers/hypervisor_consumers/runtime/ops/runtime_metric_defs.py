"""The metrics that every service has, each declared once; `docs/metrics.md` is made from here. Pure."""

from __future__ import annotations

from hypervisor_consumers.runtime.ops.metric_defs import MetricDef
from hypervisor_consumers.runtime.partitions.offset_accounting import AGED_OUT, WITHOUT_RECORD
from hypervisor_consumers.runtime.records import Result
from hypervisor_schemas.errors import InvalidPayload, UndecodableRecord, UnknownSchema

__all__ = [
    "CHANGELOG_BYTES",
    "CHANGELOG_RECORDS",
    "DEGRADED",
    "DIFFERENCE",
    "DISTANCE",
    "FLOOD",
    "HELD",
    "LAG",
    "LAG_SECONDS",
    "LATENCY",
    "OUTPUTS_REFUSED",
    "POSITION",
    "READY",
    "REBALANCES",
    "RECORDS",
    "RESTORED",
    "RESTORE_SECONDS",
    "RESULTS",
    "SELF_METRICS",
    "TRANSACTIONS",
    "TRANSACTION_SECONDS",
]


_TOPIC_PARTITION = ("topic", "partition")

RESULTS = (
    *(result.value for result in Result),
    *(error.reason for error in (UndecodableRecord, UnknownSchema, InvalidPayload)),
    WITHOUT_RECORD,
    AGED_OUT,
)
"""All results of an offset."""

RECORDS = MetricDef(
    "hypervisor_telemetry_records_total",
    "counter",
    (*_TOPIC_PARTITION, "result"),
    "Offsets of the log by what became of them: applied, ignored, duplicate; dead letters by reason: undecodable, "
    "unknown_schema, invalid_payload; without_record (transaction markers), aged_out (deleted unread).",
)
DISTANCE = MetricDef(
    "hypervisor_telemetry_log_distance_offsets",
    "gauge",
    _TOPIC_PARTITION,
    "How far the group has come since its account began, in offsets as Kafka itself tells them.",
)
DIFFERENCE = MetricDef(
    "hypervisor_telemetry_accounting_difference",
    "gauge",
    _TOPIC_PARTITION,
    "The distance that Kafka tells less what is accounted for up to the same offset; not 0: something is wrong.",
)
POSITION = MetricDef(
    "hypervisor_telemetry_position",
    "gauge",
    _TOPIC_PARTITION,
    "Offset up to which everything is committed.",
)
LAG = MetricDef(
    "hypervisor_telemetry_lag_records",
    "gauge",
    _TOPIC_PARTITION,
    "Offsets in the log behind the position; never negative.",
)
LAG_SECONDS = MetricDef(
    "hypervisor_telemetry_lag_seconds",
    "gauge",
    _TOPIC_PARTITION,
    "Age of the last committed record while there are newer ones, else 0; by time of publishing, never negative. "
    "Where nothing is committed yet, the time since records were seen to wait.",
)
RESTORED = MetricDef(
    "hypervisor_telemetry_partition_restored",
    "gauge",
    _TOPIC_PARTITION,
    "1 once what is kept of the partition was brought back by this process, else 0.",
    of="process",
)
RESTORE_SECONDS = MetricDef(
    "hypervisor_telemetry_restore_seconds",
    "histogram",
    (),
    "Time from a partition's assignment to this process until it is read on.",
    of="process",
)
LATENCY = MetricDef(
    "hypervisor_telemetry_latency_seconds",
    "histogram",
    (),
    "Time from a record's publishing until what it changed was committed by this process.",
    of="process",
)
TRANSACTIONS = MetricDef(
    "hypervisor_telemetry_transactions_total",
    "counter",
    ("outcome",),
    "Transactions of this process: committed, aborted, unknown (its partitions were restored).",
    of="process",
)
TRANSACTION_SECONDS = MetricDef(
    "hypervisor_telemetry_transaction_seconds",
    "histogram",
    (),
    "Time that a transaction took, from building its records until its outcome was known; nothing is read then.",
    of="process",
)
CHANGELOG_RECORDS = MetricDef(
    "hypervisor_telemetry_changelog_records_total",
    "counter",
    (),
    "Records that this process has written to the changelog of its state.",
    of="process",
)
CHANGELOG_BYTES = MetricDef(
    "hypervisor_telemetry_changelog_bytes_total",
    "counter",
    (),
    "Bytes of those records, keys and values, before compression.",
    of="process",
)
REBALANCES = MetricDef(
    "hypervisor_telemetry_rebalances_total",
    "counter",
    (),
    "Times that partitions came to this process or went.",
    of="process",
)
OUTPUTS_REFUSED = MetricDef(
    "hypervisor_telemetry_outputs_refused_total",
    "counter",
    (),
    "Outputs (spans) of this process that were refused for good; each is in the dead letters (output_refused).",
    of="process",
)
FLOOD = MetricDef(
    "hypervisor_telemetry_dead_letter_flood",
    "gauge",
    (),
    "1 while so many records can't be used that somebody has to look; /readyz says how many.",
    of="process",
)
DEGRADED = MetricDef(
    "hypervisor_telemetry_degraded",
    "gauge",
    (),
    "1 while the service runs but something it needs is in trouble; /readyz says what.",
    of="process",
)
READY = MetricDef(
    "hypervisor_telemetry_ready",
    "gauge",
    (),
    "1 from when the first assignment of this process was restored on, as /readyz says, else 0.",
    of="process",
)
HELD = MetricDef(
    "hypervisor_telemetry_reading_held",
    "gauge",
    (),
    "1 from when what was read can't be made safe until a commit covers it: a sink, the database or Kafka doesn't "
    "take it.",
    of="process",
)

SELF_METRICS = (
    RECORDS,
    DISTANCE,
    DIFFERENCE,
    POSITION,
    LAG,
    LAG_SECONDS,
    RESTORED,
    RESTORE_SECONDS,
    LATENCY,
    TRANSACTIONS,
    TRANSACTION_SECONDS,
    CHANGELOG_RECORDS,
    CHANGELOG_BYTES,
    REBALANCES,
    OUTPUTS_REFUSED,
    FLOOD,
    DEGRADED,
    READY,
    HELD,
)
