"""The wiring of event-index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from hypervisor_consumers.event_index.api.routes import create_router
from hypervisor_consumers.event_index.backends.store import EventStore, open_store
from hypervisor_consumers.event_index.indexer import Indexer
from hypervisor_consumers.event_index.metric_defs import index_families
from hypervisor_consumers.event_index.retention import remove_expired
from hypervisor_consumers.runtime.commit.dead_letters import DeadLetterWriter
from hypervisor_consumers.runtime.kafka.client_config import writer_settings
from hypervisor_consumers.runtime.kafka.offset_queries import OffsetQueries
from hypervisor_consumers.runtime.ops.auth import require_token_off_loopback
from hypervisor_consumers.runtime.ops.freshness import IndexFreshness
from hypervisor_consumers.runtime.service_copy import Parts, Runtime, Service
from hypervisor_schemas.errors import SettingError
from hypervisor_schemas.settings import Settings
from hypervisor_schemas.topics import DEAD_LETTERS, topic_names

__all__ = ["DEFAULT_PORT", "IndexService", "event_index_service"]

DEFAULT_PORT = 8002


def event_index_service(database: str | None, host: str, environ: Mapping[str, str]) -> Service:
    """The service that writes every event to a database and answers queries under `/v1`.

    The database is at the URL `database`, or else at `TELEMETRY_DATABASE_URL`.

    Raises:
        SettingError: No database is named, it can't be opened, or `host` needs a token and none is set.
    """
    token = Settings.API_TOKEN.of(environ)
    require_token_off_loopback(host, token)
    url = database or Settings.DATABASE_URL.of(environ)
    if url is None:
        raise SettingError(
            Settings.DATABASE_URL.name, "is not set; name the database, as in --database sqlite:///events.db."
        )
    store = open_store(
        url, query_seconds=Settings.QUERY_TIMEOUT.of(environ), retention=Settings.INDEX_RETENTION.of(environ)
    )
    return IndexService(store, token)


@dataclass(frozen=True, slots=True)
class IndexService:
    """The service on an open store; `token` as `TELEMETRY_API_TOKEN`."""

    store: EventStore
    token: str | None = field(default=None, repr=False)
    name: str = "event-index"

    def parts(self, runtime: Runtime) -> Parts:
        """The indexer, which reads all event topics into the store, and the HTTP API."""
        clients, consumer = runtime.clients, runtime.consumer
        dead_letters = runtime.prefix + DEAD_LETTERS
        indexer = Indexer(
            self.store,
            offset_queries=OffsetQueries(clients, consumer),
            dead_letters=DeadLetterWriter(
                clients, writer_settings(consumer), service=self.name, topic=dead_letters
            ),
            assignment=runtime.assignment,
            runtime_metrics=runtime.runtime_metrics,
            now=runtime.now,
            clock=runtime.clock,
        )
        router = create_router(self.store, IndexFreshness(runtime.runtime_metrics, runtime.now), self.token)
        topics = topic_names(runtime.prefix)
        return Parts(
            indexer,
            topics,
            needed=[dead_letters],
            families=lambda: index_families(removed=self.store.expired, not_added=self.store.not_added),
            routers=[router],
            beside={"retention": partial(remove_expired, self.store)},
            answers_for=topics,
        )
