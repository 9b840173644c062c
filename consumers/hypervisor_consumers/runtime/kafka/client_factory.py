"""The source of the runtime's Kafka clients: librdkafka, or a Kafka in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import methodcaller
from typing import Any, Protocol, TypeVar, cast

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from hypervisor_consumers.runtime.kafka.client_types import Admin, Consumer, Headers, Message, Producer
from hypervisor_consumers.runtime.kafka.message_grouping import each
from hypervisor_schemas.errors import SettingError

__all__ = ["ClientFactory", "LibrdkafkaClientFactory", "any_headers", "headers_of"]

C = TypeVar("C")


class ClientFactory(Protocol):
    """Makes clients from librdkafka's settings."""

    def consumer(self, settings: Mapping[str, Any]) -> Consumer:
        """A new consumer; it joins no group before `subscribe()`."""
        ...

    def producer(self, settings: Mapping[str, Any]) -> Producer:
        """A new producer; transactional with a `transactional.id`."""
        ...

    def admin(self, settings: Mapping[str, Any]) -> Admin:
        """A new admin client."""
        ...


class LibrdkafkaClientFactory:
    """Makes clients of the Kafka that `bootstrap.servers` names.

    Raises:
        SettingError: From every method: librdkafka refuses the settings.
    """

    def consumer(self, settings: Mapping[str, Any]) -> Consumer:
        """A consumer with connections of its own."""
        return cast("Consumer", _made(confluent_kafka.Consumer, settings))

    def producer(self, settings: Mapping[str, Any]) -> Producer:
        """A producer with connections of its own."""
        return cast("Producer", _made(confluent_kafka.Producer, settings))

    def admin(self, settings: Mapping[str, Any]) -> Admin:
        """An admin client with connections of its own."""
        return cast("Admin", _made(AdminClient, settings))


def _made(client: Callable[[dict[str, Any]], C], settings: Mapping[str, Any]) -> C:
    try:
        return client(dict(settings))
    except KafkaException as error:
        if error.args[0].code() != KafkaError._INVALID_ARG:
            raise
        raise SettingError("KAFKA_*", f"settings don't go together: {error.args[0].str()}.") from None


def headers_of(message: Message) -> Headers | None:
    """The headers of a message, which may be asked for once; None where it has none, or a name is not UTF-8."""
    try:
        return _headers(message)  # type: ignore[no-any-return]
    except (SystemError, UnicodeDecodeError):
        return None


def any_headers(messages: Sequence[Message]) -> bool:
    """Whether one of these messages has headers."""
    try:
        return any(each("headers", messages))
    except (SystemError, UnicodeDecodeError):
        return True


_headers = methodcaller("headers")
"""confluent-kafka gives a result together with an error for such a name. CPython looks for that in a call through
here, or through `map`; in one that it has specialised, as in a loop, the error would come up at some later call."""
