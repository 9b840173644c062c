"""The wiring of event-index."""

from __future__ import annotations

from collections.abc import Mapping

from hypervisor_consumers.event_index.api import create_router
from hypervisor_consumers.event_index.indexer import Indexer
from hypervisor_consumers.event_index.store import open_store
from hypervisor_consumers.runtime.access import require_token_off_loopback
from hypervisor_consumers.runtime.service import Service
from hypervisor_schemas.errors import SettingError
from hypervisor_schemas.settings import Settings
from hypervisor_schemas.topics import TOPICS

__all__ = ["DEFAULT_PORT", "event_index_service"]

DEFAULT_PORT = 8002


def event_index_service(database: str | None, host: str, environ: Mapping[str, str]) -> Service:
    """Every event to the database at this URL (else `TELEMETRY_DATABASE_URL`), and `/v1` to ask it.

    Raises:
        SettingError: No database is named, it can't be opened, or `host` needs a token.
    """
    token = Settings.API_TOKEN.of(environ)
    require_token_off_loopback(host, token)
    url = database or Settings.DATABASE_URL.of(environ)
    if url is None:
        raise SettingError(
            Settings.DATABASE_URL.name, "is not set; name the database, as in --database sqlite:///events.db."
        )
    store = open_store(url)
    topics = [topic.name for topic in TOPICS if topic.name.startswith("events.")]
    return Service("event-index", topics, Indexer(store), routers=[create_router(store, token)])
