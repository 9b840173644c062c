"""Ring events in batches: checked and kept as arrays at once, folded later, row by row. Pure.

Between two commits a series has several events, usually in different batches. So a batch is only kept, as arrays.
When the state is needed, the events of all batches are sorted by series and each row is made anew once. The result
is that of `RingFold.apply` for the same events, one after another.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Never, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from hypervisor_consumers.ring_metrics.fold.event_fold import RING_EVENT_TYPES, RingFold
from hypervisor_consumers.ring_metrics.fold.key_interning import KeyInterning
from hypervisor_consumers.ring_metrics.fold.state import (
    ELEVATION_BOUNDS_US,
    RingSeries,
    RingState,
    count_elevations,
)
from hypervisor_consumers.runtime.decode.batch_decoder import EventColumns
from hypervisor_consumers.runtime.decode.payload_columns import read_each
from hypervisor_consumers.runtime.protocols import BatchFold, FoldedBatch, PendingBatches
from hypervisor_schemas.events import EventType
from hypervisor_schemas.payloads import RingPayload

__all__ = ["MAX_PENDING_EVENTS", "RingBatchFold", "RingBatches"]

Numbers: TypeAlias = npt.NDArray[np.int64]
SmallNumbers: TypeAlias = npt.NDArray[np.int8]
Indexes: TypeAlias = npt.NDArray[np.intp]
Flags: TypeAlias = npt.NDArray[np.bool_]
_Values: TypeAlias = "Iterable[tuple[int, int, int | str]]"
"""For each row: a value, and the time and the id of the event that it comes from.

