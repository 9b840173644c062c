"""The text of families with many series is prometheus-client's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from hypervisor_consumers.runtime.ops.exposition import Exposition, RowFamily

TEXT = ""
OPEN_METRICS = "application/openmetrics-text; version=1.0.0"
HELP = 'What\\it is,\nand "how" it is.'

values = st.text(max_size=8) | st.sampled_from(["", "\\", "\n", '"', "a\\n", "é"])
numbers = st.integers(0, 999_999) | st.floats(0, 1e5, allow_nan=False)
rows = st.dictionaries(st.tuples(values, values), numbers, max_size=6)


def prometheus_text(families: list[Metric], accept: str) -> tuple[str, str]:
    class Families:
        def collect(self) -> list[Metric]:
            return families

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Families())  # type: ignore[arg-type]
    encode, content_type = choose_encoder(accept)
    return encode(registry).decode(), content_type


@pytest.mark.parametrize("accept", [TEXT, OPEN_METRICS, "*/*", "application/openmetrics-text; version=0.0.1"])
@given(counts=rows, gauges=rows)
def test_is_what_prometheus_client_writes(
    accept: str, counts: dict[tuple[str, str], float], gauges: dict[tuple[str, str], float]
) -> None:
    counter = CounterMetricFamily("events_total", HELP, labels=["session", "agent"])
    gauge = GaugeMetricFamily("rings", HELP, labels=["session", "agent"])
    histogram = HistogramMetricFamily("seconds", HELP, buckets=[("1.0", 2), ("+Inf", 3)], sum_value=4)
    for family, of_family in ((counter, counts), (gauge, gauges)):
        for labels, number in of_family.items():
            family.add_metric(labels, number)
    ours = [
        RowFamily("events_total", HELP, "counter", ("session", "agent"), list(counts.items())),
        histogram,
        RowFamily("rings", HELP, "gauge", ("session", "agent"), list(gauges.items())),
    ]
    exposition = Exposition()
    for _ in range(2):  # the labels' text is known the second time
        text, content_type = exposition.write(ours, accept)
        assert (text.decode(), content_type) == prometheus_text([counter, histogram, gauge], accept)
    assert prometheus_text(ours, accept) == prometheus_text([counter, histogram, gauge], accept)


def test_a_row_may_lack_its_last_labels() -> None:
    family = RowFamily("c_total", "C.", "counter", ("b", "a"), [(("1", "2"), 3), (("1",), 4), ((), 5)])
    text, _ = Exposition().write([family], TEXT)
    assert text.decode().splitlines()[2:] == ['c_total{a="2",b="1"} 3.0', 'c_total{b="1"} 4.0', "c_total 5.0"]
    assert [sample.labels for sample in family.samples] == [{"b": "1", "a": "2"}, {"b": "1"}, {}]


def test_labels_that_are_gone_are_not_kept_for_ever() -> None:
    exposition = Exposition()
    for start in range(0, 50_000, 1000):
        many: list[tuple[tuple[str, ...], float]] = [((str(number),), 1) for number in range(start, start + 1000)]
        text, _ = exposition.write([RowFamily("c_total", "C.", "counter", ("a",), many)], TEXT)
        assert text.count(b"\n") == 1002
    assert len(exposition._known["c_total"]) < 5000
