"""A number for each agent and session, looked up by the bytes in which events name them. Pure."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hypervisor_consumers.ring_metrics.fold.state import AgentSession
from hypervisor_consumers.runtime.decode.batch_decoder import origin_of
from hypervisor_consumers.runtime.decode.byte_columns import LONGEST, Rows, Texts, are_equal
from hypervisor_consumers.runtime.ops.cardinality import UNKNOWN

__all__ = ["MAX_ORIGINS", "KeyInterning", "KeyTable"]

Indexes: TypeAlias = npt.NDArray[np.intp]

MAX_ORIGINS = 20_000
"""Origins in a table from which on the next state begins a new one."""

_SLOT_BITS = 16
_FIRST, _SECOND = np.uint64(64 - _SLOT_BITS), np.uint64(64 - 2 * _SLOT_BITS)
_SLOT = np.uint64((1 << _SLOT_BITS) - 1)
_FACTORS = np.frombuffer(np.random.default_rng(1).bytes(LONGEST), np.uint64) | np.uint64(1)
"""Any odd numbers; an origin whose slots are both taken by others is looked up in a dict."""
_INITIAL_ENTRIES = 1024


class KeyInterning:
    """The table in use, for all states of one process."""

    def __init__(self) -> None:
        self._table = KeyTable()

    def table(self) -> KeyTable:
        """The table in use; a new one once it holds more than `MAX_ORIGINS`."""
        if len(self._table) > MAX_ORIGINS:
            self._table = KeyTable()
        return self._table


class KeyTable:
    """Numbers agents and sessions, each pair by an id of its own.

    The hash of an origin leads to one entry that it may be equal to; all origins of a batch are looked up and
    compared at once. Those that are not found there are looked up one by one.
    """

    def __init__(self) -> None:
        self.keys: list[AgentSession] = []
        """By id."""
        self._id_by_key: dict[AgentSession, int] = {}
        self._id_by_origin: dict[bytes, int] = {}
        self._slots = np.zeros(1 << _SLOT_BITS, np.int32)
        """By bits of the hash, the index of an entry. Entry 0 is empty."""
        self._rows = np.zeros((_INITIAL_ENTRIES, LONGEST // 8), np.uint64)
        self._lengths = np.full(_INITIAL_ENTRIES, -1)
        self._ids = np.zeros(_INITIAL_ENTRIES, np.intp)
        """By entry: the bytes of an origin, their number, and the id of its agent and session."""
        self._entries = 1

    def __len__(self) -> int:
        return len(self._id_by_origin)

    def ids_of(self, origins: Texts) -> Indexes:
        """The id of each origin's agent and session; new ones get one."""
        rows = origins.rows
        if rows is None:
            return np.array([self._id_of(origin) for origin in origins.values()], np.intp)
        hashes = rows @ _FACTORS[: rows.shape[1]]
        entries = self._slots[hashes >> _FIRST]
        is_other = ~self._are_at(entries, rows, origins.lengths)
        if is_other.any():
            others = np.flatnonzero(is_other)
            entries[others] = self._slots[(hashes[others] >> _SECOND) & _SLOT]
            is_other[others] = ~self._are_at(entries[others], rows[others], origins.lengths[others])
        ids: Indexes = self._ids[entries]
        for index in np.flatnonzero(is_other).tolist():
            origin = origins.value(index)
            if origin not in self._id_by_origin:
                self._add_entry(rows[index], len(origin), self._id_of(origin), hashes[index])
            ids[index] = self._id_by_origin[origin]
        return ids

    def _are_at(
        self, entries: npt.NDArray[np.int32], rows: Rows, lengths: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.bool_]:
        known = self._rows.take(entries, axis=0)[:, : rows.shape[1]]
        are: npt.NDArray[np.bool_] = are_equal(rows, known) & (self._lengths[entries] == lengths)
        return are

    def _id_of(self, origin: bytes) -> int:
        key_id = self._id_by_origin.get(origin)
        if key_id is None:
            session, agent = origin_of(origin)
            key = (agent or UNKNOWN, session or UNKNOWN)  # of several origins: none and "" are the same
            key_id = self._id_by_key.setdefault(key, len(self.keys))
            if key_id == len(self.keys):
                self.keys.append(key)
            self._id_by_origin[origin] = key_id
        return key_id

    def _add_entry(self, row: Rows, length: int, key_id: int, hashed: np.uint64) -> None:
        """Let an origin be found by its hash, if one of its slots is free."""
        for slot in (hashed >> _FIRST, (hashed >> _SECOND) & _SLOT):
            if not self._slots[slot]:
                if self._entries == len(self._rows):
                    self._grow()
                self._slots[slot] = self._entries
                self._rows[self._entries, : len(row)] = row
                self._lengths[self._entries] = length
                self._ids[self._entries] = key_id
                self._entries += 1
                return

    def _grow(self) -> None:
        self._rows = np.concatenate((self._rows, np.zeros_like(self._rows)))
        self._lengths = np.concatenate((self._lengths, np.full_like(self._lengths, -1)))
        self._ids = np.concatenate((self._ids, np.zeros_like(self._ids)))
