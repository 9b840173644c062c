"""Peculiarities of librdkafka and its Python client."""

from __future__ import annotations

import logging
import sys

import confluent_kafka

__all__ = ["is_fatal", "queue_bound", "quiet_logger"]


def is_fatal(error: Exception) -> bool:
    """Whether the producer that raised it can send no more."""
    return (
        isinstance(error, confluent_kafka.KafkaException)
        and error.args[0].code() == confluent_kafka.KafkaError._FATAL
    )


def queue_bound(max_messages: str | int) -> int:
    """The number of messages that `queue.buffering.max.messages` allows.

    librdkafka takes 0 for no bound. It also reads notations that Python doesn't, which count as no bound here.
    """
    try:
        return int(max_messages) or sys.maxsize
    except ValueError:
        return sys.maxsize


def quiet_logger() -> logging.Logger:
    """The logger of librdkafka's own lines, at debug: `error_cb` gets the same, many times a second."""
    logger = logging.getLogger(__name__)
    if not logger.filters:
        logger.addFilter(_lower_to_debug)
    return logger


def _lower_to_debug(record: logging.LogRecord) -> bool:
    record.levelno, record.levelname = logging.DEBUG, "DEBUG"
    return logging.getLogger(record.name).isEnabledFor(logging.DEBUG)
