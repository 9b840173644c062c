"""Bringing back the rows of a public table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import confluent_kafka
import pytest

from hypervisor_consumers.runtime.partitions.restoration import TableRows
from hypervisor_consumers.runtime.records import TopicPartition
from hypervisor_schemas.errors import OutputUnavailable, RecordError
from tests.support.restoring import Workshop
from tests.support.word_count_service import TABLE, WordView, World, published_words, started

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def world() -> World:
    return World()


class Lenient(WordView):
    """Takes keys with spaces around them, and no word for a number."""

    def apply(self, rows: dict[Any, Any], key: bytes | None, value: bytes | None) -> None:
        if key is not None and value == b"?":
            raise RecordError("That is no number.")
        super().apply(rows, None if key is None else key.strip(), value)


class TestTheView:
    def restore(self, world: World) -> tuple[Workshop, Callable[[], tuple[Any, Any]]]:
        workshop = Workshop(world)
        view = Lenient()
        topic_partition = TopicPartition(TABLE, 1)
        workshop.begin_into(topic_partition, TableRows(view))
        return workshop, lambda: (workshop.done[topic_partition].into.rows, workshop.done[topic_partition].offset)  # type: ignore[union-attr]

    def test_is_read_from_its_beginning(self, world: World) -> None:
        world.consumer().commit(offsets=[confluent_kafka.TopicPartition(TABLE, 1, 2)], asynchronous=False)
        for key, value in (("a", "1"), ("b", "2"), ("a", "3"), ("b", None)):
            world.kafka.append(TABLE, 1, value, key=key)
        workshop, found = self.restore(world)
        workshop.step(3)
        assert found() == ({"a": 3}, 4)

    def test_of_an_empty_topic_is_empty(self, world: World) -> None:
        workshop, found = self.restore(world)
        workshop.step(3)
        assert found() == ({}, 0)

    def test_goes_over_rows_that_cannot_be_used(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        world.kafka.append(TABLE, 1, "?")
        world.kafka.append(TABLE, 1, "1", key="a")
        workshop, found = self.restore(world)
        workshop.step(3)
        assert found() == ({"a": 1}, 2)
        assert f"{TABLE}: A row has no key." in caplog.text

    def test_keeps_the_row_before_one_that_cannot_be_used(self, world: World) -> None:
        for key, value in (("a", "1"), ("b", "1"), ("a", "?"), ("b", None), ("c", "?")):
            world.kafka.append(TABLE, 1, value, key=key)
        workshop, found = self.restore(world)
        workshop.step(6)
        assert found() == ({"a": 1}, 5)

    @pytest.mark.parametrize(
        ("last", "rows"), [(("a ", None), {}), ((" a", "3"), {"a": 3}), (("a", "4"), {"a": 4})]
    )
    def test_has_the_last_row_of_a_key_that_was_written_in_two_ways(
        self, world: World, last: tuple[str, str | None], rows: dict[str, int]
    ) -> None:
        for key, value in ((" a", "1"), ("a", "2"), last):
            world.kafka.append(TABLE, 1, value, key=key)
        workshop, found = self.restore(world)
        workshop.step(6)
        assert found() == (rows, 3)

    def test_has_all_that_was_committed_before_and_waits_for_what_is_open(self, world: World) -> None:
        copy = started(world, 0, publish=published_words)
        world.say(0, "a", "a")
        copy.read()
        world.kafka.fail_next("commit_transaction", before=True)
        with pytest.raises(OutputUnavailable):
            copy.commit()
        [partition] = [number for number in (0, 1) if world.kinds(TABLE, number)]
        workshop, view = Workshop(world), WordView()
        topic_partition = TopicPartition(TABLE, partition)
        workshop.begin_into(topic_partition, TableRows(view))
        workshop.step(3)
        assert workshop.done == {}
        copy.commit()
        workshop.step(3)
        assert workshop.done[topic_partition].into.rows == {"a": 2}  # type: ignore[union-attr]
        assert workshop.done[topic_partition].offset == 1
