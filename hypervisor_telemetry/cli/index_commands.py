"""The `query` commands: they query the event index and print tables or JSON lines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.text import Text

from hypervisor_schemas.errors import IndexUnavailable
from hypervisor_schemas.settings import Settings
from hypervisor_telemetry.cli.cli_support import speaking
from hypervisor_telemetry.cli.index_options import (
    After,
    Agent,
    AsJson,
    Bucket,
    Colour,
    Coloured,
    Limit,
    Payload,
    Session,
    Since,
    Subtree,
    Trace,
    Types,
    Until,
    Url,
    client_of,
    console_of,
    filter_parameters,
    print_json,
    print_line,
)
from hypervisor_telemetry.cli.index_text import (
    entity_lines,
    event_details,
    event_lines,
    freshness_line,
    stats_lines,
    trace_lines,
)

__all__ = ["query"]

query = typer.Typer(help="Query the event index: what happened in the fleet. Times are UTC.", no_args_is_help=True)


@query.command()
def events(
    *,
    kinds: Types = None,
    session: Session = None,
    agent: Agent = None,
    trace: Trace = None,
    subtree: Subtree = None,
    payload: Payload = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 100,
    after: After = None,
    url: Url = None,
    as_json: AsJson = False,
    colour: Coloured = Colour.AUTO,
) -> None:
    """The last events that fit, oldest first."""
    with speaking():
        filters = filter_parameters(
            kinds=kinds,
            session=session,
            agent=agent,
            trace=trace,
            subtree=subtree,
            payload=payload,
            since=since,
            until=until,
        )
        answer = _ask(url, "/v1/events", {**filters, "limit": str(limit), "after": after})
    found = answer["events"]
    if as_json:
        print_json(found)
    elif found:
        _print(event_lines(found), colour)
    else:
        typer.echo("no events that fit")
    _footer(answer, colour)
    if answer["next"] is not None:
        typer.echo(f"There are earlier ones: --until {found[0]['timestamp']}, or a higher --limit.", err=True)


@query.command()
def event(
    event_id: Annotated[str, typer.Argument(metavar="EVENT_ID", help="The event's id.")],
    after: After = None,
    url: Url = None,
    as_json: AsJson = False,
    colour: Coloured = Colour.AUTO,
) -> None:
    """One event with all its fields."""
    _show(
        f"/v1/events/{_segment(event_id)}",
        {"after": after},
        lambda answer: event_details(answer["event"]),
        url=url,
        as_json=as_json,
        colour=colour,
    )


@query.command()
def stats(
    *,
    kinds: Types = None,
    session: Session = None,
    agent: Agent = None,
    trace: Trace = None,
    subtree: Subtree = None,
    payload: Payload = None,
    since: Since = None,
    until: Until = None,
    bucket: Bucket = None,
    after: After = None,
    url: Url = None,
    as_json: AsJson = False,
    colour: Coloured = Colour.AUTO,
) -> None:
    """The number of events that fit, in all and of each type; with --bucket also by time."""
    with speaking():
        filters = filter_parameters(
            kinds=kinds,
            session=session,
            agent=agent,
            trace=trace,
            subtree=subtree,
            payload=payload,
            since=since,
            until=until,
        )
    _show(
        "/v1/stats",
        {**filters, "bucket": bucket, "after": after},
        stats_lines,
        url=url,
        as_json=as_json,
        colour=colour,
    )


@query.command()
def sessions(
    *,
    agent: Agent = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 100,
    after: After = None,
    url: Url = None,
    as_json: AsJson = False,
    colour: Coloured = Colour.AUTO,
) -> None:
    """The sessions, the one with the latest event first."""
    with speaking():
        filters = filter_parameters(agent=agent, since=since, until=until)
    _show(
        "/v1/sessions",
        {**filters, "limit": str(limit), "after": after},
        entity_lines,
        url=url,
        as_json=as_json,
        colour=colour,
    )


@query.command("session")
def session_(
    session_id: Annotated[str, typer.Argument(metavar="SESSION_ID", help="The session's id.")],
    after: After = None,
    url: Url = None,
    as_json: AsJson = False,
    colour: Coloured = Colour.AUTO,
) -> None:
    """A session: its events by type, its agents with their rings, its sagas."""
    _show(
        f"/v1/sessions/{_segment(session_id)}",
        {"after": after},
        entity_lines,
        url=url,
        as_json=as_json,
        colour=colour,
    )


@query.command("agent")
def agent_(
    agent_did: Annotated[str, typer.Argument(metavar="AGENT_DID", help="The agent's id.")],
    after: After = None,
    url: Url = None,
    as_json: AsJson = False,
    colour: Coloured = Colour.AUTO,
) -> None:
    """An agent: its events by type, its sessions with its ring in each."""
    _show(
        f"/v1/agents/{_segment(agent_did)}",
        {"after": after},
        entity_lines,
        url=url,
        as_json=as_json,
        colour=colour,
    )


@query.command("trace")
def trace_(
    trace_id: Annotated[str, typer.Argument(metavar="TRACE_ID", help="The first part of the causal trace id.")],
    after: After = None,
    url: Url = None,
    as_json: AsJson = False,
    colour: Coloured = Colour.AUTO,
) -> None:
    """The causal tree of a trace: who spawned whom, and where something failed."""
    _show(
        f"/v1/traces/{_segment(trace_id)}",
        {"after": after},
        trace_lines,
        url=url,
        as_json=as_json,
        colour=colour,
    )


def _show(
    path: str,
    parameters: Mapping[str, Any],
    lines: Callable[[Mapping[str, Any]], Iterator[Text]],
    *,
    url: str | None,
    as_json: bool,
    colour: Colour,
) -> None:
    with speaking():
        answer = _ask(url, path, parameters)
    if as_json:
        print_json([answer])
    else:
        _print(lines(answer), colour)
    _footer(answer, colour)


def _ask(url: str | None, path: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    client = client_of(url)
    try:
        return client.ask(path, parameters, wait_seconds=5.0)
    except IndexUnavailable as error:
        if "can't be reached" not in str(error):
            raise
        raise IndexUnavailable(f"{error} Name another one by --url or {Settings.INDEX_URL.name}.") from error


def _segment(text: str) -> str:
    """An id as one segment of a path: a slash in it is escaped."""
    return quote(text, safe="")


def _footer(answer: Mapping[str, Any], colour: Colour) -> None:
    print_line(console_of(colour, stderr=True), freshness_line(answer))


def _print(lines: Iterable[Text], colour: Colour) -> None:
    console = console_of(colour)
    for line in lines:
        print_line(console, line)
