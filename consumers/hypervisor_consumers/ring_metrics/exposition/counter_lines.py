"""The lines of both counters, kept from scrape to scrape. They are those that `families` makes of the same rows."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from operator import attrgetter

import numpy as np

from hypervisor_consumers.ring_metrics.exposition.families import is_in_one_place
from hypervisor_consumers.ring_metrics.exposition.line_cache import NO_NUMBER, LineCache, RowTracker
from hypervisor_consumers.ring_metrics.fold.event_fold import TRANSITION_TYPES
from hypervisor_consumers.ring_metrics.fold.state import RingSeries, RingState
from hypervisor_consumers.ring_metrics.metric_defs import RING_BREACHES, RING_TRANSITIONS
from hypervisor_consumers.runtime.ops.exposition import TextFamily, escaped

__all__ = ["CounterLines"]


class CounterLines:
    """Both counters with all of their labels. For one thread at a time; a result is valid until the next call."""

    def __init__(self) -> None:
        self._partitions: dict[int, _PartitionLines] = {}
        self._home_partitions: int | None = None

    def families(
        self, states: Mapping[int, RingState], home_partitions: int | None
    ) -> tuple[TextFamily, TextFamily] | None:
        """The two counters, as in `ring_families`; None if they have to be made row by row.

        That is so if a count is beyond 64 bits, or `home_partitions` isn't known: then series of several partitions
        may have to be added up.
        """
        if home_partitions != self._home_partitions:
            self._partitions, self._home_partitions = {}, home_partitions
        if home_partitions is None:
            return None
        for partition in self._partitions.keys() - states.keys():
            del self._partitions[partition]
        try:
            for partition, state in states.items():
                lines = self._partitions.pop(partition, None) or _PartitionLines(partition, home_partitions)
                lines.update(state)
                self._partitions[partition] = lines  # not after a failure: it is half updated then
        except OverflowError:
            return None
        transitions, breaches = (
            TextFamily(metric.name, metric.help, metric.type) for metric in (RING_TRANSITIONS, RING_BREACHES)
        )
        for lines in self._partitions.values():
            for metric, cache in zip(_METRICS, lines.caches, strict=True):
                (breaches if metric is RING_BREACHES else transitions).add(cache.text, len(cache))
        return transitions, breaches


_COUNTS = ("assigned", "elevated", "demoted", "elevation_expired", "breaches")
"""The fields of a row that are shown."""
_METRICS = (*[RING_TRANSITIONS] * len(TRANSITION_TYPES), RING_BREACHES)
_TYPE_LABELS = (*(f'event_type="{kind}",' for kind in TRANSITION_TYPES), "")
_NO_SERIES = RingSeries()


class _PartitionLines:
    """The lines of one partition's state."""

    def __init__(self, partition: int, home_partitions: int) -> None:
        self.caches = tuple(LineCache(partial(self._start, count)) for count in range(len(_COUNTS)))
        """One for each of `_COUNTS`, with the indexes of the rows."""
        self._partition = partition
        self._home_partitions = home_partitions
        self._tracker: RowTracker[RingSeries | None] = RowTracker()
        self._is_shown = np.zeros(0, np.bool_)
        """By row; rows of former labels are not shown."""
        self._has_partition = np.zeros(0, np.bool_)
        """By row, whether its series have the label `partition`. Kept, because finding it out takes a hash."""

    def update(self, state: RingState) -> None:
        """Overwrite the lines of rows that have changed.

        Raises:
            OverflowError: A count is beyond 64 bits. The lines are wrong from then on.
        """
        series, tracker = state.series, self._tracker
        known = len(tracker.keys)
        # A snapshot has no base, so all of its keys have a value; present() would look at each once more.
        gone, changed = tracker.update(series if series.base is None else dict(series.present()))
        new = tracker.keys[known - len(gone) :]
        if gone or new:
            self._resize(gone, len(new))
            is_shown = ["" not in key for key in new]
            has_partition = [not is_in_one_place(key, self._partition, self._home_partitions) for key in new]
            self._is_shown = np.append(np.delete(self._is_shown, gone), is_shown).astype(np.bool_)
            self._has_partition = np.append(np.delete(self._has_partition, gone), has_partition).astype(np.bool_)
        rows = [tracker.rows[index] or _NO_SERIES for index in changed]
        indexes = np.array(changed, np.int64)
        are_shown = self._is_shown[indexes]
        for field, cache in zip(_COUNTS, self.caches, strict=True):
            counts = np.fromiter(map(attrgetter(field), rows), np.int64, len(rows))
            cache.put(indexes, np.where(are_shown & (counts > 0), counts, NO_NUMBER))

    def _resize(self, gone: list[int], new: int) -> None:
        for cache in self.caches:
            cache.delete(gone)
            cache.extend(new)

    def _start(self, count: int, index: int) -> str:
        agent, session = map(escaped, self._tracker.keys[index])
        partition = f'partition="{self._partition}",' if self._has_partition[index] else ""
        type_label = _TYPE_LABELS[count]
        return f'{_METRICS[count].name}{{agent_did="{agent}",{type_label}{partition}session_id="{session}"}}'
