"""Bringing back what is kept of a partition when it comes to this copy.

The order is what makes it right:

1. the group's offset, once no open transaction can change it any more: a copy that lost the partition can still
   finish a commit that it had begun;
2. then where the changelog ends, uncommitted records counted: by then, all that belongs to that offset is in it;
3. then the changelog up to there; markers of transactions have offsets, too.

The other way round, a commit that ends in between would be in the offset and not in the state. Last, the source is
read again over the window of known event ids. A public table is its own changelog: only steps 2 and 3.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import confluent_kafka
from confluent_kafka import KafkaException, TopicPartition

from hypervisor_consumers.runtime.asker import Asker
from hypervisor_consumers.runtime.contract import View
from hypervisor_consumers.runtime.kafka import Kafka, headers_of
from hypervisor_consumers.runtime.partition import Partition
from hypervisor_consumers.runtime.processor import Place
from hypervisor_schemas.codec import EventDecoder
from hypervisor_schemas.dead_letters import replay_for
from hypervisor_schemas.errors import RecordError, RegistryUnavailable, StateError
from hypervisor_schemas.limited_log import LimitedLog

__all__ = ["Restoration", "Restorer"]

log = logging.getLogger(__name__)

BATCH = 1000
TAKES_LONG = 15.0
"""Seconds after which a restoration says what it waits for."""

_AGAIN_AFTER = 0.2


class _Stage(Enum):
    OFFSET = 1
    END = 2
    KEPT = 3
    SOURCE = 4
    WINDOW = 5
    DONE = 6


@dataclass(slots=True, eq=False)
class Restoration:
    """One partition on its way back."""

    place: Place
    into: Partition[Any, Any] | tuple[View, dict[Any, Any]]
    """A partition of the source, or the rows of a public table."""
    began: float
    stage: _Stage = _Stage.OFFSET
    not_before: float = 0.0
    offset: int | None = None
    """The group's, then the one to read from."""
    reading: Place | None = None
    position: int = 0
    until: int = 0
    error: StateError | None = None


