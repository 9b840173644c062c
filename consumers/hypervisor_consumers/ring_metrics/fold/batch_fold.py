"""Ring events batch by batch: checked and noted when they come, folded once for many batches, row by row. Pure.

Between two commits a series has several events, as a rule not in the same batch. So a batch is only noted, as
arrays, and what is noted is put in order by series when somebody needs the state. Then each row is made anew once.
What comes out is what `RingFold.apply` makes of the same events, one after another.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from hypervisor_consumers.ring_metrics.fold.event_fold import (
    ELEVATION_BOUNDS,
    RING_EVENT_TYPES,
    RingSeries,
    RingState,
    count_elevations,
)
from hypervisor_consumers.ring_metrics.fold.key_interning import Origins
from hypervisor_consumers.runtime.decode.batch_decoder import EventColumns
from hypervisor_consumers.runtime.decode.payload_columns import read_each
from hypervisor_schemas.events import EventType
from hypervisor_schemas.payloads import RingPayload

__all__ = ["MOST_NOTED", "RingBatches"]

Numbers: TypeAlias = npt.NDArray[np.int64]
Small: TypeAlias = npt.NDArray[np.int8]
Places: TypeAlias = npt.NDArray[np.intp]
Flags: TypeAlias = npt.NDArray[np.bool_]
_Moves: TypeAlias = "Iterable[tuple[int, int, int | str]]"
"""Of each row: a value, and the time and the id of the event that it is of. What the value says that there is none
of may have any time and id."""
_Clocks: TypeAlias = Iterable[tuple[bool, bool, int]]

MOST_NOTED = 16_384
"""Events of one state from which on they are not left for later: about 30 bytes each."""

_KINDS = tuple(kind.value.encode() for kind in RING_EVENT_TYPES)
"""By type, in the order of the fields of a `RingSeries` that count them."""
_ELEVATED, _DEMOTED, _EXPIRED, _BREACH = (
    RING_EVENT_TYPES.index(kind)
    for kind in (
        EventType.RING_ELEVATED,
        EventType.RING_DEMOTED,
        EventType.RING_ELEVATION_EXPIRED,
        EventType.RING_BREACH_DETECTED,
    )
)
_NONE = -1
"""No ring, no kind, no place."""
_BEFORE_ALL = np.iinfo(np.int64).min

_NEW = RingSeries()
_BOUNDS = np.array(ELEVATION_BOUNDS)
_LOW_BITS = 32
_LOW = (1 << _LOW_BITS) - 1


class _Events(NamedTuple):
    """What counts of some events, each field in the order in which they came."""

    numbers: Places
    """Of the agents and sessions, see `Origins`."""
    kinds: Small
    rings: Small
    times: Numbers
    """In µs since 1970."""
    seen_at: Numbers
    ids: npt.NDArray[Any]
    """As in `_id_text`."""

    def at(self, places: Places | Flags) -> _Events:
        """Those of these places."""
        numbers, kinds, rings, times, seen_at, ids = self
        return _Events(numbers[places], kinds[places], rings[places], times[places], seen_at[places], ids[places])


class RingBatches:
    """Takes batches for one state, as `PendingBatches` has it.

    Args:
        state: With all its labels, lying over a base.
        origins: Those of all states of this process.
        max_series: As `RingFold` has it.
    """

    def __init__(self, state: RingState, origins: Origins, max_series: int) -> None:
        self._state = state
        self._origins = origins
        self._known = origins.known()
        """Whose numbers are noted."""
        self._max_series = max_series
        self._noted: list[_Events] = []
        self._count = 0

    def take(self, columns: EventColumns, seen_at: Numbers) -> int | None:
        """Note the events; None: one may be wrong, or there may be no place for each."""
        rings = _rings_of(columns.payloads)
        if rings is None:
            return None
        if not self._noted:
            self._known = self._origins.known()
        numbers = self._known.numbers_of(columns.origins)
        if not self._has_room_for(numbers):
            return None
        kinds = columns.event_types.which_of(_KINDS)
        is_counted = kinds != _NONE
        counted = int(np.count_nonzero(is_counted))
        if counted:
            events = _Events(numbers, kinds, rings, columns.timestamps, seen_at, _ids_of(columns))
            self._noted.append(events if counted == len(columns) else events.at(is_counted))
            self._count += counted
        if self._count >= MOST_NOTED:
            self.settle()
        return len(columns) - counted

    def settle(self) -> None:
        """Fold what is noted."""
        if self._noted:
            events = _Events(*map(np.concatenate, zip(*self._noted, strict=True)))
            self.drop()
            self._fold(events)

    def drop(self) -> None:
        """Forget what is noted."""
        self._noted = []
        self._count = 0

    def _has_room_for(self, numbers: Places) -> bool:
        series = self._state.series
        if series.size + self._count + len(numbers) <= self._max_series:
            return True
        self.settle()
        keys = self._known.keys
        new = sum(series[keys[number]] is None for number in set(numbers.tolist()))
        return series.size + new <= self._max_series

    def _fold(self, events: _Events) -> None:
        """Each row anew, with what its events add up to."""
        rows = _Rows(events)
        series, keys = self._state.series, self._known.keys
        ended: list[int] = []
        for number, counts, seen_at, to_ring, first_end, end, clock in zip(
            rows.numbers,
            rows.counts(),
            rows.seen_at(),
            rows.changes_of_ring(),
            rows.first_ends(),
            rows.last_ended(),
            rows.clocks(),
            strict=True,
        ):
            key = keys[number]
            found = series[key]
            old = _NEW if found is None else found
            ring, ring_at, ring_event_id = old.ring, old.ring_at, old.ring_event_id
            new_ring, at, event_id = to_ring
            if new_ring != _NONE and (ring is None or at >= ring_at):
                ring, ring_at, ring_event_id = new_ring, at, _id_text(event_id)
            since = old.elevated_since
            ended_at, ended_event_id, ended_duration = old.ended_at, old.ended_event_id, old.ended_duration
            is_one, at, event_id = first_end
            if is_one and since is not None:
                duration = max(at - since, 0)
                ended.append(duration)
                if ended_at is None or at >= ended_at:
                    ended_at, ended_event_id, ended_duration = at, _id_text(event_id), duration
            duration, at, event_id = end
            if duration != _NONE and (ended_at is None or at >= ended_at):
                ended_at, ended_event_id, ended_duration = at, _id_text(event_id), duration
            is_moved, is_running, at = clock
            if is_moved:
                since = at if is_running else None
            assigned, elevated, demoted, expired, breaches = counts
            new = RingSeries(
                old.assigned + assigned,
                old.elevated + elevated,
                old.demoted + demoted,
                old.elevation_expired + expired,
                old.breaches + breaches,
                ring,
                ring_at,
                ring_event_id,
                since,
                ended_at,
                ended_event_id,
                ended_duration,
                max(seen_at, old.seen_at),
                old.overflowed,
            )
            if found is None:
                series.add(key, new)
            else:
                series[key] = new
        for bucket, (count, microseconds) in enumerate(rows.ended_by_bucket(ended)):
            if count:
                count_elevations(self._state, bucket, count, microseconds)


class _Rows:
    """Events put in order by row, and what those of each row add up to: one entry per row, in the same order."""

    def __init__(self, events: _Events) -> None:
        order = _order_of(events.numbers)
        self._events = events.at(order)
        numbers = self._events.numbers
        self._begins = np.flatnonzero(np.diff(numbers, prepend=-1))
        self._row_of = np.repeat(np.arange(len(self._begins)), np.diff(self._begins, append=len(numbers)))
        self.numbers: list[int] = numbers[self._begins].tolist()
        """Of agent and session."""
        self._find_ended()

    def counts(self) -> list[list[int]]:
        """How many of each kind."""
        kinds = len(_KINDS)
        counts = np.bincount(self._row_of * kinds + self._events.kinds, minlength=kinds * len(self._begins))
        return counts.reshape(-1, kinds).tolist()

    def seen_at(self) -> list[int]:
        """The greatest."""
        return np.maximum.reduceat(self._events.seen_at, self._begins).tolist()  # type: ignore[no-any-return]

    def changes_of_ring(self) -> _Moves:
        """The last by time, among equals by arrival, that names a ring; its ring, or `_NONE`."""
        rings = self._events.rings
        places = self._latest((rings != _NONE) & (self._events.kinds != _BREACH))
        return self._moves(np.where(places == _NONE, _NONE, rings[places]), places)

    def first_ends(self) -> _Moves:
        """If the first event that concerns the elevation's clock is an end: it ends what ran before. 1, or 0."""
        return self._moves((self._first_ends != _NONE).astype(np.int8), self._first_ends)

    def last_ended(self) -> _Moves:
        """Of the elevations that began and ended among these events, the last by time; its duration."""
        is_ended = np.zeros(len(self._row_of), np.bool_)
        is_ended[self._ends] = True
        duration_of = np.full(len(self._row_of), _NONE)
        duration_of[self._ends] = self._durations
        places = self._latest(is_ended)
        return self._moves(np.where(places == _NONE, _NONE, duration_of[places]), places)

    def clocks(self) -> _Clocks:
        """Whether the elevation's clock was moved at all, whether it runs at last, and since when."""
        places = self._last_clocks
        is_running = self._events.kinds[places] == _ELEVATED
        times = self._events.times[places]
        return zip((places != _NONE).tolist(), is_running.tolist(), times.tolist(), strict=True)

    def ended_by_bucket(self, besides: Iterable[int]) -> list[tuple[int, int]]:
        """How many elevations ended and their sum in µs, by bucket of the histogram; `besides`: other durations."""
        buckets = np.searchsorted(_BOUNDS, self._durations)
        counts = _counts(buckets)
        # A sum of floats is exact below 2**53: so in two halves.
        low = _counts(buckets, self._durations & _LOW)
        high = _counts(buckets, self._durations >> _LOW_BITS)
        sums = [int(a) + (int(b) << _LOW_BITS) for a, b in zip(low, high, strict=True)]
        for duration in besides:
            bucket = bisect_left(ELEVATION_BOUNDS, duration)
            counts[bucket] += 1
            sums[bucket] += duration
        return list(zip(map(int, counts), sums, strict=True))

    def _find_ended(self) -> None:
        """Goes through starts and ends of elevations, each row's in the order in which they came."""
        kinds, times = self._events.kinds, self._events.times
        clocks = np.flatnonzero((kinds == _ELEVATED) | (kinds == _DEMOTED) | (kinds == _EXPIRED))
        is_start, rows = kinds[clocks] == _ELEVATED, self._row_of[clocks]
        is_first, is_last = np.diff(rows, prepend=_NONE) != 0, np.diff(rows, append=_NONE) != 0
        ended = np.flatnonzero(~is_first & ~is_start & np.append(False, is_start)[:-1])
        self._ends = clocks[ended]
        self._durations = np.maximum(times[self._ends] - times[clocks[ended - 1]], 0)
        self._first_ends = self._by_row(clocks[is_first & ~is_start])
        self._last_clocks = self._by_row(clocks[is_last])

    def _by_row(self, places: Places) -> Places:
        """Places, one of a row at most, where their rows are; `_NONE` for the others."""
        of_rows = np.full(len(self._begins), _NONE)
        of_rows[self._row_of[places]] = places
        return of_rows

    def _latest(self, is_one: Flags) -> Places:
        """Of each row's events that are one, the place of the last that has the greatest time; else `_NONE`."""
        times = np.where(is_one, self._events.times, _BEFORE_ALL)
        greatest = np.maximum.reduceat(times, self._begins)
        is_latest = is_one & (times == greatest[self._row_of])
        places = np.where(is_latest, np.arange(len(times)), _NONE)
        return np.maximum.reduceat(places, self._begins)

    def _moves(self, values: npt.NDArray[np.signedinteger[Any]], places: Places) -> _Moves:
        events = self._events
        return zip(values.tolist(), events.times[places].tolist(), events.ids[places].tolist(), strict=True)


