"""The text of the counters' series, kept from scrape to scrape for each row of a state.

A row that is shown is never changed, it is replaced: as long as it is the same object, so is its text. What
`families` makes of a hundred thousand rows in a third of a second is a matter of milliseconds so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from hypervisor_consumers.ring_metrics.families import is_in_one_place
from hypervisor_consumers.ring_metrics.fold import TRANSITION_TYPES, AgentSession, RingSeries, RingState
from hypervisor_consumers.ring_metrics.names import RING_BREACHES, RING_TRANSITIONS
from hypervisor_consumers.runtime.exposition import TextFamily, escaped

__all__ = ["CounterLines"]


class _Kept(NamedTuple):
    """Read by position where it is read for all: that takes a third less."""

    row: RingSeries
    agent: str
    session: str
    """The labels before and behind the event type."""
    transitions: str
    breaches: str
    shown: int
    """How many series."""


class CounterLines:
    """Both counters with all of their labels. For one thread at a time."""

    def __init__(self) -> None:
        self._kept: dict[int, dict[AgentSession, _Kept]] = {}
        self._home_partitions: int | None = None
        self._is_mixed = False

    def families(
        self, states: Mapping[int, RingState], home_partitions: int | None
    ) -> tuple[TextFamily, TextFamily] | None:
        """The two counters, as `ring_families` has them; None: series of several partitions have to be added up.

        (Somebody has sent events of one session to several partitions; then it stays so.)
        """
        if home_partitions != self._home_partitions:
            self._kept, self._home_partitions = {}, home_partitions
        for gone in self._kept.keys() - states.keys():
            del self._kept[gone]
        transitions, breaches = (
            TextFamily(metric.name, metric.help, metric.type) for metric in (RING_TRANSITIONS, RING_BREACHES)
        )
        for partition, state in states.items():
            before = self._kept.get(partition, {})
            kept: dict[AgentSession, _Kept] = {}
            # A snapshot lies over nothing, so all of it has a value; present() would look at each once more.
            for key, row in state.series.items() if state.series.base is None else state.series.present():
                known = before.get(key)
                if known is None or known[0] is not row:
                    if row is None or "" in key:
                        continue  # of former labels
                    known = self._written(partition, key, row, known)
                kept[key] = known
            self._kept[partition] = kept
            transitions.lines += [known[3] for known in kept.values() if known[3]]
            breaches.lines += [known[4] for known in kept.values() if known[4]]
            transitions.count += sum([known[5] for known in kept.values()])
        return None if self._is_mixed else (transitions, breaches)

    def _written(self, partition: int, key: AgentSession, row: RingSeries, known: _Kept | None) -> _Kept:
        if known is None:
            agent, session = self._labels(partition, key)
        else:
            agent, session = known.agent, known.session
        moves = [
            f'{RING_TRANSITIONS.name}{agent}event_type="{kind}",{session}{count}.0\n'
            for kind, count in zip(TRANSITION_TYPES, row.transitions, strict=True)
            if count
        ]
        breaches = f"{RING_BREACHES.name}{agent}{session}{row.breaches}.0\n" if row.breaches else ""
        return _Kept(row, agent, session, "".join(moves), breaches, len(moves) + bool(breaches))

    def _labels(self, partition: int, key: AgentSession) -> tuple[str, str]:
        place = f'partition="{partition}",'
        if is_in_one_place(key, partition, self._home_partitions):
            place = ""
            self._is_mixed = self._is_mixed or any(
                key in kept for other, kept in self._kept.items() if other != partition
            )
        agent, session = map(escaped, key)
        return f'{{agent_did="{agent}",', f'{place}session_id="{session}"}} '
