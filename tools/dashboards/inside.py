"""Panels of what goes on inside the services: partitions that move, transactions, state, series."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from tools.dashboards.overrides import colour, unit
from tools.dashboards.panels import heat, query, series
from tools.dashboards.variables import SERVICES

__all__ = ["moving_panels", "state_panels"]


def moving_panels(made: dashboard.Dashboard) -> None:
    """Put them onto the dashboard."""
    made.with_row(dashboard.Row("Partitions that move"))
    made.with_panel(
        series(
            "Rebalances",
            "Times per minute that partitions came to a copy or went.",
            "cpm",
            query(
                f"sum by (job) (rate(hypervisor_telemetry_rebalances_total{{{SERVICES}}}[$__rate_interval])) * 60",
                "{{job}}",
            ),
        )
        .span(8)
        .height(8)
    )
    made.with_panel(
        series(
            "Partitions Not Restored",
            "Partitions whose state a copy is still bringing back; they are not read meanwhile.",
            "none",
            query(f"sum by (job) (1 - hypervisor_telemetry_partition_restored{{{SERVICES}}})", "{{job}}"),
            thresholds=((None, "green"), (1, "red")),
        )
        .span(8)
        .height(8)
    )
    made.with_panel(
        heat(
            "Restoring",
            "How long partitions took from their assignment until they were read on: the darker, the more.",
            "s",
            f"sum by (le) (increase(hypervisor_telemetry_restore_seconds_bucket{{{SERVICES}}}[$__rate_interval]))",
        )
        .span(8)
        .height(8)
    )


def state_panels(made: dashboard.Dashboard) -> None:
    """Put them onto the dashboard."""
    made.with_row(dashboard.Row("Transactions and state"))
    made.with_panel(
        series(
            "Transactions",
            "Per second, by outcome: committed, aborted (read again), unknown (its partitions were restored).",
            "cps",
            query(
                "sum by (job, outcome) (rate(hypervisor_telemetry_transactions_total"
                f"{{{SERVICES}}}[$__rate_interval]))",
                "{{job}} {{outcome}}",
            ),
        )
        .span(8)
        .height(8)
    )
    made.with_panel(
        series(
            "Aborts",
            "Transactions that did not commit, of all; 0 while there are none.",
            "percentunit",
            query(
                "sum by (job) (rate(hypervisor_telemetry_transactions_total"
                f'{{{SERVICES}, outcome!="committed"}}[$__rate_interval])) / '
                f"(sum by (job) (rate(hypervisor_telemetry_transactions_total{{{SERVICES}}}[$__rate_interval])) > "
                "0) or 0 * sum by (job) "
                f"(rate(hypervisor_telemetry_transactions_total{{{SERVICES}}}[$__rate_interval]))",
                "{{job}}",
            ),
            thresholds=((None, "green"), (0.1, "red")),
        )
        .span(8)
        .height(8)
    )
    made.with_panel(
        series(
            "Transaction Time",
            "From building a transaction's records until its outcome was known; nothing is read then.",
            "s",
            *(
                query(
                    f"histogram_quantile({quantile}, sum by (job, le) "
                    f"(rate(hypervisor_telemetry_transaction_seconds_bucket{{{SERVICES}}}[$__rate_interval])))",
                    "{{job}} p" + quantile[2:],
                )
                for quantile in ("0.50", "0.99")
            ),
        )
        .span(8)
        .height(8)
    )
    made.with_panel(
        series(
            "Changelog",
            "What services write to the topics of their state, before compression.",
            "Bps",
            query(
                f"sum by (job) (rate(hypervisor_telemetry_changelog_bytes_total{{{SERVICES}}}[$__rate_interval]))",
                "{{job}}",
            ),
            query(
                "sum by (job) "
                f"(rate(hypervisor_telemetry_changelog_records_total{{{SERVICES}}}[$__rate_interval]))",
                "{{job}} records",
            ),
        )
        .override_by_regexp(".* records", [unit("cps")])
        .span(6)
        .height(8)
    )
    made.with_panel(
        series(
            "Series of the Ceiling",
            "The fullest partition of each service: its series, of what `TELEMETRY_MAX_SERIES` lets it have. "
            "Beyond it, events of new series are counted together.",
            "percentunit",
            query(
                f"max by (job) (hypervisor_telemetry_series_kept{{{SERVICES}}}) / "
                f"max by (job) (hypervisor_telemetry_series_limit{{{SERVICES}}})",
                "{{job}}",
            ),
            thresholds=((None, "green"), (0.8, "red")),
        )
        .span(6)
        .height(8)
    )
    made.with_panel(
        series(
            "Series Shown, Events Past the Ceiling",
            "Series on all copies' /metrics. Past the ceiling: events per minute that were counted in an overflow "
            "series, as a partition of theirs is full.",
            "short",
            query(f"sum by (job) (hypervisor_telemetry_series{{{SERVICES}}})", "{{job}}"),
            query(
                "sum by (job) (rate(hypervisor_telemetry_series_overflow_total"
                f"{{{SERVICES}}}[$__rate_interval])) * 60",
                "{{job}} past the ceiling",
            ),
        )
        .override_by_regexp(".* past the ceiling", [unit("cpm"), colour("red")])
        .span(6)
        .height(8)
    )
    made.with_panel(
        series(
            "Retention of the Index",
            "Events per second that event-index removed as older than `TELEMETRY_INDEX_RETENTION`, or didn't add "
            "as they came too late.",
            "cps",
            query(
                "sum by (job, outcome) (rate(hypervisor_telemetry_index_expired_total"
                f"{{{SERVICES}}}[$__rate_interval]))",
                "{{outcome}}",
            ),
        )
        .span(6)
        .height(8)
    )
