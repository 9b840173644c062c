"""The metrics of a copy of a service with state."""

from __future__ import annotations

import pytest

from hypervisor_consumers.runtime.partitions.offset_accounting import WITHOUT_RECORD
from tests.support.word_count_service import HERE, SOURCE, STATE, Copy, World, results, said, started


@pytest.fixture
def world() -> World:
    return World()


def sample(copy: Copy, name: str) -> float:
    families = copy.runtime_metrics.families(now=0, dead_letter_rate=False, degraded=False)
    [value] = [one.value for family in families for one in family.samples if one.name.endswith(name)]
    return value


class TestTheLedger:
    def test_has_the_whole_account(self, world: World) -> None:
        copy = started(world, 0)
        event = said("a")
        world.publish(0, event, event)
        world.kafka.append(SOURCE, 0, b"\xff")
        copy.read()
        assert results(copy) == {}
        copy.processor.advanced(HERE, 5)
        copy.commit()
        assert results(copy) == {"applied": 1, "duplicate": 1, "undecodable": 1, WITHOUT_RECORD: 2}

    def test_has_the_account_of_the_copy_before(self, world: World) -> None:
        first = started(world, 0)
        world.say(0, "a")
        first.read()
        first.commit()
        first.consumer.close()
        assert results(first) == {}
        assert results(started(world, 0, name="b")) == {"applied": 1}

    def test_counts_what_goes_to_the_changelog(self, world: World) -> None:
        copy = started(world, 0)
        world.say(0, "a")
        copy.read()
        copy.commit()
        records = world.records(STATE)
        assert sample(copy, "changelog_records_total") == len(records) == 3
        assert sample(copy, "changelog_bytes_total") == sum(
            len(key or b"") + len(value or b"") for key, value in records
        )

    def test_times_records_from_their_publishing_to_their_commit_once(self, world: World) -> None:
        copy = started(world, 0)
        world.say(0, "a", "b")
        world.clock.now += 3
        copy.read()
        world.kafka.fail_next("send_offsets_to_transaction", before=True)
        copy.commit()
        assert sample(copy, "latency_seconds_count") == 0
        copy.read()
        world.clock.now += 1
        copy.commit()
        assert sample(copy, "latency_seconds_count") == 2
        assert sample(copy, "latency_seconds_sum") == 8
        world.say(0, "c")
        copy.read()
        copy.commit()
        assert sample(copy, "latency_seconds_count") == 3

    def test_does_not_time_records_of_a_partition_that_was_lost(self, world: World) -> None:
        copy = started(world, 0, 1)
        world.say(0, "a")
        world.say(1, "b")
        copy.read()
        copy.lose(HERE)
        copy.commit()
        assert sample(copy, "latency_seconds_count") == 1
