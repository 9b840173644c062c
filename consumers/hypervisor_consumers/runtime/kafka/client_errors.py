"""Calls of a Kafka client, and what its errors mean, in one place."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from confluent_kafka import KafkaError, KafkaException

__all__ = ["call", "is_fatal", "is_no_member", "is_refusal", "is_retriable", "text_of", "timed_out"]

T = TypeVar("T")

# ILLEGAL_GENERATION and STALE_MEMBER_EPOCH are no such: a member hears of a rebalance a moment after its group.
_NO_MEMBER = frozenset({"UNKNOWN_MEMBER_ID", "FENCED_MEMBER_EPOCH", "FENCED_INSTANCE_ID"})

_REFUSALS = frozenset(
    {
        "TRANSACTIONAL_ID_AUTHORIZATION_FAILED",
        "CLUSTER_AUTHORIZATION_FAILED",
        "INVALID_TRANSACTION_TIMEOUT",
        "UNSUPPORTED_VERSION",
    }
)


def call(method: Callable[..., T], *arguments: object) -> T:
    """Call a method of a client.

    Raises:
        KafkaException: The client's error, also one that comes while a callback is due: confluent-kafka makes a
            SystemError of that.
    """
    try:
        return method(*arguments)
    except SystemError as error:
        if isinstance(error.__cause__, KafkaException):
            raise error.__cause__ from None
        raise


def text_of(error: KafkaException) -> str:
    """The client's words, without a full stop."""
    return str(error.args[0].str())


def is_fatal(error: KafkaException) -> bool:
    """Whether the client that raised it is of no use any more."""
    return bool(error.args[0].fatal())


def is_no_member(error: KafkaException) -> bool:
    """Whether the group says that the sender is no member of it any more."""
    return error.args[0].name() in _NO_MEMBER


def is_retriable(error: KafkaException) -> bool:
    """Whether the same call may go through later."""
    return bool(error.args[0].retriable())


def is_refusal(error: KafkaException) -> bool:
    """Whether Kafka refuses for good, until somebody changes a right or a setting."""
    return error.args[0].name() in _REFUSALS


def timed_out() -> KafkaException:
    """The error of a call that Kafka did not answer in time."""
    return KafkaException(KafkaError(KafkaError._TIMED_OUT))
