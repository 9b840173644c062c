"""The errors of this project, one small tree.

    TelemetryError
    ├── SettingError             a setting is missing or wrong; commands exit with status 2
    ├── RecordError              one record can't be used; everything else goes on
    │   ├── UndecodableRecord    its bytes are not a framed HypervisorEvent
    │   ├── UnknownSchema        its schema id or fingerprint is unknown
    │   ├── InvalidPayload       its payload doesn't fit its event type
    │   └── OutputRefused        it was used, but its output was refused for good
    ├── EventTooLarge            an event above TELEMETRY_MAX_EVENT_BYTES
    ├── RegistryUnavailable      the schema registry can't be reached; worth another try
    ├── OutputUnavailable        a sink or database can't take it now; worth another try
    ├── IndexUnavailable         the event index can't be reached or can't answer now; worth another try
    ├── IndexRefused             the event index refused a request: its token, a value, or what it asks for
    ├── StateError               a service's kept state can't be restored; it must not start from zero
    ├── KafkaError               Kafka refused something or didn't answer
    └── LocalKafkaError          the broker on this machine didn't start

Messages are sentences that say what to do; none ever holds a secret.
"""

from __future__ import annotations

from hypervisor_schemas.public import public

__all__ = [
    "EventTooLarge",
    "IndexRefused",
    "IndexUnavailable",
    "InvalidPayload",
    "KafkaError",
    "LocalKafkaError",
    "OutputRefused",
    "OutputUnavailable",
    "RecordError",
    "RegistryUnavailable",
    "SettingError",
    "StateError",
    "TelemetryError",
    "UndecodableRecord",
    "UnknownSchema",
]


@public
class TelemetryError(Exception):
    """The base of every error that this project raises on purpose."""


@public
class SettingError(TelemetryError):
    """A setting is missing or has a value that can't be used; the message names the setting."""

    def __init__(self, setting: str, sentence: str) -> None:
        super().__init__(f"{setting} {sentence}")
        self.setting = setting
        self._sentence = sentence

    def __reduce__(self) -> tuple[type[SettingError], tuple[str, str]]:
        return type(self), (self.setting, self._sentence)


class RecordError(TelemetryError):
    """A record can't be used. `reason` is the short, fixed word by which metrics count it."""

    reason = "bad_record"


class UndecodableRecord(RecordError):
    """The bytes are not one framed Avro HypervisorEvent, whole and nothing more."""

    reason = "undecodable"


class UnknownSchema(RecordError):
    """The registry doesn't know the schema id, or no known schema has the fingerprint."""

    reason = "unknown_schema"


class InvalidPayload(RecordError):
    """The payload is not a JSON object, or a field has another type than the event type defines."""

    reason = "invalid_payload"


class OutputRefused(RecordError):
    """An output of the record (a span) was refused for good by its receiver."""

    reason = "output_refused"


class EventTooLarge(TelemetryError):
    """The encoded event is larger than TELEMETRY_MAX_EVENT_BYTES."""


class RegistryUnavailable(TelemetryError):
    """The schema registry didn't answer, or answered 5xx. The same request may succeed later."""


class OutputUnavailable(TelemetryError):
    """A sink or a database can't take it now; nothing was kept. The same may succeed later.

    `retry_after` is the number of seconds that it asks to wait, if it does.
    """

    def __init__(self, sentence: str, *, retry_after: float | None = None) -> None:
        super().__init__(sentence)
        self.retry_after = retry_after


@public
class IndexUnavailable(TelemetryError):
    """The event index can't be reached, can't answer now, or doesn't include yet what it should."""


@public
class IndexRefused(TelemetryError):
    """The event index refused a request: the token is wrong, or a value is out of its bounds."""


class StateError(TelemetryError):
    """A service's kept state is invalid. Counting from zero would be wrong, so that a person has to look at it."""


class KafkaError(TelemetryError):
    """Kafka refused something or didn't answer in time."""


class LocalKafkaError(TelemetryError):
    """The Kafka broker on this machine didn't start; the message ends with the last lines of its log."""
