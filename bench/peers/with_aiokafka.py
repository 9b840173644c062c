"""aiokafka and fastavro: counts in memory, offsets committed from time to time."""

from __future__ import annotations

import asyncio
import time

from aiokafka import AIOKafkaConsumer

from bench.peers.shared import Counts, Run, arguments, calm_garbage_collection, event_reader


async def main() -> None:
    given = arguments()
    consumer = AIOKafkaConsumer(
        given.topic,
        bootstrap_servers=given.bootstrap,
        group_id=given.group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        isolation_level="read_committed",
        # As librdkafka does: the checksums would be computed in Python's own time.
        check_crcs=False,
        max_partition_fetch_bytes=4 << 20,
    )
    read, counts, run = event_reader(), Counts(), Run(given.events)
    calm_garbage_collection()
    await consumer.start()
    try:
        next_commit = time.monotonic() + given.commit_interval
        is_last = False
        while not is_last:
            batches = await consumer.getmany(timeout_ms=100, max_records=1000)
            is_last = run.saw(sum(map(len, batches.values())))
            for records in batches.values():
                for record in records:
                    counts.add(read(record.value))
            if is_last or time.monotonic() >= next_commit:
                await consumer.commit()
                next_commit = time.monotonic() + given.commit_interval
        run.end(counts)
    finally:
        await consumer.stop()


if __name__ == "__main__":
    asyncio.run(main())
