"""The lines of the agents' gauges, kept from scrape to scrape. They are those of `agent_rings` for the same rows.

Fields of rows are kept in columns; at a scrape only rows that are new or were replaced are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from operator import attrgetter

import numpy as np

from hypervisor_consumers.ring_metrics.exposition.line_cache import NO_NUMBER, LineCache, Numbers, RowTracker
from hypervisor_consumers.ring_metrics.fold.state import AgentSession
from hypervisor_consumers.ring_metrics.metric_defs import CURRENT_RING, ELEVATION_DURATION, ELEVATIONS_ACTIVE
from hypervisor_consumers.runtime.ops.exposition import TextFamily, escaped
from hypervisor_consumers.runtime.ops.metric_defs import MetricDef
from hypervisor_schemas.agent_rings import AgentRing

__all__ = ["AgentLines"]


class AgentLines:
    """The gauges per agent. For one thread at a time; a result is valid until the next call."""

    def __init__(self) -> None:
        self._partitions: dict[int, _PartitionAgents] = {}

    def families(
        self, rows: Mapping[int, Mapping[AgentSession, AgentRing]], now: float
    ) -> tuple[TextFamily, TextFamily, TextFamily] | None:
        """The three gauges, as in `ring_families`; None if they have to be made row by row.

        That is so if a number is beyond 64 bits, or an agent has rows in several partitions, because the topic has
        more partitions than before.
        """
        for partition in self._partitions.keys() - rows.keys():
            del self._partitions[partition]
        try:
            for partition, of_partition in rows.items():
                agents = self._partitions.pop(partition, None)
                if agents is None or agents.are_mostly_gone:
                    agents = _PartitionAgents()
                agents.update(of_partition)
                self._partitions[partition] = agents  # not after a failure: it is half updated then
        except OverflowError:
            return None
        names = [agents.index_by_name.keys() for agents in self._partitions.values()]
        if len(set().union(*names)) < sum(map(len, names)):
            return None
        rings, durations, active = (
            TextFamily(metric.name, metric.help, metric.type)
            for metric in (CURRENT_RING, ELEVATION_DURATION, ELEVATIONS_ACTIVE)
        )
        for agents in self._partitions.values():
            rings.add(agents.rings.text, len(agents.rings))
            active.add(agents.active.text, len(agents.active))
            lines = agents.durations(now)
            durations.add("".join(lines).encode(), len(lines))
        return rings, durations, active


_COLUMNS = ("changed_at", "ring", "elevated_since", "ended_at", "ended_duration")
_LATEST_TIME = np.iinfo(np.int64).max
_MAX_AGENTS_WITHOUT_ROWS = 1000
"""Agents without rows that are remembered even if fewer have rows."""


class _PartitionAgents:
    """The agents of one partition, each with an index, in the order of their first rows. Rows have indexes, too."""

    def __init__(self) -> None:
        self.index_by_name: dict[str, int] = {}
        self.rings = LineCache(partial(self._start, CURRENT_RING))
        self.active = LineCache(partial(self._start, ELEVATIONS_ACTIVE))
        self._labels: list[str] = []
        """By agent."""
        self._oldest_us = self._ended_us = _no_numbers(0)
        """By agent, the start of the oldest running elevation, and the duration of the last ended one."""
        self._tracker: RowTracker[AgentRing] = RowTracker()
        self._columns = dict.fromkeys(_COLUMNS, _no_numbers(0))
        """By row."""
        self._agent_of = _no_numbers(0)
        """By row."""
        self._order = _no_numbers(0)
        """The indexes of the rows, sorted by agent."""
        self._begins = _no_numbers(0)
        """The positions in this order at which the rows of an agent begin, for every agent that has rows."""

    @property
    def are_mostly_gone(self) -> bool:
        """Whether less than half of the known agents have rows."""
        return len(self.index_by_name) > 2 * len(self._begins) + _MAX_AGENTS_WITHOUT_ROWS

    def update(self, rows: Mapping[AgentSession, AgentRing]) -> None:
        """Read the rows that have changed.

        Raises:
            OverflowError: A number is beyond 64 bits. The lines are wrong from then on.
        """
        known = len(self._tracker.keys)
        gone, changed = self._tracker.update(rows)
        new = self._tracker.keys[known - len(gone) :]
        if gone or new:
            self._rearrange(gone, [agent for agent, _ in new])
        if gone or changed:
            self._read(changed)
            self._evaluate()

    def durations(self, now: float) -> list[str]:
        """The lines of the elevations' durations at `now`, in seconds since 1970."""
        is_running = self._oldest_us != NO_NUMBER
        running = np.flatnonzero(is_running)
        ended = np.flatnonzero(~is_running & (self._ended_us != NO_NUMBER))
        ages = np.maximum(now - self._oldest_us[running] / 1e6, 0.0)
        agents = np.concatenate((running, ended)).tolist()
        seconds = np.concatenate((ages, self._ended_us[ended] / 1e6)).tolist()
        return [
            f"{ELEVATION_DURATION.name}{self._labels[agent]} {duration}\n"
            for agent, duration in zip(agents, seconds, strict=True)
        ]

    def _start(self, metric: MetricDef, agent: int) -> str:
        return f"{metric.name}{self._labels[agent]}"

    def _rearrange(self, gone: list[int], new_agents: list[str]) -> None:
        for name in new_agents:
            if name not in self.index_by_name:
                self.index_by_name[name] = len(self._labels)
                self._labels.append(f'{{agent_did="{escaped(name)}"}}')
        agents = np.array([self.index_by_name[name] for name in new_agents], np.int64)
        self._agent_of = np.concatenate((np.delete(self._agent_of, gone), agents))
        self._columns = {
            name: np.concatenate((np.delete(column, gone), _no_numbers(len(agents))))
            for name, column in self._columns.items()
        }
        self._order = np.argsort(self._agent_of, kind="stable")
        self._begins = np.flatnonzero(np.diff(self._agent_of[self._order], prepend=-1))
        for cache in (self.rings, self.active):
            cache.extend(len(self._labels) - cache.size)

    def _read(self, changed: list[int]) -> None:
        rows = [self._tracker.rows[index] for index in changed]
        for name, column in self._columns.items():
            values = map(attrgetter(name), rows)
            column[changed] = np.array([NO_NUMBER if value is None else value for value in values], np.int64)

    def _evaluate(self) -> None:
        """Find each agent's values from the columns."""
        changed_at, ring, since, ended_at, duration = (self._columns[name][self._order] for name in _COLUMNS)
        begins, is_running = self._begins, since != NO_NUMBER
        active = np.add.reduceat(is_running, begins, dtype=np.int64)
        has_ended = np.logical_or.reduceat(ended_at != NO_NUMBER, begins)
        oldest = np.minimum.reduceat(np.where(is_running, since, _LATEST_TIME), begins)
        ended = self._latest(ended_at, duration, attrgetter("ended_event_id", "ended_duration"))
        self._oldest_us = self._by_agent(np.where(active > 0, oldest, NO_NUMBER))
        self._ended_us = self._by_agent(ended)
        everyone = np.arange(len(self._labels))
        self.rings.put(everyone, self._by_agent(self._latest(changed_at, ring, attrgetter("event_id", "ring"))))
        self.active.put(everyone, self._by_agent(np.where((active > 0) | has_ended, active, NO_NUMBER)))

    def _by_agent(self, numbers: Numbers) -> Numbers:
        """Numbers of the agents that have rows, in the order of `_begins`, as one number for every agent."""
        of_all = _no_numbers(len(self._labels))
        of_all[self._agent_of[self._order[self._begins]]] = numbers
        return of_all

    def _latest(self, times: Numbers, values: Numbers, tie_break: attrgetter[tuple[str | None, int]]) -> Numbers:
        """For each agent that has rows, the value of the greatest time; among equal times, of the greatest id."""
        begins = self._begins
        has_value = (times != NO_NUMBER) & (values != NO_NUMBER)
        times = np.where(has_value, times, NO_NUMBER)
        sizes = np.diff(begins, append=len(times))
        is_latest = has_value & (times == np.repeat(np.maximum.reduceat(times, begins), sizes))
        latest = np.maximum.reduceat(np.where(is_latest, values, NO_NUMBER), begins)
        for agent in np.flatnonzero(np.add.reduceat(is_latest, begins, dtype=np.int64) > 1).tolist():
            of_agent = slice(begins[agent], begins[agent] + sizes[agent])
            tied = [self._tracker.rows[index] for index in self._order[of_agent][is_latest[of_agent]].tolist()]
            latest[agent] = max((event_id or "", value) for event_id, value in map(tie_break, tied))[1]
        return latest


def _no_numbers(count: int) -> Numbers:
    return np.full(count, NO_NUMBER)
