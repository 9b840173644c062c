"""Saga events batch by batch: read by column, then folded one after another. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from hypervisor_consumers.runtime.decode.batch_decoder import EventColumns, origin_of
from hypervisor_consumers.runtime.decode.payload_columns import read_each
from hypervisor_consumers.runtime.protocols import BatchFold, Folded
from hypervisor_consumers.saga_spans.fold.event_fold import SAGA_EVENT_TYPES, SagaFold
from hypervisor_consumers.saga_spans.fold.parsed_event import Facts, facts_from
from hypervisor_consumers.saga_spans.fold.state import SagaState
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord
from hypervisor_schemas.errors import InvalidPayload
from hypervisor_schemas.payloads import SagaPayload

__all__ = ["FleetSagaFold"]

_KINDS = tuple(kind.value for kind in SAGA_EVENT_TYPES)
_KINDS_IN_BYTES = tuple(kind.encode() for kind in _KINDS)
_read_payload = msgspec.json.Decoder(SagaPayload).decode

_MOST_KNOWN = 20_000
"""Sessions with their agents that are not read again."""


class FleetSagaFold(SagaFold, BatchFold[SagaState, SagaSpanRecord]):
    """A `SagaFold` of the service, which takes batches."""

    def __init__(self, *, timeout_ms: int, grace_ms: int) -> None:
        super().__init__(timeout_ms=timeout_ms, grace_ms=grace_ms)
        self._known_origins: dict[bytes, tuple[str, str]] = {}

    def apply_batch(
        self, state: SagaState, columns: EventColumns, seen_at: npt.NDArray[np.int64]
    ) -> Folded[SagaSpanRecord] | None:
        """As `BatchFold` has it."""
        payloads = read_each(columns.payloads, _read_payload)
        if payloads is None:
            return None
        kinds = columns.event_types.which_of(_KINDS_IN_BYTES).tolist()
        try:
            told = [
                (number, _KINDS[kind], facts)
                for number, (kind, facts) in enumerate(
                    zip(kinds, self._facts(columns, payloads, seen_at), strict=True)
                )
                if kind >= 0
            ]
        except InvalidPayload:
            return None
        return Folded(len(columns) - len(told), self.take_all(state, told))

    def _facts(
        self, columns: EventColumns, payloads: Sequence[SagaPayload], seen_at: npt.NDArray[np.int64]
    ) -> Iterable[Facts]:
        ids = columns.other_ids or [f"{number:016x}" for number in columns.id_numbers.tolist()]
        traces = columns.causal_trace_ids
        fields = zip(
            payloads,
            ids,
            columns.timestamps.tolist(),
            seen_at.tolist(),
            columns.origins.values(),
            [b""] * len(ids) if traces is None else traces.values(),
            strict=True,
        )
        known = self._known_origins
        for payload, event_id, time, seen, origin, trace in fields:
            session_id, agent_did = known.get(origin) or self._origin(origin)
            # As `datetime.timestamp` divides.
            yield facts_from(
                payload, event_id, time / 1_000_000, seen, session_id, agent_did, trace.decode() if trace else ""
            )

    def _origin(self, origin: bytes) -> tuple[str, str]:
        session_id, agent_did = origin_of(origin)
        if len(self._known_origins) > _MOST_KNOWN:
            self._known_origins.clear()
        found = self._known_origins[origin] = (session_id or "", agent_did or "")
        return found
