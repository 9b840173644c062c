"""The text of the counters' series, kept from scrape to scrape and changed where rows changed.

A row that is shown is never changed, it is replaced: as long as it is the same object, so is its text. What
`families` makes of a hundred thousand rows in a third of a second is a matter of milliseconds so.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import combinations
from operator import attrgetter

import numpy as np

from hypervisor_consumers.ring_metrics.exposition.families import is_in_one_place
from hypervisor_consumers.ring_metrics.exposition.line_cache import NONE, KeptLines
from hypervisor_consumers.ring_metrics.exposition.row_cache import KnownRows
from hypervisor_consumers.ring_metrics.fold.event_fold import TRANSITION_TYPES
from hypervisor_consumers.ring_metrics.fold.state import AgentSession, RingSeries, RingState
from hypervisor_consumers.ring_metrics.metric_defs import RING_BREACHES, RING_TRANSITIONS
from hypervisor_consumers.runtime.ops.exposition import TextFamily, escaped

__all__ = ["CounterLines"]


class CounterLines:
    """Both counters with all of their labels. For one thread at a time; what it gave holds until the next call."""

    def __init__(self) -> None:
        self._kept: dict[int, _Lines] = {}
        self._home_partitions: int | None = None
        self._is_mixed = False

    def families(
        self, states: Mapping[int, RingState], home_partitions: int | None
    ) -> tuple[TextFamily, TextFamily] | None:
        """The two counters, as `ring_families` has them; None: series of several partitions have to be added up.

        (Somebody has sent events of one session to several partitions; then it stays so. Or a count is beyond 64
        bits.)
        """
        if home_partitions != self._home_partitions:
            self._kept, self._home_partitions = {}, home_partitions
        for gone in self._kept.keys() - states.keys():
            del self._kept[gone]
        try:
            for partition, state in states.items():
                kept = self._kept.pop(partition, None) or _Lines(partition, home_partitions)
                kept.look(state)
                self._kept[partition] = kept  # not if that failed: it would be half done
        except OverflowError:
            return None
        if home_partitions is None and not self._is_mixed:
            everywhere = [kept.in_one_place() for kept in self._kept.values()]
            self._is_mixed = any(one & other for one, other in combinations(everywhere, 2))
        if self._is_mixed:
            return None
        transitions, breaches = (
            TextFamily(metric.name, metric.help, metric.type) for metric in (RING_TRANSITIONS, RING_BREACHES)
        )
        for kept in self._kept.values():
            for metric, lines in zip(_METRICS, kept.lines, strict=True):
                (breaches if metric is RING_BREACHES else transitions).add(lines.text, len(lines))
        return transitions, breaches


_COUNTS = ("assigned", "elevated", "demoted", "elevation_expired", "breaches")
"""The fields of a row that are shown."""
_METRICS = (*[RING_TRANSITIONS] * len(TRANSITION_TYPES), RING_BREACHES)
_TYPES = (*(f'event_type="{kind}",' for kind in TRANSITION_TYPES), "")
_NOTHING = RingSeries()


class _Lines:
    """Of one partition."""

    def __init__(self, partition: int, home_partitions: int | None) -> None:
        self.lines = tuple(KeptLines(partial(self._start, number)) for number in range(len(_COUNTS)))
        """Of each count; places are those of the rows."""
        self._partition = partition
        self._home_partitions = home_partitions
        self._known: KnownRows[RingSeries | None] = KnownRows()
        self._is_shown = np.zeros(0, np.bool_)
        """Rows of former labels are not."""
        self._is_apart = np.zeros(0, np.bool_)
        """Whether the row's series carry the partition. To find out takes a hash, so it is kept."""

    def look(self, state: RingState) -> None:
        """Write what changed."""
        series, known = state.series, self._known
        before = len(known.keys)
        # A snapshot lies over nothing, so all of it has a value; present() would look at each once more.
        gone, changed = known.look(series if series.base is None else dict(series.present()))
        if gone:
            self._drop(gone)
        if new := known.keys[before - len(gone) :]:
            self._add(new)
        rows = [known.rows[place] or _NOTHING for place in changed]
        places = np.array(changed, np.int64)
        is_shown = self._is_shown[places]
        for count_of, lines in zip(map(attrgetter, _COUNTS), self.lines, strict=True):
            counts = np.fromiter(map(count_of, rows), np.int64, len(rows))
            lines.put(places, np.where(is_shown & (counts > 0), counts, NONE))

    def _start(self, number: int, place: int) -> str:
        agent, session = map(escaped, self._known.keys[place])
        partition = f'partition="{self._partition}",' if self._is_apart[place] else ""
        return f'{_METRICS[number].name}{{agent_did="{agent}",{_TYPES[number]}{partition}session_id="{session}"}}'

    def _drop(self, places: list[int]) -> None:
        for lines in self.lines:
            lines.drop_places(places)
        self._is_shown = np.delete(self._is_shown, places)
        self._is_apart = np.delete(self._is_apart, places)

    def _add(self, keys: list[AgentSession]) -> None:
        for lines in self.lines:
            lines.add_places(len(keys))
        self._is_shown = np.append(self._is_shown, ["" not in key for key in keys])
        is_apart = [not is_in_one_place(key, self._partition, self._home_partitions) for key in keys]
        self._is_apart = np.append(self._is_apart, is_apart)

    def in_one_place(self) -> set[AgentSession]:
        """The keys that have series without the partition, if they have any."""
        places = np.flatnonzero(self._is_shown & ~self._is_apart)
        return {self._known.keys[place] for place in places.tolist()}
