"""A cached lookup of schemas: a registry is not asked for every record while it is away, or doesn't know an id."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from hypervisor_schemas.errors import RegistryUnavailable, UnknownSchema

__all__ = ["CachedSchemaLookup"]

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 5.0
_UNKNOWN_FOR = 30.0
_MOST_UNKNOWN = 1_000


class CachedSchemaLookup:
    """Looks up schemas by id; for a while it repeats an answer that can't have changed yet.

    Once it has failed, it fails for 0.5 s, then for twice as long each time, 5 s at most. A registry that hangs
    takes seconds to fail: asked for every waiting partition in turn, it would stop the partitions that don't need
    it, and in the end the loop would count as stalled.

    An id that the registry doesn't know stays unknown for 30 s, so that a flood of such records costs no question
    each; a schema that is registered later is found after that. Of such ids the last 1,000 are kept. Schemas that
    were found are kept by whoever asks (`EventDecoder` asks for an id once).
    """

    def __init__(self, schema_by_id: Callable[[int], str], clock: Callable[[], float] = time.monotonic) -> None:
        self._schema_by_id = schema_by_id
        self._clock = clock
        self._failure = ""
        self._until = -math.inf
        self._wait = _FIRST_WAIT
        self._unknown: dict[int, tuple[float, str]] = {}
        """Until when, and why; in the order of the answers."""

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
        if now < self._until:
            raise RegistryUnavailable(self._failure)
        try:
            text = self._schema_by_id(schema_id)
        except RegistryUnavailable as error:
            self._failure = str(error)
            self._until = self._clock() + self._wait
            self._wait = min(2 * self._wait, _LONGEST_WAIT)
            raise
        except UnknownSchema as error:  # an answer, too
            self._wait = _FIRST_WAIT
            self._remember(schema_id, str(error))
            raise
        self._wait = _FIRST_WAIT
        return text

    def _remember(self, schema_id: int, why: str) -> None:
        self._unknown.pop(schema_id, None)
        if len(self._unknown) == _MOST_UNKNOWN:
            del self._unknown[next(iter(self._unknown))]
        self._unknown[schema_id] = (self._clock() + _UNKNOWN_FOR, why)
