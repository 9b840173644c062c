"""The setting of a case: its time, a Kafka, a folder, and a callback for its progress."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from bench.row import Curve, Row
from hypervisor_telemetry.local.broker import LocalKafka
from tests.support.postgres import Postgres, PostgresMissing
from tests.support.service_processes import Fleet

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Case", "Setting", "in_turn", "seconds_of"]


class Setting:
    """One run of the benchmarks.

    Args:
        full: Whether there is time: more events, more rounds, larger sizes.
        folder: For logs of what is started.
        say: Gets a short sentence for each thing that takes long.
    """

    def __init__(self, full: bool, folder: Path, say: Callable[[str], None], ends: ExitStack) -> None:
        self.full = full
        self.folder = folder
        self.say = say
        self._ends = ends
        self._numbers = itertools.count()

    @property
    def rounds(self) -> int:
        return 5 if self.full else 3

    @cached_property
    def kafka(self) -> LocalKafka:
        """The broker of all cases; started when the first one needs it."""
        self.say("starting a Kafka")
        return self._ends.enter_context(LocalKafka(on_progress=self.say))

    @cached_property
    def postgres(self) -> Postgres | None:
        """One server for all cases, with the settings of a fresh installation; None, and said why, where there is
        none."""
        try:
            server = Postgres(is_durable=True)
        except PostgresMissing as error:
            self.say(f"left out: {error}")
            return None
        self.say("starting a PostgreSQL")
        return self._ends.enter_context(server)

    @contextmanager
    def fleet(self, partitions: int) -> Iterator[Fleet]:
        """Make fresh topics for a block; at its end, the services on them stop and the topics are deleted."""
        fleet = Fleet(self.kafka.bootstrap_servers, f"bench{next(self._numbers)}.", self.folder)
        fleet.make_topics(partitions)
        try:
            yield fleet
        finally:
            fleet.close()
            names = [name for name in fleet.admin.list_topics(timeout=30).topics if name.startswith(fleet.prefix)]
            for done in fleet.admin.delete_topics(names).values():
                done.result(30)


Case: TypeAlias = "Callable[[Setting], Iterable[Row | Curve]]"


def in_turn(
    rounds: int, works: Mapping[str, Callable[[], float]], say: Callable[[str], None] = lambda _: None
) -> dict[str, list[float]]:
    """Measure every alternative once per round, so that a drift of the machine affects all of them."""
    figures: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds):
        for name, work in works.items():
            say(f"round {number + 1} of {rounds}: {name}")
            figures[name].append(work())
    return figures


def seconds_of(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
