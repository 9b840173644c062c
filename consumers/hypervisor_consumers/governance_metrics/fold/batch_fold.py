"""Governance events batch by batch: read by column, then folded one after another. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Never

import msgspec
import numpy as np
import numpy.typing as npt

from hypervisor_consumers.governance_metrics.fold.event_fold import (
    ABOUT_AN_AGENT,
    GOVERNANCE_EVENT_TYPES,
    Fact,
    GovernanceFold,
    Told,
)
from hypervisor_consumers.governance_metrics.fold.state import GovernanceState
from hypervisor_consumers.runtime.decode.batch_decoder import EventColumns, origin_of
from hypervisor_consumers.runtime.decode.payload_columns import read_each
from hypervisor_consumers.runtime.protocols import BatchFold, Folded
from hypervisor_schemas.events import GovernanceEventType
from hypervisor_schemas.governance import PolicyDecision, TrustScore

__all__ = ["FleetGovernanceFold"]


class _AnyObject(msgspec.Struct):
    """A payload that nobody reads; it has to be one all the same."""


_KINDS = tuple(kind.encode() for kind in GOVERNANCE_EVENT_TYPES)
_OTHER = -1
_decode_object = msgspec.json.Decoder(_AnyObject).decode
_READ: Mapping[GovernanceEventType, type[PolicyDecision | TrustScore]] = {
    GovernanceEventType.POLICY_DECISION: PolicyDecision,
    GovernanceEventType.TRUST_SCORE: TrustScore,
}
_DECODERS: Mapping[int, Callable[[bytes], Told]] = {
    GOVERNANCE_EVENT_TYPES.index(kind.value): msgspec.json.Decoder(read).decode for kind, read in _READ.items()
}
"""By the place of the type, for those with a payload that is read."""


class FleetGovernanceFold(GovernanceFold, BatchFold[GovernanceState, Never]):
    """A `GovernanceFold` of the service, which takes batches."""

    def apply_batch(
        self, state: GovernanceState, columns: EventColumns, seen_at: npt.NDArray[np.int64]
    ) -> Folded[Never] | None:
        """As `BatchFold` has it."""
        kinds = columns.event_types.which_of(_KINDS)
        told = _told(columns.payloads, kinds)
        if told is None:
            return None
        agents = list(map(_agent_of, columns.origins.values()))
        names = [GOVERNANCE_EVENT_TYPES[kind] if kind != _OTHER else "" for kind in kinds.tolist()]
        if any(not agent and kind in ABOUT_AN_AGENT for kind, agent in zip(names, agents, strict=True)):
            return None
        ids = columns.other_ids or [f"{number:016x}" for number in columns.id_numbers.tolist()]
        facts = map(Fact, names, told, agents, columns.timestamps.tolist(), ids, seen_at.tolist())
        for fact in facts:
            if fact.kind:
                self.take(state, fact)
        return Folded(names.count(""), ())


@lru_cache(maxsize=20_000)
def _agent_of(origin: bytes) -> str:
    return origin_of(origin)[1] or ""


def _told(payloads: Sequence[bytes], kinds: npt.NDArray[np.int8]) -> list[Told] | None:
    """What each payload tells; None: one is not what its type promises."""
    told: list[Told] = [None] * len(payloads)
    for kind in np.unique(kinds).tolist():
        places = np.flatnonzero(kinds == kind).tolist()
        of_kind = [payloads[place] for place in places]
        decode = _DECODERS.get(kind)
        if decode is None:
            if read_each(of_kind, _decode_object) is None:
                return None
            continue
        read = read_each(of_kind, decode)
        if read is None:
            return None
        for place, one in zip(places, read, strict=True):
            told[place] = one
    return told
