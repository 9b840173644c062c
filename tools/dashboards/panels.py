"""The kinds of panels in the dashboards; each has a title, a description, a unit and queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, Self, TypeVar

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    gauge,
    heatmap,
    piechart,
    stat,
    table,
    timeseries,
)
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.runtime import UnknownDataquery
from grafana_foundation_sdk.cog.variants import Dataquery as AnyDataquery
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    BigValueTextMode,
    DataSourceRef,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import (
    DataTransformerConfig,
    FieldColorModeId,
    Threshold,
    ThresholdsConfig,
    ThresholdsMode,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.piechart import PieChartLabels, PieChartType
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from tools.dashboards.overrides import value_mappings
from tools.dashboards.variables import PROMETHEUS

__all__ = [
    "TracesQuery",
    "bar_gauge",
    "gauge_panel",
    "heatmap_panel",
    "histogram_bars",
    "instant",
    "pie_chart",
    "query",
    "stat_panel",
    "state_panel",
    "table_panel",
    "time_series",
    "traces_panel",
]

Steps = Sequence[tuple[float | None, str]]
"""Thresholds: the lowest value of each step, and its colour; the first value is None."""

NEUTRAL: Steps = ((None, "text"),)


class _Panel(Protocol):
    def title(self, title: str) -> Self: ...
    def description(self, description: str) -> Self: ...
    def unit(self, unit: str) -> Self: ...
    def datasource(self, datasource: DataSourceRef) -> Self: ...
    def thresholds(self, thresholds: Builder[ThresholdsConfig]) -> Self: ...
    def targets(self, targets: list[Builder[AnyDataquery]]) -> Self: ...
    def no_value(self, no_value: str) -> Self: ...


P = TypeVar("P", bound=_Panel)


def query(expression: str, legend: str = "__auto") -> Dataquery:
    """Make a query over the time that is shown."""
    return Dataquery().expr(expression).legend_format(legend).range()


def instant(
    expression: str, legend: str = "__auto", form: PromQueryFormat = PromQueryFormat.TIME_SERIES
) -> Dataquery:
    """Make a query for the end of the time that is shown."""
    return Dataquery().expr(expression).legend_format(legend).instant().format(form)


def time_series(
    title: str,
    description: str,
    unit: str,
    *queries: Dataquery,
    thresholds: Steps = NEUTRAL,
    stacked: bool = False,
    no_value: str = "Nothing in this time",
) -> timeseries.Panel:
    """Lines over time; a threshold is a dashed line."""
    panel = (
        timeseries.Panel()
        .min(0)
        .line_width(1)
        .fill_opacity(30 if stacked else 10)
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs([])
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
        .color_scheme(dashboard.FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC))
    )
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A"))
    if len(thresholds) > 1:
        panel = panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED))
    return _described(panel, title, description, unit, queries, thresholds, no_value)


def stat_panel(
    title: str,
    description: str,
    unit: str,
    *queries: Dataquery,
    thresholds: Steps = NEUTRAL,
    graph: bool = True,
    no_value: str = "0",
) -> stat.Panel:
    """Big numbers, the last of the time that is shown, one for each series."""
    panel = (
        stat.Panel()
        .reduce_options(_last_value())
        .color_mode(BigValueColorMode.VALUE)
        .graph_mode(BigValueGraphMode.AREA if graph else BigValueGraphMode.NONE)
        .text_mode(BigValueTextMode.AUTO)
        .color_scheme(dashboard.FieldColor().mode(FieldColorModeId.THRESHOLDS))
    )
    return _described(panel, title, description, unit, queries, thresholds, no_value)


def state_panel(
    title: str, description: str, expression: str, legend: str, names: Mapping[int, tuple[str, str]]
) -> stat.Panel:
    """One field for each series with the name of its value now, on that value's colour."""
    return (
        stat_panel(title, description, "none", instant(expression, legend), graph=False, no_value="No service")
        .color_mode(BigValueColorMode.BACKGROUND)
        .text_mode(BigValueTextMode.VALUE_AND_NAME)
        .mappings(value_mappings(names))
    )


def gauge_panel(
    title: str, description: str, unit: str, *queries: Dataquery, thresholds: Steps, highest: float
) -> gauge.Panel:
    """Dials from 0 to `highest`, one for each series."""
    panel = (
        gauge.Panel()
        .reduce_options(_last_value())
        .min(0)
        .max(highest)
        .show_threshold_markers(True)
        .color_scheme(dashboard.FieldColor().mode(FieldColorModeId.THRESHOLDS))
    )
    return _described(panel, title, description, unit, queries, thresholds, "No scores")


