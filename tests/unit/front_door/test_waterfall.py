"""One trace as a picture."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree as ET

import pytest

from hypervisor_telemetry.local.waterfall import most_telling, waterfall

SVG = "{http://www.w3.org/2000/svg}"


def span(name: str, start: float, end: float, parent: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "trace_id": "t1",
        "span_id": name,
        "parent_span_id": parent,
        "start_time": 1000 + start,
        "end_time": 1000 + end,
        "status": "ok",
        "attributes": {},
        **more,
    }


def rows(picture: str) -> list[tuple[str, float, float, float]]:
    """Name, indentation, where the bar begins and how long it is."""
    found = []
    for group in ET.fromstring(picture).iter(f"{SVG}g"):  # noqa: S314 - drawn here
        _, text, bar, _ = group
        found.append((text.text or "", float(text.attrib["x"]), float(bar.attrib["x"]), float(bar.attrib["width"])))
    return found


def test_each_span_is_a_bar_under_its_parent_by_time_and_to_scale() -> None:
    spans = [
        span("late", 6, 8, "saga"),
        span("saga", 0, 10),
        span("inner", 2, 3, "early"),
        span("early", 1, 5, "saga"),
        span("orphan", 4, 6, "elsewhere"),
    ]
    found = rows(waterfall(spans, "t1"))
    assert [name for name, *_ in found] == ["saga", "early", "inner", "late", "orphan"]
    by_name = {name: numbers for name, *numbers in found}
    assert by_name["saga"][0] == by_name["orphan"][0] < by_name["early"][0] < by_name["inner"][0]
    whole = by_name["saga"][2]
    assert by_name["early"][2] == pytest.approx(whole * 0.4, abs=0.2)
    assert by_name["late"][1] - by_name["saga"][1] == pytest.approx(whole * 0.6, abs=0.2)


def test_a_span_of_no_length_is_still_seen_and_a_repeat_is_one_bar() -> None:
    found = rows(waterfall([span("saga", 0, 1), span("saga", 0, 1), span("undo", 1, 1, "saga")], "t1"))
    assert [(name, width > 0) for name, _, _, width in found] == [("saga", True), ("undo", True)]


def test_whatever_a_name_holds_the_picture_can_be_read() -> None:
    picture = waterfall([span('<&">' * 30, 0, 0, attributes={"agent.saga.error": "<b>&\n"})], "t1")
    assert len(rows(picture)) == 1


def test_only_the_spans_of_the_trace_are_in_it() -> None:
    assert len(rows(waterfall([span("a", 0, 1), span("b", 0, 1, trace_id="t2")], "t2"))) == 1
    with pytest.raises(ValueError, match="No span has the trace id t3"):
        waterfall([span("a", 0, 1)], "t3")


def test_the_most_telling_trace_has_the_most_kinds_then_the_most_spans() -> None:
    plain = [span(f"saga.step.{number}", 0, 1, trace_id="plain") for number in range(9)]
    rich = [span("saga.step.a", 0, 1, trace_id="rich"), span("saga.step.b", 0, 1, trace_id="rich", status="error")]
    assert most_telling(plain + rich) == "rich"
    assert most_telling(plain + rich[:1]) == "plain"
    assert most_telling([]) is None
