"""What an event index answered, as lines for people. Pure.

Ids and payloads come from anybody: what a terminal would act on is never printed as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.text import Text

from hypervisor_consumers.event_index.query.causal_tree import has_failed
from hypervisor_schemas.events import HypervisorEvent
from hypervisor_telemetry.cli.terminal_text import printable

__all__ = ["event_lines", "freshness_line", "one_event", "one_line", "stats_lines", "subject_lines", "trace_lines"]

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
_TIME, _TYPE, _ID = 24, 26, 28
"""Characters of a column, where the rows to come aren't known yet."""

_TIMES = frozenset({"first", "last", "start"})


def event_lines(events: Sequence[Mapping[str, Any]]) -> Iterator[Text]:
    """A table: when, what, who, in which session, of which trace, and the payload."""
    rows = [_cells(event) for event in events]
    widths = [max(map(len, column)) for column in zip(_HEADER, *rows, strict=True)]
    yield _row(_HEADER, widths, ["bold"] * len(_HEADER))
    for cells, event in zip(rows, events, strict=True):
        yield _row(cells, widths, _styles(event))


def one_line(event: Mapping[str, Any]) -> Text:
    """The same row for an event that comes alone."""
    return _row(_cells(event), (_TIME, _TYPE, _ID, _ID, 12, 0), _styles(event))


def one_event(event: Mapping[str, Any]) -> Iterator[Text]:
    """All of one event."""
    yield from _fields({name: value for name, value in event.items() if name != "payload"})
    yield Text("payload", style="bold")
    for line in json.dumps(event["payload"], indent=2, ensure_ascii=False).splitlines():
        yield Text(f"  {printable(line)}")


def stats_lines(answer: Mapping[str, Any]) -> Iterator[Text]:
    """Per type how many, the most first; then all; with time buckets, how many in each."""
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
                    (_moment(one["start"]), f"{one['event_count']:,}", _bar(one["event_count"], most))
                    for one in buckets
                ),
            ]
        )


def subject_lines(answer: Mapping[str, Any]) -> Iterator[Text]:
    """A session, an agent, or the list of sessions: what is single as lines, what is many as tables."""
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
    """The causal tree: a line for each span, indented below its parent, and its events below it."""
    yield Text(f"trace {printable(answer['trace_id'])}: {answer['event_count']:,} events", style="bold")
    for span in answer["spans"]:
        margin = "  " * min(span["depth"], 40)
        who = ", ".join(map(printable, span["agents"])) or "-"
        line = Text(f"{margin}{'✗' if span['failed'] else '●'} {printable(span['span_id'] or '(no span)')}  {who}")
        line.stylize("bold red" if span["failed"] else "bold")
        if span["failed_below"]:
            line.append("  (failed further down)", style="yellow")
        yield line
        for event in span["events"]:
            told = Text(f"{margin}    {_moment(event['timestamp'])}  ")
            told.append(printable(event["event_type"]), style=_style(event))
            yield told.append(f"  {_payload(event)}", style="dim")
    if answer.get("is_whole") is False:
        yield Text("Only the latest events of this trace are taken in; there are more.", style="yellow")


def freshness_line(answer: Mapping[str, Any]) -> Text:
    """How old the answer is, in a sentence."""
    freshness = answer["freshness"]
    records, seconds = freshness.get("lag_records"), freshness.get("lag_seconds")
    if records is None:
        said, style = "How far the index is behind isn't known.", "yellow"
    elif not records:
        said, style = "The index includes everything.", "dim"
    else:
        behind = "" if seconds is None else f", {seconds:.1f} s"
        said, style = f"The index is {records:,} records behind{behind}.", "yellow"
    if answer.get("is_partial"):
        said, style = f"{said} It is not complete yet: a partition hasn't come.", "yellow"
    return Text(said, style=style)


_HEADER = ("TIME", "TYPE", "AGENT", "SESSION", "TRACE", "PAYLOAD")


def _cells(event: Mapping[str, Any]) -> tuple[str, ...]:
    ids = (event["agent_did"], event["session_id"], (event["causal_trace_id"] or "").partition("/")[0] or None)
    shown = ("-" if its is None else printable(its) for its in ids)
    return (_moment(event["timestamp"]), printable(event["event_type"]), *shown, _payload(event))


def _payload(event: Mapping[str, Any]) -> str:
    payload = event["payload"]
    return printable(json.dumps(payload, ensure_ascii=False, separators=(",", ":"))) if payload else ""


def _styles(event: Mapping[str, Any]) -> list[str]:
    return ["dim", _style(event), "", "", "dim", ""]


def _style(event: Mapping[str, Any]) -> str:
    told = {name: value for name, value in event.items() if name != "failed"}
    if event.get("failed") or has_failed(HypervisorEvent.from_dict(told)):
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
    return _moment(value) if name in _TIMES and isinstance(value, str) else printable(str(value))


def _moment(text: str) -> str:
    """A time in UTC, to the millisecond: 2025-01-15T10:30:00.000Z."""
    whole, _, fraction = text.removesuffix("Z").removesuffix("+00:00").partition(".")
    return printable(f"{whole}.{fraction[:3]:0<3}Z")


def _bar(count: int, most: int) -> str:
    return "█" * round(40 * count / most) or ("▏" if count else "")


def _table(rows: Sequence[Sequence[str]]) -> Iterator[Text]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    numeric = [all(cell.replace(",", "").isdigit() or cell == "-" for cell in column) for column in _body(rows)]
    for number, row in enumerate(rows):
        yield _row(row, widths, ["" if number else "bold"] * len(row), numeric)


def _body(rows: Sequence[Sequence[str]]) -> Iterable[Sequence[str]]:
    return zip(*rows[1:], strict=True) if len(rows) > 1 else ([] for _ in rows[0])


def _row(
    cells: Sequence[str], widths: Sequence[int], styles: Sequence[str], right: Sequence[bool] | None = None
) -> Text:
    line = Text()
    for number, (cell, width, style) in enumerate(zip(cells, widths, styles, strict=True)):
        fitted = f"{cell:>{width}}" if right and right[number] else f"{cell:<{width}}"
        line.append(fitted, style=style).append("  ")
    line.rstrip()
    return line
