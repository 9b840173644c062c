"""Bytewax and fastavro: counts in memory, no recovery; its Kafka source commits no offsets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSource, KafkaSourceMessage
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.run import cli_main

from bench.peers.shared import Counts, Run, arguments, calm_garbage_collection, event_reader

if TYPE_CHECKING:
    from collections.abc import Callable


class Fold(StatelessSinkPartition[dict[str, Any]]):
    """Counts incoming events; Bytewax's own stateful operator would take longer."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def write_batch(self, items: list[dict[str, Any]]) -> None:
        for event in items:
            self._counts.add(event)


class Folds(DynamicSink[dict[str, Any]]):
    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def build(self, step_id: str, worker_index: int, worker_count: int) -> Fold:  # noqa: ARG002 - Bytewax's names
        return Fold(self._counts)


def decoding(run: Run) -> Callable[[list[KafkaSourceMessage[Any, Any]]], list[dict[str, Any]]]:
    read = event_reader()

    def decode(messages: list[KafkaSourceMessage[Any, Any]]) -> list[dict[str, Any]]:
        run.saw(len(messages))
        return [read(message.value) for message in messages]

    return decode


def main() -> None:
    given = arguments()
    counts, run = Counts(), Run(given.events)
    # It ends at the topic's end.
    source = KafkaSource(
        [given.bootstrap],
        [given.topic],
        tail=False,
        batch_size=1000,
        add_config={"fetch.queue.backoff.ms": "10"},
    )
    flow = Dataflow("rings")
    messages = op.input("read", flow, source)
    op.output("fold", op.flat_map_batch("decode", messages, decoding(run)), Folds(counts))
    calm_garbage_collection()
    cli_main(flow)
    run.end(counts)


if __name__ == "__main__":
    main()
