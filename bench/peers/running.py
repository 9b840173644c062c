"""The peers as a table, and how one is started, ended and checked. Runs in `.venv`; the peers don't.

with start(peer, bootstrap=..., topic=..., group=..., events=..., folder=...) as child:
    ...  # how far it is: the offsets that its group has committed, or its `Report`
    print(report(child)) if peer.ends else child.stop()
assert counted(peer, bootstrap=..., topic=..., group=...) == events
"""

from __future__ import annotations

import os
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from bench.peers import streams
from bench.peers.streams import PeerMissing
from hypervisor_telemetry.local.child import Child

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "HERE",
    "PEERS",
    "PYTHON",
    "SCHEMA_ID",
    "Peer",
    "PeerMissing",
    "Report",
    "counted",
    "in_python",
    "report",
    "start",
    "why_not",
]

ROOT = Path(__file__).parents[2]
HERE = ROOT / "bench" / "peers"
VENV = ROOT / ".venv-peers"
PYTHON = VENV / "bin" / "python"
SCHEMA_ID = 1
"""The schema id of records for a peer with `confluent_wire`: frame them by `confluent_framing(SCHEMA_ID)`."""

GRACE = 15.0
"""The seconds from SIGTERM to SIGKILL, for a last commit and for leaving the group."""


@dataclass(frozen=True)
class Peer:
    name: str
    not_equal: str
    """A sentence about the part of the job that it does unlike `ring-metrics`; its module's docstring says more."""
    command: Callable[[Sequence[str]], list[str]]
    """Makes its command from the common arguments; raises PeerMissing if it can't."""
    package: str
    """The module that it imports; empty: Java."""
    commits: bool
    """Whether its progress shows in the offsets that the group commits."""
    ends: bool = False
    """Whether it ends by itself after the events, and has a `Report`; else it runs until it is stopped."""
    changelog: str = ""
    """The topic of its state, from `{group}` and `{topic}`; empty: it is in memory only, see its `Report`."""
    count_of: Callable[[bytes], int] = lambda _: 0
    """Reads from a changelog value the number of events that its row counts."""
    confluent_wire: bool = False
    """Whether its records have to have the Confluent wire format."""
    warm_up: int = 0
    """The number of events after which its rate is steady; the measurement begins there."""


class Report(msgspec.Struct, frozen=True):
    """The last line of a peer that has ended by itself."""

    events: int
    seconds: float
    """The time from the first records until the last is processed and, if the peer commits, committed."""
    counted: int
    """The sum of its counts; it has to be `events`."""
    series: int


def in_python(module: str, *options: str) -> Callable[[Sequence[str]], list[str]]:
    """Return the command of a module beside this one, in the peers' environment."""
    return lambda arguments: [str(PYTHON), "-m", f"bench.peers.{module}", *arguments, *options]


def _count_of_sessions(row: bytes) -> int:
    """Read a row as `RingStreams.java` writes it: a session's series one after the other."""
    total = place = 0
    while place < len(row):
        total += struct.unpack_from(">q", row, place)[0]
        place += 12
        for _ in range(2):  # the names of agent and event type
            place += 2 + struct.unpack_from(">h", row, place)[0]
    return total


def _count_of_series(row: bytes) -> int:
    """Read a row as `with_quix.py` writes it."""
    return int(struct.unpack(">qi", row)[0])


PEERS: tuple[Peer, ...] = (
    Peer(
        "Kafka Streams exactly_once_v2",
        "Beside its one stream thread run those of clients, collector and compilers, and it reaches its "
        "speed only after half a million events.",
        streams.command,
        package="",
        commits=True,
        changelog="{group}-rings-changelog",
        count_of=_count_of_sessions,
        warm_up=500_000,
    ),
    Peer(
        "Quix Streams exactly-once",
        "It takes records one by one, as its API has no batches, and its librdkafka is the older one that it pins.",
        in_python("with_quix"),
        package="quixstreams",
        commits=True,
        changelog="changelog__{group}--{topic}--default",
        count_of=_count_of_series,
    ),
    Peer(
        "aiokafka",
        "It keeps its counts in memory only: a restart goes on at the committed offsets without them.",
        in_python("with_aiokafka"),
        package="aiokafka",
        commits=True,
        ends=True,
    ),
    Peer(
        "Bytewax",
        "It keeps its counts in memory only, and its Kafka source commits nothing to the group.",
        in_python("with_bytewax"),
        package="bytewax",
        commits=False,
        ends=True,
    ),
    Peer(
        "Confluent AvroDeserializer",
        "It keeps its counts in memory only, makes a datetime of each timestamp as the schema says, and reads the "
        "Confluent wire format.",
        in_python("with_confluent_avro", "--schema-id", str(SCHEMA_ID)),
        package="confluent_kafka",
        commits=True,
        ends=True,
        confluent_wire=True,
    ),
)


def why_not(peer: Peer) -> str | None:
    """Return a sentence on why the peer can't run here and what to do; None if it can."""
    if not peer.package:
        return streams.why_not()
    if not any(VENV.glob(f"lib/python*/site-packages/{peer.package}")):
        return (
            f"{peer.name} is not in {VENV.name}; run: python3 -m venv {VENV.name} && {VENV.name}/bin/python -m pip "
            "install --require-hashes -r bench/peers/requirements.lock (Bytewax needs a Python before 3.13)."
        )
    return None


def start(peer: Peer, *, bootstrap: str, topic: str, group: str, events: int, folder: Path) -> Child:
    """Start a peer on an existing topic, with a new group; its log and state go to `folder`.

    Raises:
        PeerMissing: It can't run here.
    """
    if (reason := why_not(peer)) is not None:
        raise PeerMissing(reason)
    state = folder / f"{group}.state"
    state.mkdir(parents=True, exist_ok=True)
    given = {"bootstrap": bootstrap, "topic": topic, "group": group, "events": str(events), "state-dir": str(state)}
    arguments = [part for name, value in given.items() for part in (f"--{name}", value)]
    # Beside what lies in these folders the two environments have nothing in common.
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    with (folder / f"{group}.log").open("wb") as log:
        return Child(
            peer.command(arguments),
            env=environ,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=log,
            grace=GRACE,
            name=peer.name,
        )


def report(child: Child) -> Report:
    """Wait until a peer that `ends` has ended.

    Raises:
        RuntimeError: It ended without; its log says why.
    """
    line = child.stdout.read() if child.stdout is not None else b""
    status = child.wait()
    if status != 0:
        raise RuntimeError(f"{child.name} ended with status {status}; its log says why.")
    return msgspec.json.decode(line, type=Report)


def counted(peer: Peer, *, bootstrap: str, topic: str, group: str) -> int:
    """Sum the counts in the changelog of a stopped peer; it has to be the number of events."""
    name = peer.changelog.format(group=group, topic=topic)
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"{group}-check",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
        }
    )
    partitions = len(consumer.list_topics(name, timeout=30).topics[name].partitions)
    consumer.assign([TopicPartition(name, number, 0) for number in range(partitions)])
    rows: dict[bytes | None, int] = {}
    while partitions:
        for message in consumer.consume(1000, timeout=1):
            error = message.error()
            if error is None:
                value = message.value()
                rows[message.key()] = 0 if value is None else peer.count_of(value)
            elif error.code() == KafkaError._PARTITION_EOF:
                partitions -= 1
            else:
                raise KafkaException(error)
    consumer.close()
    return sum(rows.values())
