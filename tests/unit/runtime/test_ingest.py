"""Handing records to the roles that a service has, and to no others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from hypervisor_consumers.runtime.ingest import RecordIngest
from hypervisor_consumers.runtime.ops.dead_letter_rate import DeadLetterRate
from hypervisor_consumers.runtime.ops.health import Health
from hypervisor_consumers.runtime.partitions.assignment import Assignment
from hypervisor_consumers.runtime.processor import Roles
from hypervisor_consumers.runtime.records import Record, Result, TopicPartition
from hypervisor_schemas.dead_letters import DeadLetter
from hypervisor_schemas.errors import UndecodableRecord
from hypervisor_schemas.wire.codec import EventDecoder
from hypervisor_telemetry.testing.memory.broker import MemoryMessage
from hypervisor_telemetry.testing.memory.log import Kind
from hypervisor_telemetry.testing.memory.log import Record as LogRecord

if TYPE_CHECKING:
    from hypervisor_schemas.errors import RecordError
    from hypervisor_schemas.events import HypervisorEvent

HERE, TABLE = TopicPartition("t.events", 0), TopicPartition("t.table", 0)


class Processor:
    """A service that takes events alone."""

    def __init__(self) -> None:
        self.rejected: list[RecordError] = []

    def apply(self, record: Record, event: HypervisorEvent) -> Result:
        raise AssertionError((record, event))

    def reject(self, record: Record, error: RecordError) -> None:
        self.rejected.append(error)


@pytest.fixture
def assignment() -> Assignment[Any]:
    assignment: Assignment[Any] = Assignment()
    assignment.assign([HERE, TABLE], tables=[TABLE.topic])
    for one in assignment:
        one.restored("content", 0)
    return assignment


@pytest.fixture
def processor() -> Processor:
    return Processor()


@pytest.fixture
def ingest(assignment: Assignment[Any], processor: Processor) -> RecordIngest:
    return RecordIngest(
        service="s",
        processor=processor,  # type: ignore[arg-type]
        roles=Roles(),
        assignment=assignment,
        decoder=EventDecoder(),
        health=Health(),
        dead_letter_rate=DeadLetterRate(0.5, 1000),
    )


def message(topic_partition: TopicPartition, headers: Any = None) -> Any:
    record = LogRecord(0, Kind.PLAIN, b"value", b"key", headers, 1)
    return MemoryMessage.of(topic_partition, record)


def test_a_table_that_nobody_takes_is_a_fault_of_the_wiring(ingest: RecordIngest, assignment: Assignment[Any]):
    with pytest.raises(AssertionError, match="nobody takes its rows"):
        ingest.take(assignment[TABLE], [message(TABLE)])


def test_a_replayed_output_of_a_service_without_outputs_is_a_dead_letter(
    ingest: RecordIngest, assignment: Assignment[Any], processor: Processor
):
    letter = DeadLetter(None, b"span", (), "s", "output_refused", "", "t.events", 0, 7, 1, output="a span")
    ingest.take(assignment[HERE], [message(HERE, letter.replay_headers())])
    [error] = processor.rejected
    assert isinstance(error, UndecodableRecord)
    assert str(error) == "This service has no outputs that could be delivered again."
