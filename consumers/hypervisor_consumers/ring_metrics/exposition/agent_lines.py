"""The text of the agents' gauges, kept from scrape to scrape and changed where they changed.

It says what the functions of `agent_rings` say of the same rows. What they read of each row at each scrape is kept
here in columns, and read only of rows that are new or other ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from operator import attrgetter

import numpy as np

from hypervisor_consumers.ring_metrics.exposition.line_cache import NONE, KeptLines, Numbers
from hypervisor_consumers.ring_metrics.exposition.row_cache import KnownRows
from hypervisor_consumers.ring_metrics.fold.state import AgentSession
from hypervisor_consumers.ring_metrics.metric_defs import CURRENT_RING, ELEVATION_DURATION, ELEVATIONS_ACTIVE
from hypervisor_consumers.runtime.ops.exposition import TextFamily, escaped
from hypervisor_consumers.runtime.ops.metric_defs import MetricDef
from hypervisor_schemas.agent_rings import AgentRing

__all__ = ["AgentLines"]


class AgentLines:
    """The gauges per agent. For one thread at a time; what it gave holds until the next call."""

    def __init__(self) -> None:
        self._kept: dict[int, _Agents] = {}

    def families(
        self, rows: Mapping[int, Mapping[AgentSession, AgentRing]], now: float
    ) -> tuple[TextFamily, TextFamily, TextFamily] | None:
        """The three gauges, as `ring_families` has them; None: they have to be found row by row.

        (An agent has rows in several partitions, since somebody has added some; or a number is beyond 64 bits.)
        """
        for gone in self._kept.keys() - rows.keys():
            del self._kept[gone]
        try:
            for partition, of_partition in rows.items():
                agents = self._kept.pop(partition, None)
                if agents is None or agents.are_mostly_gone:
                    agents = _Agents()
                agents.look(of_partition)
                self._kept[partition] = agents  # not if that failed: it would be half done
        except OverflowError:
            return None
        names = [agents.numbers.keys() for agents in self._kept.values()]
        if len(set().union(*names)) < sum(map(len, names)):
            return None
        rings, durations, active = (
            TextFamily(metric.name, metric.help, metric.type)
            for metric in (CURRENT_RING, ELEVATION_DURATION, ELEVATIONS_ACTIVE)
        )
        for agents in self._kept.values():
            rings.add(agents.rings.text, len(agents.rings))
            active.add(agents.active.text, len(agents.active))
            lines = agents.durations(now)
            durations.add("".join(lines).encode(), len(lines))
        return rings, durations, active


_COLUMNS = ("changed_at", "ring", "elevated_since", "ended_at", "ended_duration")
_LATEST_TIME = np.iinfo(np.int64).max
_SPARE = 1000
"""Agents without rows that are remembered in any case."""


class _Agents:
    """Of one partition. Each has a number, in the order in which they came; rows have places, as in `KnownRows`."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        """By name."""
        self.rings = KeptLines(partial(self._start, CURRENT_RING))
        self.active = KeptLines(partial(self._start, ELEVATIONS_ACTIVE))
        self._labels: list[str] = []
        self._oldest = self._ended = _none(0)
        """When the oldest running elevation began, and how long the last one took that ended."""
        self._known: KnownRows[AgentRing] = KnownRows()
        self._columns = dict.fromkeys(_COLUMNS, _none(0))
        self._agents = _none(0)
        """Of each row, the agent's number."""
        self._order = _none(0)
        """The rows' places, by agent."""
        self._begins = _none(0)
        """Where in this order each agent that has rows begins."""

    @property
    def are_mostly_gone(self) -> bool:
        """Whether there are rows of less than half of those that there were."""
        return len(self.numbers) > 2 * len(self._begins) + _SPARE

    def look(self, rows: Mapping[AgentSession, AgentRing]) -> None:
        """Take in what changed.

        Raises:
            OverflowError: A number is beyond 64 bits. From then on nothing here is right.
        """
        before = len(self._known.keys)
        gone, changed = self._known.look(rows)
        new = self._known.keys[before - len(gone) :]
        if gone or new:
            self._arrange(gone, [agent for agent, _ in new])
        if gone or changed:
            self._read(changed)
            self._find()

    def durations(self, now: float) -> list[str]:
        """The lines of the elevations' durations at `now`, in seconds since 1970."""
        is_running = self._oldest != NONE
        running, ended = np.flatnonzero(is_running), np.flatnonzero(~is_running & (self._ended != NONE))
        ages = np.maximum(now - self._oldest[running] / 1e6, 0.0)
        agents = np.concatenate((running, ended)).tolist()
        seconds = np.concatenate((ages, self._ended[ended] / 1e6)).tolist()
        return [
            f"{ELEVATION_DURATION.name}{self._labels[agent]} {number}\n"
            for agent, number in zip(agents, seconds, strict=True)
        ]

    def _start(self, metric: MetricDef, agent: int) -> str:
        return f"{metric.name}{self._labels[agent]}"

    def _arrange(self, gone: list[int], new: list[str]) -> None:
        for agent in new:
            if agent not in self.numbers:
                self.numbers[agent] = len(self._labels)
                self._labels.append(f'{{agent_did="{escaped(agent)}"}}')
        agents = np.array([self.numbers[agent] for agent in new], np.int64)
        self._agents = np.concatenate((np.delete(self._agents, gone), agents))
        self._columns = {
            name: np.concatenate((np.delete(column, gone), _none(len(new))))
            for name, column in self._columns.items()
        }
        self._order = np.argsort(self._agents, kind="stable")
        self._begins = np.flatnonzero(np.diff(self._agents[self._order], prepend=-1))
        for lines in (self.rings, self.active):
            lines.add_places(len(self._labels) - lines.places)

    def _read(self, changed: list[int]) -> None:
        rows = [self._known.rows[place] for place in changed]
        for name, column in self._columns.items():
            values = map(attrgetter(name), rows)
            column[changed] = np.array([NONE if value is None else value for value in values], np.int64)

    def _find(self) -> None:
        """What is to be shown of each agent, from the columns."""
        changed_at, ring, since, ended_at, duration = (self._columns[name][self._order] for name in _COLUMNS)
        begins, is_running = self._begins, since != NONE
        active = np.add.reduceat(is_running, begins, dtype=np.int64)
        has_ended = np.logical_or.reduceat(ended_at != NONE, begins)
        oldest = np.minimum.reduceat(np.where(is_running, since, _LATEST_TIME), begins)
        self._oldest = self._of_all(np.where(active > 0, oldest, NONE))
        self._ended = self._of_all(self._latest(ended_at, duration, attrgetter("ended_event_id", "ended_duration")))
        everyone = np.arange(len(self._labels))
        self.rings.put(everyone, self._of_all(self._latest(changed_at, ring, attrgetter("event_id", "ring"))))
        self.active.put(everyone, self._of_all(np.where((active > 0) | has_ended, active, NONE)))

    def _of_all(self, numbers: Numbers) -> Numbers:
        """By the agents' numbers; given for those that have rows, in order."""
        of_all = _none(len(self._labels))
        of_all[self._agents[self._order[self._begins]]] = numbers
        return of_all

    def _latest(self, times: Numbers, values: Numbers, decided_of: attrgetter[tuple[str | None, int]]) -> Numbers:
        """Of each agent that has rows, the value of the greatest time, among equals of the greatest event id."""
        begins = self._begins
        is_one = (times != NONE) & (values != NONE)
        times = np.where(is_one, times, NONE)
        sizes = np.diff(begins, append=len(times))
        is_latest = is_one & (times == np.repeat(np.maximum.reduceat(times, begins), sizes))
        latest = np.maximum.reduceat(np.where(is_latest, values, NONE), begins)
        for agent in np.flatnonzero(np.add.reduceat(is_latest, begins, dtype=np.int64) > 1).tolist():
            mine = slice(begins[agent], begins[agent] + sizes[agent])
            equals = [self._known.rows[place] for place in self._order[mine][is_latest[mine]].tolist()]
            latest[agent] = max((event_id or "", value) for event_id, value in map(decided_of, equals))[1]
        return latest


def _none(count: int) -> Numbers:
    return np.full(count, NONE)