class Restorer:
    """Brings partitions back, several at a time. `step` is called over and over, by a thread of its own.

    The other methods may be called by any thread.
    """

    def __init__(
        self,
        kafka: Kafka,
        consumer: Mapping[str, Any],
        *,
        service: str,
        state_topic: str,
        decoder: EventDecoder,
        clock: Callable[[], float],
    ) -> None:
        self._kafka = kafka
        self._group = consumer["group.id"]
        self._service = service
        self._state_topic = state_topic
        self._decoder = decoder
        self._clock = clock
        self._asker = Asker(kafka, consumer)
        self._reader_settings = {
            **{name: value for name, value in consumer.items() if not name.startswith(_OF_MEMBERS)},
            "group.id": self._group,
            "auto.offset.reset": "error",
            # At its end a partition would hold up the others of the same fetch for half a second.
            "fetch.wait.max.ms": 10,
        }
        self._limited = LimitedLog(log)
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._new: list[Restoration] = []
        self._cancelled: set[Place] = set()
        self._finished: list[Restoration] = []
        self._running: list[Restoration] = []
        self._reader: Any = None
        self._state_partitions: int | None = None
        self.trouble = ""
        """What holds restoring up, as a sentence."""

    def begin(self, place: Place, into: Partition[Any, Any] | tuple[View, dict[Any, Any]]) -> None:
        """Start with one partition."""
        stage = _Stage.OFFSET if isinstance(into, Partition) else _Stage.END
        with self._lock:
            self._new.append(Restoration(place, into, self._clock(), stage))
        self._wake.set()

    def cancel(self, places: Collection[Place]) -> None:
        """Forget partitions, wherever they are."""
        gone = set(places)
        with self._lock:
            self._new = [job for job in self._new if job.place not in gone]
            self._finished = [job for job in self._finished if job.place not in gone]
            self._cancelled |= gone & {job.place for job in self._running}
        self._wake.set()

    def finished(self) -> list[Restoration]:
        """Those that are done since the last call, or can't be (`error`)."""
        with self._lock:
            done, self._finished = self._finished, []
        return done

    def age(self, job: Restoration) -> float:
        """Seconds since it began."""
        return self._clock() - job.began

    @property
    def state_partitions(self) -> int | None:
        """How many partitions the topic of the state has, once it was asked; it never changes."""
        return self._state_partitions

    def run(self, should_stop: Callable[[], bool]) -> None:
        """Step until told to stop; waits without work."""
        while not should_stop():
            if not self.step():
                self._wake.wait(_AGAIN_AFTER if self._running else 1.0)
            self._wake.clear()
        self._let_go()

    def wake(self) -> None:
        """Let `run` look at `should_stop` now."""
        self._wake.set()

    def step(self) -> bool:
        """A round of questions and a batch of records; returns whether anything was read."""
        self._take_new_and_cancelled()
        self._say_what_takes_long()
        if not self._running:
            self._let_go()
            return False
        try:
            self._ask_offsets(self._waiting_for(_Stage.OFFSET))
            self._ask_ends(self._waiting_for(_Stage.END))
            self._ask_source(self._waiting_for(_Stage.SOURCE))
            moved = self._read()
        except KafkaException as error:
            self._say("kafka", f"Kafka can't be asked what is kept of a partition: {error.args[0].str()}.")
            self._asker.close()
            return False
        return moved

    def _say_what_takes_long(self) -> None:
        late = [job for job in self._running if self.age(job) > TAKES_LONG]
        if late:
            job = late[0]
            where = f"{job.place.topic} partition {job.place.partition}"
            if job.stage is _Stage.OFFSET:
                why = "an open transaction holds the group's offset"
            elif job.reading is not None:
                why = f"{job.reading.topic} is read up to offset {job.position} of {job.until}"
            else:
                why = "another partition is first"
            self._say("late", f"{where} is not restored after {TAKES_LONG:g} s: {why}.")

    def _waiting_for(self, stage: _Stage) -> list[Restoration]:
        now = self._clock()
        return [job for job in self._running if job.stage is stage and now >= job.not_before]

    def _take_new_and_cancelled(self) -> None:
        with self._lock:
            for job in [job for job in self._running if job.place in self._cancelled]:
                self._stop_reading(job)
                self._running.remove(job)
            self._cancelled.clear()
            self._running += self._new
            self._new = []

    def _ask_offsets(self, jobs: list[Restoration]) -> None:
        if not jobs:
            return
        if self._state_partitions is None:
            self._state_partitions = self._count_state_partitions()
        stable = self._asker.stable_offsets([job.place for job in jobs])
        for job in jobs:
            if job.place in stable:
                job.offset = stable[job.place]
                job.stage = _Stage.END
            else:
                # A transaction is open. One of a killed copy ends by its timeout.
                job.not_before = self._clock() + _AGAIN_AFTER

    def _count_state_partitions(self) -> int:
        count = self._asker.partition_counts().get(self._state_topic)
        if not count:
            raise KafkaException(confluent_kafka.KafkaError(confluent_kafka.KafkaError.UNKNOWN_TOPIC_OR_PART))
        return count

    def _ask_ends(self, jobs: list[Restoration]) -> None:
        busy = {job.reading for job in self._running}
        wanted: dict[Place, Restoration] = {}
        for job in jobs:
            kept = self._kept_in(job)
            if kept not in busy:
                wanted.setdefault(kept, job)
        for kept, job in wanted.items():
            begin, end = self._asker.log_range(kept)
            job.stage = _Stage.KEPT
            self._start_reading(job, kept, begin, end)

    def _kept_in(self, job: Restoration) -> Place:
        if not isinstance(job.into, Partition):
            return job.place
        # A source that has grown has more partitions than its state; a state's partitions never change.
        return Place(self._state_topic, job.place.partition % (self._state_partitions or 1))

    def _ask_source(self, jobs: list[Restoration]) -> None:
        for job in jobs:
            partition = job.into
            assert isinstance(partition, Partition)  # noqa: S101 - only these have a source
            begin, end = self._asker.log_range(job.place)
            try:
                _compare(job, partition, self._group, self._state_topic, end)
            except StateError as error:
                self._fail(job, error)
                continue
            partition.begin(begin)
            job.stage = _Stage.WINDOW
            self._start_reading(job, job.place, max(begin, partition.window_begin), partition.account.next_offset)

    def _start_reading(self, job: Restoration, place: Place, begin: int, until: int) -> None:
        job.position, job.until = begin, until
        if begin >= until:
            self._reached(job)
            return
        if self._reader is None:
            self._reader = self._kafka.consumer(self._reader_settings)
        job.reading = place
        self._reader.incremental_assign([TopicPartition(*place, begin)])

    def _stop_reading(self, job: Restoration) -> None:
        if job.reading is not None:
            self._reader.incremental_unassign([TopicPartition(*job.reading)])
            job.reading = None

    def _read(self) -> bool:
        reading = {job.reading: job for job in self._running if job.reading is not None}
        if not reading:
            return False
        messages = self._reader.consume(BATCH, timeout=0.1)
        for message in messages:
            error = message.error()
            if error is not None and error.code() != confluent_kafka.KafkaError._PARTITION_EOF:
                self._reading_trouble(reading, message, error)
                continue
            place = Place(message.topic(), message.partition())
            job = reading.get(place)
            if job is None or job.reading != place:
                continue
            offset = message.offset()
            if error is None:
                try:
                    self._take(job, message)
                except RegistryUnavailable as unavailable:
                    self._say("registry", f"{unavailable} Partitions with records that need it wait.")
                    self._stop_reading(job)
                    job.stage, job.not_before = _Stage.SOURCE, self._clock() + 5 * _AGAIN_AFTER
                    continue
                except StateError as broken:
                    self._fail(job, broken)
                    continue
                offset += 1
            job.position = offset
            if offset >= job.until:
                self._stop_reading(job)
                self._reached(job)
        return bool(messages)

    def _reading_trouble(self, reading: Mapping[Place, Restoration], message: Any, error: Any) -> None:
        job = reading.get(Place(message.topic(), message.partition())) if message.topic() else None
        if job is not None and error.code() in _OUT_OF_RANGE:
            # The log's beginning moved while it was asked for.
            self._stop_reading(job)
            job.stage = _Stage.END if job.stage is _Stage.KEPT else _Stage.SOURCE
        self._say("reading", f"Kafka is in trouble: {error.str()}.")

    def _take(self, job: Restoration, message: Any) -> None:
        into = job.into
        if not isinstance(into, Partition):
            view, rows = into
            try:
                view.apply(rows, message.key(), message.value())
            except RecordError as error:
                self._limited.log(logging.WARNING, "row", "%s: %s", job.place.topic, error)
        elif job.stage is _Stage.KEPT:
            into.load(message.key(), message.value())
        elif message.offset() < job.until:
            receiver = replay_for(headers_of(message))
            if receiver is not None and receiver != self._service:
                return
            try:
                into.know(message.offset(), self._decoder.event_id(message.value()))
            except RecordError:
                return  # it is a dead letter, or was one

    def _reached(self, job: Restoration) -> None:
        if isinstance(job.into, Partition) and job.stage is _Stage.KEPT:
            job.stage = _Stage.SOURCE
            return
        if isinstance(job.into, Partition):
            job.offset = job.into.next_offset
        else:
            job.offset = job.until
        job.stage = _Stage.DONE
        self._end(job)

    def _fail(self, job: Restoration, error: StateError) -> None:
        self._stop_reading(job)
        job.error = error
        self._end(job)

    def _end(self, job: Restoration) -> None:
        self.trouble = ""
        with self._lock:
            self._running.remove(job)
            if job.place not in self._cancelled:
                self._finished.append(job)

    def _say(self, subject: str, sentence: str) -> None:
        self.trouble = sentence
        self._limited.log(logging.WARNING, subject, "%s", sentence)

    def _let_go(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self._reader = None
        self._asker.close()


_OF_MEMBERS = ("group.", "partition.assignment.", "session.", "heartbeat.")
_OUT_OF_RANGE = {
    confluent_kafka.KafkaError._AUTO_OFFSET_RESET,
    confluent_kafka.KafkaError.OFFSET_OUT_OF_RANGE,
}


def _compare(job: Restoration, partition: Partition[Any, Any], group: str, topic: str, end: int) -> None:
    """What is kept must belong to the offset that the group has.

    Raises:
        StateError: It doesn't.
    """
    account, offset = partition.stored, job.offset
    where = f"{job.place.topic} partition {job.place.partition}"
    stands = f"The group {group} stands at offset {offset} of {where}"
    again = (
        f"To count anew from what the log still holds: stop all copies, delete the group {group} and the topic "
        f"{topic}, then run `hypervisor-telemetry topics apply`."
    )
    if account is None:
        if offset is not None:
            raise StateError(f"{stands}, but {topic} holds no state for it. {again}")
    elif offset is not None and offset != account.next_offset:
        raise StateError(
            f"{stands}, but the state in {topic} at {account.next_offset}: offsets or records were changed by "
            f"hand. Set the offset to {account.next_offset} to go on. {again}"
        )
    elif account.next_offset > end:
        raise StateError(
            f"{where} ends at offset {end}, but the state in {topic} includes all up to {account.next_offset}: the "
            f"topic was made anew. {again}"
        )