Time and id mean nothing if the value stands for none.
"""
_Clocks: TypeAlias = Iterable[tuple[bool, bool, int]]

MAX_PENDING_EVENTS = 16_384
"""Events of one state that are kept for later at most: about 30 bytes each."""

_KINDS = tuple(kind.value.encode() for kind in RING_EVENT_TYPES)
"""The event types, in the order of the fields of a `RingSeries` that count them."""
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
"""Stands for no ring, no kind, no index, no duration."""
_BEFORE_ALL = np.iinfo(np.int64).min

_NEW = RingSeries()
_BOUNDS_US = np.array(ELEVATION_BOUNDS_US)
_LOW_BITS = 32
_LOW = (1 << _LOW_BITS) - 1


class RingBatchFold(RingFold, BatchFold[RingState, Never]):
    """A `RingFold` that also takes batches, unless labels are left out."""

    _interning: KeyInterning | None = None

    def batches(self, state: RingState) -> RingBatches | None:
        """The pending batches of `state`; None if labels are left out."""
        if self._counts_apart:
            return None
        self._interning = self._interning or KeyInterning()
        return RingBatches(state, self._interning, self._max_series)


class _Events(NamedTuple):
    """The fields of some events that count, each in the order of arrival."""

    key_ids: Indexes
    """The agents and sessions, as `KeyTable` numbers them."""
    kinds: SmallNumbers
    rings: SmallNumbers
    times_us: Numbers
    """Since 1970."""
    seen_at_ms: Numbers
    ids: npt.NDArray[Any]
    """The event ids, see `_id_text`."""

    def at(self, indexes: Indexes | Flags) -> _Events:
        """The events at these indexes."""
        return _Events(
            self.key_ids[indexes],
            self.kinds[indexes],
            self.rings[indexes],
            self.times_us[indexes],
            self.seen_at_ms[indexes],
            self.ids[indexes],
        )


class RingBatches(PendingBatches[Never]):
    """The pending batches of one state.

    Args:
        state: With all its labels, lying over a base.
        interning: The one of all states of this process.
        max_series: As in `RingFold`.
    """

    def __init__(self, state: RingState, interning: KeyInterning, max_series: int) -> None:
        self._state = state
        self._interning = interning
        self._keys = interning.table()
        """The table that numbered the keys of the pending events."""
        self._max_series = max_series
        self._pending: list[_Events] = []
        self._pending_count = 0

    def take(self, columns: EventColumns, seen_at_ms: Numbers) -> FoldedBatch[Never] | None:
        """Keep the events for later; None if one may be wrong, or there may be no room for a new series."""
        rings = _rings_of(columns.payloads)
        if rings is None:
            return None
        if not self._pending:
            self._keys = self._interning.table()
        key_ids = self._keys.ids_of(columns.origins)
        if not self._has_room_for(key_ids):
            return None
        kinds = columns.event_types.index_in(_KINDS)
        is_counted = kinds != _NONE
        counted = int(np.count_nonzero(is_counted))
        if counted:
            events = _Events(key_ids, kinds, rings, columns.timestamps_us, seen_at_ms, _ids_of(columns))
            self._pending.append(events if counted == len(columns) else events.at(is_counted))
            self._pending_count += counted
        if self._pending_count >= MAX_PENDING_EVENTS:
            self.settle()
        return FoldedBatch(len(columns) - counted, ())

    def settle(self) -> None:
        """Fold the pending events into the state."""
        if self._pending:
            events = _Events(*map(np.concatenate, zip(*self._pending, strict=True)))
            self.drop()
            self._fold(events)

    def drop(self) -> None:
        """Forget the pending events."""
        self._pending = []
        self._pending_count = 0

    def _has_room_for(self, key_ids: Indexes) -> bool:
        series = self._state.series
        if series.size + self._pending_count + len(key_ids) <= self._max_series:
            return True
        self.settle()
        keys = self._keys.keys
        new = sum(series[keys[key_id]] is None for key_id in set(key_ids.tolist()))
        return series.size + new <= self._max_series

    def _fold(self, events: _Events) -> None:
        """Replace the row of each key by one that its events are added to."""
        rows = _Rows(events)
        series, keys = self._state.series, self._keys.keys
        ended_us: list[int] = []
        for key_id, counts, seen_at_ms, ring_change, first_end, last_ended, clock in zip(
            rows.key_ids,
            rows.counts(),
            rows.seen_at_ms(),
            rows.ring_changes(),
            rows.first_ends(),
            rows.last_ended(),
            rows.clocks(),
            strict=True,
        ):
            key = keys[key_id]
            found = series[key]
            old = _NEW if found is None else found
            ring, ring_at_us, ring_event_id = old.ring, old.ring_at_us, old.ring_event_id
            new_ring, at_us, event_id = ring_change
            if new_ring != _NONE and (ring is None or at_us >= ring_at_us):
                ring, ring_at_us, ring_event_id = new_ring, at_us, _id_text(event_id)
            since_us, ended_at_us = old.elevated_since_us, old.ended_at_us
            ended_event_id, ended_duration_us = old.ended_event_id, old.ended_duration_us
            is_end, at_us, event_id = first_end
            if is_end and since_us is not None:
                duration_us = max(at_us - since_us, 0)
                ended_us.append(duration_us)
                if ended_at_us is None or at_us >= ended_at_us:
                    ended_at_us, ended_event_id, ended_duration_us = at_us, _id_text(event_id), duration_us
            duration_us, at_us, event_id = last_ended
            if duration_us != _NONE and (ended_at_us is None or at_us >= ended_at_us):
                ended_at_us, ended_event_id, ended_duration_us = at_us, _id_text(event_id), duration_us
            has_moved, is_running, at_us = clock
            if has_moved:
                since_us = at_us if is_running else None
            assigned, elevated, demoted, expired, breaches = counts
            new = RingSeries(
                old.assigned + assigned,
                old.elevated + elevated,
                old.demoted + demoted,
                old.elevation_expired + expired,
                old.breaches + breaches,
                ring,
                ring_at_us,
                ring_event_id,
                since_us,
                ended_at_us,
                ended_event_id,
                ended_duration_us,
                max(seen_at_ms, old.seen_at_ms),
                old.overflowed,
            )
            if found is None:
                series.add(key, new)
            else:
                series[key] = new
        for bucket_index, (count, microseconds) in enumerate(rows.ended_by_bucket(ended_us)):
            if count:
                count_elevations(self._state, bucket_index, count, microseconds)


class _Rows:
    """Events sorted by row, and their sums: each method gives one entry per row, in the order of `key_ids`."""

    def __init__(self, events: _Events) -> None:
        order = _order_of(events.key_ids)
        self._events = events.at(order)
        key_ids = self._events.key_ids
        self._begins = np.flatnonzero(np.diff(key_ids, prepend=-1))
        self._row_of = np.repeat(np.arange(len(self._begins)), np.diff(self._begins, append=len(key_ids)))
        self.key_ids: list[int] = key_ids[self._begins].tolist()
        self._find_ended()

    def counts(self) -> list[list[int]]:
        """The number of events of each kind."""
        kinds = len(_KINDS)
        counts = np.bincount(self._row_of * kinds + self._events.kinds, minlength=kinds * len(self._begins))
        return counts.reshape(-1, kinds).tolist()

    def seen_at_ms(self) -> list[int]:
        """The greatest `seen_at_ms`."""
        return np.maximum.reduceat(self._events.seen_at_ms, self._begins).tolist()  # type: ignore[no-any-return]

    def ring_changes(self) -> _Values:
        """The ring of the last event by time (among equal times by arrival) that names one, or `_NONE`."""
        rings = self._events.rings
        indexes = self._latest((rings != _NONE) & (self._events.kinds != _BREACH))
        return self._values(np.where(indexes == _NONE, _NONE, rings[indexes]), indexes)

    def first_ends(self) -> _Values:
        """1 if the first event that concerns the elevation's clock is an end (of what ran before); else 0."""
        return self._values((self._first_ends != _NONE).astype(np.int8), self._first_ends)

    def last_ended(self) -> _Values:
        """The duration of the last elevation by time that began and ended among these events, or `_NONE`."""
        is_ended = np.zeros(len(self._row_of), np.bool_)
        is_ended[self._ends] = True
        duration_of = np.full(len(self._row_of), _NONE)
        duration_of[self._ends] = self._durations_us
        indexes = self._latest(is_ended)
        return self._values(np.where(indexes == _NONE, _NONE, duration_of[indexes]), indexes)

    def clocks(self) -> _Clocks:
        """Whether the elevation's clock has moved at all, whether it runs in the end, and since when in µs."""
        indexes = self._last_clocks
        is_running = self._events.kinds[indexes] == _ELEVATED
        times_us = self._events.times_us[indexes]
        return zip((indexes != _NONE).tolist(), is_running.tolist(), times_us.tolist(), strict=True)

    def ended_by_bucket(self, more_durations_us: Iterable[int]) -> list[tuple[int, int]]:
        """The number of ended elevations and their sum in µs, one entry per bucket of the histogram."""
        buckets = np.searchsorted(_BOUNDS_US, self._durations_us)
        counts = _counts(buckets)
        # A sum of floats is exact below 2**53: so in two halves.
        low = _counts(buckets, self._durations_us & _LOW)
        high = _counts(buckets, self._durations_us >> _LOW_BITS)
        sums = [int(a) + (int(b) << _LOW_BITS) for a, b in zip(low, high, strict=True)]
        for duration_us in more_durations_us:
            bucket_index = bisect_left(ELEVATION_BOUNDS_US, duration_us)
            counts[bucket_index] += 1
            sums[bucket_index] += duration_us
        return list(zip(map(int, counts), sums, strict=True))

    def _find_ended(self) -> None:
        """Find starts and ends of elevations, each row's in the order of arrival."""
        kinds, times_us = self._events.kinds, self._events.times_us
        clocks = np.flatnonzero((kinds == _ELEVATED) | (kinds == _DEMOTED) | (kinds == _EXPIRED))
        is_start, rows = kinds[clocks] == _ELEVATED, self._row_of[clocks]
        is_first, is_last = np.diff(rows, prepend=_NONE) != 0, np.diff(rows, append=_NONE) != 0
        ended = np.flatnonzero(~is_first & ~is_start & np.append(False, is_start)[:-1])
        self._ends = clocks[ended]
        self._durations_us = np.maximum(times_us[self._ends] - times_us[clocks[ended - 1]], 0)
        self._first_ends = self._by_row(clocks[is_first & ~is_start])
        self._last_clocks = self._by_row(clocks[is_last])

    def _by_row(self, indexes: Indexes) -> Indexes:
        """The given indexes of events, at most one of a row, as one entry per row; `_NONE` for the other rows."""
        of_rows = np.full(len(self._begins), _NONE)
        of_rows[self._row_of[indexes]] = indexes
        return of_rows

    def _latest(self, is_chosen: Flags) -> Indexes:
        """The index of each row's last chosen event by time, among equal times by arrival; else `_NONE`."""
        times_us = np.where(is_chosen, self._events.times_us, _BEFORE_ALL)
        greatest = np.maximum.reduceat(times_us, self._begins)
        is_latest = is_chosen & (times_us == greatest[self._row_of])
        indexes = np.where(is_latest, np.arange(len(times_us)), _NONE)
        return np.maximum.reduceat(indexes, self._begins)

    def _values(self, values: npt.NDArray[np.signedinteger[Any]], indexes: Indexes) -> _Values:
        events = self._events
        return zip(values.tolist(), events.times_us[indexes].tolist(), events.ids[indexes].tolist(), strict=True)


