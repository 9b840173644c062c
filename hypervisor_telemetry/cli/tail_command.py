"""The command `tail`: it prints the fleet's events as they enter the index."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from hypervisor_telemetry.cli.cli_support import speaking
from hypervisor_telemetry.cli.index_options import (
    Agent,
    AsJson,
    Colour,
    Coloured,
    Session,
    Trace,
    Types,
    Url,
    client_of,
    console_of,
    filter_parameters,
    print_json,
    print_line,
)
from hypervisor_telemetry.cli.index_text import event_line
from hypervisor_telemetry.index_client.stream_reconnect import follow

__all__ = ["tail"]


def tail(
    *,
    kinds: Types = None,
    session: Session = None,
    agent: Agent = None,
    trace: Trace = None,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, max=1000, help="Begin with this many of the last events.")
    ] = 10,
    url: Url = None,
    as_json: AsJson = False,
    colour: Coloured = Colour.AUTO,
) -> None:
    """Show events as the index takes them in, until Ctrl-C. A lost connection goes on where it was."""
    with speaking():
        client = client_of(url)
        filters = filter_parameters(kinds=kinds, session=session, agent=agent, trace=trace)
        console = console_of(colour)
        try:
            for event in follow(client, filters, lines, say=_print_status, pause=time.sleep):
                if as_json:
                    print_json([event])
                else:
                    print_line(console, event_line(event))
                sys.stdout.flush()
        except KeyboardInterrupt:
            raise typer.Exit(130) from None


def _print_status(sentence: str) -> None:
    typer.echo(sentence, err=True)