def pie_chart(title: str, description: str, unit: str, *queries: Dataquery) -> piechart.Panel:
    """Shares of a whole."""
    panel = (
        piechart.Panel()
        .pie_type(PieChartType.DONUT)
        .display_labels([PieChartLabels.PERCENT])
        .reduce_options(_last_value())
        .legend(
            piechart.PieChartLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs([])
            .values([])
        )
    )
    return _described(panel, title, description, unit, queries, NEUTRAL, "Nothing in this time")


def bar_gauge(
    title: str, description: str, unit: str, *queries: Dataquery, thresholds: Steps = NEUTRAL
) -> bargauge.Panel:
    """A bar for each series."""
    return _described(_bars(VizOrientation.HORIZONTAL), title, description, unit, queries, thresholds, "None")


def histogram_bars(title: str, description: str, expression: str) -> bargauge.Panel:
    """A histogram: a bar for each bucket of a Prometheus histogram, under its upper bound.

    The format "heatmap" makes Grafana subtract from each cumulative bucket the one before it, and sort them. The
    names have to be the bounds alone for that. Grafana's panel "Histogram" would make buckets of the counts.
    """
    one = instant(expression, "{{le}}", PromQueryFormat.HEATMAP)
    return _described(
        _bars(VizOrientation.VERTICAL), title, description, "short", [one], NEUTRAL, "None in this time"
    )


def heatmap_panel(title: str, description: str, unit: str, expression: str) -> heatmap.Panel:
    """A histogram over time: the darker, the more in that bucket."""
    panel = (
        heatmap.Panel()
        .calculate(False)
        .color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").steps(32))
        .y_axis(heatmap.YAxisConfig().unit(unit))
        .cell_gap(1)
    )
    buckets = query(expression, "{{le}}").format(PromQueryFormat.HEATMAP)
    return _described(panel, title, description, unit, [buckets], NEUTRAL, "None in this time")


def table_panel(
    title: str,
    description: str,
    unit: str,
    queries: Mapping[str, str],
    *,
    columns: Mapping[str, str],
    sort_by: str,
) -> table.Panel:
    """A table: a row for each set of labels, a column for each of `queries` (by the column's name).

    `columns` are the labels that are shown, with the names of their columns. The table is sorted by the column
    `sort_by`, the greatest value first.
    """
    targets = [instant(expression, form=PromQueryFormat.TABLE) for expression in queries.values()]
    letters = [_ref_id(index) for index in range(len(queries))]
    values = {"Value"} if len(queries) == 1 else {f"Value #{letter}" for letter in letters}
    names = dict(zip(sorted(values), queries, strict=True)) | dict(columns)
    order = [*columns, *sorted(values)]
    panel = (
        table.Panel()
        .transformations(
            [
                DataTransformerConfig(id_val="merge", options={}),
                DataTransformerConfig(
                    id_val="organize",
                    options={
                        "excludeByName": {"Time": True},
                        "indexByName": {name: index for index, name in enumerate(order)},
                        "renameByName": names,
                    },
                ),
            ]
        )
        .sort_by([common.TableSortByFieldState().display_name(sort_by).desc(True)])
        .filterable(True)
    )
    return _described(panel, title, description, unit, targets, NEUTRAL, "-")


def traces_panel(title: str, description: str, source: DataSourceRef, of: Mapping[str, object]) -> dashboard.Panel:
    """The spans of one trace along its time."""
    panel = dashboard.Panel().type("traces").title(title).description(description).datasource(source)
    return panel.with_target(TracesQuery(source, of)).unit("none")


class TracesQuery(Builder[AnyDataquery]):
    """A query of Jaeger or Tempo, as Grafana's sources write it; the SDK has no type for it."""

    def __init__(self, source: DataSourceRef, of: Mapping[str, object]) -> None:
        self._query = {"refId": "A", "datasource": source.to_json(), **of}

    def build(self) -> UnknownDataquery:
        """Return the query as it is in the JSON."""
        return UnknownDataquery(self._query)


def _described(  # noqa: PLR0917 - as those that call it
    panel: P, title: str, description: str, unit: str, queries: Sequence[Dataquery], steps: Steps, no_value: str
) -> P:
    for index, target in enumerate(queries):
        target.ref_id(_ref_id(index)).datasource(PROMETHEUS)
    limits = dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE)
    return (
        panel.title(title)
        .description(description)
        .unit(unit)
        .datasource(PROMETHEUS)
        .thresholds(limits.steps([Threshold(value, shade) for value, shade in steps]))
        .targets(list(queries))
        .no_value(no_value)
    )


def _bars(orientation: VizOrientation) -> bargauge.Panel:
    return (
        bargauge.Panel()
        .orientation(orientation)
        .reduce_options(_last_value())
        .min(0)
        .decimals(0)
        .color_scheme(dashboard.FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC))
    )


def _last_value() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields("")


def _ref_id(index: int) -> str:
    return "ABCDEFGHIJKLMNOP"[index]
