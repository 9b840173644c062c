"""Messages are told apart by partition, however they come."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from hypervisor_consumers.runtime.kafka.message_grouping import by_topic_partition
from hypervisor_consumers.runtime.records import TopicPartition


class Message(NamedTuple):
    key: tuple[str, int]
    number: int

    def topic(self) -> str:
        return self.key[0]

    def partition(self) -> int:
        return self.key[1]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 2)), max_size=12), st.booleans())
def test_every_message_is_with_its_partition_in_the_order_it_came(
    keys: list[tuple[str, int]], in_runs: bool
) -> None:
    messages = [Message(key, number) for number, key in enumerate(sorted(keys) if in_runs else keys)]
    found = by_topic_partition(messages)
    assert {topic_partition: list(batch) for topic_partition, batch in found.items()} == {
        TopicPartition(*key): [message for message in messages if message.key == key] for key in keys
    }
