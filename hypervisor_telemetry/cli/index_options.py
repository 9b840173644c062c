"""What `query` and `tail` have in common: their options, whom they ask, and how they print."""

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
    "filters_of",
    "print_json",
    "put",
]


class Colour(StrEnum):
    """When to colour."""

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
Limit = Annotated[int, typer.Option(min=1, max=1000, help="The last so many.")]


def client_of(url: str | None) -> IndexClient:
    """Of the index that the option or the environment names."""
    return IndexClient(url or Settings.INDEX_URL.of(os.environ), Settings.API_TOKEN.of(os.environ))


def filters_of(
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
    """The options as parameters of the index's API.

    Raises:
        SettingError: A time can't be read.
    """
    now = datetime.now(UTC)
    return {
        "event_type": kinds or None,
        "session_id": session,
        "agent_did": agent,
        "trace_id": trace,
        "subtree": subtree,
        "payload": payload,
        "start": _instant("--since", since, now),
        "end": _instant("--until", until, now),
    }


_AGO = re.compile(r"(\d{1,9})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def _instant(option: str, text: str | None, now: datetime) -> str | None:
    """An ISO 8601 time, or how long ago, as ISO 8601 with its zone."""
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
    """One line each, in ASCII: safe in every terminal and every encoding."""
    for value in values:
        typer.echo(json.dumps(value, separators=(",", ":")))


def console_of(colour: Colour, *, stderr: bool = False) -> Console:
    """Where lines are put."""
    forced = {Colour.AUTO: None, Colour.ALWAYS: True, Colour.NEVER: False}[colour]
    return Console(
        stderr=stderr, highlight=False, force_terminal=forced, no_color=True if colour is Colour.NEVER else None
    )


def put(console: Console, line: Text) -> None:
    """A line as it is; on a terminal, as much of it as fits, so that rows stay rows."""
    console.print(
        line, no_wrap=True, overflow="ellipsis" if console.is_terminal else "ignore", crop=console.is_terminal
    )
