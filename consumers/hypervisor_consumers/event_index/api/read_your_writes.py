"""Waiting until the index has come far enough: to what somebody wrote, or to what is new."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from starlette.concurrency import run_in_threadpool

from hypervisor_consumers.runtime.records import TopicPartition

__all__ = ["Inclusion"]


class Inclusion:
    """Looks at the offsets of the database for everybody who waits, one look at a time.

    Who waits holds no thread, and a thousand of them share a look every `every` seconds. The database is looked
    at, not what this process has written: other copies write, too.
    """

    def __init__(self, offsets: Callable[[], Mapping[TopicPartition, int]], every: float = 0.02) -> None:
        self._offsets = offsets
        self._every = every
        self._look: asyncio.Task[Mapping[TopicPartition, int]] | None = None

    async def missing(self, wanted: Mapping[TopicPartition, int], seconds: float) -> dict[TopicPartition, int]:
        """Wait until the database includes these offsets, `seconds` at most.

        Returns:
            The partitions that don't by then, and where they are (0: nowhere). Nothing: it includes all.

        Raises:
            StoreUnavailable: The database didn't answer.
        """

        def missing(at: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
            return {
                topic_partition: at.get(topic_partition, 0)
                for topic_partition, offset in wanted.items()
                if at.get(topic_partition, 0) < offset
            }

        return missing(await self.until(lambda at: not missing(at), seconds))

    async def until(
        self, enough: Callable[[Mapping[TopicPartition, int]], bool], seconds: float
    ) -> Mapping[TopicPartition, int]:
        """Wait until the offsets are `enough`, `seconds` at most. Returns them as they are by then.

        Raises:
            StoreUnavailable: The database didn't answer.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        pause = 0.0
        while True:
            # Shielded: one who goes away must not end the look of the others.
            at = await asyncio.shield(self._next_look(pause))
            if enough(at) or loop.time() >= deadline:
                return at
            pause = self._every

    def _next_look(self, pause: float) -> asyncio.Task[Mapping[TopicPartition, int]]:
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._look_after(pause))
        return self._look

    async def _look_after(self, pause: float) -> Mapping[TopicPartition, int]:
        await asyncio.sleep(pause)
        return await run_in_threadpool(self._offsets)
