"""The rows of agent-rings: made, published, read, and added up to one view of an agent over its sessions. Pure.

An agent can be in several sessions, which lie in several partitions of the events. So each state gives rows to the
public table, where all rows of an agent meet; the gauges of an agent come from there. In-process, the same rows
come from the only state.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter

from hypervisor_consumers.ring_metrics.fold.state import OVERFLOW, AgentSession, RingSeries, RingState
from hypervisor_consumers.runtime.ops.cardinality import UNKNOWN
from hypervisor_consumers.runtime.protocols import Home, PublicRecord, View
from hypervisor_schemas.agent_rings import (
    TOPIC,
    AgentRing,
    decode_key,
    decode_value,
    encode_key,
    encode_value,
    partition_key,
)
from hypervisor_schemas.errors import UndecodableRecord

__all__ = [
    "AgentRingsView",
    "agent_rings",
    "current_rings",
    "elevation_seconds",
    "elevations_active",
    "ended_durations",
    "publish_agent_rings",
    "running_elevations",
]


_NOBODY = (UNKNOWN, UNKNOWN)


def agent_rings(series: Iterable[tuple[AgentSession, RingSeries]]) -> list[AgentRing]:
    """The rows of these series; a series without a ring and without an elevation has none."""
    rows = (_row(key, value) for key, value in series)
    return [row for row in rows if row is not None]


def publish_agent_rings(state: RingState, home: Home) -> Sequence[PublicRecord]:
    """The records of the rows that differ from those of the committed state.

    There is no record for the unknown agent in the unknown session: every partition has that series, and their rows
    would overwrite each other.
    """
    committed = state.series.base or {}
    records = []
    for key, value in state.series.items():
        old = committed.get(key)
        if key == _NOBODY or (old is not None and value is not None and not _rows_differ(old, value)):
            continue
        row = _row(key, value)
        agent, session = key
        if row is not None:
            encoded = encode_value(row)
        elif _row(key, old) is None or not home.holds(_record_key(agent, session)):
            continue  # there was none, or it is another partition's since the source grew
        else:
            encoded = None
        records.append(PublicRecord(TOPIC, partition_key(agent), encode_key(agent, session), encoded))
    return records


class AgentRingsView(View):
    """The rows of one partition of agent-rings, by agent and session."""

    topic = TOPIC

    def new_rows(self) -> dict[AgentSession, AgentRing]:
        """An empty table of rows."""
        return {}

    def apply(self, rows: dict[AgentSession, AgentRing], key: bytes | None, value: bytes | None) -> None:
        """Add the row, or remove it.

        Raises:
            UndecodableRecord: Not a record of agent-rings, or key and value differ; `rows` is as it was.
        """
        row_key = decode_key(key)
        if value is None:
            rows.pop(row_key, None)
            return
        row = decode_value(value)
        if (row.agent_did, row.session_id) != row_key:
            raise UndecodableRecord(
                f"The key names agent {row_key[0]!r} and session {row_key[1]!r}, the value {row.agent_did!r} and "
                f"{row.session_id!r}."
            )
        rows[row_key] = row


def current_rings(rows: Iterable[AgentRing]) -> dict[str, int]:
    """The ring of every agent: that of the greatest event time over its sessions, then of the greatest event id."""
    return _latest(map(_change_of, rows))


def ended_durations(rows: Iterable[AgentRing]) -> dict[str, float]:
    """The duration in seconds of every agent's last ended elevation, over its sessions.

    Among elevations that ended at the same time, that of the greatest event id counts.
    """
    ended = _latest(map(_end_of, rows))
    return {agent: duration / 1e6 for agent, duration in ended.items()}


def running_elevations(rows: Iterable[AgentRing]) -> dict[str, float]:
    """The start of every elevated agent's oldest running elevation, in seconds since 1970."""
    oldest: dict[str, int] = {}
    for row in rows:
        start = row.elevated_since
        if start is not None:
            oldest[row.agent_did] = min(start, oldest.get(row.agent_did, start))
    return {agent: start / 1e6 for agent, start in oldest.items()}


def elevations_active(rows: Iterable[AgentRing]) -> dict[str, int]:
    """The number of sessions in which every agent is elevated; 0 for one that was elevated and no longer is."""
    active: dict[str, int] = {}
    for row in rows:
        if row.elevated_since is not None:
            active[row.agent_did] = active.get(row.agent_did, 0) + 1
        elif row.ended_at is not None:
            active.setdefault(row.agent_did, 0)
    return active


def elevation_seconds(rows: Iterable[AgentRing], now: float) -> dict[str, float]:
    """The age of every agent's oldest running elevation at `now` (seconds since 1970), else its last duration."""
    kept = list(rows)
    ages = {agent: max(now - start, 0.0) for agent, start in running_elevations(kept).items()}
    return ended_durations(kept) | ages


def _record_key(agent: str, session: str) -> bytes:
    return (agent if session == UNKNOWN else session).encode()


_change_of = attrgetter("agent_did", "changed_at", "event_id", "ring")
_end_of = attrgetter("agent_did", "ended_at", "ended_event_id", "ended_duration")

_row_fields = attrgetter(
    "ring",
    "ring_at_us",
    "ring_event_id",
    "elevated_since_us",
    "ended_at_us",
    "ended_event_id",
    "ended_duration_us",
)
"""The fields that a row is made of: cheaper to compare than rows are to make."""


def _rows_differ(old: RingSeries, new: RingSeries) -> bool:
    """Whether the rows of two series of one key differ. Usually each event that names a ring changes the row."""
    return old.ring_event_id != new.ring_event_id or _row_fields(old) != _row_fields(new)


def _row(key: AgentSession, series: RingSeries | None) -> AgentRing | None:
    if series is None or key == OVERFLOW or "" in key:
        return None
    has_ring, has_ended = series.ring is not None, series.ended_at_us is not None
    if not has_ring and not has_ended and series.elevated_since_us is None:
        return None
    agent, session = key
    return AgentRing(
        agent,
        session,
        series.ring,
        series.ring_at_us if has_ring else None,
        series.ring_event_id if has_ring else None,
        series.elevated_since_us,
        series.ended_at_us,
        series.ended_event_id if has_ended else None,
        series.ended_duration_us if has_ended else None,
    )


def _latest(entries: Iterable[tuple[str, int | None, str | None, int | None]]) -> dict[str, int]:
    """The latest value of each agent. An entry is agent, time, event id and value; without a value it is none."""
    latest: dict[str, tuple[int, str, int]] = {}
    for agent, at_us, event_id, value in entries:
        if value is None or at_us is None:
            continue
        entry = (at_us, event_id or "", value)
        best = latest.get(agent)
        if best is None or entry > best:
            latest[agent] = entry
    return {agent: value for agent, (_, _, value) in latest.items()}
