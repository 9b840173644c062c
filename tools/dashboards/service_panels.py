"""Panels about the services' internals: rebalances, transactions, state, series."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from tools.dashboards.overrides import fixed_colour, unit_override
from tools.dashboards.panels import heatmap_panel, query, time_series
from tools.dashboards.variables import SERVICES

__all__ = ["add_rebalance_panels", "add_transaction_panels"]


def add_rebalance_panels(made: dashboard.Dashboard) -> None:
    """Add the panels about rebalances and restores."""
    made.with_row(dashboard.Row("Partitions that move"))
    made.with_panel(
        time_series(
            "Rebalances",
            "Assignments and revocations of partitions per minute.",
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
        time_series(
            "Partitions Not Restored",
            "Partitions whose state a copy is still restoring; they are not read meanwhile.",
            "none",
            query(f"sum by (job) (1 - hypervisor_telemetry_partition_restored{{{SERVICES}}})", "{{job}}"),
            thresholds=((None, "green"), (1, "red")),
        )
        .span(8)
        .height(8)
    )
    made.with_panel(
        heatmap_panel(
            "Restoring",
            "The time from a partition's assignment until it was read on: the darker, the more.",
            "s",
            f"sum by (le) (increase(hypervisor_telemetry_restore_seconds_bucket{{{SERVICES}}}[$__rate_interval]))",
        )
        .span(8)
        .height(8)
    )


def add_transaction_panels(made: dashboard.Dashboard) -> None:
    """Add the panels about transactions, state and series."""
    made.with_row(dashboard.Row("Transactions and state"))
    made.with_panel(
        time_series(
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
        time_series(
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
        time_series(
            "Transaction Time",
            "The time from building a transaction's records until its outcome was known. Nothing is read then.",
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
        time_series(
            "Changelog",
            "The records that services write to the topics of their state, before compression.",
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
        .override_by_regexp(".* records", [unit_override("cps")])
        .span(6)
        .height(8)
    )
    made.with_panel(
        time_series(
            "Series of the Ceiling",
            "The fullest partition of each service: its series as a share of `TELEMETRY_MAX_SERIES`. "
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
        time_series(
            "Series Shown, Events Past the Ceiling",
            "Series on all copies' /metrics. Past the ceiling: events per minute that were counted in an overflow "
            "series, because their partition is full.",
            "short",
            query(f"sum by (job) (hypervisor_telemetry_series{{{SERVICES}}})", "{{job}}"),
            query(
                "sum by (job) (rate(hypervisor_telemetry_series_overflow_total"
                f"{{{SERVICES}}}[$__rate_interval])) * 60",
                "{{job}} past the ceiling",
            ),
        )
        .override_by_regexp(".* past the ceiling", [unit_override("cpm"), fixed_colour("red")])
        .span(6)
        .height(8)
    )
    made.with_panel(
        time_series(
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
