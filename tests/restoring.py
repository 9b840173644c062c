"""Restoring partitions of the small service that counts words, each step by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypervisor_consumers.runtime.partition import Partition
from hypervisor_consumers.runtime.restore import Restoration, Restorer
from hypervisor_schemas.codec import EventDecoder
from hypervisor_schemas.errors import StateError
from tests.words import HERE, SETTINGS, STATE, Words, WordState, World, started, times

if TYPE_CHECKING:
    from hypervisor_consumers.runtime.processor import Place

P = Partition[WordState, str]


class Workshop:
    """A restorer whose steps are the test's."""

    def __init__(self, world: World, decoder: EventDecoder | None = None, window: int = 1000) -> None:
        self.world = world
        self.window = window
        self.restorer = Restorer(
            world.kafka,
            SETTINGS,
            service="words",
            state_topic=STATE,
            decoder=decoder or EventDecoder(),
            clock=world.clock,
        )
        self.done: dict[Place, Restoration] = {}

    def begin(self, *places: Place) -> None:
        for place in places:
            self.restorer.begin(place, Partition(place.partition, Words(), self.window))

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.restorer.step()
            self.done |= {job.place: job for job in self.restorer.finished()}

    def partition(self, place: Place = HERE) -> P:
        job = self.done[place]
        assert job.error is None
        assert isinstance(job.into, Partition)
        assert job.offset == job.into.next_offset
        return job.into

    def restored(self, *places: Place) -> P:
        """The first of these, after at most ten steps."""
        self.begin(*(places or (HERE,)))
        self.step(10)
        return self.partition(*places[:1])

    def error(self, place: Place = HERE) -> str:
        self.begin(place)
        self.step(10)
        error = self.done[place].error
        assert isinstance(error, StateError)
        return str(error)


def counted(partition: P) -> dict[str, int]:
    return times(partition.snapshot())


def told(world: World, *words: object) -> None:
    """Words in partition 0 that a copy has counted and committed."""
    world.say(0, *words)
    copy = started(world, 0)
    copy.read()
    assert copy.commit() == {}
    copy.consumer.close()
