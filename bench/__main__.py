"""`make bench`: what runs in an agent's process, beside the real `agent-hypervisor` package.

Rounds in turn, so that a machine that drifts drifts for both; medians, and the ratio of the medians. Nothing here
passes or fails: figures of a loaded machine mean little, their ratios a little more.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from hypervisor import observability as package
from rich import box
from rich.console import Console
from rich.table import Table

import hypervisor_telemetry as ours
from hypervisor_consumers.ring_metrics.fold import RingFold
from hypervisor_consumers.saga_spans.fold import SagaFold
from hypervisor_schemas.codec import EventDecoder, encode_event

ROUNDS = 7
STORED = 100_000


@dataclass(frozen=True)
class Row:
    """`ours` and `theirs` do the same work `times` times; None where the package has nothing like it."""

    what: str
    times: int
    ours: Callable[[int], object]
    theirs: Callable[[int], object] | None = None


def rows() -> list[Row]:
    """The pairs, with what they need made beforehand."""
    return [
        Row("create an event", 20_000, creating(ours), creating(package)),
        Row("emit, no subscriber", 20_000, emitting(ours), emitting(package)),
        Row("emit, a ring collector", 10_000, collecting(ours), collecting(package)),
        Row(f"query session + type in {STORED:,}", 20, querying(ours), querying(package)),
        Row("encode to framed Avro", 10_000, encoding()),
        Row("decode from framed Avro", 10_000, decoding()),
        Row("fold a ring event", 20_000, folding_rings()),
        Row("fold a saga step", 20_000, folding_sagas()),
    ]


def ring_event(library: object, number: int) -> object:
    return library.HypervisorEvent(  # type: ignore[attr-defined]
        event_type=library.EventType.RING_ASSIGNED,  # type: ignore[attr-defined]
        session_id=f"session-{number % 1000}",
        agent_did=f"did:mesh:agent-{number % 100}",
        payload={"ring": number % 4, "reason": "bench"},
    )


def creating(library: object) -> Callable[[int], object]:
    def run(times: int) -> None:
        for number in range(times):
            ring_event(library, number)

    return run


def emitting(library: object) -> Callable[[int], object]:
    events = [ring_event(library, number) for number in range(1000)]

    def run(times: int) -> None:
        bus = library.HypervisorEventBus()  # type: ignore[attr-defined]
        for number in range(times):
            bus.emit(events[number % 1000])

    return run


def collecting(library: object) -> Callable[[int], object]:
    events = [ring_event(library, number) for number in range(1000)]

    def run(times: int) -> None:
        bus = library.HypervisorEventBus()  # type: ignore[attr-defined]
        library.RingMetricsCollector(bus)  # type: ignore[attr-defined]
        for number in range(times):
            bus.emit(events[number % 1000])

    return run


def querying(library: object) -> Callable[[int], object]:
    bus = library.HypervisorEventBus()  # type: ignore[attr-defined]
    for number in range(STORED):
        bus.emit(ring_event(library, number))

    def run(times: int) -> None:
        for number in range(times):
            bus.query(
                event_type=library.EventType.RING_ASSIGNED,  # type: ignore[attr-defined]
                session_id=f"session-{number}",
                limit=10,
            )

    return run


def encoding() -> Callable[[int], object]:
    event = ring_event(ours, 1)
    return lambda times: [encode_event(event) for _ in range(times)]


def decoding() -> Callable[[int], object]:
    value = encode_event(ring_event(ours, 1))
    decode = EventDecoder().decode
    return lambda times: [decode(value) for _ in range(times)]


def folding_rings() -> Callable[[int], object]:
    fold = RingFold()
    events = [ring_event(ours, number) for number in range(1000)]

    def run(times: int) -> None:
        state = fold.new_state()
        for number in range(times):
            fold.apply(state, events[number % 1000])  # type: ignore[arg-type]

    return run


def folding_sagas() -> Callable[[int], object]:
    fold = SagaFold()
    kinds = (ours.EventType.SAGA_STEP_STARTED, ours.EventType.SAGA_STEP_COMMITTED)
    events = [
        ours.HypervisorEvent(
            event_type=kinds[number % 2],
            session_id=f"s{number // 2}",
            payload={"saga_id": "deploy", "step_id": "1", "step_action": "validate"},
        )
        for number in range(1000)
    ]

    def run(times: int) -> None:
        state = fold.new_state()
        for number in range(times):
            fold.apply(state, events[number % 1000])

    return run


def micros(work: Callable[[int], object], times: int) -> float:
    begun = time.perf_counter()
    work(times)
    return (time.perf_counter() - begun) / times * 1e6


def main() -> None:
    """Run every row and show the table."""
    table = Table(title=f"Microseconds each, medians of {ROUNDS} rounds", box=box.SIMPLE)
    for column in ("what", "ours", "agent-hypervisor", "times faster"):
        table.add_column(column, justify="left" if column == "what" else "right")
    console = Console()
    for row in rows():
        mine, theirs = [], []
        for _ in range(ROUNDS):
            mine.append(micros(row.ours, row.times))
            if row.theirs is not None:
                theirs.append(micros(row.theirs, row.times))
        figure = statistics.median(mine)
        beside = statistics.median(theirs) if theirs else None
        table.add_row(
            row.what,
            f"{figure:.2f}",
            "" if beside is None else f"{beside:.2f}",
            "" if beside is None else f"{beside / figure:.1f}",
        )
    console.print(table)


if __name__ == "__main__":
    main()
