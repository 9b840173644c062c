"""The shared parts of `query` and `tail`: their options, the index client, and printing."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from hypervisor_schemas.errors import SettingError
from hypervisor_schemas.settings import Settings
from hypervisor_telemetry.index_client.client import IndexClient

__all__ = [
    "After",
    "Agent",
    "AsJson",
    "Bucket",
    "Colour",
    "Coloured",
    "Limit",
    "Payload",
    "Session",
    "Since",
    "Subtree",
    "Trace",
    "Types",
    "Until",
    "Url",
    "client_of",
    "console_of",
    "filter_parameters",
    "print_json",
    "print_line",
]


class Colour(StrEnum):
    """The choice of coloured output."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


Url = Annotated[
    str | None, typer.Option(help="The event index; default: TELEMETRY_INDEX_URL, else port 8002 here.")
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON lines, and nothing else on standard output.")]
Coloured = Annotated[Colour, typer.Option("--color", help="Colours: auto is when a terminal shows them.")]
Types = Annotated[
    list[str] | None,
    typer.Option("--type", help="Only this type, or category, such as ring; may be given several times."),
]
Session = Annotated[str | None, typer.Option(help="Only of this session.")]
Agent = Annotated[str | None, typer.Option(help="Only of this agent.")]
Trace = Annotated[str | None, typer.Option(help="Only of this causal trace: the first part of its id.")]
Subtree = Annotated[str | None, typer.Option(help="Only of this span of the --trace, and of every span below it.")]
Payload = Annotated[
    str | None,
    typer.Option(help="""Only with a payload that contains this JSON object, such as '{"to_ring":0}'."""),
]
Bucket = Annotated[
    str | None, typer.Option(help="Count by time, too, in buckets of this length, such as 60s, 15m, 1h, 1d.")
]
Since = Annotated[
    str | None, typer.Option(help="Not before this time: ISO 8601, or how long ago, such as 90s, 15m, 2h, 3d.")
]
Until = Annotated[str | None, typer.Option(help="Not after this time; the same forms.")]
After = Annotated[
    str | None, typer.Option(help="A read token, from a publisher's flush(): wait until the index includes it.")
]
Limit = Annotated[int, typer.Option(min=1, max=1000, help="At most this many, the last ones.")]


def client_of(url: str | None) -> IndexClient:
    """The client for the index at this URL, or at the URL in the environment."""
    return IndexClient(url or Settings.INDEX_URL.of(os.environ), Settings.API_TOKEN.of(os.environ))


def filter_parameters(
    *,
    kinds: Sequence[str] | None = None,
    session: str | None = None,
    agent: str | None = None,
    trace: str | None = None,
    subtree: str | None = None,
    payload: str | None = None,
    since: str | None = None,
    until: str | None = None,
) -> dict[str, Any]:
    """The filter options as query parameters of the index's API.

    Raises:
        SettingError: A time is not valid.
    """
    now = datetime.now(UTC)
    return {
        "event_type": kinds or None,
        "session_id": session,
        "agent_did": agent,
        "trace_id": trace,
        "subtree": subtree,
        "payload": payload,
        "start": _parse_time("--since", since, now),
        "end": _parse_time("--until", until, now),
    }


_AGO = re.compile(r"(\d{1,9})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def _parse_time(option: str, text: str | None, now: datetime) -> str | None:
    """The time in ISO 8601 with its zone; `text` is ISO 8601, or how long ago."""
    if text is None:
        return None
    try:
        if ago := _AGO.fullmatch(text):
            return (now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})).isoformat()
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise SettingError(
            option, f"can't be {text!r}: give ISO 8601, such as 2026-01-31T12:00:00Z, or how long ago, such as 15m."
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()


def print_json(values: Iterable[Mapping[str, Any]]) -> None:
    """Print each value as one line of JSON in ASCII, which is safe in every terminal and encoding."""
    for value in values:
        typer.echo(json.dumps(value, separators=(",", ":")))


def console_of(colour: Colour, *, stderr: bool = False) -> Console:
    """The console for standard output or standard error, with this choice of colours."""
    forced = {Colour.AUTO: None, Colour.ALWAYS: True, Colour.NEVER: False}[colour]
    return Console(
        stderr=stderr, highlight=False, force_terminal=forced, no_color=True if colour is Colour.NEVER else None
    )


def print_line(console: Console, line: Text) -> None:
    """Print a line as it is; on a terminal it is cut to the width, so that each row stays one line."""
    console.print(
        line, no_wrap=True, overflow="ellipsis" if console.is_terminal else "ignore", crop=console.is_terminal
    )
