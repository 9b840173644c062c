"""The framing of a publisher's records: the one with the registry's id once that is known, else the other."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from hypervisor_schemas.backoff import Backoff
from hypervisor_schemas.errors import RegistryUnavailable
from hypervisor_schemas.rate_limited_log import RateLimitedLog
from hypervisor_schemas.wire.codec import SINGLE_OBJECT, SUBJECT, confluent_framing, schema_text

if TYPE_CHECKING:
    from hypervisor_schemas.wire.registry import SchemaRegistry

__all__ = ["RecordFraming"]

log = logging.getLogger(__name__)


class RecordFraming:
    """Holds the framing for the next record, `current`.

    With a registry, a thread asks it for the schema's id until there is one, again after 1, 2, 4 … 60 seconds.
    Publishing doesn't wait for the answer. An agent only reads; the operator of the registry registers the schema.
    """

    def __init__(self, registry: SchemaRegistry | None) -> None:
        self.current = SINGLE_OBJECT
        self._registry = registry
        self._limited = RateLimitedLog(log)

    def start_lookup(self, stopped: threading.Event) -> None:
        """Ask for the id on a thread until `stopped`, unless it is known. A forked child has to start again."""
        if self._registry is None or self.current != SINGLE_OBJECT:
            return
        threading.Thread(
            target=self._look_up, args=(self._registry, stopped), name="hypervisor-schema-id", daemon=True
        ).start()

    def _look_up(self, registry: SchemaRegistry, stopped: threading.Event) -> None:
        backoff = Backoff(first_seconds=1.0, longest_seconds=60.0)
        while not stopped.is_set():
            try:
                schema_id = registry.id_of(SUBJECT, schema_text())
                if schema_id is not None:
                    self.current = confluent_framing(schema_id)
                    return
            except (RegistryUnavailable, OverflowError) as error:
                self._limited.log(logging.WARNING, "registry", "%s Events go in the framing without an id.", error)
            else:
                self._limited.log(
                    logging.WARNING,
                    "unregistered",
                    "The schema registry has no %s yet: run `hypervisor-telemetry schemas register`. "
                    "Events go in the framing without an id.",
                    SUBJECT,
                )
            stopped.wait(backoff.next_seconds())
