"""Whose events they are: agents and sessions by the bytes that their events came with. Pure."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hypervisor_consumers.ring_metrics.fold.event_fold import AgentSession
from hypervisor_consumers.runtime.decode.batch_decoder import origin_of
from hypervisor_consumers.runtime.decode.byte_columns import LONGEST, Rows, Texts, are_equal
from hypervisor_consumers.runtime.ops.cardinality import UNKNOWN

__all__ = ["MOST_KNOWN", "KnownOrigins", "Origins"]

Places: TypeAlias = npt.NDArray[np.intp]

MOST_KNOWN = 20_000
"""Origins that are kept."""

_SLOT_BITS = 16
_FIRST, _SECOND = np.uint64(64 - _SLOT_BITS), np.uint64(64 - 2 * _SLOT_BITS)
_SLOT = np.uint64((1 << _SLOT_BITS) - 1)
_FACTORS = np.frombuffer(np.random.default_rng(1).bytes(LONGEST), np.uint64) | np.uint64(1)
"""Odd ones, any; an origin that meets another one's slots is looked up in a dict."""
_AT_FIRST = 1024


class Origins:
    """What is known of the events' origins, for all states of one process."""

    def __init__(self) -> None:
        self._known = KnownOrigins()

    def known(self) -> KnownOrigins:
        """What to go on with: what there is, or nothing if that is much."""
        if len(self._known) > MOST_KNOWN:
            self._known = KnownOrigins()
        return self._known


class KnownOrigins:
    """Agents and sessions, each pair under a number.

    A hash of an origin leads to the place of the one that it may be; all of a batch are looked up and compared at
    once. Those that are not found there are looked up one by one.
    """

    def __init__(self) -> None:
        self.keys: list[AgentSession] = []
        """By number."""
        self._by_key: dict[AgentSession, int] = {}
        self._by_origin: dict[bytes, int] = {}
        self._slots = np.zeros(1 << _SLOT_BITS, np.int32)
        # By place: the origin, and the number of its agent and session. The first place is nobody's.
        self._rows = np.zeros((_AT_FIRST, LONGEST // 8), np.uint64)
        self._lengths = np.full(_AT_FIRST, -1)
        self._numbers = np.zeros(_AT_FIRST, np.intp)
        self._placed = 1

    def __len__(self) -> int:
        return len(self._by_origin)

    def numbers_of(self, origins: Texts) -> Places:
        """The number of each; new ones get one."""
        rows = origins.rows
        if rows is None:
            return np.array([self._number(origin) for origin in origins.values()], np.intp)
        hashes = rows @ _FACTORS[: rows.shape[1]]
        places = self._slots[hashes >> _FIRST]
        is_other = ~self._are_at(places, rows, origins.lengths)
        if is_other.any():
            others = np.flatnonzero(is_other)
            places[others] = self._slots[(hashes[others] >> _SECOND) & _SLOT]
            is_other[others] = ~self._are_at(places[others], rows[others], origins.lengths[others])
        numbers: Places = self._numbers[places]
        for place in np.flatnonzero(is_other).tolist():
            origin = origins.value(place)
            if origin not in self._by_origin:
                self._place(rows[place], len(origin), self._number(origin), hashes[place])
            numbers[place] = self._by_origin[origin]
        return numbers

    def _are_at(
        self, places: npt.NDArray[np.int32], rows: Rows, lengths: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.bool_]:
        known = self._rows.take(places, axis=0)[:, : rows.shape[1]]
        is_so: npt.NDArray[np.bool_] = are_equal(rows, known) & (self._lengths[places] == lengths)
        return is_so

    def _number(self, origin: bytes) -> int:
        number = self._by_origin.get(origin)
        if number is None:
            session, agent = origin_of(origin)
            key = (agent or UNKNOWN, session or UNKNOWN)  # of several origins: none and "" are one
            number = self._by_key.setdefault(key, len(self.keys))
            if number == len(self.keys):
                self.keys.append(key)
            self._by_origin[origin] = number
        return number

    def _place(self, row: Rows, length: int, number: int, hashed: np.uint64) -> None:
        """Make an origin be found by its hash, if one of its slots is free."""
        for slot in (hashed >> _FIRST, (hashed >> _SECOND) & _SLOT):
            if not self._slots[slot]:
                if self._placed == len(self._rows):
                    self._grow()
                self._slots[slot] = self._placed
                self._rows[self._placed, : len(row)] = row
                self._lengths[self._placed] = length
                self._numbers[self._placed] = number
                self._placed += 1
                return

    def _grow(self) -> None:
        self._rows = np.concatenate((self._rows, np.zeros_like(self._rows)))
        self._lengths = np.concatenate((self._lengths, np.full_like(self._lengths, -1)))
        self._numbers = np.concatenate((self._numbers, np.zeros_like(self._numbers)))
