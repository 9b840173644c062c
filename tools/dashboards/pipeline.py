"""The dashboard of the pipeline itself: is it well, how much, how late, does it add up, what went wrong."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from tools.dashboards.inside import moving_panels, state_panels
from tools.dashboards.links import PIPELINE_UID
from tools.dashboards.overrides import coloured_from, painted
from tools.dashboards.panels import now, query, ranked_bars, rows, series, states, stats
from tools.dashboards.skeleton import without_panels
from tools.dashboards.variables import CLUSTER, PIPELINE_VARIABLES, SERVICES

__all__ = ["pipeline_dashboard"]

_GOOD_AT_ZERO = ((None, "green"), (1, "red"))
_OFFSETS_OF_ONE = "applied|ignored|duplicate|without_record|aged_out"
"""Results in the account that are no dead letters."""


def pipeline_dashboard() -> dashboard.Dashboard:
    """The whole dashboard, unbuilt."""
    made = without_panels(
        "Telemetry Pipeline",
        PIPELINE_UID,
        "The services that read the agents' events from Kafka, and the agents' publishers.",
        PIPELINE_VARIABLES,
        with_services=False,
    )
    _well(made)
    _flow(made)
    _account(made)
    moving_panels(made)
    state_panels(made)
    _sagas(made)
    _publishers(made)
    return made


def _well(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Is it well?"))
    made.with_panel(
        stats(
            "Copies Up",
            "Copies of each service that Prometheus reaches, and that are ready: their first assignment is "
            "restored. 0 is red.",
            "none",
            now(f"sum by (job) (up{{{SERVICES}}})", "{{job}}"),
            now(f"sum by (job) (hypervisor_telemetry_ready{{{SERVICES}}})", "{{job}} ready"),
            thresholds=((None, "red"), (1, "green")),
            graph=False,
            no_value="No service",
        )
        .span(5)
        .height(6)
    )
    made.with_panel(
        states(
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
        states(
            "Reading",
            "Held: a copy reads nothing, as what was read can't be made safe: a sink, the database or Kafka "
            "doesn't take it. Nothing is lost, lag grows; /readyz has the sentence.",
            f"max by (job) (hypervisor_telemetry_reading_held{{{SERVICES}}})",
            "{{job}}",
            {0: ("reads", "green"), 1: ("held", "red")},
        )
        .span(5)
        .height(6)
    )
    made.with_panel(
        stats(
            "Accounting Difference",
            "Offsets that Kafka counts and the service's account doesn't, over all partitions. Anything but 0 is a "
            "fault of the service.",
            "none",
            query(f"sum by (job) (abs(hypervisor_telemetry_accounting_difference{{{SERVICES}}}))", "{{job}}"),
            thresholds=_GOOD_AT_ZERO,
        )
        .span(5)
        .height(6)
    )
    made.with_panel(
        states(
            "Dead Letter Flood",
            "A flood: so many records can't be used that somebody has to look; /readyz says how many.",
            f"max by (job) (hypervisor_telemetry_dead_letter_flood{{{SERVICES}}})",
            "{{job}}",
            {0: ("none", "green"), 1: ("flood", "red")},
        )
        .span(4)
        .height(6)
    )


def _flow(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("How much, how late"))
    made.with_panel(
        series(
            "Throughput by Result",
            "Offsets per second by what became of them. Ignored: of no use to this service. Duplicate: sent twice, "
            "counted once. without_record: markers of transactions.",
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
        series(
            "Latency",
            "From a record's publishing until what it changed was committed.",
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
        series(
            "Lag in Seconds",
            "How old the last committed record is while there are newer ones: the worst partition of each service "
            "and topic.",
            "s",
            query(f"max by (job, topic) (hypervisor_telemetry_lag_seconds{{{SERVICES}}})", "{{job}} {{topic}}"),
            thresholds=((None, "green"), (60, "red")),
        )
        .span(12)
        .height(8)
    )
    made.with_panel(
        series(
            "Lag in Records",
            "Offsets in the log that are not committed yet, over all partitions.",
            "short",
            query(f"sum by (job, topic) (hypervisor_telemetry_lag_records{{{SERVICES}}})", "{{job}} {{topic}}"),
        )
        .span(12)
        .height(8)
    )


def _account(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Does it add up?"))
    made.with_panel(
        rows(
            "The Account",
            "For each service and topic: how far Kafka says that the group has come, how many offsets the service "
            "accounts for, and the difference, which is never to be other than 0. While records flow, the two are "
            "read at different moments; the difference is taken at the same offset.",
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
            [coloured_from(*_GOOD_AT_ZERO), painted("color-text")],
        )
        .span(12)
        .height(8)
    )
    made.with_panel(
        series(
            "Dead Letters by Reason",
            "Records per minute that a service couldn't use: undecodable, unknown_schema, invalid_payload. They "
            "are in the topic dead-letters: `hypervisor-telemetry dead-letters list`.",
            "cpm",
            query(
                "sum by (job, result) (rate(hypervisor_telemetry_records_total"
                f'{{{SERVICES}, result!~"{_OFFSETS_OF_ONE}"}}[$__rate_interval])) * 60',
                "{{job}} {{result}}",
            ),
            no_value="No dead letters",
        )
        .span(6)
        .height(8)
    )
    made.with_panel(
        series(
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


def _sagas(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Sagas that are open"))
    made.with_panel(
        ranked_bars(
            "Open Sagas by Age",
            "Sagas that have not ended, by the time since their first event: under a minute, ten minutes, an hour, "
            "a day, older.",
            "short",
            now(f"sum by (age) (agent_hypervisor_sagas_open{{{SERVICES}}})", "{{age}}"),
        )
        .span(12)
        .height(7)
    )
    made.with_panel(
        series(
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


def _publishers(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("In the agents"))
    made.with_panel(
        series(
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
        series(
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
        series(
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
        series(
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
