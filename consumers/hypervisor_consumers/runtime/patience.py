"""A schema registry that doesn't answer is not asked by every record."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from hypervisor_schemas.errors import RegistryUnavailable, UnknownSchema

__all__ = ["PatientLookup"]

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 5.0


class PatientLookup:
    """A lookup of schemas by id that, once it has failed, fails at once for a while: 0.5 s, then twice as long.

    A registry that hangs takes seconds to fail. Asked for every waiting partition in turn, it would stop the
    partitions that don't need it, and in the end the loop would count as stalled.
    """

    def __init__(self, schema_by_id: Callable[[int], str], clock: Callable[[], float] = time.monotonic) -> None:
        self._schema_by_id = schema_by_id
        self._clock = clock
        self._failure = ""
        self._until = -math.inf
        self._wait = _FIRST_WAIT

    def __call__(self, schema_id: int) -> str:
        """The schema's text.

        Raises:
            UnknownSchema: The registry doesn't know the id.
            RegistryUnavailable: It didn't answer, now or a moment ago.
        """
        if self._clock() < self._until:
            raise RegistryUnavailable(self._failure)
        try:
            text = self._schema_by_id(schema_id)
        except RegistryUnavailable as error:
            self._failure = str(error)
            self._until = self._clock() + self._wait
            self._wait = min(2 * self._wait, _LONGEST_WAIT)
            raise
        except UnknownSchema:  # an answer, too
            self._wait = _FIRST_WAIT
            raise
        self._wait = _FIRST_WAIT
        return text
