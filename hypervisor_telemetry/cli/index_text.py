"""Formats answers of the event index as lines for people. Pure.

Ids and payloads come from anybody: control characters are never printed as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.text import Text

from hypervisor_consumers.event_index.query.causal_tree import has_failed
from hypervisor_schemas.events import HypervisorEvent
from hypervisor_schemas.printable import printable

__all__ = [
    "entity_lines",
    "event_details",
    "event_line",
    "event_lines",
    "freshness_line",
    "stats_lines",
    "trace_lines",
]

_COLOURS = {
    "session": "cyan",
    "ring": "magenta",
    "liability": "yellow",
    "saga": "blue",
    "vfs": "green",
    "security": "bright_magenta",
    "audit": "bright_black",
    "verification": "bright_cyan",
    "governance": "bright_blue",
}
_EVENT_WIDTHS = (24, 26, 28, 28, 12, 0)
"""The widths of the columns when the coming rows aren't known yet."""

_TIMES = frozenset({"first", "last", "start"})


def event_lines(events: Sequence[Mapping[str, Any]]) -> Iterator[Text]:
    """A table of events: time, type, agent, session, trace and payload."""
    rows = [_cells(event) for event in events]
    widths = [max(map(len, column)) for column in zip(_HEADER, *rows, strict=True)]
    yield _row(_HEADER, widths, ["bold"] * len(_HEADER))
    for cells, event in zip(rows, events, strict=True):
        yield _row(cells, widths, _styles(event))


def event_line(event: Mapping[str, Any]) -> Text:
    """The row of `event_lines` for a single event."""
    return _row(_cells(event), _EVENT_WIDTHS, _styles(event))


def event_details(event: Mapping[str, Any]) -> Iterator[Text]:
    """All fields of one event, and its payload indented."""
    yield from _fields({name: value for name, value in event.items() if name != "payload"})
    yield Text("payload", style="bold")
    for line in json.dumps(event["payload"], indent=2, ensure_ascii=False).splitlines():
        yield Text(f"  {printable(line)}")


def stats_lines(answer: Mapping[str, Any]) -> Iterator[Text]:
    """The number of events of each type, the highest first, and of all; then of each time bucket."""
    counts = sorted(answer["type_counts"].items(), key=lambda item: (-item[1], item[0]))
    rows = [(printable(kind), f"{count:,}") for kind, count in counts]
    yield from _table([("TYPE", "EVENTS"), *rows, ("all", f"{answer['event_count']:,}")])
    if buckets := answer.get("buckets"):
        most = max(bucket["event_count"] for bucket in buckets)
        yield Text()
        yield from _table(
            [
                ("FROM", "EVENTS", ""),
                *(
                    (_time(bucket["start"]), f"{bucket['event_count']:,}", _bar(bucket["event_count"], most))
                    for bucket in buckets
                ),
            ]
        )


def entity_lines(answer: Mapping[str, Any]) -> Iterator[Text]:
    """A session, an agent or the list of sessions: single values as lines, lists as tables."""
    single = {
        name: value
        for name, value in answer.items()
        if not isinstance(value, list | dict) and name not in {"next", "is_partial", "is_whole"}
    }
    yield from _fields(single)
    if "type_counts" in answer:
        yield from (Text(), *stats_lines(answer))
    for name, rows in answer.items():
        if isinstance(rows, list) and rows:
            yield from (Text(), Text(name, style="bold")) if single else ()
            columns = list(rows[0])
            header = tuple(column.upper().replace("_", " ") for column in columns)
            yield from _table([header, *(tuple(_value(column, row[column]) for column in columns) for row in rows)])
    if answer.get("is_whole") is False:
        yield Text("Only the latest are taken in; there are more.", style="yellow")