def _order_of(key_ids: Indexes) -> Indexes:
    """A stable order. Numbers of 16 bits are sorted twenty times as fast as others, without comparing any."""
    order = np.argsort(key_ids.astype(np.uint16), kind="stable")
    if key_ids.max() >> 16:
        high = (key_ids >> 16).astype(np.uint16)  # there are fewer than 2**32
        order = order[np.argsort(high[order], kind="stable")]
    return order


def _counts(buckets: Indexes, weights: Numbers | None = None) -> Any:
    return np.bincount(buckets, weights, len(ELEVATION_BOUNDS_US) + 1)


def _ids_of(columns: EventColumns) -> npt.NDArray[Any]:
    """The event ids as numbers if all are written as such, else as texts."""
    if columns.other_ids is None:
        return np.asarray(columns.id_numbers, np.uint64)
    return np.array(columns.other_ids, np.object_)


def _id_text(event_id: int | str) -> str:
    return event_id if isinstance(event_id, str) else f"{event_id:016x}"


_read_payload = msgspec.json.Decoder(RingPayload, strict=False).decode


def _rings_of(payloads: Sequence[bytes]) -> SmallNumbers | None:
    """The ring of each payload as `apply` reads it, or `_NONE`; None if a payload doesn't fit a ring event."""
    read = read_each(payloads, _read_payload)
    if read is None:
        return None
    rings = [payload.ring if payload.to_ring is None else payload.to_ring for payload in read]
    return np.array([_NONE if ring is None else ring for ring in rings], np.int8)
