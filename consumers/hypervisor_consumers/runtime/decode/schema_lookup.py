"""A lookup of schemas that spares the registry: it doesn't ask while the registry is away, nor for unknown ids."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from hypervisor_schemas.backoff import Backoff
from hypervisor_schemas.errors import RegistryUnavailable, UnknownSchema

__all__ = ["CachedSchemaLookup"]

_UNKNOWN_SECONDS = 30.0
_MAX_UNKNOWN_IDS = 1_000


class CachedSchemaLookup:
    """A lookup of schemas by id that repeats a recent failure for a while, without asking the registry.

    After a failure it fails for 0.5 s, then for twice as long each time, 5 s at most. A registry that hangs takes
    seconds to fail: asked for every waiting partition in turn, it would stop the partitions that don't need it,
    and in the end the loop would count as stalled.

    An id that the registry doesn't know stays unknown for 30 s, so that a flood of such records doesn't cost a
    request each; a schema that is registered later is found after that. The last 1,000 such ids are kept. The
    caller keeps the schemas that were found (`EventDecoder` asks for an id once).
    """

    def __init__(self, schema_by_id: Callable[[int], str], clock: Callable[[], float] = time.monotonic) -> None:
        self._schema_by_id = schema_by_id
        self._clock = clock
        self._failure = ""
        self._backoff = Backoff(-math.inf, first_seconds=0.5)
        self._unknown: dict[int, tuple[float, str]] = {}
        """The end of the wait and the reason, by id, in the order of the answers."""

    def __call__(self, schema_id: int) -> str:
        """The schema's text.

        Raises:
            UnknownSchema: The registry doesn't know the id, now or a moment ago.
            RegistryUnavailable: It didn't answer, now or a moment ago.
        """
        now = self._clock()
        until, why = self._unknown.get(schema_id, (-math.inf, ""))
        if now < until:
            raise UnknownSchema(why)
        if now < self._backoff.until:
            raise RegistryUnavailable(self._failure)
        try:
            text = self._schema_by_id(schema_id)
        except RegistryUnavailable as error:
            self._failure = str(error)
            self._backoff.again(self._clock())
            raise
        except UnknownSchema as error:  # an answer, too
            self._backoff.reset()
            self._remember(schema_id, str(error))
            raise
        self._backoff.reset()
        return text

    def _remember(self, schema_id: int, why: str) -> None:
        self._unknown.pop(schema_id, None)
        if len(self._unknown) == _MAX_UNKNOWN_IDS:
            del self._unknown[next(iter(self._unknown))]
        self._unknown[schema_id] = (self._clock() + _UNKNOWN_SECONDS, why)
