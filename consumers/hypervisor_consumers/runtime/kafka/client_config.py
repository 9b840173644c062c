"""librdkafka's settings for the clients of a service."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from hypervisor_schemas.topics import DEAD_LETTER_BYTES

__all__ = [
    "admin_settings",
    "consumer_settings",
    "query_settings",
    "reader_settings",
    "transaction_settings",
    "writer_settings",
]

TRANSACTION_TIMEOUT = 10.0
"""Seconds after which Kafka ends the open transaction of a copy that was killed (and up to its scan interval more);
until then its partitions can't be restored elsewhere."""

_OF_MEMBERS = ("group.", "partition.assignment.", "session.", "heartbeat.")

_NOT_FOR_ADMIN = (
    "group.",
    "enable.auto.",
    "enable.partition.eof",
    "auto.",
    "isolation.level",
    "partition.",
    "logger",
)


def consumer_settings(kafka: Mapping[str, str], group: str) -> dict[str, Any]:
    """librdkafka's settings for a group: KIP-848 unless the environment asks for the classic protocol."""
    if kafka.get("group.protocol") == "classic":
        # The loop's assignments are incremental; an eager strategy would refuse them.
        protocol = {"partition.assignment.strategy": "cooperative-sticky"}
    else:
        protocol = {"group.protocol": "consumer", "group.remote.assignor": "range"}
    return {
        "client.id": group,
        # By default a client that lost its broker for a while tries again only every 10 s.
        "reconnect.backoff.max.ms": 2000,
        # By default a partition that is read faster than it is fetched rests for a second: a third of the speed.
        "fetch.queue.backoff.ms": 10,
        # What is read ahead should still be in the processor's cache when its turn comes; with the 64 MiB of the
        # default every event costs a quarter more. At 160 bytes these are 25,000 events.
        "queued.max.messages.kbytes": 4096,
        "fetch.max.bytes": 4 * 1024 * 1024,
        "max.partition.fetch.bytes": 256 * 1024,
        **kafka,
        **protocol,
        "group.id": group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
        # The end of a partition is known by its event: control records have offsets too, but no message.
        "enable.partition.eof": True,
        "logger": _quiet_logger(),
    }


def admin_settings(consumer: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a consumer without what only consumers have, for a client that logs nothing.

    Nobody polls an AdminClient: what it has to log would pile up in its queue.
    """
    shared = {name: value for name, value in consumer.items() if not name.startswith(_NOT_FOR_ADMIN)}
    return {**shared, "log_level": 0}


def query_settings(consumer: Mapping[str, Any]) -> dict[str, Any]:
    """librdkafka's settings for a client that only asks, and logs nothing: nobody polls it for its log."""
    shared = {name: value for name, value in consumer.items() if not name.startswith(_NOT_FOR_ADMIN)}
    return {**shared, "group.id": consumer["group.id"], "log_level": 0}


def reader_settings(consumer: Mapping[str, Any]) -> dict[str, Any]:
    """librdkafka's settings for a client that reads logs and is no member of the group, from the consumer's."""
    shared = {name: value for name, value in consumer.items() if not name.startswith(_OF_MEMBERS)}
    return {
        **shared,
        "group.id": consumer["group.id"],
        "auto.offset.reset": "error",
        # At its end a partition would hold up the others of the same fetch for half a second.
        "fetch.wait.max.ms": 10,
    }


def writer_settings(consumer: Mapping[str, Any]) -> dict[str, Any]:
    """librdkafka's settings for an idempotent producer, from those of a consumer."""
    shared = {name: value for name, value in consumer.items() if not name.startswith(_NOT_FOR_ADMIN)}
    return {
        "compression.type": "lz4",
        **shared,
        "enable.idempotence": True,
        # What Kafka has taken from a foreign client has to fit with a dead letter's headers.
        "message.max.bytes": DEAD_LETTER_BYTES,
        "queue.buffering.max.messages": 1_000_000,
        "logger": _quiet_logger(),
    }


def transaction_settings(consumer: Mapping[str, Any], transactional_id: str) -> dict[str, Any]:
    """librdkafka's settings for the transactions of a service, from its consumer's."""
    return {
        **writer_settings(consumer),
        "transactional.id": transactional_id,
        "transaction.timeout.ms": int(TRANSACTION_TIMEOUT * 1000),
    }


def _quiet_logger() -> logging.Logger:
    """librdkafka's own lines, at debug: in an outage they come many times a second, and the loop says the same."""
    logger = logging.getLogger("hypervisor_consumers.librdkafka")
    if not logger.filters:
        logger.addFilter(_lower_to_debug)
    return logger


def _lower_to_debug(record: logging.LogRecord) -> bool:
    record.levelno, record.levelname = logging.DEBUG, "DEBUG"
    return logging.getLogger(record.name).isEnabledFor(logging.DEBUG)
