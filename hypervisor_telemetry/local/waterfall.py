"""Draws one trace as a waterfall of its spans, in SVG. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any, TypeAlias

__all__ = ["most_telling", "waterfall"]

Span: TypeAlias = Mapping[str, Any]
"""A span as the `jsonl` sink writes it."""

_WIDTH, _LABELS, _ROW, _TOP, _MARGIN = 980, 330, 24, 74, 16
"""Pixels: the width of the picture and of its names, the height of a row, the space above the rows and around."""
_BARS = _WIDTH - _LABELS - 2 * _MARGIN - 70
_COLOURS = {"ok": "#2f855a", "error": "#c53030", "compensating": "#b7791f"}
_TICKS = 5


def most_telling(spans: Iterable[Span]) -> str | None:
    """The id of the trace with the most kinds of spans, and of those the most spans; None without spans."""
    kinds: defaultdict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    for span in spans:
        kinds[span["trace_id"]][".".join(span["name"].split(".")[:2]), span["status"]] += 1
    if not kinds:
        return None
    return max(kinds, key=lambda trace_id: (len(kinds[trace_id]), kinds[trace_id].total(), trace_id))


def waterfall(spans: Iterable[Span], trace_id: str) -> str:
    """The picture of one trace: every span is a bar under its parent, as long as its duration."""
    rows = list(_in_order([span for span in spans if span["trace_id"] == trace_id]))
    if not rows:
        raise ValueError(f"No span has the trace id {trace_id}.")
    start = min(span["start_time"] for _, span in rows)
    length = max(max(span["end_time"] for _, span in rows) - start, 1e-6)
    height = _TOP + len(rows) * _ROW + _MARGIN
    bottom = height - _MARGIN
    left = _MARGIN + _LABELS
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" font-family="ui-monospace, Menlo, Consolas, monospace" font-size="12">',
        f"<title>Trace {trace_id}</title>",
        f'<rect width="{_WIDTH}" height="{height}" rx="8" fill="#ffffff" stroke="#cbd5e0"/>',
        f'<text x="{_MARGIN}" y="26" font-size="13" font-weight="bold" fill="#1a202c">'
        f"Trace …{trace_id[-12:]}</text>",
        f'<text x="{_MARGIN}" y="46" fill="#4a5568">{len(rows)} spans, {_seconds(length)}</text>',
    ]
    for number, (status, colour) in enumerate(_COLOURS.items()):
        x = left + 80 * number
        parts.append(f'<rect x="{x}" y="17" width="10" height="10" rx="2" fill="{colour}"/>')
        parts.append(f'<text x="{x + 15}" y="26" fill="#4a5568">{status}</text>')
    for tick in range(_TICKS + 1):
        at = left + _BARS * tick / _TICKS
        parts.append(f'<line x1="{at:.1f}" y1="{_TOP - 6}" x2="{at:.1f}" y2="{bottom}" stroke="#edf2f7"/>')
        parts.append(
            f'<text x="{at:.1f}" y="{_TOP - 10}" fill="#718096" font-size="10" text-anchor="middle">'
            f"{_seconds(length * tick / _TICKS)}</text>"
        )
    for number, (depth, span) in enumerate(rows):
        parts += _row(_TOP + number * _ROW, depth, span, start, length)
    return "\n".join([*parts, "</svg>", ""])


def _row(top: float, depth: int, span: Span, start: float, length: float) -> Iterator[str]:
    took = span["end_time"] - span["start_time"]
    left = _MARGIN + _LABELS + _BARS * (span["start_time"] - start) / length
    width = max(_BARS * took / length, 2.0)
    colour = _COLOURS.get(span["status"], "#4a5568")
    text, most = span["name"], (_LABELS - depth * 16) // 8
    if len(text) > most:
        text = text[: most - 1] + "…"
    about = "\n".join([span["name"], *(f"{name}: {value}" for name, value in span["attributes"].items())])
    yield f"<g><title>{escape(about)}</title>"
    yield (
        f'<text x="{_MARGIN + depth * 16}" y="{top + 15}" fill="#1a202c" '
        f'font-weight="{"bold" if depth == 0 else "normal"}">{escape(text)}</text>'
    )
    yield (
        f'<rect x="{left:.1f}" y="{top + 4}" width="{width:.1f}" height="{_ROW - 9}" rx="3" fill="{colour}" '
        f'fill-opacity="{0.55 if depth == 0 else 0.9}"/>'
    )
    yield f'<text x="{left + width + 5:.1f}" y="{top + 15}" fill="#4a5568" font-size="10">{_seconds(took)}</text>'
    yield "</g>"


def _in_order(spans: Sequence[Span]) -> Iterator[tuple[int, Span]]:
    """Every span once, after its parent, with its depth; siblings by time. One without its parent is on top."""
    by_id = {span["span_id"]: span for span in spans}
    children: defaultdict[str | None, list[Span]] = defaultdict(list)
    for span in by_id.values():
        parent = span["parent_span_id"]
        children[parent if parent in by_id else None].append(span)
    waiting = [(0, span) for span in _by_time(children[None])]
    while waiting:
        depth, span = waiting.pop()
        yield depth, span
        waiting += [(depth + 1, child) for child in _by_time(children[span["span_id"]])]


def _by_time(spans: Sequence[Span]) -> list[Span]:
    """The spans by time, latest first, so that the earliest is popped first."""
    return sorted(spans, key=lambda span: (span["start_time"], span["span_id"]), reverse=True)


def _seconds(length: float) -> str:
    if length < 1:
        return f"{length * 1000:.1f} ms" if length < 0.1 else f"{length * 1000:.0f} ms"
    return f"{length:.1f} s" if length < 60 else f"{length / 60:.1f} min"
