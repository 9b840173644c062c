"""The wiring of the service saga-spans."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import fastapi

from hypervisor_consumers.runtime.commit.stateful_processor import EXPIRY_INTERVAL_SECONDS
from hypervisor_consumers.runtime.commit.visibility import Shown
from hypervisor_consumers.runtime.ops.auth import require_token_off_loopback
from hypervisor_consumers.runtime.ops.freshness import Freshness
from hypervisor_consumers.runtime.protocols import Output
from hypervisor_consumers.runtime.service_copy import StatefulService
from hypervisor_consumers.saga_spans.exposition import saga_families
from hypervisor_consumers.saga_spans.fold.batch_fold import SagaBatchFold
from hypervisor_consumers.saga_spans.fold.state import SagaState
from hypervisor_consumers.saga_spans.routes import create_router
from hypervisor_consumers.saga_spans.sinks.span_codec import SpanCodec
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord
from hypervisor_schemas.settings import Settings

__all__ = ["DEFAULT_PORT", "saga_spans_service"]

DEFAULT_PORT = 8001


def saga_spans_service(
    sink: Output[SagaSpanRecord],
    host: str,
    environ: Mapping[str, str],
    now: Callable[[], float] = time.time,
) -> StatefulService[SagaState, SagaSpanRecord]:
    """The service that delivers spans of sagas to `sink`, and serves metrics of sagas and `/v1/sagas` on `host`.

    `now` gives the seconds since 1970.

    Raises:
        SettingError: A setting can't be read, or `host` needs a token.
    """
    token = Settings.API_TOKEN.of(environ)
    require_token_off_loopback(host, token)
    timeout, grace = Settings.SAGA_TIMEOUT.of(environ), Settings.SAGA_GRACE.of(environ)

    def routers(shown: Callable[[], Shown[SagaState]], freshness: Freshness) -> Sequence[fastapi.APIRouter]:
        return [create_router(shown, freshness, now, token)]

    return StatefulService(
        name="saga-spans",
        source="events.saga",
        fold=SagaBatchFold(timeout_ms=int(timeout * 1000), grace_ms=int(grace * 1000)),
        families=lambda shown: saga_families(shown.states, now()),
        output=sink,
        output_codec=SpanCodec(),
        # A saga should not be ended a minute late if TELEMETRY_SAGA_TIMEOUT is seconds.
        expire_every=max(0.5, min(EXPIRY_INTERVAL_SECONDS, timeout / 10, (grace or EXPIRY_INTERVAL_SECONDS) / 2)),
        routers=routers,
    )
