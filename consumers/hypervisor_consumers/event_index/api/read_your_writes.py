"""Waits until the index includes certain offsets: those of a client's own writes, or new ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from starlette.concurrency import run_in_threadpool

from hypervisor_consumers.runtime.records import TopicPartition

__all__ = ["OffsetWaiter"]


class OffsetWaiter:
    """Polls the offsets of the database for all requests that wait, one poll at a time.

    A waiting request holds no thread, and a thousand of them share one poll every `poll_seconds`. The offsets are
    those of the database, not of this process's writes: other copies write, too.
    """

    def __init__(self, offsets: Callable[[], Mapping[TopicPartition, int]], poll_seconds: float = 0.02) -> None:
        self._offsets = offsets
        self._poll_seconds = poll_seconds
        self._poll: asyncio.Task[Mapping[TopicPartition, int]] | None = None

    async def missing(self, awaited: Mapping[TopicPartition, int], seconds: float) -> dict[TopicPartition, int]:
        """Wait until the database includes these offsets, `seconds` at most.

        Returns:
            The partitions that it doesn't include by then, with their offsets in the database (0: none).

        Raises:
            StoreUnavailable: The database didn't answer.
        """

        def missing(offsets: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
            return {
                topic_partition: offsets.get(topic_partition, 0)
                for topic_partition, offset in awaited.items()
                if offsets.get(topic_partition, 0) < offset
            }

        return missing(await self.wait_until(lambda offsets: not missing(offsets), seconds))

    async def wait_until(
        self, is_enough: Callable[[Mapping[TopicPartition, int]], bool], seconds: float
    ) -> Mapping[TopicPartition, int]:
        """Wait until `is_enough` is true for the offsets, `seconds` at most. Returns the offsets at the end.

        Raises:
            StoreUnavailable: The database didn't answer.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        pause_seconds = 0.0
        while True:
            if self._poll is None or self._poll.done():
                self._poll = asyncio.create_task(self._poll_after(pause_seconds))
            # Shielded: a request that is cancelled must not cancel the poll of the others.
            offsets = await asyncio.shield(self._poll)
            if is_enough(offsets) or loop.time() >= deadline:
                return offsets
            pause_seconds = self._poll_seconds

    async def _poll_after(self, seconds: float) -> Mapping[TopicPartition, int]:
        await asyncio.sleep(seconds)
        return await run_in_threadpool(self._offsets)
