"""Which framing a publisher's records get: the one with the registry's id once it is known, else the other."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from hypervisor_schemas.errors import RegistryUnavailable
from hypervisor_schemas.rate_limited_log import RateLimitedLog
from hypervisor_schemas.wire.codec import SINGLE_OBJECT, SUBJECT, confluent_framing, schema_text

if TYPE_CHECKING:
    from hypervisor_schemas.wire.registry import SchemaRegistry

__all__ = ["RecordFraming"]

log = logging.getLogger(__name__)

_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0


class RecordFraming:
    """`current` is the framing for the next record.

    With a registry, a thread asks it for the schema's id until there is one (after 1, 2, 4 … 60 seconds again);
    nothing waits for the answer. An agent only reads: whoever runs the registry registers the schema.
    """

    def __init__(self, registry: SchemaRegistry | None) -> None:
        self.current = SINGLE_OBJECT
        self._registry = registry
        self._limited = RateLimitedLog(log)

    def look_for_id(self, stopped: threading.Event) -> None:
        """Begin to look, unless the id is known, and go on until `stopped`. A forked child has to begin anew."""
        if self._registry is None or self.current != SINGLE_OBJECT:
            return
        threading.Thread(
            target=self._look, args=(self._registry, stopped), name="hypervisor-schema-id", daemon=True
        ).start()

    def _look(self, registry: SchemaRegistry, stopped: threading.Event) -> None:
        wait = _FIRST_WAIT
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
            stopped.wait(wait)
            wait = min(wait * 2, _LONGEST_WAIT)
