"""Saga events in batches: read column by column, then folded one after another. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import msgspec
import numpy as np
import numpy.typing as npt

from hypervisor_consumers.runtime.decode.batch_decoder import EventColumns, cached_origin
from hypervisor_consumers.runtime.decode.payload_columns import read_each
from hypervisor_consumers.runtime.protocols import BatchFold, FoldedBatch, ImmediateBatches
from hypervisor_consumers.saga_spans.fold.event_fold import SAGA_EVENT_TYPES, SagaFold
from hypervisor_consumers.saga_spans.fold.parsed_event import ParsedEvent, parsed_event
from hypervisor_consumers.saga_spans.fold.state import SagaState
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord
from hypervisor_schemas.errors import InvalidPayload
from hypervisor_schemas.payloads import SagaPayload

__all__ = ["SagaBatchFold"]

_KINDS = tuple(kind.value for kind in SAGA_EVENT_TYPES)
_KINDS_IN_BYTES = tuple(kind.encode() for kind in _KINDS)
_OTHER = -1
_read_payload = msgspec.json.Decoder(SagaPayload).decode


class SagaBatchFold(SagaFold, BatchFold[SagaState, SagaSpanRecord]):
    """A `SagaFold` with a timeout that also takes batches."""

    def __init__(self, *, timeout_ms: int, grace_ms: int) -> None:
        super().__init__(timeout_ms=timeout_ms, grace_ms=grace_ms)

    def batches(self, state: SagaState) -> ImmediateBatches[SagaSpanRecord]:
        """The receiver of batches for `state`."""
        return ImmediateBatches(partial(self._apply_batch, state))

    def _apply_batch(
        self, state: SagaState, columns: EventColumns, seen_at_ms: npt.NDArray[np.int64]
    ) -> FoldedBatch[SagaSpanRecord] | None:
        payloads = read_each(columns.payloads, _read_payload)
        if payloads is None:
            return None
        kinds = columns.event_types.index_in(_KINDS_IN_BYTES).tolist()
        try:
            parsed = zip(kinds, _parsed_events(columns, payloads, seen_at_ms), strict=True)
            events = [(index, _KINDS[kind], event) for index, (kind, event) in enumerate(parsed) if kind != _OTHER]
        except InvalidPayload:
            return None
        return FoldedBatch(len(columns) - len(events), self._apply_all(state, events))


def _parsed_events(
    columns: EventColumns, payloads: Sequence[SagaPayload], seen_at_ms: npt.NDArray[np.int64]
) -> Iterable[ParsedEvent]:
    traces = columns.causal_trace_ids
    fields = zip(
        payloads,
        columns.event_ids(),
        columns.timestamps_us.tolist(),
        seen_at_ms.tolist(),
        columns.origins.values(),
        [b""] * len(columns) if traces is None else traces.values(),
        strict=True,
    )
    for payload, event_id, time_us, seen_ms, origin, trace in fields:
        session_id, agent_did = cached_origin(origin)
        # Divided as `datetime.timestamp` divides.
        yield parsed_event(
            payload, event_id, time_us / 1_000_000, seen_ms, session_id, agent_did, trace.decode() if trace else ""
        )
