"""The rate at which a peer works off a topic, and the check that it has counted all of it."""

from __future__ import annotations

from bench.load import working_off
from bench.peers.running import Peer, counted, report, start
from tests.support.service_processes import Fleet

__all__ = ["rate_of"]


def rate_of(peer: Peer, fleet: Fleet, topic: str, events: int, expected: int) -> float:
    """Return the events per second.

    Args:
        expected: What its counts have to come to.

    Raises:
        AssertionError: They come to something else.
    """
    group = f"{fleet.prefix}{peer.name.split()[0].lower()}"
    kafka = fleet.bootstrap_servers
    child = start(peer, bootstrap=kafka, topic=topic, group=group, events=events, folder=fleet.folder)
    try:
        if peer.ends:
            said = report(child)
            rate, result = said.events / said.seconds, said.counted
        else:
            rate = working_off(fleet, group, topic, events, peer.warm_up)
            child.stop()
            result = counted(peer, bootstrap=kafka, topic=topic, group=group)
    finally:
        child.stop()
    if result != expected:
        raise AssertionError(f"{peer.name} has counted {result:,}, not {expected:,}")
    return rate