def trace_lines(answer: Mapping[str, Any]) -> Iterator[Text]:
    """The causal tree: a line for each span, indented below its parent and followed by its events."""
    yield Text(f"trace {printable(answer['trace_id'])}: {answer['event_count']:,} events", style="bold")
    for span in answer["spans"]:
        margin = "  " * min(span["depth"], 40)
        agents = ", ".join(map(printable, span["agents"])) or "-"
        line = Text(
            f"{margin}{'✗' if span['failed'] else '●'} {printable(span['span_id'] or '(no span)')}  {agents}"
        )
        line.stylize("bold red" if span["failed"] else "bold")
        if span["failed_below"]:
            line.append("  (failed further down)", style="yellow")
        yield line
        for event in span["events"]:
            event_text = Text(f"{margin}    {_time(event['timestamp'])}  ")
            event_text.append(printable(event["event_type"]), style=_style(event))
            yield event_text.append(f"  {_payload(event)}", style="dim")
    if answer.get("is_whole") is False:
        yield Text("Only the latest events of this trace are taken in; there are more.", style="yellow")


def freshness_line(answer: Mapping[str, Any]) -> Text:
    """The freshness of the answer, in a sentence."""
    freshness = answer["freshness"]
    records, seconds = freshness.get("lag_records"), freshness.get("lag_seconds")
    if records is None:
        sentence, style = "How far the index is behind isn't known.", "yellow"
    elif not records:
        sentence, style = "The index includes everything.", "dim"
    else:
        behind = "" if seconds is None else f", {seconds:.1f} s"
        sentence, style = f"The index is {records:,} records behind{behind}.", "yellow"
    if answer.get("is_partial"):
        sentence, style = f"{sentence} It is not complete yet: a partition hasn't come.", "yellow"
    return Text(sentence, style=style)


_HEADER = ("TIME", "TYPE", "AGENT", "SESSION", "TRACE", "PAYLOAD")


def _cells(event: Mapping[str, Any]) -> tuple[str, ...]:
    ids = (event["agent_did"], event["session_id"], (event["causal_trace_id"] or "").partition("/")[0] or None)
    shown = ("-" if value is None else printable(value) for value in ids)
    return (_time(event["timestamp"]), printable(event["event_type"]), *shown, _payload(event))


def _payload(event: Mapping[str, Any]) -> str:
    payload = event["payload"]
    return printable(json.dumps(payload, ensure_ascii=False, separators=(",", ":"))) if payload else ""


def _styles(event: Mapping[str, Any]) -> list[str]:
    return ["dim", _style(event), "", "", "dim", ""]


def _style(event: Mapping[str, Any]) -> str:
    fields = {name: value for name, value in event.items() if name != "failed"}
    if event.get("failed") or has_failed(HypervisorEvent.from_dict(fields)):
        return "bold red"
    return _COLOURS.get(event["event_type"].partition(".")[0], "")


def _fields(fields: Mapping[str, Any]) -> Iterator[Text]:
    width = max((len(name) for name in fields), default=0)
    for name, value in fields.items():
        yield Text(f"{name:<{width}}", style="bold").append(f"  {_value(name, value)}", style="not bold")


def _value(name: str, value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return _time(value) if name in _TIMES and isinstance(value, str) else printable(str(value))


def _time(text: str) -> str:
    """A time in UTC, to the millisecond: 2025-01-15T10:30:00.000Z."""
    whole, _, fraction = text.removesuffix("Z").removesuffix("+00:00").partition(".")
    return printable(f"{whole}.{fraction[:3]:0<3}Z")


def _bar(count: int, most: int) -> str:
    return "█" * round(40 * count / most) or ("▏" if count else "")


def _table(rows: Sequence[Sequence[str]]) -> Iterator[Text]:
    """A table whose first row is the header; columns of numbers are aligned to the right."""
    header, *body = rows
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    columns = zip(*body, strict=True)
    numeric = [all(cell.replace(",", "").isdigit() or cell == "-" for cell in column) for column in columns]
    yield _row(header, widths, ["bold"] * len(header), numeric)
    for row in body:
        yield _row(row, widths, [""] * len(row), numeric)


def _row(
    cells: Sequence[str], widths: Sequence[int], styles: Sequence[str], right: Sequence[bool] | None = None
) -> Text:
    line = Text()
    for index, (cell, width, style) in enumerate(zip(cells, widths, styles, strict=True)):
        aligned = f"{cell:>{width}}" if right and right[index] else f"{cell:<{width}}"
        line.append(aligned, style=style).append("  ")
    line.rstrip()
    return line
