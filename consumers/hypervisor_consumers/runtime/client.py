"""How a service's librdkafka clients are set up."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

__all__ = ["admin_settings", "consumer_settings"]

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


def _quiet_logger() -> logging.Logger:
    """librdkafka's own lines, at debug: in an outage they come many times a second, and the loop says the same."""
    logger = logging.getLogger("hypervisor_consumers.librdkafka")
    if not logger.filters:
        logger.addFilter(_lower_to_debug)
    return logger


def _lower_to_debug(record: logging.LogRecord) -> bool:
    record.levelno, record.levelname = logging.DEBUG, "DEBUG"
    return logging.getLogger(record.name).isEnabledFor(logging.DEBUG)
