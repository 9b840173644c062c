"""Governance events in batches: read column by column, then folded one after another. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Never

import msgspec
import numpy as np
import numpy.typing as npt

from hypervisor_consumers.governance_metrics.fold.event_fold import (
    ABOUT_AN_AGENT,
    GOVERNANCE_EVENT_TYPES,
    GovernanceFold,
    ParsedEvent,
    Payload,
)
from hypervisor_consumers.governance_metrics.fold.state import GovernanceState
from hypervisor_consumers.runtime.decode.batch_decoder import EventColumns, cached_origin
from hypervisor_consumers.runtime.decode.payload_columns import read_each
from hypervisor_consumers.runtime.protocols import BatchFold, FoldedBatch, ImmediateBatches
from hypervisor_schemas.events import GovernanceEventType
from hypervisor_schemas.governance import PolicyDecision, TrustScore

__all__ = ["GovernanceBatchFold"]


class _AnyObject(msgspec.Struct):
    """A payload whose fields aren't used; it has to be an object all the same."""


_KINDS = tuple(kind.encode() for kind in GOVERNANCE_EVENT_TYPES)
_OTHER = -1
_decode_object = msgspec.json.Decoder(_AnyObject).decode
_PAYLOAD_TYPES: Mapping[GovernanceEventType, type[PolicyDecision | TrustScore]] = {
    GovernanceEventType.POLICY_DECISION: PolicyDecision,
    GovernanceEventType.TRUST_SCORE: TrustScore,
}
_DECODERS: Mapping[int, Callable[[bytes], Payload]] = {
    GOVERNANCE_EVENT_TYPES.index(kind.value): msgspec.json.Decoder(payload_type).decode
    for kind, payload_type in _PAYLOAD_TYPES.items()
}
"""By the index of the event type, for the types whose payload is used."""


class GovernanceBatchFold(GovernanceFold, BatchFold[GovernanceState, Never]):
    """A `GovernanceFold` that also takes batches."""

    def batches(self, state: GovernanceState) -> ImmediateBatches[Never]:
        """The receiver of batches for `state`."""
        return ImmediateBatches(partial(self._apply_batch, state))

    def _apply_batch(
        self, state: GovernanceState, columns: EventColumns, seen_at_ms: npt.NDArray[np.int64]
    ) -> FoldedBatch[Never] | None:
        kinds = columns.event_types.index_in(_KINDS)
        payloads = _payloads_of(columns.payloads, kinds)
        if payloads is None:
            return None
        agents = [cached_origin(origin)[1] for origin in columns.origins.values()]
        names = [GOVERNANCE_EVENT_TYPES[kind] if kind != _OTHER else "" for kind in kinds.tolist()]
        if any(not agent and kind in ABOUT_AN_AGENT for kind, agent in zip(names, agents, strict=True)):
            return None
        times_us, ids = columns.timestamps_us.tolist(), columns.event_ids()
        for event in map(ParsedEvent, names, payloads, agents, times_us, ids, seen_at_ms.tolist()):
            if event.kind:
                self.apply_parsed(state, event)
        return FoldedBatch(names.count(""), ())


def _payloads_of(texts: Sequence[bytes], kinds: npt.NDArray[np.int8]) -> list[Payload] | None:
    """The payload of each event; None if one doesn't fit its type."""
    payloads: list[Payload] = [None] * len(texts)
    for kind in np.unique(kinds).tolist():
        indexes = np.flatnonzero(kinds == kind).tolist()
        of_kind = [texts[index] for index in indexes]
        decode = _DECODERS.get(kind)
        if decode is None:
            if read_each(of_kind, _decode_object) is None:
                return None
            continue
        read = read_each(of_kind, decode)
        if read is None:
            return None
        for index, payload in zip(indexes, read, strict=True):
            payloads[index] = payload
    return payloads
