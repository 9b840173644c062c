"""The index's stream without an end: over lost connections and restarts, without losing or repeating an event."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from hypervisor_schemas.errors import IndexUnavailable
from hypervisor_telemetry.index_client.client import IndexClient, Parameters

__all__ = ["follow"]

_PATH = "/v1/events/stream"
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0


def follow(
    client: IndexClient,
    filters: Parameters,
    last: int,
    *,
    say: Callable[[str], None],
    pause: Callable[[float], None],
) -> Iterator[dict[str, Any]]:
    """The last `last` events that fit, then each as the index takes it in.

    Args:
        client: Whom to ask.
        filters: As of `/v1/events`.
        last: How many of those that are there already.
        say: Takes a sentence when the connection is lost, and when it is back.
        pause: Waits so many seconds.

    Raises:
        IndexUnavailable: The very first connection failed; later ones are tried again without end.
        IndexRefused: It refused.
    """
    reached: str | None = None
    seconds = _FIRST_PAUSE
    lost = False
    while True:
        try:
            asked = filters if reached else {**filters, "limit": str(last)}
            for message in client.stream(_PATH, asked, after=reached):
                if lost:
                    say("The event index answers again.")
                    lost = False
                seconds = _FIRST_PAUSE
                if message.event is not None:
                    yield message.event
                reached = message.id or reached
        except IndexUnavailable as error:
            if reached is None:
                raise
            if not lost:
                say(f"{error} Trying again until Ctrl-C.")
            lost = True
        pause(seconds)
        seconds = min(2 * seconds, _LONGEST_PAUSE)
