"""Follows the index's stream over lost connections and restarts, without losing or repeating an event."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from hypervisor_schemas.backoff import Backoff
from hypervisor_schemas.errors import IndexUnavailable
from hypervisor_telemetry.index_client.client import IndexClient, Parameters

__all__ = ["follow"]

_PATH = "/v1/events/stream"


def follow(
    client: IndexClient,
    filters: Parameters,
    last: int,
    *,
    say: Callable[[str], None],
    pause: Callable[[float], None],
) -> Iterator[dict[str, Any]]:
    """The last `last` events that match, then each new one as the index takes it in.

    Args:
        client: The client of the index.
        filters: Parameters of `/v1/events`.
        last: The number of events to begin with, of those that are there already.
        say: Gets a sentence when the connection is lost, and when it is back.
        pause: Sleeps for a number of seconds.

    Raises:
        IndexUnavailable: The very first connection failed; later ones are tried again without end.
        IndexRefused: It refused.
    """
    last_id: str | None = None
    backoff = Backoff(first_seconds=0.25)
    is_lost = False
    while True:
        try:
            parameters = filters if last_id else {**filters, "limit": str(last)}
            for message in client.stream(_PATH, parameters, after=last_id):
                if is_lost:
                    say("The event index answers again.")
                    is_lost = False
                backoff.reset()
                if message.event is not None:
                    yield message.event
                last_id = message.id or last_id
        except IndexUnavailable as error:
            if last_id is None:
                raise
            if not is_lost:
                say(f"{error} Trying again until Ctrl-C.")
            is_lost = True
        pause(backoff.next_seconds())
