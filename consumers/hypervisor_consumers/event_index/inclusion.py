"""Waiting until the index includes what somebody wrote."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from starlette.concurrency import run_in_threadpool

from hypervisor_consumers.runtime.processor import Place

__all__ = ["Inclusion"]


class Inclusion:
    """Looks at the offsets of the database for everybody who waits, one look at a time.

    Who waits holds no thread, and a thousand of them share a look every `every` seconds. The database is looked
    at, not what this process has written: other copies write, too.
    """

    def __init__(self, offsets: Callable[[], Mapping[Place, int]], every: float = 0.02) -> None:
        self._offsets = offsets
        self._every = every
        self._look: asyncio.Task[Mapping[Place, int]] | None = None

    async def missing(self, wanted: Mapping[Place, int], seconds: float) -> dict[Place, int]:
        """Wait until the database includes these offsets, `seconds` at most.

        Returns:
            The partitions that don't by then, and where they are (0: nowhere). Nothing: it includes all.

        Raises:
            StoreUnavailable: The database didn't answer.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        pause = 0.0
        while True:
            # Shielded: one who goes away must not end the look of the others.
            at = await asyncio.shield(self._next_look(pause))
            missing = {place: at.get(place, 0) for place, offset in wanted.items() if at.get(place, 0) < offset}
            if not missing or loop.time() >= deadline:
                return missing
            pause = self._every

    def _next_look(self, pause: float) -> asyncio.Task[Mapping[Place, int]]:
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._look_after(pause))
        return self._look

    async def _look_after(self, pause: float) -> Mapping[Place, int]:
        await asyncio.sleep(pause)
        return await run_in_threadpool(self._offsets)
