"""The dashboard of the pipeline itself: health, throughput, lag, offset accounting, errors."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from tools.dashboards.empty_dashboard import empty_dashboard
from tools.dashboards.links import PIPELINE_UID
from tools.dashboards.overrides import cell_colour, thresholds_at
from tools.dashboards.panels import bar_gauge, instant, query, stat_panel, state_panel, table_panel, time_series
from tools.dashboards.service_panels import add_rebalance_panels, add_transaction_panels
from tools.dashboards.variables import CLUSTER, PIPELINE_VARIABLES, SERVICES

__all__ = ["pipeline_dashboard"]

_GOOD_AT_ZERO = ((None, "green"), (1, "red"))
_NO_DEAD_LETTERS = "applied|ignored|duplicate|without_record|aged_out"
"""The results in the offset accounting that are no dead letters, as a regular expression."""


def pipeline_dashboard() -> dashboard.Dashboard:
    """Make the whole dashboard; the caller builds it."""
    made = empty_dashboard(
        "Telemetry Pipeline",
        PIPELINE_UID,
        "The services that read the agents' events from Kafka, and the agents' publishers.",
        PIPELINE_VARIABLES,
        with_services=False,
    )
    _add_health(made)
    _add_throughput(made)
    _add_accounting(made)
    add_rebalance_panels(made)
    add_transaction_panels(made)
    _add_sagas(made)
    _add_publishers(made)
    return made


def _add_health(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Is it well?"))
    made.with_panel(
        stat_panel(
            "Copies Up",
            "Copies of each service that Prometheus reaches, and that are ready: their first assignment is "
            "restored. 0 is red.",
            "none",
            instant(f"sum by (job) (up{{{SERVICES}}})", "{{job}}"),
            instant(f"sum by (job) (hypervisor_telemetry_ready{{{SERVICES}}})", "{{job}} ready"),
            thresholds=((None, "red"), (1, "green")),
            graph=False,
            no_value="No service",
        )
        .span(5)
        .height(6)
    )
    made.with_panel(
        state_panel(
            "Degraded",
            "Degraded: a copy runs, but something it needs is in trouble (Kafka, the registry, a sink that doesn't "
            "take spans, a partition that isn't restored); its /readyz has the sentence.",
            f"max by (job) (hypervisor_telemetry_degraded{{{SERVICES}}})",
            "{{job}}",
            {0: ("well", "green"), 1: ("degraded", "red")},
        )
        .span(5)
        .height(6)
    )
    made.with_panel(
        state_panel(
            "Reading",
            "Held: a copy reads nothing, because records that were read can't be made safe: a sink, the database "
            "or Kafka doesn't take them. Nothing is lost, lag grows; /readyz has the sentence.",
            f"max by (job) (hypervisor_telemetry_reading_held{{{SERVICES}}})",
            "{{job}}",
            {0: ("reads", "green"), 1: ("held", "red")},
        )
        .span(5)
        .height(6)
    )
    made.with_panel(
        stat_panel(
            "Accounting Difference",
            "Offsets that Kafka counts and the service's accounting doesn't, over all partitions. Anything but 0 "
            "is a fault of the service.",
            "none",
            query(f"sum by (job) (abs(hypervisor_telemetry_accounting_difference{{{SERVICES}}}))", "{{job}}"),
            thresholds=_GOOD_AT_ZERO,
        )
        .span(5)
        .height(6)
    )
    made.with_panel(
        state_panel(
            "Dead Letter Flood",
            "A flood: so many records can't be used that somebody has to look; /readyz says how many.",
            f"max by (job) (hypervisor_telemetry_dead_letter_flood{{{SERVICES}}})",
            "{{job}}",
            {0: ("none", "green"), 1: ("flood", "red")},
        )
        .span(4)
        .height(6)
    )


def _add_throughput(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("How much, how late"))
    made.with_panel(
        time_series(
            "Throughput by Result",
            "Offsets per second by their result. Ignored: not used by this service. Duplicate: sent twice, counted "
            "once. without_record: markers of transactions.",
            "cps",
            query(
                f"sum by (job, result) (rate(hypervisor_telemetry_records_total{{{SERVICES}}}[$__rate_interval]))",
                "{{job}} {{result}}",
            ),
            stacked=True,
        )
        .span(12)
        .height(8)
    )
    made.with_panel(
        time_series(
            "Latency",
            "The time from a record's publishing until its changes were committed.",
            "s",
            *(
                query(
                    f"histogram_quantile({quantile}, sum by (job, le) "
                    f"(rate(hypervisor_telemetry_latency_seconds_bucket{{{SERVICES}}}[$__rate_interval])))",
                    "{{job}} p" + quantile[2:],
                )
                for quantile in ("0.50", "0.99")
            ),
        )
        .span(12)
        .height(8)
    )
    made.with_panel(
        time_series(
            "Lag in Seconds",
            "The age of the last committed record while there are newer ones: the worst partition of each service "
            "and topic.",
            "s",
            query(f"max by (job, topic) (hypervisor_telemetry_lag_seconds{{{SERVICES}}})", "{{job}} {{topic}}"),
            thresholds=((None, "green"), (60, "red")),
        )
        .span(12)
        .height(8)
    )
    made.with_panel(
        time_series(
            "Lag in Records",
            "Offsets in the log that are not committed yet, over all partitions.",
            "short",
            query(f"sum by (job, topic) (hypervisor_telemetry_lag_records{{{SERVICES}}})", "{{job}} {{topic}}"),
        )
        .span(12)
        .height(8)
    )


def _add_accounting(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Does it add up?"))
    made.with_panel(
        table_panel(
            "The Account",
            "For each service and topic: how far Kafka says that the group has come, how many offsets the service "
            "accounts for, and the difference, which must be 0. While records flow, the first two are read at "
            "different moments; the difference is taken at the same offset.",
            "none",
            {
                "Distance": f"sum by (job, topic) (hypervisor_telemetry_log_distance_offsets{{{SERVICES}}})",
                "Accounted for": f"sum by (job, topic) (hypervisor_telemetry_records_total{{{SERVICES}}})",
                "Difference": "sum by (job, topic) "
                f"(abs(hypervisor_telemetry_accounting_difference{{{SERVICES}}}))",
                "Position": f"sum by (job, topic) (hypervisor_telemetry_position{{{SERVICES}}})",
            },
            columns={"job": "Service", "topic": "Topic"},
            sort_by="Difference",
        )
        .override_by_name(
            "Difference",
            [thresholds_at(*_GOOD_AT_ZERO), cell_colour("color-text")],
        )
        .span(12)
        .height(8)
    )
    made.with_panel(
        time_series(
            "Dead Letters by Reason",
            "Records per minute that a service couldn't use: undecodable, unknown_schema, invalid_payload. They "
            "are in the topic dead-letters: `hypervisor-telemetry dead-letters list`.",
            "cpm",
            query(
                "sum by (job, result) (rate(hypervisor_telemetry_records_total"
                f'{{{SERVICES}, result!~"{_NO_DEAD_LETTERS}"}}[$__rate_interval])) * 60',
                "{{job}} {{result}}",
            ),
            no_value="No dead letters",
        )
        .span(6)
        .height(8)
    )
    made.with_panel(
        time_series(
            "Lost and Refused",
            "Per minute: events that were deleted from Kafka before they were read (aged out), and spans that a "
            "sink refused for good (each is a dead letter). A sink that is only away makes a service degraded, and "
            "lag.",
            "cpm",
            query(
                "sum by (job) (rate(hypervisor_telemetry_records_total"
                f'{{{SERVICES}, result="aged_out"}}[$__rate_interval])) * 60',
                "{{job}} aged out",
            ),
            query(
                f"sum by (job) (rate(hypervisor_telemetry_outputs_refused_total{{{SERVICES}}}[$__rate_interval])) "
                "* 60",
                "{{job}} refused by a sink",
            ),
        )
        .span(6)
        .height(8)
    )


def _add_sagas(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Sagas that are open"))
    made.with_panel(
        bar_gauge(
            "Open Sagas by Age",
            "Sagas that have not ended, by the time since their first event: under a minute, ten minutes, an hour, "
            "a day, older.",
            "short",
            instant(f"sum by (age) (agent_hypervisor_sagas_open{{{SERVICES}}})", "{{age}}"),
        )
        .span(12)
        .height(7)
    )
    made.with_panel(
        time_series(
            "Oldest Open Saga",
            "Time since the first event of the oldest saga that has not ended; 0 where none is open. "
            "`GET /v1/sagas` of saga-spans says which, and in which step it is.",
            "s",
            query(f"max(agent_hypervisor_saga_oldest_open_seconds{{{SERVICES}}})", "oldest"),
            thresholds=((None, "green"), (86400, "red")),
        )
        .span(12)
        .height(7)
    )


def _add_publishers(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("In the agents"))
    made.with_panel(
        time_series(
            "Published Events",
            "Events per second that agents put into their queues, and that Kafka acknowledged.",
            "cps",
            query(
                f"sum(rate(hypervisor_publisher_events_enqueued_total{{{CLUSTER}}}[$__rate_interval]))", "enqueued"
            ),
            query(
                f"sum(rate(hypervisor_publisher_events_delivered_total{{{CLUSTER}}}[$__rate_interval]))",
                "delivered",
            ),
        )
        .span(6)
        .height(8)
    )
    made.with_panel(
        time_series(
            "Queued Events",
            "Events in the queues of all agents now, and in the fullest. They grow while Kafka is away.",
            "short",
            query(f"sum(hypervisor_publisher_events_queued{{{CLUSTER}}})", "all"),
            query(f"max(hypervisor_publisher_events_queued{{{CLUSTER}}})", "the fullest"),
        )
        .span(6)
        .height(8)
    )
    made.with_panel(
        time_series(
            "Dropped and Failed Events",
            "Events per minute that agents lost: dropped before the queue, by reason, or failed after it (Kafka "
            "refused them, or the agent ended).",
            "cpm",
            query(
                "sum by (reason) (rate(hypervisor_publisher_events_dropped_total"
                f"{{{CLUSTER}}}[$__rate_interval])) * 60",
                "dropped: {{reason}}",
            ),
            query(
                f"sum(rate(hypervisor_publisher_events_failed_total{{{CLUSTER}}}[$__rate_interval])) * 60", "failed"
            ),
            thresholds=_GOOD_AT_ZERO,
        )
        .span(6)
        .height(8)
    )
    made.with_panel(
        time_series(
            "Trouble with Governance Metrics",
            "Per minute: what agents' governance metrics could not record, by reason, and decisions that went into "
            "the overflow series of an agent's own metrics.",
            "cpm",
            query(
                f"sum by (reason) (rate(hypervisor_governance_troubles_total{{{CLUSTER}}}[$__rate_interval])) * 60",
                "{{reason}}",
            ),
            query(
                f"sum(rate(hypervisor_governance_overflow_total{{{CLUSTER}}}[$__rate_interval])) * 60", "overflow"
            ),
        )
        .span(6)
        .height(8)
    )
