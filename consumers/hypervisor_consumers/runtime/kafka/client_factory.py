"""Where the runtime gets its Kafka clients from: librdkafka's, or those of a Kafka in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import methodcaller
from typing import Any, Protocol, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from hypervisor_consumers.runtime.kafka.message_grouping import each
from hypervisor_schemas.errors import SettingError

__all__ = ["ClientFactory", "LibrdkafkaClientFactory", "any_headers", "headers_of"]

C = TypeVar("C")


class ClientFactory(Protocol):
    """Makes clients with the methods, value classes and errors of confluent_kafka, from librdkafka's settings."""

    def consumer(self, settings: Mapping[str, Any]) -> Any:
        """A `confluent_kafka.Consumer`, or what behaves like one. It joins no group before `subscribe()`."""
        ...

    def producer(self, settings: Mapping[str, Any]) -> Any:
        """A `confluent_kafka.Producer`, or what behaves like one; transactional with a `transactional.id`."""
        ...

    def admin(self, settings: Mapping[str, Any]) -> Any:
        """A `confluent_kafka.admin.AdminClient`, or what behaves like one."""
        ...


class LibrdkafkaClientFactory:
    """The Kafka that `bootstrap.servers` names.

    Raises:
        SettingError: From every method: librdkafka refuses the settings.
    """

    def consumer(self, settings: Mapping[str, Any]) -> Consumer:
        """A consumer of its own connections."""
        return _made(Consumer, settings)

    def producer(self, settings: Mapping[str, Any]) -> Producer:
        """A producer of its own connections."""
        return _made(Producer, settings)

    def admin(self, settings: Mapping[str, Any]) -> AdminClient:
        """An admin client of its own connections."""
        return _made(AdminClient, settings)


def _made(client: Callable[[dict[str, Any]], C], settings: Mapping[str, Any]) -> C:
    try:
        return client(dict(settings))
    except KafkaException as error:
        if error.args[0].code() != KafkaError._INVALID_ARG:
            raise
        raise SettingError("KAFKA_*", f"settings don't go together: {error.args[0].str()}.") from None


def headers_of(message: Any) -> Sequence[tuple[str, bytes | None]] | None:
    """A message's headers, once; None where it has none, or one whose name is not UTF-8."""
    try:
        return _headers(message)  # type: ignore[no-any-return]
    except (SystemError, UnicodeDecodeError):
        return None


def any_headers(messages: Sequence[Any]) -> bool:
    """Whether one of these messages has headers."""
    try:
        return any(each("headers", messages))
    except (SystemError, UnicodeDecodeError):
        return True


_headers = methodcaller("headers")
"""confluent-kafka gives a result together with an error for such a name. CPython looks for that in a call through
here, or through `map`; in one that it has specialised, as in a loop, the error would come up at some later call."""
