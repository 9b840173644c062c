"""What librdkafka and its Python client do in their own way."""

from __future__ import annotations

import logging
import sys

import confluent_kafka

__all__ = ["bound", "is_fatal", "quiet_logger"]


def is_fatal(error: Exception) -> bool:
    """Whether the producer that raised it can send no more."""
    return (
        isinstance(error, confluent_kafka.KafkaException)
        and error.args[0].code() == confluent_kafka.KafkaError._FATAL
    )


def bound(messages: str | int) -> int:
    """So many messages. librdkafka takes 0 for no bound, and numbers that Python doesn't: those it knows alone."""
    try:
        return int(messages) or sys.maxsize
    except ValueError:
        return sys.maxsize


def quiet_logger() -> logging.Logger:
    """librdkafka's own lines. At debug: `error_cb` gets the same, and they come many times a second."""
    logger = logging.getLogger(__name__)
    if not logger.filters:
        logger.addFilter(_lower_to_debug)
    return logger


def _lower_to_debug(record: logging.LogRecord) -> bool:
    record.levelno, record.levelname = logging.DEBUG, "DEBUG"
    return logging.getLogger(record.name).isEnabledFor(logging.DEBUG)
