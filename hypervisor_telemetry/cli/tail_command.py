"""`tail`: the fleet's events as they come."""

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
    filters_of,
    print_json,
    put,
)
from hypervisor_telemetry.cli.index_text import one_line
from hypervisor_telemetry.index_client.stream_reconnect import follow

__all__ = ["tail"]


def tail(
    *,
    kinds: Types = None,
    session: Session = None,
    agent: Agent = None,
    trace: Trace = None,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, max=1000, help="Begin with the last so many events.")
    ] = 10,
    url: Url = None,
    as_json: AsJson = False,
    colour: Coloured = Colour.AUTO,
) -> None:
    """Show events as the index takes them in, until Ctrl-C. A lost connection goes on where it was."""
    with speaking():
        client = client_of(url)
        filters = filters_of(kinds=kinds, session=session, agent=agent, trace=trace)
        console = console_of(colour)
        try:
            for one in follow(client, filters, lines, say=_say, pause=time.sleep):
                if as_json:
                    print_json([one])
                else:
                    put(console, one_line(one))
                sys.stdout.flush()
        except KeyboardInterrupt:
            raise typer.Exit(130) from None


def _say(sentence: str) -> None:
    typer.echo(sentence, err=True)