def _order_of(numbers: Places) -> Places:
    """Stable. Numbers of 16 bits are put in order twenty times as fast as others, without comparing any."""
    order = np.argsort(numbers.astype(np.uint16), kind="stable")
    if numbers.max() >> 16:
        high = (numbers >> 16).astype(np.uint16)  # fewer than 2**32 there are
        order = order[np.argsort(high[order], kind="stable")]
    return order


def _counts(buckets: Places, weights: Numbers | None = None) -> Any:
    return np.bincount(buckets, weights, len(ELEVATION_BOUNDS) + 1)


def _ids_of(columns: EventColumns) -> npt.NDArray[Any]:
    """The ids as numbers where all are written as such, else as texts."""
    if columns.other_ids is None:
        return np.asarray(columns.id_numbers, np.uint64)
    return np.array(columns.other_ids, np.object_)


def _id_text(event_id: int | str) -> str:
    return event_id if isinstance(event_id, str) else f"{event_id:016x}"


_read_payload = msgspec.json.Decoder(RingPayload, strict=False).decode


def _rings_of(payloads: Sequence[bytes]) -> Small | None:
    """The ring of each payload, as `apply` reads it, or `_NONE`; None: one payload is none of a ring event's."""
    read = read_each(payloads, _read_payload)
    if read is None:
        return None
    rings = [one.ring if one.to_ring is None else one.to_ring for one in read]
    return np.array([_NONE if ring is None else ring for ring in rings], np.int8)
